"""A study: trials in one folder, worked on side by side until all are finished.

A study is a folder:

STUDY.yaml        what was asked for
STUDY.json        every trial with its state; brought up to date whenever one changes
TRIAL/            the folder of a trial
logs/TRIAL.*      what it said, and its attempts (`rimrl.studies.record`)

A trial that has finished is never worked on again. One that was stopped goes on, if it knows how.
"""

from __future__ import annotations

import json
import math
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from tqdm import tqdm

from rimrl.errors import RunFailedError, UsageError, invalid_value, trying, wrong
from rimrl.files import check_writable, locked, refuse_links, remove_empty, write_text
from rimrl.reading import MEGABYTE, read_text
from rimrl.runs.stopping import Stop, graceful_stop
from rimrl.studies.record import LOGS, Record
from rimrl.studies.trial import Outcome, Trial
from rimrl.studies.worker import PATIENCE, work_on
from rimrl.studies.workers import Workers

# Between looks at what trials on a cluster say of themselves.
_SECONDS = 5.0
_LARGEST = 64 * MEGABYTE

T = TypeVar("T", bound=Trial)


class Study(ABC, Generic[T]):
    """Trials in one folder.

    Args:
        folder: Where they are, or will be.
        trials: In the order in which they begin; a trial comes behind those that it needs.

    Raises:
        ValueError: If a trial needs one that does not come before it.

    Attributes:
        kind: How messages call it.
        noun: How messages call a trial.
        failures: Why trials failed, by their names.
        left_out: Which failed trial those needed that were not worked on, by their names.
    """

    kind: ClassVar[str]
    noun: ClassVar[str]

    def __init__(self, folder: Path, trials: Sequence[T]) -> None:
        self.folder = folder
        self.trials = list(trials)
        self.failures: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        before: set[str] = set()
        for trial in self.trials:
            if not before.issuperset(trial.needs):
                raise ValueError(f"{trial.name} needs {', '.join(trial.needs)}, which must come before it")
            before.add(trial.name)

    @abstractmethod
    def description(self) -> str:
        """Content of ``STUDY.yaml``."""

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """Content of ``STUDY.json``."""

    def prepare(self, progress_bar: bool) -> None:
        """Do what comes before all trials; nobody else works in the folder meanwhile."""

    @classmethod
    def is_in(cls, folder: Path) -> bool:
        """Whether a study of this kind is in a folder.

        Raises:
            UsageError: If something else is, or the folder cannot be written.
        """
        names = {each.name for each in folder.iterdir()} if folder.is_dir() else {""} if folder.exists() else set()
        there = (folder / f"{cls.kind}.yaml").is_file()
        if not there and not names <= {LOGS}:  # logs alone come from a process beside this one, which has just begun
            raise wrong(folder, f"holds something else than a {cls.kind}", "choose another --run-dir", "state")
        check_writable(folder / f"{cls.kind}.yaml")
        return there

    @property
    def waiting(self) -> list[T]:
        """Trials that are not finished."""
        return [trial for trial in self.trials if not trial.is_done(self.folder)]

    def progress(self) -> dict[str, dict[str, Any]]:
        """How far each trial is, by its name.

        Returns:
            ``state``: ``"finished"``, ``"pending"``, ``"running"``, ``"interrupted"``, ``"failed"``, or ``"blocked"``
            while a trial that it needs has failed or is blocked; ``attempts``: how many; ``seconds`` that they took;
            ``message``: what the last one said, unless it is finished.
        """
        found: dict[str, dict[str, Any]] = {}
        for trial in self.trials:
            attempts = Record(self.folder, trial.name).attempts
            last = attempts[-1] if attempts else {}
            state = last.get("state")
            if trial.is_done(self.folder):
                state = "finished"
            elif state != "running" and any(found[need]["state"] in ("failed", "blocked") for need in trial.needs):
                state = "blocked"
            elif state not in ("running", "interrupted", "failed"):
                state = "pending"
            seconds = [each["seconds"] for each in attempts if isinstance(each.get("seconds"), int | float)]
            found[trial.name] = {
                "state": state,
                "attempts": len(attempts),
                "seconds": round(sum(seconds), 1),
                "message": None if state == "finished" else last.get("message"),
            }
        return found

    def run(self, workers: Workers[Any], retries: int = 2, progress_bar: bool = True) -> bool:
        """Work on what has not finished yet; a trial that fails keeps none from its work but those that need it.

        Args:
            workers: Who does it.
            retries: How often a trial is tried again whose process died or that broke. Bad input is not.
            progress_bar: Show progress on standard error.

        Returns:
            Whether it came to its end; False where it was interrupted.

        Raises:
            UsageError: If another process works on this study.
            RunFailedError: At the end, if trials failed; names the first.
        """
        busy = f"another process works on the {self.kind} {self.folder}; wait for it or stop it"
        with self.opened(busy):
            self.prepare(progress_bar)
            with graceful_stop() as stop:
                try:
                    self._close_dead()
                    self._work(workers, retries, stop, progress_bar)
                finally:
                    workers.close()
                    self._close_dead()
                    self.save()
        if stop.requested:
            return False
        if self.failures:
            raise self._failed()
        return True

    def run_one(self, number: int, progress_bar: bool = True) -> Outcome:
        """Work on one trial in this process, beside others that work on other trials.

        What it needs is worked on first. Where another process is at that, this one waits.

        Raises:
            UsageError: If there is no such trial, or a whole study is at work in the folder.
        """
        if not 0 <= number < len(self.trials):
            raise invalid_value(
                "--trial", f"a {self.noun} from 0 to {len(self.trials) - 1}", number, "--plan lists them"
            )
        busy = f"another process works on the whole {self.kind} {self.folder}; wait for it or stop it"
        with self.opened(busy, shared=True):
            try:
                return self._with_needs(self.trials[number], progress_bar, PATIENCE)
            finally:
                self.save()

    def save(self) -> None:
        """Write ``STUDY.json``."""
        with self._saving():
            content = json.dumps(self.summary(), indent=1) + "\n"
            write_text(self.folder / f"{self.kind}.json", content, self.folder)

    @contextmanager
    def opened(self, busy: str, shared: bool = False) -> Iterator[None]:
        """Make the folder, keep others out of it, and write what is asked for, unless that is what is there.

        Args:
            busy: What to say if another process keeps this one out.
            shared: Let in others that ask for the same.

        Raises:
            UsageError: If another process works in the folder, or it cannot be written; nothing of it is left then.
        """
        file, logs = self.folder / f"{self.kind}.yaml", self.folder / LOGS
        content = self.description()
        refuse_links(logs, self.folder)
        missing = [folder for folder in (logs, *logs.parents) if not folder.exists()]
        with trying("write the folder", logs):
            logs.mkdir(parents=True, exist_ok=True)
        held = False
        try:
            with locked(logs / ".lock", busy, shared):
                held = True
                with self._saving():
                    before = None
                    with suppress(UsageError):  # nothing there, or no file of ours
                        before = read_text(file, _LARGEST, follow=False)
                    if before != content:
                        write_text(file, content, self.folder)
                yield
        except UsageError:
            if held and logs in missing and not file.exists():  # nothing of it stays on a disk that is full
                for name in (".saving", ".lock"):
                    (logs / name).unlink(missing_ok=True)
            remove_empty(missing)
            raise

    def _saving(self) -> AbstractContextManager[None]:
        lock = self.folder / LOGS / ".saving"
        return locked(lock, f"{lock} is locked by another process", patience=60)

    def _with_needs(self, trial: T, progress_bar: bool, patience: float) -> Outcome:
        for need in (each for each in self.trials if each.name in trial.needs):
            outcome = self._with_needs(need, progress_bar, math.inf)
            if outcome.end == "interrupted":
                return outcome
            if outcome.end != "finished":
                return Outcome("failed", f"not run, because {need.name} failed: {outcome.message}")
        return work_on(self.folder, trial, progress_bar, patience)

    def _close_dead(self) -> None:
        """Note which attempts died, where nobody works on any trial."""
        for trial in self.waiting:
            Record(self.folder, trial.name).close_dead("the process was killed")

    def _work(self, workers: Workers[Any], retries: int, stop: Stop, progress_bar: bool) -> None:
        queue, total = self.waiting, len(self.trials)
        by_name = {trial.name: trial for trial in queue}
        left, tried = set(by_name), Counter[str]()
        stopping, saved = False, 0.0
        with tqdm(
            desc=str(self.folder),
            total=total,
            initial=total - len(queue),
            unit=self.noun,
            disable=not progress_bar,
            mininterval=0,
        ) as bar:
            while queue or workers.busy:
                while workers.free and not stop.requested and (ready := _next(queue, left)) is not None:
                    workers.start(ready)
                    saved = 0.0
                if stop.requested and not stopping:
                    stopping = True
                    workers.stop()
                if stopping and not workers.busy:
                    return
                for name, outcome in workers.ended(0.2):
                    saved = 0.0
                    if outcome.end == "finished":
                        left.discard(name)
                        bar.update()
                    elif stop.requested:
                        continue
                    elif outcome.end != "refused" and tried[name] < retries:
                        tried[name] += 1
                        bar.write(f"rimrl: {name} is tried again: {outcome.message}", file=sys.stderr)
                        queue.insert(0, by_name[name])
                    else:
                        bar.write(f"rimrl: {name} failed: {outcome.message}", file=sys.stderr)
                        queue = self._without(name, str(outcome.message), queue)
                        bar.set_postfix(failed=len(self.failures), left_out=len(self.left_out), refresh=False)
                if time.monotonic() - saved > _SECONDS:
                    self.save()
                    saved = time.monotonic()

    def _without(self, name: str, message: str, queue: list[T]) -> list[T]:
        """Note that a trial failed; returns what is left of the queue without those that need it."""
        self.failures[name] = message
        left = []
        for trial in queue:
            lost = next((need for need in trial.needs if need in self.failures or need in self.left_out), None)
            if lost is None:
                left.append(trial)
            else:
                self.left_out[trial.name] = lost
        return left

    def _failed(self) -> RunFailedError:
        total, failed, left_out = len(self.trials), len(self.failures), len(self.left_out)
        name, reason = next(iter(self.failures.items()))
        needed = f"not run because of that: {left_out}; " if left_out else ""
        others = "the others are done, and " if failed + left_out < total else ""
        return RunFailedError(
            f"{failed} of {total} {self.noun}s failed, the first {self.folder / name}: {reason} "
            f"(log: {Record(self.folder, name).log}); {needed}{others}the same command tries these again"
        )


def _next(queue: list[T], left: set[str]) -> T | None:
    """Take the first trial whose needs are finished out of the queue."""
    for place, trial in enumerate(queue):
        if left.isdisjoint(trial.needs):
            return queue.pop(place)
    return None
