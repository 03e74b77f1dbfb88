"""Compiled cells that act: one step without a gradient to follow, and in `unchanging_weights` many with one cell."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from rimrl.cores.base import State
from rimrl.cores.scan.compiled import KernelCell, OneStructureCell
from rimrl.cores.scan.loop import Tensors
from rimrl.cores.unchanging import made_once, weights_are_unchanging

_WIDEST = 16
"""Numbers in the widest vector; packed matrices have whole ones."""


class ActingCell(KernelCell, Protocol):
    """A compiled cell whose input may be replaced, and which can keep its weights packed.

    Attributes:
        keeps_packed: Whether it does.
    """

    keeps_packed: bool = False

    def read(self, *of_input: Tensor) -> None:
        """Take an input."""

    def keep_packed(self) -> None:
        """From its first call on, multiply by the weights of that call; the other arguments may change."""


class OneStructureActingCell(OneStructureCell, ActingCell, Protocol):
    """The same with one structure.

    Attributes:
        weights: By name.
    """

    weights: dict[str, Tensor]

    def products(self) -> Sequence[tuple[int, int, int]]:
        """Matrices ``[k, n]`` that the forward kernel packs, in its order, each as how many, k and n."""

    def keep_packed(self) -> None:
        self.keeps_packed = True
        self.arguments.hold(packed=memory_of(self.products(), next(iter(self.weights.values()))))

    def run(self, first: State, last: State, y: Tensor, at_start: State | None, starts: Tensor | None) -> None:
        super().run(first, last, y, at_start, starts)
        self.arguments.set(is_packed=int(self.keeps_packed))


def memory_of(products: Sequence[tuple[int, int, int]], like: Tensor) -> Tensor:
    """Memory for packed matrices ``[k, n]``, each as how many, k and n, of the dtype of `like`."""
    return like.new_empty(sum(count * k * -(-n // _WIDEST) * _WIDEST for count, k, n in products) + _WIDEST)


C = TypeVar("C", bound=nn.Module)


def filling_cell(
    core: C,
    key: Hashable,
    describe: Callable[..., tuple[Callable[[int, int, bool, Any], ActingCell], Tensors]],
    of_input: tuple[Tensor, ...],
    shape: Sequence[int],
    saving: bool,
) -> ActingCell:
    """The cell of a core without a gradient to follow.

    Args:
        core: The core.
        key: What the cell depends on besides the core's weights and the number of rows.
        describe: Makes, of the core and `of_input`, what makes a cell, and the tensors that it is made from.
        of_input: What is made of the input.
        shape: Steps T and rows B.
        saving: Whether every step is to be kept.
    """
    T, B = shape

    def make() -> ActingCell:
        make_cell, tensors = describe(core, *of_input)
        return make_cell(T, B, saving, tensors)

    if T > 1 or saving:
        return make()
    cell = made_once(core, (B, key), make)
    if weights_are_unchanging():
        if not cell.keeps_packed:
            cell.keep_packed()
        cell.read(*of_input)
    return cell
