"""Which observation and action spaces agents learn with, and spaces in words.

What trains can be saved and loaded again: the limits here are those of `rimrl.agents.saved.spaces`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from rimrl.errors import one_line, wrong

LARGEST = 2**24
"""Elements of a space, or values of a choice."""
MOST_PARTS = 2**12
"""Parts of a Dict."""
MOST_AXES = 8
"""Axes of a Box or MultiBinary."""
MOST_BOUNDS = 2**18
"""Elements of Boxes whose bounds differ from element to element: each bound is written to a file."""
DTYPES = (
    "bool",
    *(f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
)

_LONGEST = 200
_OBSERVATIONS = "Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these"
_ACTIONS = "Box, Discrete, MultiDiscrete or MultiBinary"
# Whole numbers beyond it are none of float64's.
_LARGEST_INTEGER = 2**53


def describe_space(space: spaces.Space[Any]) -> str:
    """A space in a few words: bounds of every element would fill the screen."""
    if isinstance(space, spaces.Dict):
        words = "{" + ", ".join(f"{name}: {describe_space(part)}" for name, part in space.spaces.items()) + "}"
    elif isinstance(space, spaces.Box) and space.low.size:
        low, high = float(space.low.min()), float(space.high.max())
        words = f"{space.dtype} {list(space.shape)} from {low:g} to {high:g}"
    else:
        words = one_line(space)
    return words if len(words) <= _LONGEST else words[: _LONGEST - 3] + "..."


def check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any], where: str) -> None:
    """Refuse spaces that no agent learns with, before anything is trained.

    Args:
        observation_space: What the environment shows.
        action_space: What it takes.
        where: Names the environment in errors.

    Raises:
        UsageError: Names the space, what is wrong with it, and what would be valid.
    """
    for kind, space, problem in (
        ("observation", observation_space, _problem_of_observations(observation_space)),
        ("action", action_space, _problem_of_actions(action_space)),
    ):
        if problem is not None:
            raise wrong(where, f"has the {kind} space {describe_space(space)}: {problem}", kind="mismatch")


def _problem_of_observations(space: spaces.Space[Any]) -> str | None:
    if not isinstance(space, spaces.Dict):
        return _problem(space, _OBSERVATIONS)
    if not 0 < len(space.spaces) <= MOST_PARTS:
        return f"a Dict must have from 1 to {MOST_PARTS} parts, this one has {len(space.spaces)}"
    for key, part in space.spaces.items():
        name: object = key
        if not isinstance(name, str):
            return f"the names of its parts must be text, got {name!r}"
        problem = _problem(part, "parts that are Box, Discrete, MultiDiscrete or MultiBinary")
        if problem is not None:
            return f"in its part {key!r}, {problem}"
    boxes = [part for part in space.spaces.values() if isinstance(part, spaces.Box)]
    total = sum(math.prod(box.shape) for box in boxes)
    return (_problem_of_size(total) if boxes else None) or _problem_of_bounds(boxes)


def _problem_of_actions(space: spaces.Space[Any]) -> str | None:
    problem = _problem(space, _ACTIONS)
    if problem is not None:
        return problem
    if isinstance(space, spaces.MultiBinary) and not isinstance(space.n, int):
        return "actions of bits must have one axis and a number of bits, as MultiBinary(3) has; flatten them"
    if isinstance(space, spaces.Box):
        if not (space.is_bounded() and np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            return "actions need finite bounds; give the Box a low and a high"
        largest = max(abs(int(space.low.min())), abs(int(space.high.max()))) if space.dtype.kind in "iu" else 0
        if largest > _LARGEST_INTEGER:
            return "bounds of integer actions must lie within ±2**53"
    return None


def _problem(space: spaces.Space[Any], valid: str) -> str | None:
    """What is wrong with a space that is no Dict."""
    problem: str | None = None
    if isinstance(space, spaces.Box):
        if str(space.dtype) not in DTYPES:
            problem = f"agents cannot read {space.dtype}; valid: {', '.join(DTYPES)}"
        problem = problem or _problem_of_shape(space.shape) or _problem_of_bounds([space])
    elif isinstance(space, spaces.MultiBinary):
        problem = _problem_of_shape(space.shape)
    elif isinstance(space, spaces.Discrete):
        problem = _problem_of_size(int(space.n)) or _problem_of_choices(space.start, space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        total = int(space.nvec.sum(dtype=np.int64))
        if space.nvec.ndim != 1:
            problem = f"a MultiDiscrete must have one axis, this one has {space.nvec.ndim}; flatten it"
        elif total > np.iinfo(space.dtype).max:  # SB3 adds them up in that dtype
            problem = f"its choices add up to {total}, more than {space.dtype} holds; make it with dtype=np.int64"
        problem = problem or _problem_of_size(total) or _problem_of_choices(space.start, space.nvec)
    else:
        problem = f"agents cannot learn with a {type(space).__name__}; valid: {valid}"
    return problem


def _problem_of_shape(shape: tuple[int, ...]) -> str | None:
    if len(shape) > MOST_AXES:
        return f"it has {len(shape)} axes; valid: up to {MOST_AXES}"
    return _problem_of_size(math.prod(shape))


def _problem_of_choices(start: Any, counts: Any) -> str | None:
    last = max(int(first) + int(count) - 1 for first, count in zip(np.ravel(start), np.ravel(counts), strict=True))
    return None if last <= np.iinfo(np.int64).max else f"its last choice is {last}, more than int64 holds"


def _problem_of_size(elements: int) -> str | None:
    if 0 < elements <= LARGEST:
        return None
    return f"it has {elements} elements; valid: 1 to {LARGEST}"


def _problem_of_bounds(boxes: list[spaces.Box]) -> str | None:
    if sum(box.low.size for box in boxes if not _has_equal_bounds(box)) <= MOST_BOUNDS:
        return None
    return f"its bounds differ between more than {MOST_BOUNDS} elements; give every element the same low and high"


def _has_equal_bounds(box: spaces.Box) -> bool:
    return all(bool((bound == bound.flat[0]).all()) for bound in (box.low, box.high))
