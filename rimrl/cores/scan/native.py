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
from rimrl.cores.scan.acting import OneStructureActingCell
from rimrl.cores.scan.calls import Arguments
from rimrl.cores.scan.communication import communication_sizes, joins_values
from rimrl.cores.scan.compiled import OneStructureCell
from rimrl.cores.scan.layout import LSTM_SEQUENCE, RIM_SEQUENCE
from rimrl.cores.scan.library import Kernels
from rimrl.cores.scan.loop import Tensors
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


class NativeRIM(OneStructureActingCell):
    """`rimrl.cores.scan.rim.RIMCell` for one input head, LSTM dynamics and gated communication among candidates.

    Args:
        kernels: Compiled for the tensors' dtype.
        num_active: Active units K.
        heads: Heads H of the communication.
        T, B, saving, tensors: As `rimrl.cores.scan.compiled.MakeCell` says.
    """

    def __init__(
        self, kernels: Kernels, num_active: int, heads: int, T: int, B: int, saving: bool, tensors: NativeRIMTensors
    ) -> None:
        self.kernels = kernels.rim_forward, kernels.rim_backward
        self.saving, self.wants_dx = saving, tensors.x.requires_grad
        N, D, Q = tensors.query.shape
        inputs, U = tensors.value.shape
        dk, dv = communication_sizes(heads, tensors.query_key_value, tensors.project)
        self.is_joined = joins_values(D, dv, T * B)
        V = heads * (2 * D if self.is_joined else dv)
        W = heads * 2 * dk + V
        chunk = min(T, max(1, ROWS_AT_ONCE // B))
        self.sizes = (N, T, B, D, Q, U, W, V, chunk)
        self.weights = {name: tensor.contiguous() for name, tensor in vars(tensors).items() if name != "x"}
        slots, steps = (T, T) if saving else (1, chunk)
        self.memory = memory.Block(
            self,
            tensors.query,
            {
                **{"h": (N, T + 1, B, D), "c": (N, T + 1, B, D)},
                **{"keys": (steps, B, Q), "values": (steps, B, U), "unit_keys": (N, steps, B, D)},
                **{"gates": (slots, N, B, 4 * D), "share": (slots, N, B), "mask": (slots, N, B)},
                **{"tanh_c": (slots, N, B, D), "h_new": (N, slots, B, D), "attention": (slots, B, heads, N, N)},
                **{"output": (slots, N * B, 2 * D), "reads": (N, chunk, B, 4 * D), "qkv": (N, B, W)},
                "read": (N * B, V),
            },
        )
        self.arguments = Arguments(
            _RIMSequence,
            **{"T": T, "B": B, "N": N, "D": D, "H": heads, "dk": dk, "dv": dv, "I": inputs},
            **{"key_size": Q, "value_size": U, "K": num_active, "keep": int(saving), "chunk": chunk},
            is_joined=int(self.is_joined),
            **self.memory.addresses(),
        )
        self.arguments.hold(**self.weights, x=tensors.x.contiguous())

    def products(self) -> Sequence[tuple[int, int, int]]:
        N, _, _, D, Q, U, W, V, _ = self.sizes
        inputs = self.weights["key"].shape[0]
        of_input = (1, inputs, Q), (1, inputs, U), (N, Q, D)
        return *of_input, (N, U, 4 * D), (N, D, 4 * D), (N, D, W), (int(not self.is_joined), V, 2 * D)

    def read(self, *of_input: Tensor) -> None:
        (x,) = of_input
        self.arguments.hold(x=x.contiguous())

    def prepare_backward(self, like: Tensor) -> None:
        N, _, B, D, Q, U, W, V, chunk = self.sizes
        self.found = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.dx = torch.empty_like(self.arguments.tensors["x"]) if self.wants_dx else None
        self.arguments.hold(dx=self.dx, **{f"d_{name}": gradient for name, gradient in self.found.items()})
        self.scratch = memory.Block(
            self,
            like,
            {
                **{"dh": (N, B, D), "dc": (N, B, D)},
                **{"d_keys": (chunk, B, Q), "d_values": (chunk, B, U), "d_scores": (chunk, N, B)},
                **{"d_gates": (N, chunk, B, 4 * D), "d_qkv": (N, chunk, B, W)},
                **{"d_output": (N * B, 2 * D), "d_read": (N * B, V), "h_scaled": (chunk, B, D)},
                **{"dh_new": (N, B, D), "d_h_read": (N, B, D), "dh_gates": (B, D), "d_input": (B, U)},
            },
        )
        self.arguments.set(**self.scratch.addresses())

    def gradients(self) -> NativeRIMTensors:
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


class NativeLSTM(OneStructureCell):
    """N independent LSTMs, given what the input adds to their gates.

    Args:
        kernels: Compiled for the tensors' dtype.
        T, B, saving, tensors: As `rimrl.cores.scan.compiled.MakeCell` says.
    """

    def __init__(self, kernels: Kernels, T: int, B: int, saving: bool, tensors: LSTMTensors) -> None:
        input_gates, weight_hidden = tensors.input_gates, tensors.weight_hidden
        self.kernels, self.saving = (kernels.lstm_sequence_forward, kernels.lstm_sequence_backward), saving
        N, D = weight_hidden.shape[:2]
        self.sizes, S = (N, T, B, D), T if saving else 1
        self.memory = memory.Block(
            self,
            input_gates,
            {
                **{"h": (N, T + 1, B, D), "c": (N, T + 1, B, D)},
                **{"gates": (S, N, B, 4 * D), "tanh_c": (S, N, B, D)},
            },
        )
        self.arguments = Arguments(
            _LSTMSequence,
            **{"T": T, "B": B, "N": N, "D": D, "keep": int(saving), "gemm": kernels.gemm},
            **self.memory.addresses(),
        )
        self.arguments.hold(
            input_gates=input_gates.contiguous(),
            weight_hidden=weight_hidden.contiguous(),
            ones=input_gates.new_ones(N, B),
        )

    def prepare_backward(self, like: Tensor) -> None:
        N, T, B, D = self.sizes
        self.d_gates = like.new_empty(N, T, B, 4 * D)  # becomes a gradient, which outlives the cell
        self.scratch = memory.Block(self, like, {"dh": (N, B, D), "dc": (N, B, D), "dh_new": (N, B, D)})
        self.arguments.hold(d_gates=self.d_gates, nothing=like.new_zeros(N, B, D))
        self.arguments.set(**self.scratch.addresses())

    def gradients(self) -> LSTMTensors:
        return LSTMTensors(self.d_gates, weight_gradient(self.memory["h"][:, :-1], self.d_gates))

    def trace(self) -> CoreTrace:
        N, T, B, _ = self.sizes
        return CoreTrace(torch.ones(T, B, N, dtype=torch.bool))
