"""What is trained on, and what tests how far that carries: the splits of a suite, or of a sequence task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar


class Split:
    """One of several tests that differ in one respect.

    Attributes:
        name: Short, unique among them; results are kept under it.
        held_out: Whether nothing is trained on it.
        description: One sentence.
    """

    name: str
    held_out: bool
    description: str


S = TypeVar("S", bound=Split)


def find_split(splits: Iterable[S], name: str) -> S | None:
    """The split of that name; None if there is none."""
    return next((split for split in splits if split.name == name), None)
