"""RIM and LSTM as loops in compiled code: the options of the paper's RIM, and any LSTM, on the CPU.

The loops over time are in ``kernels.cpp``; here are their memory, and everything that can wait until after the loop.
For RIM that is done for the active rows alone: an inactive unit's gates have no gradient.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace
from rimrl.cores.scan.communication import communication_sizes
from rimrl.cores.scan.layout import LSTM_SEQUENCE, RIM_SEQUENCE
from rimrl.cores.scan.library import Kernels
from rimrl.cores.scan.loop import Tensors
from rimrl.cores.scan.memory import Buffers
from rimrl.cores.scan.products import weight_gradient

_RIMSequence = RIM_SEQUENCE.as_ctypes()
_LSTMSequence = LSTM_SEQUENCE.as_ctypes()


class _Call:
    """A structure that keeps the tensors alive whose addresses it holds."""

    def __init__(self, structure: type[ctypes.Structure], **numbers: int | None) -> None:
        self.structure = structure(**numbers)
        self.tensors: dict[str, Tensor] = {}

    def hold(self, **tensors: Tensor | None) -> None:
        """Set addresses; None stays a null pointer."""
        for name, tensor in tensors.items():
            if tensor is not None:
                assert tensor.is_contiguous(), name
                self.tensors[name] = tensor
                setattr(self.structure, name, tensor.data_ptr())

    def run(self, function: ctypes._NamedFuncPointer) -> None:
        function(ctypes.addressof(self.structure))


@dataclass
class NativeRIMTensors(Tensors):
    """What a `NativeRIM` is made from.

    Attributes:
        keys: ``Wq k / sqrt(dk)``, ``[N, T, B, D]``.
        values: What the input element is worth, before it meets the gates, ``[T, B, U]``.
        weight_input: ``[N, U, 4 D]``.
        weight_hidden: ``[N, D, 4 D]``.
        bias: ``[N, 4 D]``.
        query_key_value: ``[N, D, H (2 dk + dv)]``.
        project: ``[2 D, H dv]``: Wf over Wg.
        project_bias: ``[2 D]``.
    """

    keys: Tensor
    values: Tensor
    weight_input: Tensor
    weight_hidden: Tensor
    bias: Tensor
    query_key_value: Tensor
    project: Tensor
    project_bias: Tensor


class NativeRIM:
    """`rimrl.cores.scan.rim.RIMCell` for one input head, LSTM dynamics and gated communication among candidates.

    Args:
        kernels: Compiled for the tensors' dtype.
        num_active: Active units K.
        heads: Heads H of the communication.
        T: Time steps.
        B: Batch rows.
        saving: Keep what the backward pass needs.
        tensors: Input and weights.
    """

    def __init__(
        self, kernels: Kernels, num_active: int, heads: int, T: int, B: int, saving: bool, tensors: NativeRIMTensors
    ) -> None:
        self.kernels = kernels
        keys, project = tensors.keys, tensors.project
        N, D = keys.shape[0], keys.shape[3]
        self.sizes = (N, T, B, D)
        self.buffers = buffers = Buffers(N, T, B, saving, keys)
        self.values, self.weight_input = tensors.values.contiguous(), tensors.weight_input
        self.weight_hidden = tensors.weight_hidden
        rows = self.values.flatten(0, 1)
        reads = buffers.empty(N, T * B, 4 * D)
        torch.bmm(rows.expand(N, *rows.shape), self.weight_input, out=reads)

        H, slots = heads, buffers.slots
        key_size, value_size = communication_sizes(heads, tensors.query_key_value, project)
        self.share, self.mask = buffers.empty(slots, N, B), buffers.empty(slots, N, B)
        self.h_new = buffers.units_first(D)
        self.attention = buffers.empty(slots, B, H, N, N)
        self.read = buffers.empty(slots, N * B, project.shape[1])
        self.qkv_size = tensors.query_key_value.shape[2]
        self.call = _Call(
            _RIMSequence,
            **{"T": T, "B": B, "N": N, "D": D, "H": H, "dk": key_size, "dv": value_size},
            **{"K": num_active, "keep": int(saving), "gemm": kernels.gemm},
        )
        self.call.hold(
            keys=keys.contiguous(),
            reads=reads,
            bias=tensors.bias.contiguous(),
            weight_hidden=self.weight_hidden.contiguous(),
            weight_qkv=tensors.query_key_value.contiguous(),
            project=project.contiguous(),
            project_bias=tensors.project_bias.contiguous(),
            gates=buffers.empty(slots, N, B, 4 * D),
            share=self.share,
            mask=self.mask,
            tanh_c=buffers.empty(slots, N, B, D),
            h_new=self.h_new,
            qkv=buffers.empty(slots, N, B, self.qkv_size),
            attention=self.attention,
            read=self.read,
            output=buffers.empty(slots, N * B, 2 * D),
        )

    def run(
        self, h: Tensor, c: Tensor, y: Tensor, h_start: Tensor | None, c_start: Tensor | None, starts: Tensor | None
    ) -> None:
        self.call.hold(h=h, c=c, y=y, h_start=h_start, c_start=c_start, starts=starts)
        self.call.run(self.kernels.rim_forward)

    def run_backward(self, dh: Tensor, dc: Tensor, dh_start: Tensor, dc_start: Tensor, dy: Tensor) -> None:
        N, T, B, D = self.sizes
        empty = self.buffers.empty
        self.d_gates, self.d_qkv = self.buffers.units_first(4 * D), self.buffers.units_first(self.qkv_size)
        self.d_scores, self.d_output = empty(T, N, B), empty(T, N * B, 2 * D)
        scratch = {name: empty(N, B, D) for name in ("dh_new", "d_h_read", "dh_gates")}
        self.call.hold(dh=dh, dc=dc, dh_start=dh_start, dc_start=dc_start, dy=dy, **scratch)
        self.call.hold(d_gates=self.d_gates, d_scores=self.d_scores, d_qkv=self.d_qkv, d_output=self.d_output)
        self.call.hold(d_read=empty(*self.read.shape[1:]))
        self.call.run(self.kernels.rim_backward)

    def gradients(self, h: Tensor) -> NativeRIMTensors:
        N = self.sizes[0]
        mask, share = (per_step.transpose(0, 1).flatten(1) for per_step in (self.mask, self.share))  # [N, T B]
        rows, d_gates, h_rows = self.values.flatten(0, 1), self.d_gates.flatten(1, 2), h.flatten(1, 2)
        d_rows = torch.zeros_like(rows)
        d_weight_input, d_weight_hidden = torch.empty_like(self.weight_input), torch.empty_like(self.weight_hidden)
        d_bias = torch.empty_like(self.call.tensors["bias"])
        # Memory for the active rows of one unit after the other: fresh memory costs more than what is done with it.
        d_active_all, rows_active, h_active = (self.buffers.empty(*x.shape) for x in (d_gates[0], rows, h_rows[0]))
        for n in range(N):
            active = mask[n].nonzero().squeeze(1)
            d_active = torch.index_select(d_gates[n], 0, active, out=d_active_all[: len(active)])
            torch.sum(d_active, 0, out=d_bias[n])
            unit_h = torch.index_select(h_rows[n], 0, active, out=h_active[: len(active)])
            torch.mm(unit_h.t(), d_active, out=d_weight_hidden[n])
            d_active.mul_(share[n].index_select(0, active).unsqueeze(1))
            unit_rows = torch.index_select(rows, 0, active, out=rows_active[: len(active)])
            torch.mm(unit_rows.t(), d_active, out=d_weight_input[n])
            d_rows.index_add_(0, active, torch.mm(d_active, self.weight_input[n].t(), out=unit_rows))
        d_output = self.d_output.flatten(0, 1)
        return NativeRIMTensors(
            keys=h * self.d_scores.transpose(0, 1).unsqueeze(-1),
            values=d_rows.view_as(self.values),
            weight_input=d_weight_input,
            weight_hidden=d_weight_hidden,
            bias=d_bias,
            query_key_value=weight_gradient(self.h_new, self.d_qkv),
            project=d_output.t() @ self.read.flatten(0, 1),
            project_bias=d_output.sum(0),
        )

    def trace(self) -> CoreTrace:
        active, share = self.mask.transpose(1, 2).bool(), self.share.transpose(1, 2)
        return CoreTrace(active, torch.stack([1.0 - share, share], dim=-1), self.attention.mean(2))


@dataclass
class LSTMTensors(Tensors):
    """What a `NativeLSTM` is made from.

    Attributes:
        input_gates: What the input adds to the gates, ``[N, T, B, 4 D]``, bias included.
        weight_hidden: ``[N, D, 4 D]``.
    """

    input_gates: Tensor
    weight_hidden: Tensor


class NativeLSTM:
    """N independent LSTMs, given what the input adds to their gates.

    Args:
        kernels: Compiled for the tensors' dtype.
        T: Time steps.
        B: Batch rows.
        saving: Keep what the backward pass needs.
        tensors: Input and weights.
    """

    def __init__(self, kernels: Kernels, T: int, B: int, saving: bool, tensors: LSTMTensors) -> None:
        input_gates, weight_hidden = tensors.input_gates, tensors.weight_hidden
        self.kernels = kernels
        N, D = weight_hidden.shape[:2]
        self.sizes = (N, T, B, D)
        self.buffers = buffers = Buffers(N, T, B, saving, input_gates)
        self.call = _Call(_LSTMSequence, T=T, B=B, N=N, D=D, keep=int(saving), gemm=kernels.gemm)
        self.call.hold(
            input_gates=input_gates.contiguous(),
            weight_hidden=weight_hidden.contiguous(),
            ones=input_gates.new_ones(N, B),
            gates=buffers.empty(buffers.slots, N, B, 4 * D),
            tanh_c=buffers.empty(buffers.slots, N, B, D),
        )

    def run(
        self, h: Tensor, c: Tensor, y: Tensor, h_start: Tensor | None, c_start: Tensor | None, starts: Tensor | None
    ) -> None:
        self.call.hold(h=h, c=c, y=y, h_start=h_start, c_start=c_start, starts=starts)
        self.call.run(self.kernels.lstm_sequence_forward)

    def run_backward(self, dh: Tensor, dc: Tensor, dh_start: Tensor, dc_start: Tensor, dy: Tensor) -> None:
        N, T, B, D = self.sizes
        self.d_gates = dh.new_empty(N, T, B, 4 * D)  # becomes a gradient, which outlives the buffers
        self.call.hold(dh=dh, dc=dc, dh_start=dh_start, dc_start=dc_start, dy=dy, d_gates=self.d_gates)
        self.call.hold(dh_new=self.buffers.empty(N, B, D), nothing=dh.new_zeros(N, B, D))
        self.call.run(self.kernels.lstm_sequence_backward)

    def gradients(self, h: Tensor) -> LSTMTensors:
        return LSTMTensors(self.d_gates, weight_gradient(h, self.d_gates))

    def trace(self) -> CoreTrace:
        N, T, B, _ = self.sizes
        return CoreTrace(torch.ones(T, B, N, dtype=torch.bool))
