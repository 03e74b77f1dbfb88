"""How predictable a text is from counts: the baseline below which a recurrent model has learned more than spelling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.int64]


class CountModel:
    """Interpolated n-grams with Witten and Bell's smoothing (1991, method C).

    With h the last ``order`` symbols, h' the same without its oldest, n(h) how often h was followed by anything,
    n(h, s) by s, and t(h) by how many different symbols:

        p(s | h) = (n(h, s) + t(h) p(s | h')) / (n(h) + t(h))

    below the empty context ``p(s) = 1 / num_symbols``, and ``p(s | h) = p(s | h')`` where h never occurred.

    Args:
        text: ``[n]``, symbols from 0.
        num_symbols: Size of the vocabulary; to the power of ``order + 1`` less than 2 ** 63.
        order: Symbols that are looked back on. Default 3.
    """

    def __init__(self, text: NDArray[np.integer], num_symbols: int, order: int = 3) -> None:
        self.num_symbols = num_symbols
        self.order = order
        symbols = text.astype(np.int64)
        self._tables = [_Table(symbols, length, num_symbols) for length in range(order + 1)]

    def bits(self, text: NDArray[np.integer]) -> NDArray[np.float64]:
        """Bits ``-log2 p`` of every symbol but the first, each given what stands before it.

        Args:
            text: ``[L, B]``, B texts side by side.

        Returns:
            ``[L - 1, B]``.
        """
        symbols = text.astype(np.int64)
        p = np.full((len(symbols) - 1, *symbols.shape[1:]), 1.0 / self.num_symbols)
        for length, table in enumerate(self._tables):
            start = max(length, 1)  # the first symbol is not predicted; earlier ones have shorter contexts
            if start < len(symbols):
                context = _contexts(symbols, length, self.num_symbols)[start - length : len(symbols) - length]
                p[start - 1 :] = table.refine(context, symbols[start:], p[start - 1 :])
        return -np.log2(p)


class _Table:
    """Counts after contexts of one length."""

    def __init__(self, symbols: Symbols, length: int, num_symbols: int) -> None:
        self._num_symbols = num_symbols
        contexts = _contexts(symbols, length, num_symbols)[: len(symbols) - length]
        self._pairs, self._pair_counts = np.unique(contexts * num_symbols + symbols[length:], return_counts=True)
        owners = self._pairs // num_symbols
        self._contexts, first, self._kinds = np.unique(owners, return_index=True, return_counts=True)
        self._counts = np.add.reduceat(self._pair_counts, first) if len(first) else first

    def refine(self, contexts: Symbols, following: Symbols, p: NDArray[np.float64]) -> NDArray[np.float64]:
        n = _look_up(self._contexts, self._counts, contexts)
        kinds = _look_up(self._contexts, self._kinds, contexts)
        found = _look_up(self._pairs, self._pair_counts, contexts * self._num_symbols + following)
        return np.where(n > 0, (found + kinds * p) / np.maximum(n + kinds, 1), p)


def _contexts(symbols: Symbols, length: int, num_symbols: int) -> Symbols:
    """``[n + 1 - length, …]``: every stretch of that length as one number; entry i begins at symbol i."""
    count = len(symbols) + 1 - length
    numbers = np.zeros((max(count, 0), *symbols.shape[1:]), np.int64)
    for place in range(length):
        numbers = numbers * num_symbols + symbols[place : place + len(numbers)]
    return numbers


def _look_up(keys: Symbols, values: Symbols, wanted: Symbols) -> Symbols:
    """The value of each key, 0 where it is not there."""
    if not len(keys):
        return np.zeros_like(wanted)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
