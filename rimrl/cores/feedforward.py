"""The control without memory that every recurrent comparison needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rimrl.cores.base import CoreTrace, RecurrentCore, State


class FeedForward(RecurrentCore):
    """``y_t = tanh(W x_t + b)``: an LSTM's width and range, and no memory at all.

    Args:
        input_size: Width I of the input.
        hidden_size: Width of the output. Default 256.

    Shapes:
        ``x [T, B, I]`` to ``y [T, B, hidden_size]``; the state ``[1, B, hidden_size]`` is zero and stays so.
    """

    absent = frozenset({"num_active"})

    def __init__(self, input_size: int, hidden_size: int = 256) -> None:
        super().__init__(input_size, hidden_size)
        self.linear = nn.Linear(input_size, hidden_size)

    def _scan(
        self, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        trace = CoreTrace.of_one_unit(x) if return_trace else None
        return torch.tanh(self.linear(x)), self.initial_state(x.shape[1]), trace
