"""The rows of a batch in groups, each on a thread of its own: rows depend on nothing of each other.

For compiled cells, whose kernels run on one thread each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace
from rimrl.cores.scan import memory
from rimrl.cores.scan.calls import can_run_together, run_together
from rimrl.cores.scan.loop import CompiledCell, MakeCell, SequenceCell, Tensors

SMALLEST = 1 << 15
"""Numbers of output, ``T B N D``, below which the copies take longer than a second thread saves."""

MakeCompiledCell: TypeAlias = Callable[[int, int, bool, Any], CompiledCell]


def in_threads(make_cell: MakeCompiledCell, rows: Mapping[str, int], width: int) -> MakeCell:
    """A cell that uses all of torch's threads where that is worthwhile.

    Args:
        make_cell: Makes a cell for any number of rows.
        rows: Names of the tensors that have rows, each with the dimension that counts them.
        width: Width of the output, N * D.
    """

    def make(T: int, B: int, saving: bool, tensors: Tensors) -> SequenceCell:
        threads = min(torch.get_num_threads(), B)
        if not saving or T == 1 or threads == 1 or T * B * width < SMALLEST or not can_run_together():
            return make_cell(T, B, saving, tensors)
        return _InThreads(make_cell, rows, T, B, threads, tensors)

    return make


class _InThreads:
    """`SequenceCell` of several others, one for each group of rows.

    Args:
        make_cell: As for `in_threads`, and so is `rows`.
        threads: Groups.
        T, B, tensors: As `MakeCell` says.
    """

    def __init__(
        self, make_cell: MakeCompiledCell, rows: Mapping[str, int], T: int, B: int, threads: int, tensors: Tensors
    ) -> None:
        self.kind, self.dims = type(tensors), [rows.get(name) for name in tensors.names()]
        self.groups = [slice(*ends) for ends in pairwise(B * i // threads for i in range(threads + 1))]
        self.cells = []
        for group in self.groups:
            own = (_rows(tensor, dim, group) for tensor, dim in zip(tensors.in_order(), self.dims, strict=True))
            self.cells.append(make_cell(T, group.stop - group.start, True, self.kind(*own)))

    def run(
        self, h: Tensor, c: Tensor, y: Tensor, h_start: Tensor | None, c_start: Tensor | None, starts: Tensor | None
    ) -> None:
        """As `SequenceCell.run`, but that states between the first and the last stay with the groups."""
        calls, found = [], []
        for group, cell in zip(self.groups, self.cells, strict=True):
            own = [memory.empty(cell, part, *part.shape) for part in (h[:, :, group], c[:, :, group], y[:, group])]
            own_h, own_c, own_y = own
            own_h[:, 0], own_c[:, 0] = h[:, 0, group], c[:, 0, group]
            own_starts = None if starts is None else starts[:, group].contiguous()
            calls.append(cell.start_run(own_h, own_c, own_y, h_start, c_start, own_starts))
            found.append(own)
        run_together(calls)
        self.h = [own_h for own_h, _, _ in found]
        for group, (own_h, own_c, own_y) in zip(self.groups, found, strict=True):
            y[:, group] = own_y
            h[:, -1, group], c[:, -1, group] = own_h[:, -1], own_c[:, -1]

    def run_backward(self, dh: Tensor, dc: Tensor, dh_start: Tensor, dc_start: Tensor, dy: Tensor) -> None:
        calls, found = [], []
        for group, cell in zip(self.groups, self.cells, strict=True):
            own_dh, own_dc, own_dy = (gradient[:, group].contiguous() for gradient in (dh, dc, dy))
            own_dh_start, own_dc_start = torch.zeros_like(dh_start), torch.zeros_like(dc_start)
            calls.append(cell.start_backward(own_dh, own_dc, own_dh_start, own_dc_start, own_dy))
            found.append((own_dh, own_dc, own_dh_start, own_dc_start))
        run_together(calls)
        for group, cell, own in zip(self.groups, self.cells, found, strict=True):
            own_dh, own_dc, own_dh_start, own_dc_start = own
            cell.end_backward(own_dh, own_dc)
            dh[:, group], dc[:, group] = own_dh, own_dc
            dh_start += own_dh_start
            dc_start += own_dc_start

    def gradients(self, h: Tensor) -> Tensors:
        of_cells = [cell.gradients(own_h[:, :-1]) for own_h, cell in zip(self.h, self.cells, strict=True)]
        parts = zip(*(gradients.in_order() for gradients in of_cells), strict=True)
        return self.kind(*(_joined(part, dim) for part, dim in zip(parts, self.dims, strict=True)))

    def trace(self) -> CoreTrace:
        traces = [vars(cell.trace()) for cell in self.cells]
        return CoreTrace(*(_joined([trace[field.name] for trace in traces], 1) for field in fields(CoreTrace)))  # type: ignore[arg-type]


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
