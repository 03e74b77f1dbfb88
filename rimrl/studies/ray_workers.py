"""The trials of a study as tasks of a Ray cluster (``pip install 'rimrl[ray]'``)."""

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

from rimrl.errors import RunFailedError, UsageError, cannot, invalid_value, not_installed, one_line
from rimrl.files import appending
from rimrl.studies.record import Record
from rimrl.studies.trial import Outcome, Trial
from rimrl.studies.worker import work_on
from rimrl.studies.workers import Workers

# Ray itself tries for minutes, and then ends the process.
_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 30.0
_PROBE = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); ray.shutdown()"


class RayWorkers(Workers[Any]):
    """Tasks of a Ray cluster, each in a fresh worker process.

    Ray itself retries nothing, so that one place counts attempts.

    Args:
        folder: Of the study, on a disk that all nodes share.
        jobs: How many at a time; None for as many as the cluster has room for.
        address: ``auto`` for the cluster that this machine belongs to, ``HOST:6379``, ``ray://HOST:10001``, or
            ``local`` for a Ray of its own on this machine.
        gpus: Of each trial; None for as many as it asks for itself.

    Raises:
        UsageError: If Ray is not installed or the address does not answer within `_PROBE_SECONDS`.
    """

    def __init__(self, folder: Path, jobs: int | None, address: str, gpus: float | None) -> None:
        super().__init__(folder.resolve(), jobs)
        self._ray = _import_ray()
        self._gpus = gpus
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

    def stop(self) -> None:
        for task in self._running:
            self._ray.cancel(task)

    def close(self) -> None:
        for task in self._running:
            with suppress(Exception):  # of those that ended by themselves
                self._ray.cancel(task, force=True)
        self._ray.shutdown()

    def _launched(self, trial: Trial) -> Any:
        gpus = trial.gpus if self._gpus is None else self._gpus
        task = self._work.options(num_cpus=trial.threads, num_gpus=gpus, name=f"rimrl {trial.name}")
        return task.remote(str(Path.cwd()), str(self._folder), trial)

    def _done(self, timeout: float) -> list[Any]:
        if not self._running:
            return []
        try:
            done: list[Any] = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=timeout)[0]
        except (self._ray.exceptions.RaySystemError, self._ray.exceptions.RpcError, ConnectionError) as error:
            raise RunFailedError(
                f"lost Ray at {self._address} ({one_line(error)}); once it is there, the same command goes on"
            ) from None
        return done

    def _outcome(self, handle: Any, name: str) -> Outcome:
        errors = self._ray.exceptions
        record = Record(self._folder, name)
        try:
            outcome: Outcome = self._ray.get(handle)
        except errors.TaskCancelledError:
            record.close_dead("stopped")
            return Outcome("interrupted")
        except errors.RayError as error:
            dead = isinstance(error, errors.WorkerCrashedError | errors.NodeDiedError | errors.OutOfMemoryError)
            message = f"the Ray worker died ({one_line(error)})" if dead else one_line(error)
        else:
            return outcome
        record.close_dead(message)
        return Outcome("died", message)


def _work_on(beside: str, folder: str, trial: Trial) -> Outcome:
    """The task: works where the study does, for the sake of paths in it, and speaks to the trial's log."""
    with suppress(OSError):  # not on every node; folders that are named in full are found all the same
        os.chdir(beside)
    with _into(Record(Path(folder), trial.name).log, Path(folder)):
        return work_on(Path(folder), trial)


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
        raise not_installed("--ray", "Ray", "rimrl[ray]") from None
    return ray


def _probe(address: str) -> None:
    """Refuse an address that no Ray answers at, in a process of its own, which can be given up."""
    host = re.fullmatch(r"(?:ray://)?(\[[^]]+\]|[^:/]+):(\d+)", address)
    if host is None and address != "auto":
        raise invalid_value("--ray", "auto, local, HOST:6379 or ray://HOST:10001", address)
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
    start = "start one with: ray start --head" if address == "auto" else ""
    return cannot("reach Ray at", f"{address!r} from {platform.node()}", why, start)
