"""LSTMs as a loop in compiled code, on the CPU.

The loop over time is in ``lstm.h``; here are its memory and the gradient of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace
from rimrl.cores.scan import memory
from rimrl.cores.scan.calls import Arguments
from rimrl.cores.scan.compiled import OneStructureCell
from rimrl.cores.scan.layout import LSTM_SEQUENCE
from rimrl.cores.scan.library import Kernels
from rimrl.cores.scan.loop import Tensors
from rimrl.cores.scan.products import weight_gradient

_LSTMSequence = LSTM_SEQUENCE.as_ctypes()


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
