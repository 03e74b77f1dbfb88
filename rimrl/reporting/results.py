"""Reading what runs left behind."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rimrl.errors import UsageError


@dataclass(frozen=True)
class RunResults:
    """The files of one run folder that reports are made from.

    Attributes:
        label: Short name: the configuration's last part, or the folder's name.
        path: The run folder.
        evaluation: Content of ``evaluation.json``.
        progress: Columns of ``progress.csv`` by name; an empty cell is None.
    """

    label: str
    path: Path
    evaluation: dict[str, Any]
    progress: dict[str, list[float | None]]

    @property
    def splits(self) -> dict[str, dict[str, Any]]:
        """Figures of each evaluated split."""
        splits: dict[str, dict[str, Any]] = self.evaluation["splits"]
        return splits


def read_runs(paths: list[Path]) -> list[RunResults]:
    """Read several runs that can stand in one table.

    Raises:
        UsageError: If one has not been evaluated, cannot be read, or was evaluated on another suite than the first.
    """
    runs = [_read(path) for path in paths]
    suites = {run.path: run.evaluation["suite"] for run in runs}
    if len(set(suites.values())) > 1:
        listed = ", ".join(f"{path}: {suite}" for path, suite in suites.items())
        raise UsageError(f"runs of different suites do not compare ({listed})")
    labels = [run.label for run in runs]
    if len(set(labels)) < len(labels):
        runs = [RunResults(str(run.path), run.path, run.evaluation, run.progress) for run in runs]
    return runs


def _read(path: Path) -> RunResults:
    file = path / "evaluation.json"
    if not path.is_dir():
        raise UsageError(f"no run folder {path}")
    if not file.is_file():
        raise UsageError(f"{path} has not been evaluated; run: rimrl evaluate {path}")
    try:
        evaluation = json.loads(file.read_text(encoding="utf-8"))
        label = str(evaluation["config"]).rsplit("/", maxsplit=1)[-1]
        if not isinstance(evaluation["suite"], str) or not _are_splits(evaluation["splits"]):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{file} is damaged; run again: rimrl evaluate {path}") from None
    return RunResults(label, path, evaluation, _read_progress(path / "progress.csv"))


def _are_splits(splits: object) -> bool:
    figures = {"held_out", "episodes", "return_mean", "success_rate"}
    return (
        isinstance(splits, dict)
        and bool(splits)
        and all(isinstance(result, dict) and figures <= result.keys() for result in splits.values())
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
