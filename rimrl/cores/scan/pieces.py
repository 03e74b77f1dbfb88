"""Sequences cut where episodes start, and the pieces laid out anew so that a loop over time takes fewer steps.

On torch's operations a step of a few rows costs about as much as one of many. Pieces of different episodes depend on
nothing of each other, so that they can run side by side instead of one after the other.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace, State
from rimrl.cores.scan.library import kernels

Run: TypeAlias = Callable[[Tensor, State, Tensor | None, bool], tuple[Tensor, State, CoreTrace | None]]
"""`rimrl.cores.backends.Backend.run` of one core."""

_LONGEST = 0.75
"""Share of the sequence up to which its longest piece makes the new layout worth its copies."""


class Layout(NamedTuple):
    """Pieces of a ``[T, B]`` sequence as rows of one of L steps and S rows, several pieces in a row.

    Attributes:
        source: ``[L * S]``, for each entry its index in the flat ``[T, B]``; any index where nothing belongs.
        place: ``[T * B]``, the reverse.
        starts: ``[L, S]`` bool: where a piece starts an episode.
        state_of: ``[S]``, the batch row whose state a row continues, if it does not start an episode.
        ends_in: ``[B]``, the row whose last step is that of a batch row.
    """

    source: Tensor
    place: Tensor
    starts: Tensor
    state_of: Tensor
    ends_in: Tensor


def run_side_by_side(
    run: Run, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
) -> tuple[Tensor, State, CoreTrace | None]:
    """Run a sequence with its pieces side by side where that takes fewer steps, else as it is.

    Done on the CPU where there are no kernels. Elsewhere the results of a seed are older than this layout, which
    changes how sums are rounded.

    Args:
        run: Runs the core on any sequence.
        x: ``[T, B, I]``.
        state: ``(h, c)`` before the first step.
        episode_starts: ``[T, B]`` bool, or None.
        return_trace: Also return what the units did.
    """
    like = state[0]
    layout = None
    if episode_starts is not None and len(x) > 1 and like.device.type == "cpu" and kernels(like) is None:
        layout = lay_out(episode_starts)
    if layout is None:
        return run(x, state, episode_starts, return_trace)
    T, B = x.shape[:2]
    L, S = layout.starts.shape
    h, c = (part.index_select(1, layout.state_of) for part in state)
    rows = x.flatten(0, 1).index_select(0, layout.source).view(L, S, *x.shape[2:])
    y, last, trace = run(rows, (h, c), layout.starts, return_trace)

    def back(tensor: Tensor) -> Tensor:
        return tensor.flatten(0, 1).index_select(0, layout.place).view(T, B, *tensor.shape[2:])

    h, c = (part.index_select(1, layout.ends_in) for part in last)
    if trace is not None:
        attention, messages = (
            None if part is None else back(part) for part in (trace.input_attention, trace.communication_attention)
        )
        trace = CoreTrace(back(trace.active), attention, messages)
    return back(y), (h, c), trace


def lay_out(episode_starts: Tensor) -> Layout | None:
    """How to lay out a sequence; None if its longest piece is too long for that to be worthwhile.

    Args:
        episode_starts: ``[T, B]`` bool.
    """
    T, B = episode_starts.shape
    cuts = episode_starts.t().clone()
    cuts[:, 0] = True
    row, begin = cuts.nonzero(as_tuple=True)  # by row, then by time
    end = torch.cat([begin[1:], begin.new_zeros(1)])
    length = torch.where(end > begin, end, T) - begin  # the next piece may belong to the next row
    L = int(length.max())
    if L > _LONGEST * T:
        return None
    continues = (begin == 0) & ~episode_starts[0, row]
    ends = begin + length == T
    lane, offset = _pack(length.tolist(), continues.tolist(), ends.tolist(), L)
    S = int(lane.max()) + 1

    piece = torch.arange(len(length)).repeat_interleave(length)
    step = torch.arange(T * B) - (length.cumsum(0) - length)[piece]
    source_of, target_of = (begin[piece] + step) * B + row[piece], (offset[piece] + step) * S + lane[piece]
    source, place = torch.zeros(L * S, dtype=torch.long), torch.empty(T * B, dtype=torch.long)
    source[target_of], place[source_of] = source_of, target_of
    starts = torch.zeros(L, S, dtype=torch.bool)
    starts[offset, lane] = ~continues
    state_of, ends_in = torch.zeros(S, dtype=torch.long), torch.empty(B, dtype=torch.long)
    state_of[lane[continues]], ends_in[row[ends]] = row[continues], lane[ends]
    return Layout(source, place, starts, state_of, ends_in)


def _pack(length: list[int], continues: list[bool], ends: list[bool], L: int) -> tuple[Tensor, Tensor]:
    """The new row of each piece and its first step there.

    What continues a state comes first in its row, what ends one comes last; long pieces are placed before short ones,
    each where most room is left.
    """
    lane, offset = [0] * len(length), [0] * len(length)
    filled: list[int] = []
    room: list[tuple[int, int]] = []  # a heap of (-free steps, row)
    longest_first = sorted(range(len(length)), key=lambda p: -length[p])
    for p in longest_first:
        if ends[p]:
            lane[p], offset[p] = len(filled), L - length[p]
            heapq.heappush(room, (length[p] - L, len(filled)))
            filled.append(0)
    for first in (True, False):
        taken = []
        for p in longest_first:
            if ends[p] or continues[p] != first:
                continue
            free, row = heapq.heappop(room) if room else (0, 0)
            if -free < length[p]:
                if room or free:
                    heapq.heappush(room, (free, row))
                free, row = -L, len(filled)
                filled.append(0)
            lane[p], offset[p] = row, filled[row]
            filled[row] += length[p]
            left = (free + length[p], row)
            if first:
                taken.append(left)  # one row continues one state
            else:
                heapq.heappush(room, left)
        for left in taken:
            heapq.heappush(room, left)
    return torch.tensor(lane), torch.tensor(offset)
