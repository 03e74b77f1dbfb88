"""Who works on the trials of a study: processes on this machine, or tasks of `rimrl.studies.ray_workers`."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from rimrl.files import appending
from rimrl.studies.record import Record
from rimrl.studies.trial import Outcome, Trial
from rimrl.studies.worker import ENDS

# Libraries under numpy and torch that would each take all cores.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_SIGNALS = {each.value: each.name for each in signal.Signals}
_LAST_BYTES = 2**16

H = TypeVar("H")


class Workers(ABC, Generic[H]):
    """Work on trials side by side, each in a fresh process.

    Args:
        folder: Of the study.
        jobs: How many at a time; None for as many as there is room for.
    """

    def __init__(self, folder: Path, jobs: int | None) -> None:
        self._folder = folder
        self._jobs = jobs
        self._running: dict[H, str] = {}

    @property
    def busy(self) -> bool:
        """Whether a trial is worked on, or waits for a place in a cluster."""
        return bool(self._running)

    @property
    def free(self) -> bool:
        """Whether another trial may be started."""
        return self._jobs is None or len(self._running) < self._jobs

    def start(self, trial: Trial) -> None:
        """Begin to work on a trial; what its process says goes to its log."""
        self._running[self._launched(trial)] = trial.name

    def ended(self, timeout: float) -> list[tuple[str, Outcome]]:
        """Trials whose work has ended since the last call, by name; waits so many seconds for one.

        Raises:
            RunFailedError: If those that work cannot be reached any more.
        """
        return [(name, self._outcome(each, name)) for each in self._done(timeout) if (name := self._running.pop(each))]

    @abstractmethod
    def stop(self) -> None:
        """Ask all trials to stop; they write their checkpoints first."""

    @abstractmethod
    def close(self) -> None:
        """Stop all trials at once and leave nothing behind."""

    @abstractmethod
    def _launched(self, trial: Trial) -> H: ...

    @abstractmethod
    def _done(self, timeout: float) -> list[H]: ...

    @abstractmethod
    def _outcome(self, handle: H, name: str) -> Outcome: ...


class LocalWorkers(Workers["subprocess.Popen[bytes]"]):
    """Processes on this machine."""

    def stop(self) -> None:
        for process in self._running:
            process.terminate()

    def close(self) -> None:
        for process in self._running:
            process.kill()
        for process in self._running:
            process.wait()

    def _launched(self, trial: Trial) -> subprocess.Popen[bytes]:
        with appending(Record(self._folder, trial.name).log, self._folder) as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "rimrl.studies.worker", str(self._folder)],
                # Held open for as long as this process lives: the trial stops when it ends.
                stdin=subprocess.PIPE,
                bufsize=0,
                stdout=stream,
                stderr=stream,
                env=os.environ | dict.fromkeys(_THREADS, str(trial.threads)),
                # Ctrl-C in a terminal goes to a whole group; this process passes it on, once.
                start_new_session=True,
            )
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has died already
            process.stdin.write(pickle.dumps(trial))
        return process

    def _done(self, timeout: float) -> list[subprocess.Popen[bytes]]:
        deadline = time.monotonic() + timeout
        while not (done := [each for each in self._running if each.poll() is not None]):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        return done

    def _outcome(self, handle: subprocess.Popen[bytes], name: str) -> Outcome:
        if handle.stdin is not None:
            handle.stdin.close()
        record, code = Record(self._folder, name), handle.returncode
        if code == 0:
            return Outcome("finished")
        own = [each["message"] for each in record.attempts[-1:] if each["pid"] == handle.pid]
        message = (
            f"the process was killed by {_SIGNALS.get(-code, -code)}"
            if code < 0
            else (own and own[0]) or _last_line(record.log)
        )
        record.close_dead(message)
        return Outcome(ENDS.get(code, "died"), message)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _last_line(log: Path) -> str:
    """The last line of a log."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _LAST_BYTES))
            lines = stream.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        lines = []
    said = [line.strip().removeprefix("rimrl: ") for line in lines if line.strip()]
    return said[-1][:500] if said else "its process ended without a word"
