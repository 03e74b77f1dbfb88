"""The loop over time, in one autograd node.

A core that is written step by step (`rimrl.cores.stepwise`) spends most of its time on autograd's bookkeeping and on
products of a few rows. Here the loop over time runs without autograd and its gradient is written by hand, so that

* everything that depends on the input alone, and every gradient of such a product, is one product over all steps;
* the gradient of a recurrent weight is one product over all steps, after the loop;
* what the backward pass needs is written once, into buffers of the whole sequence.

`run` drives a `StepCell` and owns what all of these share: the outputs, the states, and the gradients' way to autograd.
Cells in compiled code have `rimrl.cores.scan.compiled.run`. The step of the same core is the specification, which the
tests compare with.

Inside a scan the units come first, ``[N, B, D]``, so that each unit's rows and weights are contiguous for `torch.bmm`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rimrl.cores.base import CoreTrace, State
from rimrl.cores.scan import memory
from rimrl.cores.stepwise import rows_to_reset

L = TypeVar("L")


class Tensors:
    """What a cell is made from, by name, and the gradients of that.

    A subclass is a dataclass whose fields are tensors, or None for what a core does not have.
    """

    def in_order(self) -> tuple[Tensor | None, ...]:
        """The tensors in the order of the fields, from which the class builds itself again."""
        return tuple(vars(self).values())

    def names(self) -> tuple[str, ...]:
        """Names of the fields, in the same order."""
        return tuple(vars(self))


class LayersTensors(Tensors, Generic[L]):
    """The same tensors for each of several layers, handed over one layer after the other.

    Attributes:
        kind: A dataclass with those of a layer; a subclass sets it.
        layers: One for each layer, the lowest first.
    """

    kind: type[L]

    def __init__(self, *tensors: Tensor | None) -> None:
        size = len(fields(self.kind))  # type: ignore[arg-type]
        self.layers: list[L] = [self.kind(*tensors[i : i + size]) for i in range(0, len(tensors), size)]

    @classmethod
    def of_layers(cls, layers: list[L]) -> Self:
        """Those of all layers, the lowest first."""
        found = cls()
        found.layers = layers
        return found

    def in_order(self) -> tuple[Tensor | None, ...]:
        return tuple(tensor for layer in self.layers for tensor in vars(layer).values())

    def names(self) -> tuple[str, ...]:
        return tuple(name for layer in self.layers for name in vars(layer))


class StepCell(Protocol):
    """Runs one sequence forward and then backward, as one step forward and the same step backward.

    A cell is made for one sequence from tensors that autograd knows, and lives until its gradient is taken.
    """

    # Before each step, from `run` on.
    _h: tuple[Tensor, ...]
    _c: tuple[Tensor, ...]
    _resets: list[Tensor | None]

    def forward(self, t: int, h: Tensor, c: Tensor, h_out: Tensor, c_out: Tensor, y: Tensor) -> None:
        """Write the state after step t to ``h_out`` and ``c_out``, given ``h`` and ``c``, all ``[N, B, D]``.

        ``y [B, N, D]`` gets the same as ``h_out``.
        """

    def start_backward(self) -> None:
        """Make room for gradients."""

    def backward(self, t: int, h: Tensor, c: Tensor, dh: Tensor, dc: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the gradients of the state after step t into those of the state before it; may overwrite them.

        ``dy [B, N, D]`` is a further gradient of the new ``h``.
        """

    def run(
        self, h: Tensor, c: Tensor, y: Tensor, h_start: Tensor | None, c_start: Tensor | None, starts: Tensor | None
    ) -> None:
        """Fill in states and outputs.

        Args:
            h: ``[N, T + 1, B, D]``; entry t is the state before step t, the first of them given.
            c: The same of the cell memory.
            y: ``[T, B, N, D]``.
            h_start: State at the start of an episode, ``[N, D]``; may be None if no episode starts.
            c_start: The same of the cell memory.
            starts: ``[T, B]`` bool, or None: no episode starts.
        """
        self._h, self._c, self._resets = h.unbind(1), c.unbind(1), rows_to_reset(starts, len(y))
        for t, (rows, y_t) in enumerate(zip(self._resets, y.unbind(0), strict=True)):
            if rows is not None:
                assert h_start is not None
                assert c_start is not None
                for state, at_start in ((self._h[t], h_start), (self._c[t], c_start)):
                    state.copy_(torch.where(rows[None, :, None], _units_first(at_start, len(h)), state))
            self.forward(t, self._h[t], self._c[t], self._h[t + 1], self._c[t + 1], y_t)

    def run_backward(self, dh: Tensor, dc: Tensor, dh_start: Tensor, dc_start: Tensor, dy: Tensor) -> None:
        """Turn the gradients ``[N, B, D]`` of the last state into those of the first, in place.

        Args:
            dh: Of ``h``.
            dc: Of ``c``.
            dh_start: ``[N, D]``, zeros, to which the gradient of ``h_start`` is added.
            dc_start: The same of ``c_start``.
            dy: Of ``y``, ``[T, B, N, D]``.
        """
        dh_t, dc_t, dy_steps = dh, dc, dy.unbind(0)
        self.start_backward()
        for t in range(len(dy) - 1, -1, -1):
            dh_t, dc_t = self.backward(t, self._h[t], self._c[t], dh_t, dc_t, dy_steps[t])
            rows = self._resets[t]
            if rows is not None:
                at_start = rows[None, :, None]
                dh_start += (dh_t * at_start).sum(1)
                dc_start += (dc_t * at_start).sum(1)
                dh_t, dc_t = dh_t * ~at_start, dc_t * ~at_start
        dh.copy_(dh_t)
        dc.copy_(dc_t)

    def gradients(self, h: Tensor) -> Tensors:
        """Gradients of the tensors that the cell was made from, given ``h [N, T, B, D]`` before each step."""

    def trace(self) -> CoreTrace:
        """What the units did, for a cell that is saving."""


