"""What a task refuses before it makes sequences."""

from __future__ import annotations

from collections.abc import Sequence

from rimrl.errors import invalid_value, wrong


def require_length(name: str, value: object, least: int, most: int) -> None:
    """Refuse a length that makes no sense.

    Raises:
        UsageError: If the value is no whole number from `least` to `most`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise invalid_value(name, f"a whole number from {least} to {most}", value)


def require_lengths(name: str, values: Sequence[object], least: int, most: int) -> None:
    """Refuse lengths that make no sense, none at all, or one that is there twice.

    Raises:
        UsageError: Says which.
    """
    require_some(name, values)
    for value in values:
        require_length(name, value, least, most)


def require_some(name: str, values: Sequence[object]) -> None:
    """Refuse an empty list, and one that names something twice.

    Raises:
        UsageError: If it is one of these.
    """
    if not values:
        raise invalid_value(name, "at least one", values)
    if len(set(values)) < len(values):
        raise wrong(name, f"names one twice: {', '.join(map(str, values))}")
