"""Who works on the cells of a sweep: processes on this machine, or those of `rimrl.experiments.sweep_ray`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

from rimrl.experiments.sweep_cell import CODES, Outcome, Record
from rimrl.experiments.sweep_grid import Cell
from rimrl.files import appending

# Libraries under numpy and torch that would each take all cores.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LAST_BYTES = 2**16
_ENDS = {code: end for end, code in CODES.items()}


class Workers(Protocol):
    """Work on cells side by side, each in a fresh process."""

    @property
    def busy(self) -> list[str]:
        """Names of the cells that are worked on, or wait for a place in a cluster."""

    @property
    def free(self) -> bool:
        """Whether another cell may be started."""

    def start(self, cell: Cell) -> None:
        """Begin to work on a cell."""

    def ended(self, timeout: float) -> list[tuple[str, Outcome]]:
        """Cells whose work has ended since the last call; waits so many seconds for one."""

    def stop(self) -> None:
        """Ask all cells to stop; they write their checkpoints first."""

    def kill(self) -> None:
        """Stop all cells at once."""

    def close(self) -> None:
        """Leave nothing behind."""


class LocalWorkers:
    """Processes on this machine.

    Args:
        folder: Of the sweep.
        jobs: How many at a time.
        episodes: As for `rimrl.experiments.sweep_cell.work_on`.
    """

    def __init__(self, folder: Path, jobs: int, episodes: int | None) -> None:
        self._folder = folder
        self._jobs = jobs
        self._episodes = episodes
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def busy(self) -> list[str]:
        """Names of the cells that are worked on."""
        return list(self._processes)

    @property
    def free(self) -> bool:
        """Whether another cell may be started."""
        return len(self._processes) < self._jobs

    def start(self, cell: Cell) -> None:
        """Begin to work on a cell; what the process says goes to the cell's log."""
        log = Record(self._folder, cell.name).log
        module = "rimrl.experiments.sweep_cell"
        words = [sys.executable, "-m", module, str(self._folder), cell.name, str(self._episodes or 0)]
        threads = dict.fromkeys(_THREADS, str(cell.config.train.num_threads))
        with appending(log, self._folder) as stream:
            self._processes[cell.name] = subprocess.Popen(
                words,
                # Held open for as long as this process lives: the cell stops when it ends.
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                env=os.environ | threads,
                # Ctrl-C in a terminal goes to a whole group; this process passes it on, once.
                start_new_session=True,
            )

    def ended(self, timeout: float) -> list[tuple[str, Outcome]]:
        """Cells whose process has ended."""
        deadline = time.monotonic() + timeout
        while True:
            done = {name: code for name, each in self._processes.items() if (code := each.poll()) is not None}
            if done or time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        return [(name, self._outcome(name, code)) for name, code in done.items()]

    def stop(self) -> None:
        """Ask all processes to stop."""
        for process in self._processes.values():
            process.terminate()

    def kill(self) -> None:
        """Kill all processes."""
        for process in self._processes.values():
            process.kill()

    def close(self) -> None:
        """Kill what is left and wait for it."""
        self.kill()
        for process in self._processes.values():
            process.wait()

    def _outcome(self, name: str, code: int) -> Outcome:
        process = self._processes.pop(name)
        if process.stdin is not None:
            process.stdin.close()
        record = Record(self._folder, name)
        if code in _ENDS and code != CODES["failed"]:
            return Outcome(_ENDS[code], None if code == 0 else _last_words(record))  # type: ignore[arg-type]
        attempts = record.attempts
        if attempts and attempts[-1].get("pid") == process.pid and attempts[-1]["state"] == "failed":
            return Outcome("failed", attempts[-1]["message"])
        message = f"the process was killed by {_signal(-code)}" if code < 0 else _last_words(record)
        record.close_dead(message)
        return Outcome("died", message)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_words(record: Record) -> str:
    """The last line of a log."""
    try:
        with record.log.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _LAST_BYTES))
            lines = stream.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        lines = []
    said = [line.strip().removeprefix("rimrl: ") for line in lines if line.strip()]
    return said[-1][:500] if said else "its process ended without a word"
