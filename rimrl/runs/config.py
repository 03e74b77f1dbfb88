"""What configurations of all kinds of runs have in common."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from rimrl.runs.kinds import Kind


@dataclass(frozen=True)
class TrainConfig:
    """How a training of any kind is carried out.

    Attributes:
        seed: Seed of everything that is drawn.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        num_threads: Threads that torch uses on the CPU; results are repeatable bit for bit at the same number.
        eval_freq: Steps or updates between evaluations on the way; 0 for none.
        resume_freq: Steps or updates between checkpoints in ``resume/``, which ``--resume`` goes on from and of which
            the last two are kept; 0 for none but at the end and at a signal or failure.
    """

    seed: int = 0
    device: str = "auto"
    num_threads: int = 1
    eval_freq: int = 500
    resume_freq: int = 500


class Configuration(ABC):
    """What a run was asked for.

    Attributes:
        name: Its shipped name, or its file's.
        train: How long, and what is kept.
        imports: Modules that are imported first, such as those that register environments or cores. A run that has some
            is only opened by who names them (`rimrl.imports`).
        kind: What is configured.
        added: Keys that runs may be older than, with the values that stand for how those were trained.
        opened: Keys that hold keys of their own, whose names nobody knows beforehand.
    """

    name: str
    train: TrainConfig
    imports: tuple[str, ...] = ()
    kind: ClassVar[Kind]
    added: ClassVar[Mapping[str, object]]
    opened: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def groups(self) -> dict[str, dict[str, Any]]:
        """Every value by group and key."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module of the user's own that is imported for it; who opens its run names them."""
        return self.imports

    def to_yaml(self) -> str:
        """The whole of it, as a file that repeats the run."""
        return yaml.safe_dump({"name": self.name, **self.above(), **self.groups()}, sort_keys=False)

    def above(self) -> dict[str, Any]:
        """What stands above the groups in a file, besides the name."""
        return {"imports": list(self.imports)} if self.imports else {}

    def flat(self) -> dict[str, Any]:
        """Every value by its dotted key."""
        return by_key(self.groups(), self.opened)

    def identity(self) -> str:
        """A short text that differs where configurations would lead elsewhere."""
        settings = self.flat()
        as_before = {key for key, value in self.added.items() if settings.get(key) == value}
        return digest({key: value for key, value in settings.items() if key not in self.kind.free | as_before})

    @property
    def total(self) -> int:
        """How many steps, or updates, the training has."""
        return int(self.flat()[self.kind.total])


def digest(settings: Mapping[str, Any]) -> str:
    """A short text that differs where settings do."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def dotted(settings: Mapping[str, Any], levels: int | None = None, above: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested settings with their dotted keys; a group that holds nothing has none.

    Args:
        settings: Groups of keys.
        levels: How many levels of names are taken apart; default: all.
        above: What stands before every key.
    """
    for name, value in settings.items():
        if isinstance(value, Mapping) and levels != 1:
            yield from dotted(value, None if levels is None else levels - 1, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def by_key(groups: Mapping[str, Mapping[str, Any]], opened: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Every value of some groups by its dotted key.

    Args:
        groups: Values by group and key.
        opened: Dotted keys whose values are taken apart, too.
    """
    settings: dict[str, Any] = {}
    for key, value in dotted(groups, levels=2):
        settings |= dotted(value, 1, f"{key}.") if key in opened and isinstance(value, Mapping) else {key: value}
    return settings
