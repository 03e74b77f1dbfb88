"""Checks of values that come from a file; each refusal names the field and what would be valid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rimrl.errors import invalid_value, missing, unknown_name


def fields_of(content: Any, names: Sequence[str], where: str, optional: Sequence[str] = ()) -> dict[str, Any]:
    """A mapping that holds exactly these names, and perhaps some of the optional ones.

    Raises:
        UsageError: If it is no mapping, lacks a name, or holds another.
    """
    if not isinstance(content, dict):
        raise invalid_value(where, "a mapping", content)
    for name in names:
        if name not in content:
            raise missing(repr(name), where)
    for name in content:
        if name not in names and name not in optional:
            raise unknown_name("field", str(name)[:60], [*names, *optional], where)
    return content


def integer(value: Any, where: str, low: int, high: int) -> int:
    """An integer within bounds; True is none.

    Raises:
        UsageError: If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise invalid_value(where, f"an integer from {low} to {high}", value)
    return value


def integers(value: Any, where: str, low: int, high: int) -> list[int]:
    """A list of such integers.

    Raises:
        UsageError: If it is something else.
    """
    if not isinstance(value, list):
        raise invalid_value(where, "a list of integers", value)
    return [integer(each, where, low, high) for each in value]


def number(value: Any, where: str) -> float:
    """A finite number; True is none.

    Raises:
        UsageError: If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid_value(where, "a finite number", value)
    return value


def switch(value: Any, where: str) -> bool:
    """True or false.

    Raises:
        UsageError: If it is something else.
    """
    if not isinstance(value, bool):
        raise invalid_value(where, "true or false", value)
    return value


def choice(value: Any, where: str, kind: str, choices: Sequence[str]) -> str:
    """One of a closed list of names.

    Raises:
        UsageError: If it is not; names the nearest.
    """
    if not isinstance(value, str):
        raise invalid_value(where, f"the name of a {kind}", value)
    if value not in choices:
        raise unknown_name(kind, value[:60], choices, where)
    return value
