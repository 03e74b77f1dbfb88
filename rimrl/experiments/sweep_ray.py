"""The cells of a sweep as tasks of a Ray cluster (``pip install 'rimrl[ray]'``)."""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rimrl.errors import RunFailedError, UsageError
from rimrl.experiments.sweep_cell import Outcome, Record, work_on
from rimrl.experiments.sweep_grid import Cell
from rimrl.files import appending

# Ray itself tries for minutes, and then ends the process.
_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 30.0
_PROBE = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); ray.shutdown()"


class RayWorkers:
    """Tasks of a Ray cluster, each in a fresh worker process.

    Ray itself retries nothing, so that one place counts attempts.

    Args:
        folder: Of the sweep, on a disk that all nodes share.
        address: ``auto`` for the cluster that this machine belongs to, ``HOST:6379``, ``ray://HOST:10001``, or
            ``local`` for a Ray of its own on this machine.
        jobs: How many at a time; None for as many as the cluster has room for.
        gpus: Of each cell; None for one where ``train.device`` asks for one, else 0.
        episodes: As for `rimrl.experiments.sweep_cell.work_on`.

    Raises:
        UsageError: If Ray is not installed or the address does not answer within `_PROBE_SECONDS`.
    """

    def __init__(self, folder: Path, address: str, jobs: int | None, gpus: float | None, episodes: int | None) -> None:
        self._ray = _import_ray()
        self._folder = folder.resolve()
        self._jobs = jobs
        self._gpus = gpus
        self._episodes = episodes
        self._tasks: dict[Any, str] = {}
        self._address = address
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address != "local":
            _probe(address)
        try:
            self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _unreachable(address, str(error)) from None
        # A process for each task: what one leaves in memory must not be in the next one.
        self._work = self._ray.remote(max_calls=1, max_retries=0)(_work_on)

    @property
    def busy(self) -> list[str]:
        """Names of the cells that are worked on, or wait for a place."""
        return list(self._tasks.values())

    @property
    def free(self) -> bool:
        """Whether another cell may be handed over."""
        return self._jobs is None or len(self._tasks) < self._jobs

    def start(self, cell: Cell) -> None:
        """Hand a cell to the cluster."""
        needs = {"num_cpus": cell.config.train.num_threads, "num_gpus": self._gpus}
        if self._gpus is None:
            needs["num_gpus"] = 1.0 if cell.config.train.device.startswith("cuda") else 0.0
        task = self._work.options(**needs, name=f"rimrl {cell.name}")
        self._tasks[task.remote(str(self._folder), cell.name, self._episodes)] = cell.name

    def ended(self, timeout: float) -> list[tuple[str, Outcome]]:
        """Cells whose task has ended.

        Raises:
            RunFailedError: If the cluster is lost.
        """
        if not self._tasks:
            return []
        try:
            done, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=timeout)
            return [(name, self._outcome(task, name)) for task in done if (name := self._tasks.pop(task))]
        except (self._ray.exceptions.RaySystemError, self._ray.exceptions.RpcError, ConnectionError) as error:
            raise RunFailedError(
                f"lost Ray at {self._address} ({_one_line(error)}); once it is there, the same command goes on"
            ) from None

    def stop(self) -> None:
        """Ask all tasks to stop."""
        for task in self._tasks:
            self._ray.cancel(task)

    def kill(self) -> None:
        """End the processes of all tasks."""
        for task in self._tasks:
            with suppress(Exception):  # of those that ended by themselves
                self._ray.cancel(task, force=True)

    def close(self) -> None:
        """Leave the cluster."""
        self.kill()
        self._ray.shutdown()

    def _outcome(self, task: Any, name: str) -> Outcome:
        errors = self._ray.exceptions
        record = Record(self._folder, name)
        try:
            outcome: Outcome = self._ray.get(task)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            message = f"the Ray worker died ({_one_line(error)})"
        except errors.TaskCancelledError:
            record.close_dead("stopped")
            return Outcome("interrupted")
        except errors.RayError as error:
            message = _one_line(error)
        else:
            return outcome
        record.close_dead(message)
        return Outcome("died", message)


def _work_on(folder: str, cell: str, episodes: int | None) -> Outcome:
    """The task: what it says goes to the cell's log."""
    with _into(Record(Path(folder), cell).log, Path(folder)):
        return work_on(Path(folder), cell, episodes)


@contextmanager
def _into(log: Path, folder: Path) -> Iterator[None]:
    """Send standard output and standard error to a file, those of libraries included."""
    try:
        stream = appending(log, folder)
    except UsageError:  # work_on says what is wrong with the folder
        yield
        return
    with stream:
        kept = [(number, os.dup(number)) for number in (1, 2)]
        for number, _ in kept:
            os.dup2(stream.fileno(), number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, before in kept:
                os.dup2(before, number)
                os.close(before)


def _import_ray() -> Any:
    try:
        import ray  # noqa: PLC0415 (an extra)
        import ray.exceptions  # noqa: PLC0415
    except ImportError:
        raise UsageError("--ray needs Ray, which is not installed; run: pip install 'rimrl[ray]'") from None
    return ray


def _probe(address: str) -> None:
    """Refuse an address that no Ray answers at, in a process of its own, which can be given up."""
    host = re.fullmatch(r"(?:ray://)?(\[[^]]+\]|[^:/]+):(\d+)", address)
    if host is None and address != "auto":
        raise UsageError(f"--ray {address!r} is no address; write auto, local, HOST:6379 or ray://HOST:10001")
    if host is not None:
        try:
            socket.create_connection((host[1].strip("[]"), int(host[2])), timeout=_CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from None
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"no Ray answered within {_PROBE_SECONDS:.0f} seconds") from None
    if done.returncode:
        raise _unreachable(address, (done.stderr.strip().split("\n") or [""])[-1])


def _unreachable(address: str, why: str) -> UsageError:
    start = "; start one with: ray start --head" if address == "auto" else ""
    return UsageError(f"cannot reach Ray at {address!r} from {platform.node()}: {_one_line(why)}{start}")


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
