"""Key-value attention of units to the input and to each other, and the choice of the winners.

Letters as in `rimrl.cores.base`. ``dk`` and ``dv`` are key and value width per head.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from rimrl.cores.base import require_positive
from rimrl.cores.fixed import FixedOptions
from rimrl.cores.initialization import Start
from rimrl.cores.units import normal_parameter, unit_linear

Competition = Literal["null", "units"]
Communication = Literal["gated", "residual"]


def top_k_mask(scores: Tensor, k: int) -> Tensor:
    """Mark the k largest entries of the last axis; of equal entries the one with the lowest index wins.

    Args:
        scores: ``[..., N]``.
        k: How many to mark, 1 to N.

    Returns:
        Bool ``[..., N]`` with exactly k true entries a row. Unlike `torch.topk` the result on ties is defined: at the
        zero state all units score the same.
    """
    a, b = scores.unsqueeze(-1), scores.unsqueeze(-2)
    index = torch.arange(scores.shape[-1], device=scores.device)
    beaten_by = (b > a) | ((b == a) & (index[None, :] < index[:, None]))
    return beaten_by.sum(-1) < k


def top_k_softmax(scores: Tensor, k: int) -> Tensor:
    """Softmax over the k largest entries of the last axis (`top_k_mask`); the others get exactly zero."""
    return scores.masked_fill(~top_k_mask(scores, k), float("-inf")).softmax(dim=-1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """View ``[..., H * d]`` as ``[..., H, d]``."""
    return x.reshape(*x.shape[:-1], heads, -1)


class InputRead(NamedTuple):
    """What the units read from the input in one step.

    Attributes:
        value: ``[B, N, H * dv]``, input of each unit's dynamics.
        priority: ``[B, N]``; the K largest become active.
        attention: ``[B, N, H, 1 + M]``, column 0 the null element.
    """

    value: Tensor
    priority: Tensor
    attention: Tensor


class InputAttention(FixedOptions):
    """Top-down attention of N units over M input elements (RIM paper, Sec. 2.2, Eq. 1-3).

    ``competition="null"`` (paper, released copying code): every unit spreads its attention over a null element and the
    input, and those with the least attention on null win. Keys and values have no bias, so the null element's key and
    value are exactly zero and it enters only as a zero score. ``competition="units"`` (released Atari code): the
    softmax runs over the units, so that they share out each input element; the largest share wins and scales what
    the unit reads.

    Attributes:
        query: ``[N, D, H * dk]``, one matrix per unit (Wq). Built with ``num_units=1``, it is one for all units.
        key: ``[M, I, H * dk]``, one matrix per input position, shared by the units (We).
        value: ``[M, I, H * dv]`` (Wv).
    """

    fixed = frozenset({"heads", "competition"})

    def __init__(
        self,
        num_units: int,
        unit_size: int,
        num_inputs: int,
        input_size: int,
        *,
        heads: int,
        key_size: int,
        value_size: int,
        competition: Competition,
        dropout: float,
        start: Start,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.competition = competition
        self.query = normal_parameter(num_units, unit_size, heads * key_size, start.scores)
        self.key = normal_parameter(num_inputs, input_size, heads * key_size, start.scores)
        self.value = normal_parameter(num_inputs, input_size, value_size, start.values)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled keys ``[..., H, dk, M]`` and values ``[..., H, M, dv]`` of elements ``x [..., M, I]``."""
        return _keys_and_values(x, self.key, self.value, self.heads)

    def forward(self, h: Tensor, keys: Tensor, values: Tensor) -> InputRead:
        """Read one step's keys ``[B, H, dk, M]`` and values ``[B, H, M, dv]`` with the states ``h [B, N, D]``."""
        queries = split_heads(unit_linear(h, self.query), self.heads).transpose(1, 2)  # [B, H, N, dk]
        scores = queries @ keys  # [B, H, N, M]
        null = torch.zeros_like(scores[..., :1])
        if self.competition == "null":
            attention = torch.cat([null, scores], dim=-1).softmax(dim=-1)  # Eq. 2
            priority = -attention[..., 0].mean(dim=1)
        else:
            shares = scores.softmax(dim=2)
            attention = torch.cat([null, shares], dim=-1)
            priority = shares.mean(dim=1).sum(dim=-1)
        read = self.dropout(attention)[..., 1:] @ values  # [B, H, N, dv]; the null element's value is zero
        return InputRead(read.transpose(1, 2).flatten(2), priority, attention.transpose(1, 2))


