"""Which keys a configuration has and what values they take: checked for files and the command line alike."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from rimrl.errors import invalid_value, unknown_name, wrong
from rimrl.runs.settings import Ranges, check_ranges, parsed

LONGEST_NAME = 400
"""Letters that the name of a configuration may have."""
_OF_TRAINING: Ranges = {
    "from 1 to 1024": (lambda value: 1 <= value <= 1024, ("train.num_threads",)),
    "at most 2**53": (lambda value: value <= 2**53, ("train.eval_freq", "train.resume_freq")),
    "at least 0": (lambda value: value >= 0, ("train.eval_freq", "train.resume_freq")),
    "between 0 and 4294967295": (lambda value: 0 <= value < 2**32, ("train.seed",)),
}
# What makes a core gives it this one.
_NO_KEYS = frozenset({"input_size"})


class Schema:
    """The keys of a configuration whose core, task or algorithm is chosen.

    Args:
        groups: By name, the class whose constructor's arguments are the group's keys.
        named: For groups of something registered, which have the key ``name`` besides, what that is.
        ranges: What values must be, besides those of `rimrl.runs.config.TrainConfig`.
        opened: As `rimrl.runs.config.Configuration` has it.

    Attributes:
        keys: All of them, dotted, but those below `opened`.
    """

    def __init__(
        self,
        groups: Mapping[str, type[Any]],
        named: Mapping[str, str],
        ranges: Sequence[Ranges],
        opened: frozenset[str] = frozenset(),
    ) -> None:
        self._groups = groups
        self._named = named
        self._ranges = (_OF_TRAINING, *ranges)
        self._opened = tuple(f"{key}." for key in opened)
        self.keys = [f"{group}.name" for group in named]
        for group, cls in groups.items():
            takes = inspect.signature(cls).parameters.values()
            kept = [each.name for each in takes if each.kind is not inspect.Parameter.VAR_KEYWORD]
            self.keys += [f"{group}.{name}" for name in kept if name not in _NO_KEYS]

    def refuse_unknown(self, settings: Mapping[str, Any], changes: Mapping[str, str], file: Path) -> None:
        """Refuse keys that there are not.

        Args:
            settings: Values of a file, by dotted keys.
            changes: Those of the command line, as text.
            file: The file.

        Raises:
            UsageError: Names the nearest key.
        """
        for source, given in ((str(file), settings), ("the command line", changes)):
            for key in given:
                if key not in self.keys and not key.startswith(self._opened or "\0"):
                    raise unknown_name("key", key, self.keys, where=source)

    def values(self, settings: Mapping[str, Any], changes: Mapping[str, str], file: Path) -> dict[str, dict[str, Any]]:
        """Every value by group and key, defaults included, names of `named` left out.

        Args:
            settings: As for `refuse_unknown`.
            changes: Likewise; they take the place of the file's.
            file: The file.

        Raises:
            UsageError: For a value of another type or out of range.
        """
        self._refuse_null(settings, file)
        parser = _parser(tuple(self._named.items()), tuple(self._groups.items()))
        values = parsed(lambda: parser.parse_object(_nested(settings)), file)
        words = [f"--{key}={value}" for key, value in changes.items()]
        if words:
            values = parsed(lambda: parser.parse_args(words, values), "the command line")
        groups = {group: _plain(values[group]) for group in self._groups}
        for group in self._named:
            groups[group].pop("name")
        for ranges in self._ranges:
            check_ranges(groups, ranges)
        return groups

    def _refuse_null(self, settings: Mapping[str, Any], file: Path) -> None:
        """Refuse null where it means nothing, as jsonargparse does not; what is named looks after its own options."""
        hints = {group: get_type_hints(cls) for group, cls in self._groups.items() if group not in self._named}
        for key, value in settings.items():
            group, name = key.split(".", maxsplit=1)
            hint = hints.get(group, {}).get(name)
            if value is None and hint is not None and type(None) not in get_args(hint):
                raise wrong(f"{key} in {file}", "must not be null", "leave it out for its default")


@lru_cache(maxsize=32)
def _parser(named: tuple[tuple[str, str], ...], groups: tuple[tuple[str, type[Any]], ...]) -> ArgumentParser:
    """The parser of a schema; making it takes longer than parsing, and studies read many configurations of a kind."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    for group, name in named:
        parser.add_argument(f"--{group}.name", type=str, default=name)
    for group, cls in groups:
        parser.add_class_arguments(cls, group, skip=set(_NO_KEYS & inspect.signature(cls).parameters.keys()))
    return parser


def check_groups(content: Mapping[str, Any], file: Path, groups: Sequence[str]) -> None:
    """Refuse what is not a configuration's name and groups of keys.

    Args:
        content: What a file holds.
        file: The file.
        groups: Those that there may be.

    Raises:
        UsageError: Names the nearest group, or says what a part must be.
    """
    for group, settings in content.items():
        if group == "name":
            if not isinstance(settings, str) or len(settings) > LONGEST_NAME:
                what = f"at most {LONGEST_NAME} letters" if isinstance(settings, str) else "text"
                raise invalid_value(f"name in {file}", what, settings)
        elif group not in groups:
            raise unknown_name("group", str(group), groups, where=str(file))
        elif not isinstance(settings, dict):
            raise invalid_value(f"group {group!r} in {file}", "keys with values", settings)


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = key.split(".", maxsplit=2)
        level = nested
        for part in path:
            level = level.setdefault(part, {})
        level[last] = value
    return nested


def _plain(settings: Namespace) -> dict[str, Any]:
    return {key: value.as_dict() if isinstance(value, Namespace) else value for key, value in vars(settings).items()}
