"""What a tracker is told of a run, and what happens where it fails: the training goes on.

``tracking.json`` in the run's folder says for each tracker by what name it knows the run, so that whatever comes later,
a resumption or an evaluation, goes to the same one.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.logger import KVWriter

from rimrl.errors import UsageError, as_raised, damaged, mismatch, trying
from rimrl.reading import MEGABYTE, MissingError, read_json
from rimrl.runs.config import Configuration
from rimrl.runs.environment import Status, run_reached
from rimrl.runs.folder import TRACKING, RunFolder
from rimrl.runs.tracking import TRACKERS, Tracking, last_names
from rimrl.runs.validated import DamagedError, Fields

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONGEST_PROJECT = 250


@dataclass(frozen=True)
class Opening:
    """What a tracker needs to begin a run or to go on with one.

    Attributes:
        project: The project of wandb, the experiment of mlflow.
        id: By which the tracker knows the run; None for a new one.
        name: How it is called.
        group: The study that it belongs to, if any.
        config: What it was asked for.
    """

    project: str
    id: str | None
    name: str
    group: str | None
    config: Configuration


class Tracker(Protocol):
    """One run at a tracker. Made with an `Opening`; any method may raise anything."""

    @property
    def id(self) -> str:
        """By which the tracker knows the run."""

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Log scalars at a step, unless they are there from before the run was stopped."""

    def summarize(self, scalars: Mapping[str, float], step: int) -> None:
        """Log what was found out about the run at a step, in place of what was before."""

    def show(self, pictures: Mapping[str, Path], step: int) -> None:
        """Log pictures by their names."""

    def end(self, status: Status) -> None:
        """Say how the run ended, and send what is left."""


class Tracked(KVWriter):
    """A run at a tracker that may fail: it is then left alone, after one line on standard error.

    Args:
        run: The run.
        name: The tracker's.
        tracker: None for no tracker at all.
    """

    def __init__(self, run: RunFolder[Any], name: str = "", tracker: Tracker | None = None) -> None:
        self._run = run
        self._name = name
        self._tracker = tracker

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Log the numbers that Stable-Baselines3's logger gives to TensorBoard."""
        scalars = {
            name: float(value)
            for name, value in key_values.items()
            if _is_number(value) and {"tensorboard", self._name}.isdisjoint(key_excluded.get(name) or ())
        }
        self._tell(lambda tracker: tracker.log(scalars, step))

    def close(self) -> None:
        """Do nothing: `end` says how the run ended."""

    def evaluation(self, facts: Mapping[str, Any], title: str = "evaluation") -> None:
        """Log every score of every split.

        Args:
            facts: Content of ``evaluation.json``.
            title: What stands before the names; default ``evaluation``.
        """
        scalars = {
            f"{title}/{split}/{name}": float(value)
            for split, scores in facts["splits"].items()
            for name, value in scores.items()
            if _is_number(value)
        }
        self._tell(lambda tracker: tracker.summarize(scalars, facts[self._run.kind.reached]))

    def pictures(self, files: Sequence[Path], title: str) -> None:
        """Log pictures.

        Args:
            files: The pictures.
            title: What stands before their names.
        """
        reached = run_reached(self._run.path, self._run.kind) or 0
        self._tell(lambda tracker: tracker.show({f"{title}/{file.stem}": file for file in files}, reached))

    def end(self, status: Status) -> None:
        """Say how the run ended, once."""
        self._tell(lambda tracker: tracker.end(status))
        self._tracker = None

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            with _undisturbed():
                what(self._tracker)
        except Exception as error:  # whatever a tracker does, the training is worth more
            self._tracker = None
            print(
                f"rimrl: {self._name} failed and is told no more of {self._run.path}, which goes on and has all of its "
                f"own logs: {as_raised(error)}",
                file=sys.stderr,
            )


def track(tracking: Tracking | None, run: RunFolder[Any]) -> Tracked:
    """Begin to track a run, or go on with what the folder says.

    Args:
        tracking: Where; None for nowhere.
        run: The run, with the configuration that the tracker is told.

    Raises:
        UsageError: If the tracker is not installed or does not answer, ``tracking.json`` is damaged, or the run is in
            another project.
    """
    if tracking is None:
        return Tracked(run)
    tracking.check_installed()
    known = _read(run.path)
    there = known.get(tracking.tracker)
    opening = Opening(
        _project(tracking, there, run.path),
        None if there is None else there["id"],
        tracking.name or last_names(run.path),
        tracking.group,
        run.config,
    )
    tracker = _opened(tracking.tracker, opening)
    if there is None:
        known[tracking.tracker] = {"project": opening.project, "id": tracker.id}
        try:
            run.write(TRACKING, json.dumps(known, indent=2) + "\n")
        except UsageError:
            tracker.end("failed")
            raise
    return Tracked(run, tracking.tracker, tracker)


@contextmanager
def tracked_again(tracking: Tracking | None, run: RunFolder[Any]) -> Iterator[Tracked]:
    """Tell a tracker more of a run that has ended, or tell it of one that was not tracked.

    Raises:
        UsageError: As `track`.
    """
    tracked = track(tracking, run)
    try:
        yield tracked
    finally:
        tracked.end(run.status or "finished")


def prepare(tracking: Tracking | None) -> None:
    """Do what several trainings that begin at once would do all at the same time.

    Raises:
        UsageError: As `track`.
    """
    if tracking is None:
        return
    tracking.check_installed()
    if tracking.tracker == "mlflow":
        from rimrl.runs.mlflow_tracker import find_experiment  # noqa: PLC0415  the extra may be missing

        with _refusing("mlflow"), _undisturbed():
            find_experiment(_project(tracking, None, Path()))


def tracked_by(run: Path) -> tuple[str, ...]:
    """Names of the trackers that know a run; none where that cannot be read."""
    try:
        return tuple(_read(run))
    except UsageError:
        return ()


def _opened(name: str, opening: Opening) -> Tracker:
    module = import_module(f"rimrl.runs.{name}_tracker")
    with _refusing(name), _undisturbed():
        tracker: Tracker = module.begin(opening)
    return tracker


def _refusing(name: str) -> AbstractContextManager[None]:
    """Turn whatever a tracker raises while it begins into one line."""
    return trying("begin", name, Exception, f"{TRACKERS[name].advice}, or leave out --track")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep Python's generator as it is: clients of trackers draw from it when they wait to try again."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def _project(tracking: Tracking, there: Mapping[str, str] | None, run: Path) -> str:
    if there is None:
        return tracking.project or os.environ.get(TRACKERS[tracking.tracker].variable) or "rimrl"
    if tracking.project not in (None, there["project"]):
        raise mismatch(
            "--track-project", f"{there['project']!r}, where {run} is", repr(tracking.project), "leave it out"
        )
    return there["project"]


def _read(run: Path) -> dict[str, dict[str, str]]:
    """Content of ``tracking.json``: for each tracker that knows the run its ``project`` and ``id``."""
    file = run / TRACKING
    try:
        found = Fields(read_json(file, MEGABYTE, follow=False), "tracking")
        known = {}
        for name in TRACKERS:
            if name in found:
                entry = found.nested(name)
                known[name] = {"project": entry.text("project", _LONGEST_PROJECT), "id": entry.text("id")}
                if not _ID.fullmatch(known[name]["id"]):
                    raise DamagedError(f"tracking.{name}.id is no id of a run")
    except MissingError:
        return {}
    except DamagedError as error:
        raise damaged(file, error, "remove it to begin another run there") from None
    return known


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
