"""One cell of a sweep is worked on: trained, or gone on with, and evaluated; its record says how that went.

Everything a worker needs is in the sweep's folder, so that a worker may be any process that sees it. Run as a process
of its own, ``python -m rimrl.experiments.sweep_cell FOLDER CELL EPISODES`` stops when its standard input ends: whoever
started it is gone then.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rimrl.errors import RunFailedError, UsageError
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.config_files import config_from
from rimrl.experiments.evaluate import DEFAULT_SEED, evaluate, splits_to_play
from rimrl.experiments.resuming import resume
from rimrl.experiments.run import Run
from rimrl.experiments.sweep_config import FILE, LARGEST, MOST_VALUES
from rimrl.experiments.train import train
from rimrl.files import appending, locked, refuse_links, write_text
from rimrl.reading import MEGABYTE, read_json
from rimrl.runs.environment import run_status
from rimrl.runs.evaluations import read_evaluation
from rimrl.runs.stopping import interruptible
from rimrl.runs.yaml_files import read_yaml

LOGS = "logs"
State = Literal["running", "finished", "failed", "interrupted"]
# As exit codes of the process; "refused" is bad input, which trying again does not mend.
CODES = {"finished": 0, "failed": 1, "refused": 2, "interrupted": 130}
# How long a worker whose sweep was killed may take to write its checkpoint and go.
_PATIENCE = 60.0
_MOST_ATTEMPTS = 1000


@dataclass(frozen=True)
class Outcome:
    """How the work on a cell ended.

    Attributes:
        end: ``"finished"``, ``"failed"``, ``"refused"``, ``"interrupted"``, or ``"died"`` where the process did.
        message: What happened, if it is not finished.
    """

    end: Literal["finished", "failed", "refused", "interrupted", "died"]
    message: str | None = None


class Record:
    """What is known of a cell: ``logs/CELL.json``, one entry for every attempt.

    Args:
        folder: Of the sweep.
        cell: Name of the cell.
    """

    def __init__(self, folder: Path, cell: str) -> None:
        self._folder = folder
        self.log = folder / LOGS / f"{cell}.log"
        self._file = folder / LOGS / f"{cell}.json"

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Every attempt: state, times, machine, process and message."""
        try:
            found = read_json(self._file, MEGABYTE, follow=False)
        except UsageError:
            return []
        attempts = found.get("attempts") if isinstance(found, dict) else None
        return [each for each in attempts if _is_attempt(each)] if isinstance(attempts, list) else []

    def begin(self) -> None:
        """Note that an attempt begins."""
        self.close_dead("the process was killed")
        attempt = {
            "state": "running",
            "started": _now(),
            "seconds": None,
            "message": None,
            "host": platform.node(),
            "pid": os.getpid(),
        }
        self._write([*self.attempts, attempt])

    def end(self, state: State, seconds: float | None, message: str | None) -> None:
        """Note how the last attempt ended."""
        attempts = self.attempts
        if attempts:
            attempts[-1] |= {"state": state, "seconds": seconds and round(seconds, 1), "message": message}
            self._write(attempts)

    def close_dead(self, message: str) -> None:
        """Note that the last attempt died, if it has not ended otherwise."""
        attempts = self.attempts
        if attempts and attempts[-1]["state"] == "running":
            with suppress(ValueError, TypeError, KeyError):
                begun = datetime.fromisoformat(attempts[-1]["started"])
                self.end("failed", (datetime.now(UTC) - begun).total_seconds(), message)

    def _write(self, attempts: list[dict[str, Any]]) -> None:
        content = json.dumps({"attempts": attempts[-_MOST_ATTEMPTS:]}, indent=1) + "\n"
        write_text(self._file, content, self._folder)


def _is_attempt(value: object) -> bool:
    """Whether an entry of a record is what `Record.begin` and `Record.end` write."""
    kinds = {"state": str, "started": str, "seconds": int | float | None, "message": str | None, "pid": int | None}
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())


def is_done(run: Path, config: ExperimentConfig, episodes: int | None) -> bool:
    """Whether a run is trained to its end and, if that is asked for, evaluated."""
    return run_status(run) == "finished" and (episodes is None or is_evaluated(run, config, episodes))


