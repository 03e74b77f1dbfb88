"""A recurrent core between what reads the inputs and what gives the answers."""

from __future__ import annotations

from typing import Literal, overload

import torch as th
from torch import Tensor, nn

from rimrl.cores.base import CoreTrace, RecurrentCore, State


class SequenceModel(nn.Module):
    """Encoder, core, decoder.

    Args:
        encoder: ``[T, B, ...]`` to ``[T, B, I]``.
        core: Over ``[T, B, I]``.
        decoder: ``[..., hidden_size]`` to answers.
        dropout: Probability to drop, in training, an entry of what the core reads, and of what the decoder reads.
    """

    def __init__(self, encoder: nn.Module, core: RecurrentCore, decoder: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.core = core
        self.decoder = decoder
        self.dropout = nn.Dropout(dropout)

    @overload
    def forward(
        self, inputs: Tensor, state: State | None = ..., return_trace: Literal[False] = ...
    ) -> tuple[Tensor, State]: ...

    @overload
    def forward(
        self, inputs: Tensor, state: State | None = ..., *, return_trace: Literal[True]
    ) -> tuple[Tensor, State, CoreTrace]: ...

    def forward(
        self, inputs: Tensor, state: State | None = None, return_trace: bool = False
    ) -> tuple[Tensor, State] | tuple[Tensor, State, CoreTrace]:
        """Run the core over whole sequences.

        Args:
            inputs: ``[T, B, ...]``, as the task makes them.
            state: State before the first step; None for the initial one, as for every new batch.
            return_trace: Also return what the units did.

        Returns:
            The core's output ``[T, B, hidden_size]``, from which `decode` makes answers where they are wanted; the
            state after the last step; on request the trace.
        """
        encoded: Tensor = self.dropout(self.encoder(inputs))
        if return_trace:
            return self.core.forward(encoded, state, return_trace=True)
        return self.core.forward(encoded, state)

    def decode(self, hidden: Tensor) -> Tensor:
        """Answers from the core's output."""
        answers: Tensor = self.decoder(self.dropout(hidden))
        return answers


class _OneHot(nn.Module):
    """Symbols as vectors with a single one."""

    def __init__(self, num_symbols: int) -> None:
        super().__init__()
        self.num_symbols = num_symbols

    def forward(self, symbols: Tensor) -> Tensor:
        """``[T, B]`` to ``[T, B, num_symbols]``."""
        return nn.functional.one_hot(symbols, self.num_symbols).to(th.get_default_dtype())


def symbol_losses(answers: Tensor, symbols: Tensor) -> Tensor:
    """Cross entropy of each answer in nats, ``[T, B]``.

    Args:
        answers: ``[T, B, num_symbols]``, before a softmax.
        symbols: ``[T, B]``, what would have been right.
    """
    losses = nn.functional.cross_entropy(answers.flatten(0, 1), symbols.flatten(), reduction="none")
    return losses.view_as(symbols)


def symbol_encoder(num_symbols: int, embedding_size: int | None) -> tuple[nn.Module, int]:
    """A learned vector for each symbol, or its one-hot vector, and the width of either."""
    if embedding_size is None:
        return _OneHot(num_symbols), num_symbols
    return nn.Embedding(num_symbols, embedding_size), embedding_size
