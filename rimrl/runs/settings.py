"""Values for dotted keys, from YAML files and the command line, with refusals of one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

from jsonargparse import ArgumentError, Namespace

from rimrl.errors import UsageError, invalid_value, needs, one_line, shorten, wrong

SEQUENCE_TASKS = "sequence/"
"""How the names of configurations of ``rimrl sequence`` begin."""
SPACES = "spaces/"
"""How the names of what ``rimrl tune`` searches begin."""
_LOOK = "overrides look like --core.num_active 3"


def shipped_files() -> dict[str, Path]:
    """Name and file of everything that comes with rimrl in ``rimrl/configs``."""
    root = Path(str(resources.files("rimrl"))) / "configs"
    return {str(file.relative_to(root).with_suffix("")): file for file in sorted(root.rglob("*.yaml"))}


def split_overrides(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Keys and values of words such as ``["--core.num_active", "3", "--env.n_envs=8"]``.

    Raises:
        UsageError: For a word that is no override, or one without a value.
    """
    remaining = iter(words)
    for word in remaining:
        if not word.startswith("--"):
            raise wrong("unexpected argument", shorten(word), _LOOK, "name")
        key, equals, value = word[2:].partition("=")
        if not equals:
            following = next(remaining, None)
            if following is None or following.startswith("--"):
                if "." not in key:
                    raise wrong("unknown option", f"--{shorten(key)[1:-1]}", _LOOK, "name")
                raise needs(f"--{key}", "a value")
            value = following
        yield key, value


def parsed(parse: Callable[[], Namespace], where: Path | str) -> Namespace:
    """What a parser of jsonargparse gives.

    Args:
        parse: Runs it.
        where: Where the values stand, for the refusal.

    Raises:
        UsageError: If a value is of the wrong type.
    """
    try:
        return parse()
    except ArgumentError as error:
        raise _refusal(str(error)).within(after=f" (in {where})") from None


_READABLE = {
    "<class 'int'>": "an integer",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'list'>": "a list",
    "<class 'dict'>": "a mapping",
    "<class 'NoneType'>": "null",
    "<class 'collections.abc.Sequence'>": "a list",
}


def _refusal(message: str) -> UsageError:
    """Jsonargparse explains itself over several lines; keep the key, what was expected and what was given."""
    key = re.search(r'Parser key "([^"]+)"', message)
    expected = re.findall(r"Expected an? (<class '[\w.]+'>|typing\.Literal\[[^]]*\])", message)
    given = re.findall(r"(?:Got|Given) value: (.*)", message)
    if key is None or not expected or not given:
        return UsageError(one_line(message, 2000), found=one_line(message, 2000))
    kinds = [_READABLE.get(kind, kind.replace("typing.Literal", "one of ")) for kind in dict.fromkeys(expected)]
    return invalid_value(key[1], " or ".join(kinds), given[-1])


Ranges: TypeAlias = Mapping[str, tuple[Callable[[Any], bool], tuple[str, ...]]]
"""What values must be, in words and as a test, and the dotted keys that it is asked of."""


def check_ranges(groups: Mapping[str, Mapping[str, Any]], ranges: Ranges) -> None:
    """Refuse values that are out of range.

    Args:
        groups: Values by group and key; None has no range, and of a list every entry is tested.
        ranges: What they must be.

    Raises:
        UsageError: If one is not.
    """
    for wanted, (fits, keys) in ranges.items():
        for key in keys:
            group, name = key.split(".")
            value = groups[group].get(name)
            if value is not None and not all(map(fits, value if isinstance(value, list) else [value])):
                raise invalid_value(key, wanted, value)
