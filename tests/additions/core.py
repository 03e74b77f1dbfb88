"""A leaky integrator of the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rimrl.cores.base import State
from rimrl.cores.stepwise import StepTrace, StepwiseCore


class Leaky(StepwiseCore):
    """One unit that forgets a part of what it holds at every step.

    Args:
        input_size: Width of the input.
        hidden_size: Width of the state. Default 16.
        leak: Share that is kept. Default 0.5.
    """

    def __init__(self, input_size: int, hidden_size: int = 16, leak: float = 0.5) -> None:
        super().__init__(input_size, hidden_size)
        self.leak = leak
        self.read = nn.Linear(input_size, hidden_size)

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        h = self.leak * state[0] + (1 - self.leak) * torch.tanh(self.read(inputs[0]))
        trace = StepTrace(inputs[0].new_ones(h.shape[1], 1, dtype=torch.bool)) if return_trace else None
        return (h, state[1]), trace
