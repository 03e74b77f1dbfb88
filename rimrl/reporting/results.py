"""Reading what runs left behind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rimrl.errors import UsageError, damaged, mismatch, quoted, shorten, wrong
from rimrl.reading import MissingError, UnreadableError, read_rows
from rimrl.runs.added import with_added
from rimrl.runs.environment import refuse_edited
from rimrl.runs.evaluations import FIGURES, read_evaluation
from rimrl.runs.folder import missing_run
from rimrl.runs.kinds import Kind, kind_of_facts, upgrade_header
from rimrl.runs.yaml_files import read_yaml

_DEEPEST = 32
_MOST_COLUMNS = 10_000
# What stands beside the groups of a configuration.
_ABOVE: Mapping[Any, tuple[str, type]] = {"name": ("text", str), "imports": ("a list", list)}
# One of them is in every run, and in every folder of ``rimrl export``.
_OF_RUNS = ("config.yaml", "evaluation.json", "card.json")
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
        return seed if isinstance(seed, int) and not isinstance(seed, bool) else None

    @property
    def kind(self) -> Kind:
        """Which kind of run it is."""
        return kind_of_facts(self.evaluation)

    @property
    def steps(self) -> list[float | None]:
        """Where its training was in each row of ``progress``; empty where there is none."""
        return self.progress.get(self.kind.column, [])

    def trials(self, split: str) -> int:
        """How many episodes or sequences of a split were evaluated."""
        trials: int = self.splits[split][self.kind.trials]
        return trials

    def asked(self, split: str) -> dict[str, Any]:
        """What makes a split, where that is known."""
        asked: dict[str, Any] = self.splits[split].get(self.kind.asked, {})
        return asked

    @property
    def splits(self) -> dict[str, dict[str, Any]]:
        """Figures of each evaluated split."""
        splits: dict[str, dict[str, Any]] = self.evaluation["splits"]
        return splits


def printable(text: str) -> str:
    """A text on one line, for any file: with spaces for what cannot be printed."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def find_runs(paths: Sequence[Path], suite: str | None = None, variant: str = "") -> tuple[list[Path], list[Path]]:
    """Find run folders: those that are named, and those at any depth below a folder that is none itself.

    Args:
        paths: Run folders, and folders that hold some, such as those of a sweep.
        suite: Evaluated on which suite; None for each run's own.
        variant: Suffix of an ablation (`rimrl.runs.evaluations.ablation_suffix`); default: as trained.

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
            raise missing_run(path)
        if _is_run(path):
            found.setdefault(path.resolve(), path)
            continue
        below = list(_runs_below(path))
        if not below:
            raise wrong(path, "is not a run folder, and there is none below it", kind="missing")
        for run in below:
            (found if _evaluation_file(run, suite, variant) else waiting).setdefault(run.resolve(), run)
    return list(found.values()), [run for key, run in waiting.items() if key not in found]


def _evaluation_file(run: Path, suite: str | None, variant: str) -> Path | None:
    """The evaluation of a run on a suite, on its own if that is None; None if there is none."""
    own = run / f"evaluation{variant}.json"
    if suite is None:
        return own if own.is_file() else None
    other = run / f"evaluation-{suite.replace('/', '-')}{variant}.json"
    if other.is_file():
        return other
    return own if own.is_file() and _suite(own) == suite else None


def read_runs(paths: Sequence[Path], suite: str | None = None, variant: str = "") -> list[RunResults]:
    """Read several runs that can stand in one table.

    Args:
        paths: Run folders, as `find_runs` finds them.
        suite: Evaluated on which suite; None for each run's own.
        variant: As for `find_runs`.

    Raises:
        UsageError: If one has not been evaluated, cannot be read, or was evaluated on another suite than the first.
    """
    runs = [_read(path, suite, variant) for path in paths]
    suites = {run.path: run.evaluation["suite"] for run in runs}
    if len(set(suites.values())) > 1:
        listed = ", ".join(f"{path}: {suite}" for path, suite in suites.items())
        raise wrong(
            "runs of different suites", f"do not compare, and --suite takes those of one ({listed})", kind="mismatch"
        )
    return runs


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in _OF_RUNS)


def _runs_below(path: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    above |= {path.resolve()}
    if len(above) > _DEEPEST:
        return
    for folder in sorted(child for child in path.iterdir() if child.is_dir()):
        if _is_run(folder):
            yield folder
        elif folder.resolve() not in above:  # links may lead in circles
            yield from _runs_below(folder, above)


def _read(path: Path, suite: str | None, variant: str = "") -> RunResults:
    if not path.is_dir():
        raise missing_run(path)
    file = _evaluation_file(path, suite, variant)
    command = f"rimrl evaluate {quoted(path)}" + (f" --suite {suite}" if suite else "")
    if file is None:
        where = f" on {suite}" if suite else ""
        raise wrong(path, f"has not been evaluated{where}", f"run: {command}", "state")
    try:
        evaluation = read_evaluation(file)
    except UnreadableError as error:
        raise error.within(after=f"; run again: {command}") from None
    label = printable(evaluation["config"].rsplit("/", maxsplit=1)[-1])
    for split, result in evaluation["splits"].items():
        for figure in FIGURES & result.keys():
            if isinstance(result[figure], float) and not math.isfinite(result[figure]):
                raise wrong(
                    f"{file}: {figure} on {split}", "is not finite and compares with nothing", kind="not_finite"
                )
    written = _read_config(path)
    if written:
        refuse_edited(path, written)
    config, older = _as_today(written)
    _check_same_core(evaluation, config, file, path)
    if "num_active" in evaluation:
        config = {**config, "core": {**config.get("core", {}), "num_active": evaluation["num_active"]}}
    progress = _read_progress(path / "progress.csv", kind_of_facts(evaluation))
    return RunResults(label, path, evaluation, progress, config, older)


def _check_same_core(evaluation: dict[str, Any], config: dict[str, Any], file: Path, path: Path) -> None:
    """Refuse a configuration that was changed after the evaluation: its values would label another agent's scores.

    Raises:
        UsageError: Names the option that differs.
    """
    played, described = evaluation.get("core_options", {}), config.get("core", {})
    for name in played.keys() & described.keys():
        if played[name] != described[name]:
            raise mismatch(
                f"core.{name} in {path}",
                f"{shorten(played[name])}, as in {file.name}",
                shorten(described[name]),
                "put that back into config.yaml, or evaluate again",
            )


def _suite(file: Path) -> object:
    try:
        return read_evaluation(file)["suite"]
    except UsageError:
        return None


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.yaml"
    if not file.is_file():
        return {}
    advice = "restore it from the command that trained the run"
    try:
        config = read_yaml(file, follow=False)
    except UsageError as error:
        raise damaged(file, error, advice) from None
    if not isinstance(config, dict):
        raise damaged(file, "it holds no groups of keys", advice)
    for key, group in config.items():
        kind, known = _ABOVE.get(key, ("keys", dict))
        if not isinstance(key, str) or not isinstance(group, known):
            raise damaged(file, f"{shorten(key)} must hold {kind}, got {shorten(group)}", advice)
        if isinstance(group, dict) and not all(isinstance(name, str) for name in group):
            raise damaged(file, f"the names in {key!r} must be text", advice)
    return config


def _as_today(config: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A run's configuration with the keys that it is older than, and whether where its core started is one of them."""
    core = config.get("core", {})
    older = _OF_OLDER_CORES in core and "initialization" not in core
    if older:
        config = {**config, "core": {**core, "initialization": "xavier"}}
    return with_added(config), older


def _read_progress(file: Path, kind: Kind) -> dict[str, list[float | None]]:
    try:
        header, *rows = read_rows(file, follow=False) or [[]]
        if len(header) > _MOST_COLUMNS:
            raise damaged(file, f"it has {len(header)} columns")
        columns = {
            name: [float(row[i]) if len(row) > i and row[i] else None for row in rows]
            for i, name in enumerate(upgrade_header(header, kind))
        }
    except MissingError:
        return {}
    except ValueError as error:
        raise (error if isinstance(error, UsageError) else damaged(file, error)).within(
            after="; restore it, or remove it to go without the learning curve"
        ) from None
    return columns if rows else {}