MakeCell: TypeAlias = Callable[[int, int, bool, Any], StepCell]
"""``make(T, B, saving, tensors)``: a cell for T steps of B rows, made from input and weights.

A cell that is `saving` keeps what the backward pass and the trace need; another may use the same memory in each step.
"""


def run(
    make_cell: MakeCell,
    tensors: Tensors,
    num_units: int,
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
        num_units: Units N.
        num_steps: Time steps T.
        state: ``(h, c)`` before the first step, each ``[1, B, N * D]``.
        initial: Makes ``(h, c)`` at the start of so many episodes; not asked where none starts.
        episode_starts: ``[T, B]`` bool, or None.
        return_trace: Also return what the units did.

    Returns:
        Output ``[T, B, N * D]``, the state after the last step, and the trace or None.
    """
    resets = None
    if episode_starts is not None and bool(episode_starts.any()):
        resets = episode_starts.contiguous()
    at_start = (None, None) if resets is None else initial(1)
    if torch.is_grad_enabled():
        inputs = (*state, *at_start, *tensors.in_order())
        if any(tensor is not None and tensor.requires_grad for tensor in inputs):
            cells: list[StepCell] = []
            y, h, c = _Scan.apply(  # type: ignore[no-untyped-call]
                cells, make_cell, type(tensors), num_units, num_steps, resets, *inputs
            )
            return y, (h, c), cells[0].trace() if return_trace else None
    y, h, c, cell, _ = _forward(return_trace, make_cell, tensors, num_units, num_steps, resets, *state, *at_start)
    return y, (h, c), cell.trace() if return_trace else None


class _Scan(torch.autograd.Function):
    """The loop of `_forward` as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        cells: list[StepCell],
        make_cell: MakeCell,
        kind: type[Tensors],
        num_units: int,
        num_steps: int,
        resets: Tensor | None,
        *inputs: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        h0, c0, h_start, c_start, *rest = inputs
        assert h0 is not None
        assert c0 is not None
        y, h_end, c_end, ctx.cell, ctx.h = _forward(
            True, make_cell, kind(*rest), num_units, num_steps, resets, h0, c0, h_start, c_start
        )
        cells.append(ctx.cell)
        ctx.has_starts = resets is not None
        ctx.save_for_backward(*(tensor for tensor in (resets, *inputs) if tensor is not None))
        return y, h_end, c_end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh_end: Tensor, dc_end: Tensor) -> tuple[Any, ...]:
        _ = ctx.saved_tensors  # raises if a weight was changed in place since
        cell: StepCell = ctx.cell
        h: Tensor = ctx.h
        N, T, B, D = h.shape[0], h.shape[1] - 1, h.shape[2], h.shape[3]
        dh = _units_first(dh_end, N).clone(memory_format=torch.contiguous_format)
        dc = _units_first(dc_end, N).clone(memory_format=torch.contiguous_format)
        dh0, dc0 = dh.new_zeros(N, D), dc.new_zeros(N, D)
        cell.run_backward(dh, dc, dh0, dc0, dy.contiguous().view(T, B, N, D))
        of_start = (dh0.view(1, 1, -1), dc0.view(1, 1, -1)) if ctx.has_starts else (None, None)
        state_grads = (_units_last(dh), _units_last(dc), *of_start)
        return None, None, None, None, None, None, *state_grads, *cell.gradients(h[:, :T]).in_order()


def _forward(
    saving: bool,
    make_cell: MakeCell,
    tensors: Tensors,
    num_units: int,
    num_steps: int,
    resets: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    h_start: Tensor | None,
    c_start: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, StepCell, Tensor]:
    """Output, last state, the cell and ``h``; the states at the start of an episode may be None if nothing resets."""
    N, T, B = num_units, num_steps, h0.shape[1]
    D = h0.shape[2] // N
    cell = make_cell(T, B, saving, tensors)
    h, c = (memory.empty(cell, h0, N, T + 1, B, D) for _ in range(2))
    y = h0.new_empty(T, B, N, D)
    h[:, 0], c[:, 0] = _units_first(h0, N), _units_first(c0, N)
    h_start, c_start = (None if state is None else state.contiguous() for state in (h_start, c_start))
    cell.run(h, c, y, h_start, c_start, resets)
    return y.view(T, B, N * D), _units_last(h[:, T]), _units_last(c[:, T]), cell, h


def _units_first(state: Tensor, num_units: int) -> Tensor:
    return state.view(state.shape[1], num_units, -1).transpose(0, 1)


def _units_last(state: Tensor) -> Tensor:
    """``[1, B, N * D]``, never a view: the buffers do not outlive the cell."""
    return state.transpose(0, 1).clone(memory_format=torch.contiguous_format).view(1, state.shape[1], -1)
