"""Options that are decided when a module is built."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn


class FixedOptions(nn.Module):
    """A module some of whose attributes cannot be assigned twice, because weights or fast paths are made for them.

    Assigning one later would change what the module says it does, and not what it does.
    """

    fixed: ClassVar[frozenset[str]] = frozenset()
    """Names of those attributes."""

    absent: ClassVar[frozenset[str]] = frozenset()
    """Names of options that others have, and that would do nothing here."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign an attribute.

        Raises:
            AttributeError: If it is fixed and has been assigned before, or is absent.
        """
        if name in self.absent:
            raise AttributeError(f"{type(self).__name__} has no {name}; setting it would change nothing")
        if name in self.fixed and (name in self.__dict__ or self.__dict__.get("_modules", {}).get(name) is not None):
            raise AttributeError(f"{name} of {type(self).__name__} is fixed when it is built; build another one")
        super().__setattr__(name, value)
