"""A suite and its splits: the form of the data in `rimrl.envs.suites`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rimrl.errors import needs, unknown_name, wrong
from rimrl.splits import Split, find_split


@dataclass(frozen=True)
class EnvSplit(Split):
    """One environment of a suite.

    Attributes:
        name: Short name, unique within the suite.
        env_id: Gymnasium id of the environment.
        held_out: True when agents never train on it.
        description: One sentence that says how it differs from the training split.
        env_kwargs: Arguments for the environment, read-only.
    """

    name: str
    env_id: str
    held_out: bool
    description: str
    env_kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        object.__setattr__(self, "env_kwargs", MappingProxyType(dict(self.env_kwargs)))

    def __reduce__(self) -> tuple[type[EnvSplit], tuple[Any, ...]]:
        # A mapping proxy cannot be pickled, and worker processes receive splits.
        return EnvSplit, (self.name, self.env_id, self.held_out, self.description, dict(self.env_kwargs))

    def varied(self, name: str, description: str, env_id: str | None = None, **changed: Any) -> EnvSplit:
        """A held-out split that differs from this one in the `changed` arguments; `env_id` is the same by default."""
        return EnvSplit(name, env_id or self.env_id, True, description, {**self.env_kwargs, **changed})


@dataclass(frozen=True)
class Suite:
    """A training environment with the held-out environments that test what was learned on it.

    Attributes:
        name: Name used in configurations and on the command line.
        description: One sentence.
        splits: All splits; exactly one of them is not held out.
        left_out: Splits that one could expect here, and for each of them why it cannot be one.
        memoryless: Success of the feed-forward control on the training split, for suites in which it came within 0.1 of
            the best core (docs/results/generalisation.md): they hardly ask for memory. None for all others, those
            without results among them.
    """

    name: str
    description: str
    splits: tuple[EnvSplit, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    memoryless: float | None = None

    @property
    def train(self) -> EnvSplit:
        """The split that agents train on."""
        (train,) = (split for split in self.splits if not split.held_out)
        return train

    @property
    def held_out(self) -> tuple[EnvSplit, ...]:
        """The splits that agents never train on."""
        return tuple(split for split in self.splits if split.held_out)

    def split(self, name: str) -> EnvSplit:
        """Return the split called `name`.

        Raises:
            UsageError: If the suite has no such split; says why, or names the nearest one.
        """
        split = find_split(self.splits, name)
        if split is not None:
            return split
        if name in self.left_out:
            raise wrong(f"suite {self.name!r}", f"has no split {name!r}: {self.left_out[name]}", kind="name")
        raise unknown_name("split", name, [split.name for split in self.splits], where=f"suite {self.name!r}")


@dataclass(frozen=True)
class SuiteFamily:
    """Suites that differ in one name alone, such as that of the game: ``modes/<Game>``.

    Attributes:
        outline: What each of them is, with a placeholder for the name.
        member: What the name is that takes its place, such as ``"game"``.
        example: One such name.
        make: Makes the suite of a name, in any spelling.
    """

    outline: Suite
    member: str
    example: str
    make: Callable[[str], Suite]

    @property
    def name(self) -> str:
        """What stands before the ``/``."""
        return self.outline.name.partition("/")[0]

    def suite(self, member: str) -> Suite:
        """Return the suite of one name.

        Raises:
            UsageError: If none is given, there is none of that name (names the nearest), or it has nothing to hold out.
        """
        if not member:
            article = "an" if self.member[0] in "aeiou" else "a"
            raise needs(f"suite {self.name!r}", f"{article} {self.member}, as in '{self.name}/{self.example}'")
        return self.make(member)
