"""Whole sequences in compiled code, in one autograd node: a call of a kernel forward, and one backward.

`run` does for a `CompiledCell` what `rimrl.cores.scan.loop.run` does for a cell in Python. States are handed over as
cores have them, row by row, and y and its gradient step by step, so that a cell may also be given some of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rimrl.cores.base import CoreTrace, State
from rimrl.cores.scan.calls import Arguments, KernelCall
from rimrl.cores.scan.loop import Tensors


class CompiledCell(Protocol):
    """Runs one sequence forward and then backward in compiled code, with its own memory of every step.

    A cell is made for one sequence and lives until its gradient is taken. One that follows no gradient may be used
    again.

    Attributes:
        saving: Whether the cell keeps every step, which the backward pass and the trace need.
    """

    saving: bool

    def run(self, first: State, last: State, y: Tensor, at_start: State | None, starts: Tensor | None) -> None:
        """Run all steps.

        Args:
            first: State before the first step, ``(h, c)``, each ``[L, B, W]``, W being the width of a layer.
            last: Gets the state after the last step.
            y: Gets the last layer's h, ``[T, B, W]``.
            at_start: State at the start of an episode, each ``[L, W]``; may be None if no episode starts.
            starts: ``[T, B]`` bool, or None: no episode starts.
        """

    def run_backward(self, d_last: State, d_first: State, d_start: State, dy: Tensor) -> None:
        """Run all steps back.

        Args:
            d_last: Gradients of the state after the last step.
            d_first: Get those of the state before the first step.
            d_start: Those of the state at the start of an episode, which are added to.
            dy: Of y.
        """

    def gradients(self) -> Tensors:
        """Gradients of the tensors that the cell was made from, after `run_backward`."""

    def trace(self) -> CoreTrace:
        """What the units did, for a cell that is saving."""


MakeCell: TypeAlias = Callable[[int, int, bool, Any], CompiledCell]
"""``make(T, B, saving, tensors)``: a cell for T steps of B rows, made from input and weights."""


class KernelCell(CompiledCell, Protocol):
    """A cell that runs a sequence with one call of a kernel."""

    def start_run(
        self, first: State, last: State, y: Tensor, at_start: State | None, starts: Tensor | None
    ) -> KernelCall:
        """What `run` has to call; the arguments are the same."""

    def start_backward(self, d_last: State, d_first: State, d_start: State, dy: Tensor) -> KernelCall:
        """What `run_backward` has to call; the arguments are the same."""

    def run(self, first: State, last: State, y: Tensor, at_start: State | None, starts: Tensor | None) -> None:
        self.start_run(first, last, y, at_start, starts).run()

    def run_backward(self, d_last: State, d_first: State, d_start: State, dy: Tensor) -> None:
        self.start_backward(d_last, d_first, d_start, dy).run()


MakeKernelCell: TypeAlias = Callable[[int, int, bool, Any], KernelCell]


class OneStructureCell(KernelCell, Protocol):
    """A cell of one layer, whose kernels are called with one structure.

    Attributes:
        arguments: That structure.
        kernels: A kernel that runs a sequence, and one that runs it back.
        states: Names of the states that the kernels know; any others are zero.
    """

    arguments: Arguments
    kernels: tuple[Callable[[int], None], Callable[[int], None]]
    states: tuple[str, ...] = ("h", "c")

    def start_run(
        self, first: State, last: State, y: Tensor, at_start: State | None, starts: Tensor | None
    ) -> KernelCall:
        self._place(y, "y", {"{}_first": first, "{}_last": last} | ({} if at_start is None else {"{}_start": at_start}))
        self.arguments.hold(starts=starts)  # the backward pass reads them, too
        for unknown in last[len(self.states) :]:
            unknown.zero_()
        return self.arguments.call(self.kernels[0], (first, last, y, at_start))

    def start_backward(self, d_last: State, d_first: State, d_start: State, dy: Tensor) -> KernelCall:
        self._place(dy, "dy", {"d{}_last": d_last, "d{}_first": d_first, "d{}_start": d_start})
        for unknown in d_first[len(self.states) :]:
            unknown.zero_()
        self.prepare_backward(dy)
        return self.arguments.call(self.kernels[1], (d_last, d_first, d_start, dy))

    def prepare_backward(self, like: Tensor) -> None:
        """Make room for gradients, of the dtype of `like`."""

    def _place(self, steps: Tensor, name: str, states: dict[str, State]) -> None:
        """Set addresses. The cell keeps none of these tensors: some have it in their graph, and would not be freed."""
        places = {name: steps.data_ptr(), "y_step": steps.stride(0)}
        for place, state in states.items():
            places |= {place.format(known): part.data_ptr() for known, part in zip(self.states, state, strict=False)}
        self.arguments.set(**places)


def run(
    make_cell: MakeCell,
    tensors: Tensors,
    num_steps: int,
    state: State,
    initial: Callable[[int], State],
    episode_starts: Tensor | None,
    return_trace: bool,
) -> tuple[Tensor, State, CoreTrace | None]:
    """Run a cell over a sequence.

    Args:
        make_cell: What makes the cell of `tensors`.
        tensors: Everything that gradients are wanted for.
        num_steps: Time steps T.
        state: ``(h, c)`` before the first step, each ``[L, B, W]``.
        initial: Makes ``(h, c)`` at the start of so many episodes; not asked where none starts.
        episode_starts: ``[T, B]`` bool, or None.
        return_trace: Also return what the units did.

    Returns:
        The last layer's output ``[T, B, W]``, the state after the last step, and the trace or None.
    """
    starts, at_start = _starts(episode_starts, initial)
    inputs = (*state, *at_start, *tensors.in_order())
    if not torch.is_grad_enabled() or not any(tensor is not None and tensor.requires_grad for tensor in inputs):
        return _filled(
            make_cell(num_steps, state[0].shape[1], return_trace, tensors), num_steps, state, starts, *at_start
        )
    cells: list[CompiledCell] = []
    y, h, c = _Sequence.apply(cells, make_cell, type(tensors), num_steps, starts, *inputs)  # type: ignore[no-untyped-call]
    return y, (h, c), cells[0].trace() if return_trace else None


def fill(
    cell: CompiledCell,
    num_steps: int,
    state: State,
    initial: Callable[[int], State],
    episode_starts: Tensor | None,
) -> tuple[Tensor, State, CoreTrace | None]:
    """Run a cell without a gradient to follow; if it is saving, there is a trace. Otherwise as `run`."""
    starts, at_start = _starts(episode_starts, initial)
    return _filled(cell, num_steps, state, starts, *at_start)


def _filled(
    cell: CompiledCell,
    num_steps: int,
    state: State,
    starts: Tensor | None,
    h_start: Tensor | None,
    c_start: Tensor | None,
) -> tuple[Tensor, State, CoreTrace | None]:
    first = state[0].contiguous(), state[1].contiguous()
    last = torch.empty_like(first[0]), torch.empty_like(first[1])
    y = first[0].new_empty(num_steps, *first[0].shape[1:])
    cell.run(first, last, y, _rows(h_start, c_start), starts)
    return y, last, cell.trace() if cell.saving else None


def _starts(
    episode_starts: Tensor | None, initial: Callable[[int], State]
) -> tuple[Tensor | None, State | tuple[None, None]]:
    """Where episodes start and from which states, each ``[L, 1, W]``; None where none starts."""
    if episode_starts is None or not bool(episode_starts.any()):
        return None, (None, None)
    return episode_starts.contiguous(), initial(1)


def _rows(h_start: Tensor | None, c_start: Tensor | None) -> State | None:
    """``[L, 1, W]`` as ``[L, W]``."""
    if h_start is None or c_start is None:
        return None
    return h_start[:, 0].contiguous(), c_start[:, 0].contiguous()


class _Sequence(torch.autograd.Function):
    """A cell's sequence as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        cells: list[CompiledCell],
        make_cell: MakeCell,
        kind: type[Tensors],
        num_steps: int,
        starts: Tensor | None,
        *inputs: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        h0, c0, h_start, c_start, *rest = inputs
        assert h0 is not None
        assert c0 is not None
        first = h0.contiguous(), c0.contiguous()
        last = torch.empty_like(first[0]), torch.empty_like(first[1])
        y = h0.new_empty(num_steps, *h0.shape[1:])
        ctx.cell = make_cell(num_steps, h0.shape[1], True, kind(*rest))
        ctx.cell.run(first, last, y, _rows(h_start, c_start), starts)
        ctx.has_starts = starts is not None
        cells.append(ctx.cell)
        ctx.save_for_backward(*(tensor for tensor in (starts, *inputs) if tensor is not None))
        return y, *last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh_last: Tensor, dc_last: Tensor) -> tuple[Any, ...]:
        _ = ctx.saved_tensors  # raises if a weight was changed in place since
        cell: CompiledCell = ctx.cell
        d_last = dh_last.contiguous(), dc_last.contiguous()
        d_first = torch.empty_like(d_last[0]), torch.empty_like(d_last[1])
        L, _, W = dh_last.shape
        d_start = dy.new_zeros(2, L, W)
        cell.run_backward(d_last, d_first, (d_start[0], d_start[1]), dy.contiguous())
        of_start = d_start.unsqueeze(2).unbind() if ctx.has_starts else (None, None)
        return None, None, None, None, None, *d_first, *of_start, *cell.gradients().in_order()
