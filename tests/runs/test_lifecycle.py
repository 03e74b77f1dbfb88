"""A run's life with something that hardly learns: what is left whatever ends it, and who writes."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from stable_baselines3.common.logger import Logger

from rimrl.errors import RunFailedError, UsageError
from rimrl.runs import checkpoint_files
from rimrl.runs.checkpoint_files import Contents
from rimrl.runs.config import Configuration, TrainConfig
from rimrl.runs.folder import RunFolder
from rimrl.runs.kinds import SEQUENCE
from rimrl.runs.lifecycle import resume_run, start_run
from rimrl.runs.processes import Processes
from rimrl.runs.resuming import restore_last
from rimrl.runs.stopping import Stop
from rimrl.runs.validated import Fields
from tests.commands import read_json

TOTAL = 6
COUNT = replace(SEQUENCE, name="count", verb="count", group="count", step="tick", reached="num_ticks")


@dataclass(frozen=True)
class CountTrain(TrainConfig):
    num_updates: int = TOTAL
    learning_rate: float = 1.0
    learning_rate_schedule: Literal["constant", "linear"] = "constant"


@dataclass(frozen=True)
class CountConfig(Configuration):
    name: str
    by: int
    train: CountTrain

    kind = COUNT
    added: ClassVar[dict[str, object]] = {}

    def groups(self) -> dict[str, dict[str, Any]]:
        return {"count": {"by": self.by}, "train": asdict(self.train)}


class CountRun(RunFolder[CountConfig]):
    @property
    def model_file(self) -> Path:
        return self.path / "model.zip"


class Counter:
    """Counts, and does something else at a count."""

    def __init__(self, run: CountRun, config: CountConfig) -> None:
        self.run, self.config = run, config
        self.reached = self.sum = 0
        self.closed = False
        self.logger = Logger(None, [])

    metrics = (COUNT.column,)

    def log_to(self, logger: Logger) -> None:
        self.logger = logger

    def learn(self, stop: Stop) -> bool:
        while self.reached < self.config.train.num_updates and not stop.requested:
            self.at(self.reached)
            self.reached += 1
            self.sum += self.config.by
            self.logger.record(COUNT.column, self.reached)
            self.logger.dump(self.reached)
        return self.reached >= self.config.train.num_updates

    def at(self, reached: int) -> None:
        """Nothing, unless a test says otherwise."""

    def write_checkpoint(self) -> None:
        state = {"num_timesteps": self.reached, "sum": self.sum, "identity": self.config.identity(), "events": {}}
        checkpoint_files.write(self.run.path, self.reached, Contents({}, state, ""))

    def write_pending(self) -> None:
        self.write_checkpoint()

    def restore(self, accept_changes: bool, changes: Sequence[str]) -> tuple[Contents, str | None]:
        known = None if accept_changes else self.config.identity()
        _, contents, self.sum = restore_last(self.run.path, lambda _, fields: self.restore_fields(fields), known)
        return contents, None

    def restore_fields(self, fields: Fields) -> int:
        self.reached = fields.integer("num_timesteps")
        return fields.integer("sum")

    def truncate_logs(self, contents: Contents) -> None:
        pass

    def save(self) -> None:
        self.run.model_file.write_text(str(self.sum))

    def close(self) -> None:
        self.logger.close()
        self.closed = True


class Trainings:
    """Makes counters and keeps them; `at` is what they do at a count."""

    def __init__(self, at: Any = None) -> None:
        self.made: list[Counter] = []
        self._at = at

    def __call__(self, run: CountRun, config: CountConfig, goes_on: bool) -> Counter:
        counter = Counter(run, config)
        if self._at is not None:
            counter.at = self._at  # type: ignore[method-assign]
        self.made.append(counter)
        return counter


CONFIG = CountConfig("count/three", 3, CountTrain())


def raises(error: BaseException, count: int = 2) -> Any:
    def at(reached: int) -> None:
        if reached == count:
            raise error

    return at


def signalled(reached: int) -> None:
    if reached == 2:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_to_its_end(tmp_path: Path) -> None:
    make = Trainings()
    run, finished = start_run(CountRun, CONFIG, tmp_path / "run", make, Processes())
    facts = read_json(run.path / "environment.json")
    assert finished
    assert (facts["status"], facts["num_ticks"]) == ("finished", TOTAL)
    assert run.model_file.read_text() == "18"
    assert [int(path.name) for path in checkpoint_files.found(run.path)] == [TOTAL]
    assert make.made[0].closed


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    run, finished = start_run(CountRun, CONFIG, tmp_path / "run", Trainings(signalled), Processes())
    assert not finished
    assert (run.status, run.model_file.read_text()) == ("interrupted", "9")
    assert resume_run(run, CONFIG, False, Trainings(), Processes())
    facts = read_json(run.path / "environment.json")
    assert [(note["num_ticks"], note["exact"]) for note in facts["resumed"]] == [(3, True)]
    assert run.model_file.read_text() == "18"
    progress = (run.path / "progress.csv").read_text().split()
    assert progress[-3:] == ["4", "5", "6"]


def test_a_run_that_breaks_says_how_to_go_on(tmp_path: Path) -> None:
    make = Trainings(raises(MemoryError("none left")))
    with pytest.raises(RunFailedError) as failure:
        start_run(CountRun, CONFIG, tmp_path / "run", make, Processes())
    run = CountRun(tmp_path / "run", CONFIG)
    assert f"rimrl count --resume {run.path}" in str(failure.value)
    assert (run.status, run.model_file.read_text()) == ("failed", "6")
    assert "none left" in (run.path / "traceback.txt").read_text()
    assert make.made[0].closed
    assert resume_run(run, CONFIG, False, Trainings(), Processes())


def test_what_cannot_be_made_leaves_no_folder(tmp_path: Path) -> None:
    def make(run: CountRun, config: CountConfig, goes_on: bool) -> Counter:
        raise UsageError("it does not fit")

    with pytest.raises(UsageError, match=r"not fit"):
        start_run(CountRun, CONFIG, tmp_path / "new" / "run", make, Processes())
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_saved_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counter, "save", lambda self: raises(OSError("full"), 0)(0))
    make = Trainings()
    with pytest.raises(RunFailedError, match="full"):
        start_run(CountRun, CONFIG, tmp_path / "run", make, Processes())
    assert CountRun(tmp_path / "run", CONFIG).status == "failed"
    assert make.made[0].closed


@pytest.mark.parametrize("accept", [False, True])
def test_changes_have_to_be_accepted_unless_they_are_free(accept: bool, tmp_path: Path) -> None:
    run, _ = start_run(CountRun, CONFIG, tmp_path / "run", Trainings(signalled), Processes())
    other = replace(CONFIG, by=5, train=CountTrain(num_updates=4, resume_freq=1))
    if accept:
        assert resume_run(run, other, True, Trainings(), Processes())
        assert run.model_file.read_text() == "14"
        assert run.config == other
    else:
        with pytest.raises(UsageError, match=r"count\.by 3 -> 5"):
            resume_run(run, other, False, Trainings(), Processes())
        assert resume_run(run, replace(other, by=3), False, Trainings(), Processes())


def test_of_several_processes_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Second(Processes):
        size = 2
        writes = False

    monkeypatch.setattr(Counter, "write_checkpoint", lambda self: None)  # the toy's would write in every process
    make = Trainings()
    run, finished = start_run(CountRun, CONFIG, tmp_path / "run", make, Second())
    assert finished
    assert make.made[0].closed
    assert run.processes == 2
    assert not run.path.exists()
