"""Reading what runs left behind."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rimrl.errors import UsageError

_FIGURES = frozenset({"success_rate", "return_mean", "accuracy", "cross_entropy", "mse"})
# An option that the cores which always started from Xavier's matrices, and no others, had before that was an option.
_OF_OLDER_CORES = "learn_initial_state"


@dataclass(frozen=True)
class RunResults:
    """The files of one run folder that reports are made from.

    Attributes:
        label: Short name: the configuration's last part. `rimrl.reporting.groups.group_runs` makes names that differ.
        path: The run folder.
        evaluation: Content of ``evaluation.json``.
        progress: Columns of ``progress.csv`` by name; an empty cell is None.
        config: Content of ``config.yaml``; empty where there is none. Keys that an older run lacks have the values that
            stand for how it was trained.
        older: Whether the run is older than the option ``core.initialization``, which it would need.
    """

    label: str
    path: Path
    evaluation: dict[str, Any]
    progress: dict[str, list[float | None]]
    config: dict[str, Any] = field(default_factory=dict)
    older: bool = False

    @property
    def seed(self) -> int | None:
        """Seed of the training, where the configuration says it."""
        seed = self.config.get("train", {}).get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def splits(self) -> dict[str, dict[str, Any]]:
        """Figures of each evaluated split."""
        splits: dict[str, dict[str, Any]] = self.evaluation["splits"]
        return splits


def is_diagnostic(suite: str) -> bool:
    """Whether a suite is a task of ``rimrl sequence``, on which sequences are scored instead of episodes played."""
    return suite.startswith("sequence/")


def find_runs(paths: Sequence[Path], suite: str | None = None) -> tuple[list[Path], list[Path]]:
    """Find run folders: those that are named, and those at any depth below a folder that is none itself.

    Args:
        paths: Run folders, and folders that hold some, such as those of a sweep.
        suite: Evaluated on which suite; None for each run's own.

    Returns:
        Evaluated runs in the order of `paths`, below each of them in alphabetical order, none twice; and the runs that
        lie below a folder without having been evaluated. A run that is named itself is always among the first.

    Raises:
        UsageError: If a path is no folder, or holds no run at any depth.
    """
    found: dict[Path, Path] = {}
    waiting: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"no run folder {path}")
        if _is_run(path):
            found.setdefault(path.resolve(), path)
            continue
        below = list(_runs_below(path))
        if not below:
            raise UsageError(f"{path} is not a run folder, and there is none below it")
        for run in below:
            (found if evaluation_file(run, suite) else waiting).setdefault(run.resolve(), run)
    return list(found.values()), [run for key, run in waiting.items() if key not in found]


def evaluation_file(run: Path, suite: str | None = None) -> Path | None:
    """The evaluation of a run on its own suite, or on another one; None if there is none."""
    own = run / "evaluation.json"
    if suite is None:
        return own if own.is_file() else None
    other = run / f"evaluation-{suite.replace('/', '-')}.json"
    if other.is_file():
        return other
    return own if own.is_file() and _suite(own) == suite else None


def read_runs(paths: Sequence[Path], suite: str | None = None) -> list[RunResults]:
    """Read several runs that can stand in one table.

    Args:
        paths: Run folders, as `find_runs` finds them.
        suite: Evaluated on which suite; None for each run's own.

    Raises:
        UsageError: If one has not been evaluated, cannot be read, or was evaluated on another suite than the first.
    """
    runs = [_read(path, suite) for path in paths]
    suites = {run.path: run.evaluation["suite"] for run in runs}
    if len(set(suites.values())) > 1:
        listed = ", ".join(f"{path}: {suite}" for path, suite in suites.items())
        raise UsageError(f"runs of different suites do not compare, and --suite takes those of one ({listed})")
    return runs


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() or (path / "evaluation.json").is_file()


def _runs_below(path: Path) -> Iterator[Path]:
    for folder in sorted(child for child in path.iterdir() if child.is_dir()):
        if _is_run(folder):
            yield folder
        else:
            yield from _runs_below(folder)


def _read(path: Path, suite: str | None) -> RunResults:
    if not path.is_dir():
        raise UsageError(f"no run folder {path}")
    file = evaluation_file(path, suite)
    command = f"rimrl evaluate {path}" + (f" --suite {suite}" if suite else "")
    if file is None:
        where = f" on {suite}" if suite else ""
        raise UsageError(f"{path} has not been evaluated{where}; run: {command}")
    try:
        evaluation = json.loads(file.read_text(encoding="utf-8"))
        label = str(evaluation["config"]).rsplit("/", maxsplit=1)[-1]
        if not isinstance(evaluation["suite"], str) or not _are_splits(evaluation["splits"]):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{file} is damaged; run again: {command}") from None
    for split, result in evaluation["splits"].items():
        for figure in _FIGURES & result.keys():
            if isinstance(result[figure], float) and not math.isfinite(result[figure]):
                raise UsageError(f"{file}: {figure} on {split} is not finite, so that nothing compares with it")
    config, older = _as_today(_read_config(path))
    return RunResults(label, path, evaluation, _read_progress(path / "progress.csv"), config, older)


def _suite(file: Path) -> object:
    try:
        evaluation = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return evaluation.get("suite") if isinstance(evaluation, dict) else None


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.yaml"
    if not file.is_file():
        return {}
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        config = None
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise UsageError(f"{file} is damaged; restore it from the command that trained the run")
    return config


def _as_today(config: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A run's configuration with the keys that it is older than, and whether where its core started is one of them."""
    core, agent = config.get("core"), config.get("agent")
    older = isinstance(core, dict) and _OF_OLDER_CORES in core and "initialization" not in core
    if isinstance(core, dict) and older:
        config = {**config, "core": {**core, "initialization": "xavier"}}
    if isinstance(agent, dict):
        config = {**config, "agent": {"critic_gradient": 1.0, **agent}}
    return config, older


def _are_splits(splits: object) -> bool:
    return (
        isinstance(splits, dict)
        and bool(splits)
        and all(
            isinstance(result, dict) and {"held_out", "episodes"} <= result.keys() and not _FIGURES.isdisjoint(result)
            for result in splits.values()
        )
    )


def _read_progress(file: Path) -> dict[str, list[float | None]]:
    if not file.is_file():
        return {}
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
        columns = rows[0] if rows else {}
        return {name: [float(row[name]) if row[name] else None for row in rows] for name in columns}
    except (OSError, ValueError, TypeError):
        raise UsageError(f"{file} is damaged; restore it, or remove it to go without the learning curve") from None