def is_evaluated(run: Path, config: ExperimentConfig, episodes: int) -> bool:
    """Whether the agent at the end of training has played so many episodes, or more, on every split of its suite."""
    try:
        found = read_evaluation(run / "evaluation.json")
    except UsageError:
        return False
    played = {name: split["episodes"] for name, split in found["splits"].items()}
    how = tuple(found.get(key) for key in ("model", "deterministic", "seed"))
    wanted = {split.name: episodes for split in splits_to_play(config.env.id, None)}
    enough = played.keys() == wanted.keys() and all(played[name] >= wanted[name] for name in wanted)
    return how == ("model.zip", False, DEFAULT_SEED) and enough


def work_on(folder: Path, cell: str, episodes: int | None = None, progress_bar: bool = False) -> Outcome:
    """Train a cell from where it is, and evaluate it.

    What stopped before goes on from its last checkpoint. Two processes never work on one cell: the second waits for a
    minute, then gives up.

    Args:
        folder: Of the sweep.
        cell: Name of the cell.
        episodes: Evaluate with so many on each split; None for no evaluation.
        progress_bar: Show progress on standard error.

    Returns:
        How it ended; what breaks on the way is part of that.
    """
    record = Record(folder, cell)
    try:
        config = _config(folder, cell)
        appending(record.log, folder).close()
        refuse_links(folder / cell, folder)
        busy = f"{cell} is being trained by another process"
        with locked(record.log, busy, patience=_PATIENCE):
            if is_done(folder / cell, config, episodes):
                return Outcome("finished")
            record.begin()
            begun = time.monotonic()
            outcome = _outcome(folder / cell, config, episodes, progress_bar)
            state: State = "failed" if outcome.end == "refused" or outcome.end == "died" else outcome.end  # noqa: PLR1714
            record.end(state, time.monotonic() - begun, outcome.message)
            return outcome
    except UsageError as error:
        return Outcome("refused", str(error))
    except OSError as error:
        return Outcome("failed", f"cannot write to {folder}: {error.strerror or error}")


def _outcome(path: Path, config: ExperimentConfig, episodes: int | None, progress_bar: bool) -> Outcome:
    try:
        with interruptible():
            if run_status(path) != "finished" and not _train(path, config, progress_bar):
                return Outcome("interrupted", "stopped; goes on from its last checkpoint")
            if episodes is not None and not is_evaluated(path, config, episodes):
                evaluate(Run.open(path), episodes=episodes, progress_bar=progress_bar)
        return Outcome("finished")
    except KeyboardInterrupt:
        return Outcome("interrupted", "stopped; goes on from its last checkpoint")
    except UsageError as error:
        return Outcome("refused", str(error))
    except RunFailedError as error:
        return Outcome("failed", str(error))
    except Exception as error:  # environments fail in every way, and the other cells are worth having
        traceback.print_exc()
        return Outcome("failed", " ".join(f"{type(error).__name__}: {error}".split()))


def _train(path: Path, config: ExperimentConfig, progress_bar: bool) -> bool:
    if (path / "config.yaml").is_file():
        return resume(Run.open(path), config, progress_bar=progress_bar)
    if path.is_dir() and all(file.name.startswith(".") for file in path.iterdir()):
        shutil.rmtree(path)  # killed before anything but a part of the first file was there
    return train(config, path, progress_bar)[1]


def _config(folder: Path, cell: str) -> ExperimentConfig:
    if not (folder / FILE).is_file():
        raise UsageError(
            f"{folder} is not a sweep's folder on {platform.node()}; --run-dir must be on a disk that all nodes share"
        )
    experiment, _, seed = cell.rpartition("seed_")
    content = read_yaml(folder / FILE, False, LARGEST, MOST_VALUES)
    experiments = content.get("experiments") if isinstance(content, dict) else None
    if not isinstance(experiments, dict) or experiment.removesuffix("/") not in experiments:
        raise UsageError(f"{folder / FILE} is damaged: it does not hold the experiment of {cell}")
    config = config_from(experiments[experiment.removesuffix("/")], folder / FILE)
    return replace(config, train=replace(config.train, seed=int(seed)))


def _now() -> str:
    return datetime.now(UTC).isoformat("T", "seconds")


def _stop_with_parent() -> None:
    """Ask this process to stop once its standard input ends."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main(folder: str, cell: str, episodes: str) -> int:
    """Work on a cell as a process of its own."""
    _stop_with_parent()
    with interruptible():
        try:
            outcome = work_on(Path(folder), cell, int(episodes) or None)
        except KeyboardInterrupt:
            outcome = Outcome("interrupted")
    if outcome.message is not None:
        print(f"rimrl: {outcome.message}", file=sys.stderr)
    return CODES[outcome.end]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
