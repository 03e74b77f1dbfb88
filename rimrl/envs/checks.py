"""Checks of arguments that several environments share."""

from __future__ import annotations

from typing import TypeGuard

from rimrl.errors import invalid_value

_LARGEST = 2**31 - 1


def check_at_least(name: str, value: int, minimum: int) -> None:
    """Refuse anything but an integer of at least `minimum`, and of a size that arrays can have.

    Raises:
        UsageError: With the argument's name and what was given.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise invalid_value(name, f"an integer of at least {minimum}", value)
    if value > _LARGEST:
        raise invalid_value(name, f"at most {_LARGEST}", value)


def check_probability(name: str, value: float) -> None:
    """Refuse anything but a number from 0 to 1.

    Raises:
        UsageError: With the argument's name and what was given.
    """
    if not is_number(value) or not 0 <= value <= 1:
        raise invalid_value(name, "a number from 0 to 1", value)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
