"""RIM and LSTM as loops in compiled code: the options of the paper's RIM, and any LSTM, on the CPU.

The loops over time are in ``loops.h``; here is their memory, and for an LSTM the gradient of its weights. A RIM's
loop takes those of its weights itself: what they are made of is still in the cache there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace
from rimrl.cores.scan import memory
from rimrl.cores.scan.acting import ActingCell
from rimrl.cores.scan.calls import Arguments, KernelCall
from rimrl.cores.scan.layout import LSTM_SEQUENCE, RIM_SEQUENCE
from rimrl.cores.scan.library import Kernels
from rimrl.cores.scan.loop import CompiledCell, Tensors
from rimrl.cores.scan.memory import Buffers
from rimrl.cores.scan.products import weight_gradient

_RIMSequence = RIM_SEQUENCE.as_ctypes()
_LSTMSequence = LSTM_SEQUENCE.as_ctypes()


@dataclass
class NativeRIMTensors(Tensors):
    """What a `NativeRIM` is made from.

    Attributes:
        x: The input, ``[T, B, I]``.
        key: ``[I, dk]``.
        value: ``[I, U]``.
        query: ``[N, D, dk]``.
        weight_input: ``[N, U, 4 D]``.
        weight_hidden: ``[N, D, 4 D]``.
        bias: ``[N, 4 D]``.
        query_key_value: ``[N, D, H' (2 dk' + dv')]``.
        project: Wf over Wg, ``[2 D, H' dv']``.
        project_bias: ``[2 D]``.
    """

    x: Tensor
    key: Tensor
    value: Tensor
    query: Tensor
    weight_input: Tensor
    weight_hidden: Tensor
    bias: Tensor
    query_key_value: Tensor
    project: Tensor
    project_bias: Tensor


ROWS_AT_ONCE = 64
"""Of the products that can wait for several steps: enough for them to be fast, few enough to stay in the cache."""


class NativeRIM(ActingCell):
    """`rimrl.cores.scan.rim.RIMCell` for one input head, LSTM dynamics and gated communication among candidates.

    Args:
        kernels: Compiled for the tensors' dtype.
        num_active: Active units K.
        heads: Heads H of the communication.
        T, B, saving, tensors: As `rimrl.cores.scan.loop.MakeCell` says.
    """

    def __init__(
        self, kernels: Kernels, num_active: int, heads: int, T: int, B: int, saving: bool, tensors: NativeRIMTensors
    ) -> None:
        self.kernels, self.saving, self.wants_dx = kernels, saving, tensors.x.requires_grad
        N, D, Q = tensors.query.shape
        inputs, U = tensors.value.shape
        W, V = tensors.query_key_value.shape[2], tensors.project.shape[1]
        dv = V // heads
        chunk = min(T, max(1, ROWS_AT_ONCE // B))
        self.sizes = (N, T, B, D, Q, U, W, V, chunk)
        self.weights = {name: tensor.contiguous() for name, tensor in vars(tensors).items() if name != "x"}
        slots, steps = (T, T) if saving else (1, chunk)
        self.memory = memory.Block(
            self,
            tensors.query,
            {
                **{"keys": (steps, B, Q), "values": (steps, B, U), "unit_keys": (N, steps, B, D)},
                **{"gates": (slots, N, B, 4 * D), "share": (slots, N, B), "mask": (slots, N, B)},
                **{"tanh_c": (slots, N, B, D), "h_new": (N, slots, B, D), "attention": (slots, B, heads, N, N)},
                **{"output": (slots, N * B, 2 * D), "reads": (N, chunk, B, 4 * D), "qkv": (N, B, W)},
                "read": (N * B, V),
            },
        )
        self.arguments = Arguments(
            _RIMSequence,
            **{"T": T, "B": B, "N": N, "D": D, "H": heads, "dk": (W // heads - dv) // 2, "dv": dv, "I": inputs},
            **{"key_size": Q, "value_size": U, "K": num_active, "keep": int(saving), "chunk": chunk},
            **self.memory.addresses(),
        )
        self.arguments.hold(**self.weights, x=tensors.x.contiguous())

    def products(self) -> Sequence[tuple[int, int, int]]:
        N, _, _, D, Q, U, W, V, _ = self.sizes
        inputs = self.weights["key"].shape[0]
        of_input = (1, inputs, Q), (1, inputs, U), (N, Q, D)
        return *of_input, (N, U, 4 * D), (N, D, 4 * D), (N, D, W), (1, V, 2 * D)

    def read(self, *of_input: Tensor) -> None:
        (x,) = of_input
        self.arguments.hold(x=x.contiguous())

    def start_run(
        self, h: Tensor, c: Tensor, y: Tensor, h_start: Tensor | None, c_start: Tensor | None, starts: Tensor | None
    ) -> KernelCall:
        self.arguments.hold(h=h, c=c, y=y, h_start=h_start, c_start=c_start, starts=starts)
        return self.arguments.call(self.kernels.rim_forward)

    def start_backward(self, dh: Tensor, dc: Tensor, dh_start: Tensor, dc_start: Tensor, dy: Tensor) -> KernelCall:
        N, _, B, D, Q, U, W, V, chunk = self.sizes
        self.found = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.dx = torch.empty_like(self.arguments.tensors["x"]) if self.wants_dx else None
        self.arguments.hold(dh=dh, dc=dc, dh_start=dh_start, dc_start=dc_start, dy=dy, dx=self.dx)
        self.arguments.hold(**{f"d_{name}": gradient for name, gradient in self.found.items()})
        self.scratch = memory.Block(
            self,
            dh,
            {
                **{"d_keys": (chunk, B, Q), "d_values": (chunk, B, U), "d_scores": (chunk, N, B)},
                **{"d_gates": (N, chunk, B, 4 * D), "d_qkv": (N, chunk, B, W)},
                **{"d_output": (N * B, 2 * D), "d_read": (N * B, V), "h_scaled": (chunk, B, D)},
                **{"dh_new": (N, B, D), "d_h_read": (N, B, D), "dh_gates": (B, D), "d_input": (B, U)},
            },
        )
        self.arguments.set(**self.scratch.addresses())
        return self.arguments.call(self.kernels.rim_backward)

    def gradients(self, h: Tensor) -> NativeRIMTensors:
        return NativeRIMTensors(self.dx, **self.found)  # type: ignore[arg-type]

    def trace(self) -> CoreTrace:
        active, share = self.memory["mask"].transpose(1, 2).bool(), self.memory["share"].transpose(1, 2)
        attention = torch.stack([1.0 - share, share], dim=-1)
        return CoreTrace(active, attention, self.memory["attention"].mean(2))


@dataclass
class LSTMTensors(Tensors):
    """What a `NativeLSTM` is made from.

    Attributes:
        input_gates: What the input adds to the gates, ``[N, T, B, 4 D]``, bias included.
        weight_hidden: ``[N, D, 4 D]``.
    """

    input_gates: Tensor
    weight_hidden: Tensor


class NativeLSTM(CompiledCell):
    """N independent LSTMs, given what the input adds to their gates.

    Args:
        kernels: Compiled for the tensors' dtype.
        T, B, saving, tensors: As `rimrl.cores.scan.loop.MakeCell` says.
    """

    def __init__(self, kernels: Kernels, T: int, B: int, saving: bool, tensors: LSTMTensors) -> None:
        input_gates, weight_hidden = tensors.input_gates, tensors.weight_hidden
        self.kernels = kernels
        N, D = weight_hidden.shape[:2]
        self.sizes = (N, T, B, D)
        self.buffers = buffers = Buffers(N, T, B, saving, input_gates)
        self.arguments = Arguments(_LSTMSequence, T=T, B=B, N=N, D=D, keep=int(saving), gemm=kernels.gemm)
        self.arguments.hold(
            input_gates=input_gates.contiguous(),
            weight_hidden=weight_hidden.contiguous(),
            ones=input_gates.new_ones(N, B),
            gates=buffers.empty(buffers.slots, N, B, 4 * D),
            tanh_c=buffers.empty(buffers.slots, N, B, D),
        )

    def start_run(
        self, h: Tensor, c: Tensor, y: Tensor, h_start: Tensor | None, c_start: Tensor | None, starts: Tensor | None
    ) -> KernelCall:
        self.arguments.hold(h=h, c=c, y=y, h_start=h_start, c_start=c_start, starts=starts)
        return self.arguments.call(self.kernels.lstm_sequence_forward)

    def start_backward(self, dh: Tensor, dc: Tensor, dh_start: Tensor, dc_start: Tensor, dy: Tensor) -> KernelCall:
        N, T, B, D = self.sizes
        self.d_gates = dh.new_empty(N, T, B, 4 * D)  # becomes a gradient, which outlives the buffers
        self.arguments.hold(dh=dh, dc=dc, dh_start=dh_start, dc_start=dc_start, dy=dy, d_gates=self.d_gates)
        self.arguments.hold(dh_new=self.buffers.empty(N, B, D), nothing=dh.new_zeros(N, B, D))
        return self.arguments.call(self.kernels.lstm_sequence_backward)

    def gradients(self, h: Tensor) -> LSTMTensors:
        return LSTMTensors(self.d_gates, weight_gradient(h, self.d_gates))

    def trace(self) -> CoreTrace:
        N, T, B, _ = self.sizes
        return CoreTrace(torch.ones(T, B, N, dtype=torch.bool))
