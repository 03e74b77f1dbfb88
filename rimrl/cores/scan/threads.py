"""The rows of a batch in groups, each on a thread of its own: rows depend on nothing of each other.

For compiled cells, whose kernels run on one thread each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace, State
from rimrl.cores.scan.calls import can_run_together, run_together
from rimrl.cores.scan.compiled import CompiledCell, MakeCell, MakeKernelCell
from rimrl.cores.scan.loop import Tensors

SMALLEST = 1 << 15
"""Numbers of output, ``T B N D``, below which further cells take longer to make than a second thread saves."""


def in_threads(make_cell: MakeKernelCell, rows: Mapping[str, int], width: int) -> MakeCell:
    """A cell that uses all of torch's threads where that is worthwhile.

    Args:
        make_cell: Makes a cell for any number of rows.
        rows: Names of the tensors that have rows, each with the dimension that counts them.
        width: Width of the output, N * D.
    """

    def make(T: int, B: int, saving: bool, tensors: Tensors) -> CompiledCell:
        threads = min(torch.get_num_threads(), B)
        if not saving or T == 1 or threads == 1 or T * B * width < SMALLEST or not can_run_together():
            return make_cell(T, B, saving, tensors)
        return _InThreads(make_cell, rows, T, B, threads, tensors)

    return make


class _InThreads(CompiledCell):
    """Several others, one for each group of rows.

    Args:
        make_cell: As for `in_threads`, and so is `rows`.
        threads: Groups.
        T, B, tensors: As `MakeCell` says.
    """

    saving = True

    def __init__(
        self, make_cell: MakeKernelCell, rows: Mapping[str, int], T: int, B: int, threads: int, tensors: Tensors
    ) -> None:
        self.kind, self.dims = type(tensors), [rows.get(name) for name in tensors.names()]
        self.groups = [slice(*ends) for ends in pairwise(B * i // threads for i in range(threads + 1))]
        self.cells = []
        for group in self.groups:
            own = (_rows(tensor, dim, group) for tensor, dim in zip(tensors.in_order(), self.dims, strict=True))
            self.cells.append(make_cell(T, group.stop - group.start, True, self.kind(*own)))

    def run(self, first: State, last: State, y: Tensor, at_start: State | None, starts: Tensor | None) -> None:
        calls = []
        for group, cell in zip(self.groups, self.cells, strict=True):
            own_starts = None if starts is None else starts[:, group].contiguous()
            calls.append(cell.start_run(_of(first, group), _of(last, group), y[:, group], at_start, own_starts))
        run_together(calls)

    def run_backward(self, d_last: State, d_first: State, d_start: State, dy: Tensor) -> None:
        # Each group adds to gradients of its own.
        starts = [d_start, *((torch.zeros_like(d_start[0]), torch.zeros_like(d_start[1])) for _ in self.cells[1:])]
        run_together(
            [
                cell.start_backward(_of(d_last, group), _of(d_first, group), own_start, dy[:, group])
                for group, cell, own_start in zip(self.groups, self.cells, starts, strict=True)
            ]
        )
        for h_start, c_start in starts[1:]:
            d_start[0].add_(h_start)
            d_start[1].add_(c_start)

    def gradients(self) -> Tensors:
        parts = zip(*(cell.gradients().in_order() for cell in self.cells), strict=True)
        return self.kind(*(_joined(part, dim) for part, dim in zip(parts, self.dims, strict=True)))

    def trace(self) -> CoreTrace:
        traces = [vars(cell.trace()) for cell in self.cells]
        return CoreTrace(*(_joined([trace[field.name] for trace in traces], 1) for field in fields(CoreTrace)))  # type: ignore[arg-type]


def _of(state: State, group: slice) -> State:
    """A group's rows of ``[L, B, W]``."""
    return state[0][:, group], state[1][:, group]


def _rows(tensor: Tensor | None, dim: int | None, group: slice) -> Tensor | None:
    """A group's rows of a tensor, which want a gradient if it does; all of it if it has none."""
    if tensor is None or dim is None:
        return tensor
    own = tensor.detach().narrow(dim, group.start, group.stop - group.start).contiguous()
    return own.requires_grad_(tensor.requires_grad)


def _joined(parts: Sequence[Tensor | None], dim: int | None) -> Tensor | None:
    """The same of all groups: one after the other along `dim`, or their sum, in the memory of the first."""
    present = [part for part in parts if part is not None]
    if not present:
        return None
    if dim is not None:
        return torch.cat(present, dim)
    total = present[0]
    for part in present[1:]:
        total += part
    return total
