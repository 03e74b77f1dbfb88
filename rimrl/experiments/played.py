"""What is played: a suite, by its name or from its file, or a single environment."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rimrl.envs.splits import EnvSplit, Suite
from rimrl.envs.suites import get_suite, is_suite
from rimrl.errors import trying, wrong
from rimrl.experiments.suite_files import is_suite_file, read_suite
from rimrl.imports import import_modules, require_imported
from rimrl.runs.origin import is_of_others


def find_played(name: str) -> str | Suite:
    """What a name on the command line says is to be played.

    Args:
        name: Of a suite in any spelling, of a suite's YAML file, whose modules are imported, or a gymnasium id.

    Returns:
        The suite of a file; else the name as results have it.

    Raises:
        UsageError: For a family of suites that lacks the member, and as `read_suite`. Also for a module that cannot be
            imported, or that a file of others names.
    """
    if not is_suite_file(name):
        return get_suite(name).name if is_suite(name) else name
    file = Path(name)
    suite, modules = read_suite(file)
    if is_of_others(file):
        require_imported(modules, file)
    import_modules(modules, file)
    return suite


def suite_name(name: str | Suite) -> str:
    """The name of a suite as it is written to files, for any of its spellings; a gymnasium id stays as it is."""
    return get_suite(name).name if isinstance(name, Suite) or is_suite(name) else name


def splits_to_play(played: str | Suite, wanted: str | None) -> tuple[EnvSplit, ...]:
    """One split of a suite, or all of them; a single environment is its own training split.

    Raises:
        UsageError: If there is no such split.
    """
    if not isinstance(played, Suite) and not is_suite(played):
        if wanted not in (None, "train"):
            raise wrong(played, "is a single environment, not a suite: its only split is 'train'", kind="name")
        return (EnvSplit("train", played, held_out=False, description="The training environment."),)
    suite = get_suite(played)
    return suite.splits if wanted is None else (suite.split(wanted),)


def refusing_what_breaks(name: str, kwargs: Mapping[str, Any], verb: str = "make") -> AbstractContextManager[None]:
    """Make environments in this block; they fail in every way when an argument or a dependency does not suit them.

    Args:
        name: What is made.
        kwargs: With which arguments.
        verb: What is done, for the refusal.

    Raises:
        UsageError: Says what failed, in one line.
    """
    return trying(f"{verb} the environment", f"{name} with arguments {dict(kwargs)}", Exception)
