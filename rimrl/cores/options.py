"""Checks of options that several cores share; each refusal is one line: which option, and what would be valid."""

from __future__ import annotations

import math
from typing import Any

from rimrl.cores.base import require_positive
from rimrl.errors import invalid_value, mismatch, wrong


def plain(value: Any) -> Any:
    """Python's numbers for NumPy's, in lists, tuples and dictionaries, too: what tuners hand over is often NumPy's."""
    if type(value).__module__ == "numpy" and value.ndim == 0:
        return value.item()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value


def require_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuse a value that is not one of the choices; 1 does not stand for True.

    Raises:
        UsageError: If it is not.
    """
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise invalid_value(name, f"one of {', '.join(map(repr, choices))}", value)


def require_switch(**values: object) -> None:
    """Refuse anything but True and False.

    Raises:
        UsageError: If a value is something else.
    """
    for name, value in values.items():
        require_choice(name, value, (True, False))


def require_probability(**values: object) -> None:
    """Refuse what is no probability below 1.

    Raises:
        UsageError: If a value is not a number in ``[0, 1)``.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, float | int) or not 0.0 <= value < 1.0:
            raise invalid_value(name, "a number at least 0 and below 1", value)


def require_at_most(name: str, value: int, of: str, available: int) -> None:
    """Refuse to select more than there is.

    Raises:
        UsageError: If ``value`` is not an integer from 1 to ``available``.
    """
    require_positive(**{name: value})
    if value > available:
        raise invalid_value(name, f"from 1 to {of} {available}", value)


def require_divisible(name: str, value: int, by: str, divisor: int) -> None:
    """Refuse a width that cannot be split evenly, naming both arguments and the nearest widths that can.

    Raises:
        UsageError: If ``value`` is not a multiple of ``divisor``.
    """
    require_positive(**{name: value, by: divisor})
    if value % divisor:
        below, above = value // divisor * divisor, (value // divisor + 1) * divisor
        nearest = f"{below} or {above}" if below else f"{above}"
        raise wrong(name, f"{value} does not divide by {by} {divisor}", f"use {nearest}")


def require_finite(**values: object) -> None:
    """Refuse what is no finite number.

    Raises:
        UsageError: If a value is not one.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, float | int) or not math.isfinite(value):
            raise invalid_value(name, "a finite number", value)


def resolve_unit_size(
    num_units: int, unit_size: int | None, hidden_size: int | None, default: int = 100, *, noun: str = "unit"
) -> int:
    """The width D of a unit from either of the two ways to give it.

    Args:
        num_units: Units N.
        unit_size: D itself, or None.
        hidden_size: ``N * D``, or None.
        default: D if neither is given.
        noun: What the core calls a unit; its options are named after it.

    Raises:
        UsageError: If the two disagree or ``hidden_size`` does not divide by ``num_units``.
    """
    number, size = f"num_{noun}s", f"{noun}_size"
    if hidden_size is None:
        unit_size = default if unit_size is None else unit_size
        require_positive(**{number: num_units, size: unit_size})
        return unit_size
    require_divisible("hidden_size", hidden_size, number, num_units)
    if unit_size is not None and unit_size * num_units != hidden_size:
        raise mismatch("hidden_size", f"{number} {num_units} * {size} {unit_size}", hidden_size, "give one of the two")
    return hidden_size // num_units


class SelectsUnits:
    """For a core that updates only some of its units in a step; mixed in before `rimrl.cores.base.RecurrentCore`."""

    num_units: int

    def _select_units(self, num_active: int | None, *, default_share: float, selecting: bool, needs: str) -> None:
        """Take in the option ``num_active``.

        Args:
            num_active: K, or None for the default.
            default_share: K as a share of N by default; rounded, at least 1.
            selecting: Whether units are selected at all; if not, all are active.
            needs: What the selection needs, for the refusal of a smaller K without it.
        """
        self._selecting, self._selection_needs = selecting, needs
        self._default_active = max(1, round(default_share * self.num_units)) if selecting else self.num_units
        self._num_active = self._resolved(num_active)

    def _resolved(self, num_active: int | None) -> int:
        if num_active is None:
            return self._default_active
        if self._selecting:
            require_at_most("num_active", num_active, "num_units", self.num_units)
        elif num_active != self.num_units:
            without = f"without it all {self.num_units} num_units are active"
            raise wrong("num_active", f"{num_active} needs {self._selection_needs}", without, "needs")
        return num_active

    @property
    def num_active(self) -> int:
        """Active units K; may be set, for an ablation of a trained core. Nothing else changes.

        Raises:
            UsageError: For a K that is not from 1 to N, or smaller than N where nothing selects.
        """
        return self._num_active

    @num_active.setter
    def num_active(self, value: int) -> None:
        self._num_active = self._resolved(plain(value))
