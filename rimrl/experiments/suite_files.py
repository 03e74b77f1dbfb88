"""Suites of the user's own as plain data in YAML: in a file of their own, or within a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rimrl.envs.own_suites import modules_of, suite_of
from rimrl.envs.splits import Suite
from rimrl.envs.suites import refuse_taken
from rimrl.errors import UsageError, invalid_value, missing, unknown_name, wrong
from rimrl.imports import is_module_name
from rimrl.runs.yaml_files import read_yaml

SUFFIXES = (".yaml", ".yml")
_KEYS = ("name", "description", "splits", "imports")
# A run's configuration holds the suite, and is read within bounds.
_LARGEST = 2**18
_MOST_VALUES = 10_000
_MOST_SPLITS = 500
_DEEPEST = 12


class Described(NamedTuple):
    """A suite as a file describes it.

    Attributes:
        suite: The suite.
        modules: What has to be imported before its environments are made: its ``imports``, and those in its ids.
    """

    suite: Suite
    modules: tuple[str, ...]


def is_suite_file(name: str) -> bool:
    """Whether the name of what is played is that of a YAML file."""
    return name.endswith(SUFFIXES)


def read_suite(file: Path) -> Described:
    """Read the file of a suite; nothing is imported.

    The file holds ``splits``, as `rimrl.register_suite` takes them, and if wanted ``name`` (default: the file's own),
    ``description`` and ``imports``.

    Args:
        file: A YAML file.

    Raises:
        UsageError: Names the file, and the key that does not fit.
    """
    if not file.is_file():
        raise missing(f"suite file {file}", advice="give the YAML file of a suite, a suite's name or a gymnasium id")
    content = read_yaml(file, most=_LARGEST, most_values=_MOST_VALUES)
    return suite_from({"name": file.stem, **content} if isinstance(content, dict) else content, file)


def suite_from(content: Any, file: Path) -> Described:
    """The suite that a file or a part of it describes.

    Args:
        content: ``name``, ``splits`` and, if wanted, ``description`` and ``imports``.
        file: The file, for messages.

    Raises:
        UsageError: As `read_suite`.
    """
    if not isinstance(content, dict) or not isinstance(content.get("splits"), dict):
        raise wrong(file, "holds no suite", "it needs 'splits', a mapping from names to environments", "missing")
    for key in content:
        if key not in _KEYS:
            raise unknown_name("key", str(key), _KEYS, where=f"the suite of {file}")
    name, splits, imports = content.get("name"), content["splits"], content.get("imports", [])
    if not isinstance(imports, list) or not all(map(is_module_name, imports)):
        raise invalid_value(f"imports of {file}", "a list of modules such as [my_package]", imports)
    if len(splits) > _MOST_SPLITS:
        raise wrong(f"the suite of {file}", f"has {len(splits)} splits", f"{_MOST_SPLITS} are the most")
    try:
        suite = suite_of(name, splits, content.get("description", ""))  # type: ignore[arg-type]
        refuse_taken(suite.name)
        if is_suite_file(suite.name):
            raise invalid_value("the name of a suite", "without the ending of a file", suite.name)
        for split in suite.splits:
            _check_plain(split.env_kwargs, f"kwargs of split {split.name!r}", _DEEPEST)
    except UsageError as error:
        raise error.within(after=f" (in {file})") from None
    return Described(suite, tuple(dict.fromkeys([*imports, *modules_of(suite)])))


def _check_plain(value: object, what: str, levels: int) -> None:
    """Refuse what JSON has no word for: runs, exports and reports hold it."""
    if levels == 0:
        raise wrong(what, f"are nested more than {_DEEPEST} deep")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise invalid_value(what, "with texts as their keys", dict(value))
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            _check_plain(each, what, levels - 1)
    elif not isinstance(value, bool | int | float | str | None):
        raise invalid_value(what, "texts, numbers, true, false, null, lists and mappings", value)
