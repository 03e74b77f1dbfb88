"""RIM and LSTM as loops in compiled code: the options of the paper's RIM, and any LSTM, on the CPU.

The loops over time are in ``kernels.cpp``; here is their memory, and for an LSTM the gradients of its weights. Those of a
RIM belong to the loop: what they are made of is then still in the cache, and takes no memory for the whole sequence.
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
        keys: Of the input element, over ``sqrt(dk)``, ``[T, B, dk]``.
        values: ``[T, B, U]``.
        query: ``[N, D, dk]``.
        weight_input: ``[N, U, 4 D]``.
        weight_hidden: ``[N, D, 4 D]``.
        bias: ``[N, 4 D]``.
        query_key_value: ``[N, D, H' (2 dk' + dv')]``.
        project: ``[2 D, H' dv']``: Wf over Wg.
        project_bias: ``[2 D]``.
    """

    keys: Tensor
    values: Tensor
    query: Tensor
    weight_input: Tensor
    weight_hidden: Tensor
    bias: Tensor
    query_key_value: Tensor
    project: Tensor
    project_bias: Tensor


_ROWS_AT_ONCE = 64
"""Of the products that can wait for several steps: enough for them to be fast, few enough to stay in the cache."""


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
        N, D, key_size = tensors.query.shape
        key_and_value = communication_sizes(heads, tensors.query_key_value, tensors.project)
        self.sizes = (N, T, B, D)
        self.chunk = min(T, max(1, _ROWS_AT_ONCE // B))
        self.tensors = NativeRIMTensors(*(tensor.contiguous() for tensor in vars(tensors).values()))
        self.widths = tensors.query_key_value.shape[2], tensors.project.shape[1]
        steps = T if saving else self.chunk
        self.buffers = buffers = Buffers(N, T, B, saving, tensors.keys)
        slots, W, V = buffers.slots, *self.widths
        self.share, self.mask = buffers.empty(slots, N, B), buffers.empty(slots, N, B)
        self.attention = buffers.empty(slots, B, heads, N, N)
        self.call = _Call(
            _RIMSequence,
            **{"T": T, "B": B, "N": N, "D": D, "H": heads, "dk": key_and_value[0], "dv": key_and_value[1]},
            **{"key_size": key_size, "value_size": tensors.values.shape[2]},
            **{"K": num_active, "keep": int(saving), "chunk": self.chunk},
        )
        own = vars(self.tensors)
        self.call.hold(**{_NAMES.get(name, name): tensor for name, tensor in own.items()})
        self.call.hold(
            unit_keys=buffers.empty(N, steps, B, D),
            reads=buffers.empty(N, self.chunk, B, 4 * D),
            gates=buffers.empty(slots, N, B, 4 * D),
            share=self.share,
            mask=self.mask,
            tanh_c=buffers.empty(slots, N, B, D),
            h_new=buffers.units_first(D),
            attention=self.attention,
            output=buffers.empty(slots, N * B, 2 * D),
            qkv=buffers.empty(N, B, W),
            read=buffers.empty(N * B, V),
        )

    def run(
        self, h: Tensor, c: Tensor, y: Tensor, h_start: Tensor | None, c_start: Tensor | None, starts: Tensor | None
    ) -> None:
        self.call.hold(h=h, c=c, y=y, h_start=h_start, c_start=c_start, starts=starts)
        self.call.run(self.kernels.rim_forward)

    def run_backward(self, dh: Tensor, dc: Tensor, dh_start: Tensor, dc_start: Tensor, dy: Tensor) -> None:
        (N, _, B, D), (W, V), chunk, empty = self.sizes, self.widths, self.chunk, self.buffers.empty
        self.call.hold(dh=dh, dc=dc, dh_start=dh_start, dc_start=dc_start, dy=dy)
        self.found = NativeRIMTensors(*(torch.zeros_like(tensor) for tensor in vars(self.tensors).values()))
        gradients = vars(self.found)
        self.call.hold(**{f"d_{_NAMES.get(name, name)}": gradient for name, gradient in gradients.items()})
        self.call.hold(
            d_gates=empty(N, chunk, B, 4 * D),
            d_qkv=empty(N, chunk, B, W),
            d_scores=empty(chunk, N, B),
            d_output=empty(N * B, 2 * D),
            d_read=empty(N * B, V),
            h_scaled=empty(chunk, B, D),
            dh_new=empty(N, B, D),
            d_h_read=empty(N, B, D),
            dh_gates=empty(B, D),
            d_input=empty(B, self.tensors.values.shape[2]),
        )
        self.call.run(self.kernels.rim_backward)

    def gradients(self, h: Tensor) -> NativeRIMTensors:
        return self.found

    def trace(self) -> CoreTrace:
        active, share = self.mask.transpose(1, 2).bool(), self.share.transpose(1, 2)
        return CoreTrace(active, torch.stack([1.0 - share, share], dim=-1), self.attention.mean(2))


_NAMES = {"query_key_value": "weight_qkv"}
"""What the kernels call a tensor differently."""


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
