"""Reading JSON that may hold anything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


class DamagedError(ValueError):
    """A file is damaged or does not fit; says how."""


class Fields:
    """A JSON object whose entries are checked as they are read.

    Args:
        value: What should be an object.
        where: Its name in messages.

    Attributes:
        where: The same.

    Raises:
        DamagedError: Here and below, for an entry that is missing or of another kind.
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise DamagedError(f"{where} is no JSON object")
        self._value: dict[str, Any] = value
        self.where = where

    def __contains__(self, name: str) -> bool:
        return self._value.get(name) is not None

    def has(self, name: str) -> bool:
        """Whether an entry is there, null or not."""
        return name in self._value

    def names(self) -> Iterator[str]:
        """All keys."""
        return iter(self._value)

    def raw(self, name: str) -> Any:
        """An entry as it is."""
        if name not in self._value:
            raise DamagedError(f"{self.where} lacks {name!r}")
        return self._value[name]

    def nested(self, name: str) -> Fields:
        """An object in this one."""
        return Fields(self.raw(name), f"{self.where}.{name}")

    def objects(self, name: str, length: int | None = None) -> list[Fields]:
        """A list of objects."""
        return [Fields(item, f"{self.where}.{name}") for item in self.items(name, length)]

    def items(self, name: str, length: int | None = None) -> list[Any]:
        """A list, perhaps of a known length."""
        value = self.raw(name)
        if not isinstance(value, list) or (length is not None and len(value) != length):
            raise self._wrong(name, "a list" if length is None else f"a list of {length}")
        return value

    def integer(self, name: str, least: int = 0, most: int = 2**62) -> int:
        """A whole number."""
        return self._integer(name, self.raw(name), least, most)

    def integers(self, name: str, length: int | None = None, least: int = 0, most: int = 2**62) -> list[int]:
        """A list of whole numbers."""
        return [self._integer(name, item, least, most) for item in self.items(name, length)]

    def number(self, name: str, finite: bool = True) -> float:
        """A number."""
        return self._number(name, self.raw(name), finite)

    def numbers(self, name: str, length: int | None = None) -> list[float]:
        """A list of numbers."""
        return [self._number(name, item, True) for item in self.items(name, length)]

    def text(self, name: str, longest: int = 100_000) -> str:
        """A text."""
        return self._text(name, self.raw(name), longest)

    def texts(self, name: str, length: int | None = None) -> list[str]:
        """A list of texts."""
        return [self._text(name, item, 1000) for item in self.items(name, length)]

    def switch(self, name: str) -> bool:
        """True or false."""
        value = self.raw(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def _text(self, name: str, value: object, longest: int) -> str:
        if not isinstance(value, str) or len(value) > longest:
            raise self._wrong(name, f"a text of at most {longest} letters")
        return value

    def _integer(self, name: str, value: object, least: int, most: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(name, f"a whole number from {least} to {most}")
        return value

    def _number(self, name: str, value: object, finite: bool) -> float:
        try:
            fits = isinstance(value, int | float) and not isinstance(value, bool)
            if fits and (not finite or math.isfinite(value)):  # type: ignore[arg-type]
                return float(value)  # type: ignore[arg-type]
        except OverflowError:  # an integer that no float can hold
            pass
        raise self._wrong(name, "a number")

    def _wrong(self, name: str, wanted: str) -> DamagedError:
        return DamagedError(f"{self.where}.{name} is not {wanted}")
