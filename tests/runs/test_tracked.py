"""A tracked run as the tracker sees it, and what a tracker that fails does to a run: nothing."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rimrl.errors import UsageError
from rimrl.runs import tracked
from rimrl.runs.environment import Status
from rimrl.runs.folder import TRACKING
from rimrl.runs.lifecycle import resume_run, start_run
from rimrl.runs.processes import Processes
from rimrl.runs.tracked import Opening
from rimrl.runs.tracking import Tracking
from tests.runs.test_lifecycle import CONFIG, COUNT, TOTAL, Counter, CountRun, Trainings, signalled

WANDB = Tracking("wandb")


class FakeTracker:
    """Keeps what it is told; fails from a call on, if it is asked to."""

    id = "a1"

    def __init__(self, opening: Opening, fails_at: str | int | None = None) -> None:
        self.opening = opening
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.ended: list[Status] = []
        self.fails_at = fails_at

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        random.random()
        if step == self.fails_at:
            raise ConnectionError("the server\nis gone")
        self.logged.append((step, dict(scalars)))

    def summarize(self, scalars: Mapping[str, float], step: int) -> None:
        raise NotImplementedError

    def show(self, pictures: Mapping[str, Path], step: int) -> None:
        raise NotImplementedError

    def end(self, status: Status) -> None:
        if self.fails_at == "end":
            raise ConnectionError("the server is gone")
        self.ended.append(status)


class Trackers:
    """Makes fake trackers and keeps them."""

    def __init__(self) -> None:
        self.made: list[FakeTracker] = []
        self.fails_at: str | int | None = None

    def begin(self, name: str, opening: Opening) -> FakeTracker:
        if self.fails_at == "begin":
            raise UsageError("wandb does not begin")
        self.made.append(FakeTracker(opening, self.fails_at))
        return self.made[-1]


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> Trackers:
    made = Trackers()
    monkeypatch.setattr(tracked, "_opened", made.begin)
    monkeypatch.setattr(Tracking, "check_installed", lambda self: None)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return made


def train(path: Path, at: Any = None, tracking: Tracking | None = WANDB) -> tuple[CountRun, bool]:
    return start_run(CountRun, CONFIG, path, Trainings(at), Processes(), tracking)


def test_the_tracker_gets_the_rows_of_the_log_at_their_steps(tmp_path: Path, trackers: Trackers) -> None:
    run, _ = train(tmp_path / "runs" / "three")
    (tracker,) = trackers.made
    with (run.path / "progress.csv").open() as stream:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]
    assert tracker.logged == [(step, row) for step, row in enumerate(rows, 1)]
    assert len(rows) == TOTAL
    assert tracker.ended == ["finished"]
    assert (tracker.opening.project, tracker.opening.name) == ("rimrl", "runs/three")
    assert tracker.opening.config == CONFIG


def test_a_run_that_goes_on_is_the_same_run_for_the_tracker(tmp_path: Path, trackers: Trackers) -> None:
    run, _ = train(tmp_path / "run", signalled, Tracking("wandb", "mine"))
    assert json.loads((run.path / TRACKING).read_text()) == {"wandb": {"project": "mine", "id": "a1"}}
    assert resume_run(run, CONFIG, False, Trainings(), Processes(), WANDB)
    first, second = trackers.made
    assert (first.opening.id, second.opening.id, second.opening.project) == (None, "a1", "mine")
    assert first.ended + second.ended == ["interrupted", "finished"]
    assert [step for step, _ in first.logged + second.logged] == list(range(1, TOTAL + 1))


def test_one_that_goes_on_in_another_project_is_refused(tmp_path: Path, trackers: Trackers) -> None:
    run, _ = train(tmp_path / "run", signalled, Tracking("wandb", "mine"))
    with pytest.raises(UsageError, match="'mine'"):
        resume_run(run, CONFIG, False, Trainings(), Processes(), Tracking("wandb", "other"))
    assert (run.status, run.model_file.read_text()) == ("interrupted", "9")


@pytest.mark.parametrize("fails_at", [2, "end"])
def test_a_tracker_that_fails_costs_one_line(
    fails_at: str | int, tmp_path: Path, trackers: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    trackers.fails_at = fails_at
    run, finished = train(tmp_path / "run")
    assert finished
    assert (run.status, run.model_file.read_text()) == ("finished", "18")
    assert len((run.path / "progress.csv").read_text().split()) == TOTAL + 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "wandb" in line
    assert "ConnectionError: the server is gone" in line
    assert [step for step, _ in trackers.made[0].logged] == ([1] if fails_at == 2 else list(range(1, TOTAL + 1)))


def test_one_that_does_not_begin_leaves_no_folder(tmp_path: Path, trackers: Trackers) -> None:
    trackers.fails_at = "begin"
    with pytest.raises(UsageError, match="does not begin"):
        train(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_tracker_draws_no_number_of_the_training(tmp_path: Path, trackers: Trackers) -> None:
    drawn: list[list[float]] = []
    for tracking in (None, WANDB):
        random.seed(0)
        drawn.append([])
        train(tmp_path / str(tracking is None), lambda _: drawn[-1].append(random.random()), tracking)
    assert drawn[0] == drawn[1]
    assert len(trackers.made) == 1


def test_only_the_process_that_writes_tracks(
    tmp_path: Path, trackers: Trackers, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Second(Processes):
        size = 2
        writes = False

    monkeypatch.setattr(Counter, "write_checkpoint", lambda self: None)
    start_run(CountRun, CONFIG, tmp_path / "run", Trainings(), Second(), WANDB)
    assert trackers.made == []


def test_a_run_that_is_not_tracked_any_more_says_so(
    tmp_path: Path, trackers: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = train(tmp_path / "run", signalled)
    capsys.readouterr()
    assert resume_run(run, CONFIG, False, Trainings(), Processes())
    assert "--track wandb" in capsys.readouterr().err
    assert len(trackers.made) == 1


def test_a_run_that_breaks_names_the_tracker_in_how_to_go_on(tmp_path: Path, trackers: Trackers) -> None:
    def breaks(reached: int) -> None:
        if reached == 2:
            raise MemoryError

    with pytest.raises(RuntimeError, match=rf"rimrl {COUNT.verb} --resume \S+ --track wandb"):
        train(tmp_path / "run", breaks)
    assert trackers.made[0].ended == ["failed"]


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"wandb": 3}',
        '{"wandb": {"project": "p"}}',
        '{"wandb": {"project": "p", "id": "../../other"}}',
        '{"wandb": {"project": ["p"], "id": "a1"}}',
    ],
)
def test_a_damaged_file_is_refused_and_the_run_can_go_on_without(
    content: str, tmp_path: Path, trackers: Trackers
) -> None:
    run, _ = train(tmp_path / "run", signalled)
    (run.path / TRACKING).write_text(content)
    with pytest.raises(UsageError, match="damaged"):
        resume_run(run, CONFIG, False, Trainings(), Processes(), WANDB)
    assert resume_run(run, CONFIG, False, Trainings(), Processes())
