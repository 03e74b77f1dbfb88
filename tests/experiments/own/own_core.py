"""Cores of a user's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import rimrl
from rimrl.cores.base import State
from rimrl.cores.stepwise import StepTrace, StepwiseCore


class Leaky(StepwiseCore):
    """A leaky integrator of its input; its width has a name of its own."""

    def __init__(self, input_size: int, width: int = 12, leak: float = 0.5) -> None:
        super().__init__(input_size, width)
        self.leak = leak
        self.read = nn.Linear(input_size, width)

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        h = self.leak * state[0] + (1 - self.leak) * torch.tanh(self.read(inputs[0]))
        trace = StepTrace(inputs[0].new_ones(h.shape[1], 1, dtype=torch.bool)) if return_trace else None
        return (h, state[1]), trace


rimrl.register_core("leaky", Leaky)
