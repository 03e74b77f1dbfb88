"""Spaces in words, for messages about what does not fit."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces


def in_words(space: spaces.Space[Any]) -> str:
    """A space in a few words: bounds of every element would fill the screen."""
    if isinstance(space, spaces.Dict):
        return "{" + ", ".join(f"{name}: {in_words(part)}" for name, part in space.spaces.items()) + "}"
    if isinstance(space, spaces.Box):
        return f"{space.dtype} {list(space.shape)} from {space.low.min():g} to {space.high.max():g}"
    return str(space)
