"""The k largest of a few scores; the candidates are the first axis, for the sake of speed on the CPU."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def rank(scores: Tensor) -> Tensor:
    """How many candidates come before each; of equal ones the lower index comes first.

    The same order as that of `rimrl.cores.attention.top_k_mask`.

    Args:
        scores: ``[M, ...]``, one row a candidate.

    Returns:
        ``[M, ...]`` integers from 0.
    """
    own, other = scores.unsqueeze(1), scores.unsqueeze(0)
    wins_ties = _comes_before(len(scores), scores.device).view(len(scores), len(scores), *[1] * (scores.dim() - 1))
    return torch.where(wins_ties, other >= own, other > own).sum(1)


def softmax_of_largest(scores: Tensor, k: int | None, out: Tensor) -> Tensor:
    """Softmax over the k largest of the first axis, or over all.

    torch's kernel for a short *last* axis takes longer than everything else in a scan together; over the first axis it
    is fast.

    Args:
        scores: ``[M, ...]``.
        k: How many are kept; the others get exactly zero. None or M: all.
        out: Where to put it.
    """
    if k is not None and k < len(scores):
        scores = scores.masked_fill(rank(scores) >= k, float("-inf"))
    return torch.softmax(scores.contiguous(), dim=0, out=out)


@cache
def _comes_before(count: int, device: torch.device) -> Tensor:
    """``[n, m]``: m before n."""
    index = torch.arange(count, device=device)
    return index[None, :] < index[:, None]