class FurtherElements(FixedOptions):
    """Input elements beside those of an `InputAttention`, of a width of their own, which the same units attend to.

    Attributes:
        key: ``[M, I, H * dk]``, one matrix per element.
        value: ``[M, I, H * dv]``.
    """

    fixed = frozenset({"heads"})

    def __init__(
        self, num_inputs: int, input_size: int, *, heads: int, key_size: int, value_size: int, start: Start
    ) -> None:
        super().__init__()
        self.heads = heads
        self.key = normal_parameter(num_inputs, input_size, heads * key_size, start.scores)
        self.value = normal_parameter(num_inputs, input_size, value_size, start.values)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `InputAttention.encode`; `join_elements` puts the two together."""
        return _keys_and_values(x, self.key, self.value, self.heads)


def _keys_and_values(x: Tensor, key: Tensor, value: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    keys = split_heads(torch.einsum("...mi,mik->...mk", x, key), heads)
    values = split_heads(torch.einsum("...mi,miv->...mv", x, value), heads)
    # The 1/sqrt(dk) of Eq. 2 is applied here, to all steps at once, instead of to the scores of every step.
    keys = keys / math.sqrt(keys.shape[-1])
    return keys.movedim(-3, -1).contiguous(), values.transpose(-3, -2).contiguous()


class InputProjection(nn.Module):
    """Stands in for `InputAttention` in the paper's ablation: every unit reads the whole input (Sec. 4.4).

    Attributes:
        value: ``[M, I, value_size]``; with several input elements the units read their mean.
    """

    def __init__(self, num_inputs: int, input_size: int, value_size: int, start: Start) -> None:
        super().__init__()
        self.value = normal_parameter(num_inputs, input_size, value_size, start.values)

    def encode(self, x: Tensor) -> tuple[Tensor]:
        """Values ``[..., M, value_size]`` of elements ``x [..., M, I]``."""
        return (torch.einsum("...mi,miv->...mv", x, self.value),)


def join_elements(encoded: tuple[Tensor, ...], further: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Put further elements behind those that are there, both as their ``encode`` returned them."""
    if len(encoded) == 1:
        return (torch.cat([encoded[0], further[0]], dim=-2),)
    return torch.cat([encoded[0], further[0]], dim=-1), torch.cat([encoded[1], further[1]], dim=-2)


class UnitCommunication(FixedOptions):
    """Units read each other's states by multi-head attention (RIM paper, Sec. 2.4, App. C.1).

    ``kind="gated"`` (released code): ``sigmoid(Wg o + bg) * tanh(dropout(Wf o + bf))``; ``kind="residual"`` (paper,
    Sec. 2.4): ``dropout(Wf o + bf)``. The caller adds the result to the state: that is the skip connection.

    Attributes:
        query_key_value: ``[N, D, H * (2 dk + dv)]``: every unit's own Wq, Wk, Wv, side by side. Built with
            ``num_units=1``, they are the same for all units.
        project: ``H * dv`` to D (Wf, bf), shared by the units.
        gate: ``H * dv`` to D (Wg, bg), shared by the units; only for ``kind="gated"``.
    """

    fixed = frozenset({"kind", "heads", "key_size", "sizes", "top_k", "gate"})

    def __init__(
        self,
        num_units: int,
        unit_size: int,
        kind: Communication,
        head_sizes: tuple[int, int, int],
        top_k: int | None,
        dropout: float,
        start: Start,
    ) -> None:
        super().__init__()
        self.kind = kind
        heads, key_size, value_size = head_sizes
        self.heads = heads
        self.key_size = key_size
        self.sizes = [heads * key_size, heads * key_size, heads * value_size]
        self.top_k = top_k
        parts = [normal_parameter(num_units, unit_size, size, start.communication).data for size in self.sizes]
        self.query_key_value = nn.Parameter(torch.cat(parts, dim=-1))
        self.project = nn.Linear(heads * value_size, unit_size)
        self.gate = nn.Linear(heads * value_size, unit_size) if kind == "gated" else None
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """What each unit receives, ``[B, N, D]``, and its attention ``[B, N, H, N]``, from states ``h [B, N, D]``."""
        parts = torch.split(unit_linear(h, self.query_key_value), self.sizes, dim=-1)
        queries, keys, values = (split_heads(part, self.heads).transpose(1, 2) for part in parts)  # [B, H, N, d]
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(self.key_size)  # [B, H, N, N]
        attention = scores.softmax(dim=-1) if self.top_k is None else top_k_softmax(scores, self.top_k)
        received = (attention @ values).transpose(1, 2).flatten(2)  # o_n, [B, N, H * dv]
        update = self.dropout(self.project(received))
        if self.gate is not None:
            update = torch.sigmoid(self.gate(received)) * torch.tanh(update)
        return update, attention.transpose(1, 2)


def make_communication(
    kind: Communication | None,
    num_units: int,
    unit_size: int,
    head_sizes: tuple[int, int, int],
    top_k: int | None,
    dropout: float,
    start: Start,
) -> UnitCommunication | None:
    """A core's communication, if there is one; ``head_sizes`` are number of heads, key and value width of each.

    Raises:
        UsageError: If a size is not positive, communication or not.
    """
    heads, key_size, value_size = head_sizes
    require_positive(communication_heads=heads, communication_key_size=key_size, communication_value_size=value_size)
    return None if kind is None else UnitCommunication(num_units, unit_size, kind, head_sizes, top_k, dropout, start)
