"""``rimrl sweep``: one experiment over seeds and values of its keys, on this machine or on a cluster.

A sweep is a folder, which ``rimrl compare`` and ``rimrl report`` read:

sweep.yaml        what was asked for, and every experiment complete; ``rimrl sweep FOLDER`` goes on with it
sweep.json        every cell with its state; brought up to date whenever one changes
KEY=VALUE/…/seed_N         run folders
logs/KEY=VALUE/…/seed_N.*  what each cell said, and its attempts

A cell that has finished is never trained again; one that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from tqdm import tqdm

from rimrl.errors import RunFailedError, UsageError
from rimrl.experiments.checkpoints import flat
from rimrl.experiments.config_files import config_from
from rimrl.experiments.evaluate import MOST_EPISODES
from rimrl.experiments.run import Run
from rimrl.experiments.sweep_cell import LOGS, Outcome, Record, is_done, work_on
from rimrl.experiments.sweep_config import FILE, LARGEST, MOST_VALUES, SweepConfig, check_same, merged, read
from rimrl.experiments.sweep_grid import Cell, check_cells, make_cells
from rimrl.experiments.sweep_workers import Workers
from rimrl.files import check_writable, locked, refuse_links, remove_empty, write_text
from rimrl.reading import read_json, read_text
from rimrl.runs.environment import run_status
from rimrl.runs.yaml_files import read_yaml

# Between looks at what cells of a cluster say of themselves.
_SECONDS = 5.0


class Sweep:
    """A sweep in its folder.

    Args:
        asked: What to do. Seeds and values are added to those of a sweep that is there.
        folder: Where its runs are, or will be.
        episodes: Evaluate each cell with so many episodes on each split; None for no evaluation.
        check: Make every environment and agent that is yet to be trained, to see whether that can be done.
        progress_bar: Show on standard error how far that is, if it is a terminal.

    Raises:
        UsageError: For what cannot be trained, and for a folder that holds something else or a sweep with other
            settings. Nothing is written then.
    """

    def __init__(
        self,
        asked: SweepConfig,
        folder: Path,
        episodes: int | None = None,
        check: bool = True,
        progress_bar: bool = False,
    ) -> None:
        self.folder = folder
        self.episodes = episodes
        there = folder.is_dir() and (folder / FILE).is_file()
        if folder.exists() and not there and not (folder.is_dir() and _is_free(folder)):
            raise UsageError(f"{folder} holds something else than a sweep; choose another --run-dir")
        check_writable(folder / FILE)
        self.config = merged(read(folder), asked, folder) if there else asked
        self.cells = make_cells(self.config)
        self._by_name = {cell.name: cell for cell in self.cells}
        if there:
            self._check_experiments()
        if check:
            fresh = (cell for cell in self.cells if not (folder / cell.name / "config.yaml").is_file())
            check_cells(fresh, progress_bar)
        self.failures: dict[str, str] = {}

    @property
    def waiting(self) -> list[Cell]:
        """Cells that are yet to be worked on."""
        return [cell for cell in self.cells if not self._is_done(cell)]

    def state(self, cell: Cell) -> str:
        """``"finished"``, ``"pending"``, ``"running"``, ``"interrupted"`` or ``"failed"``."""
        if self._is_done(cell):
            return "finished"
        attempts = Record(self.folder, cell.name).attempts
        state = attempts[-1]["state"] if attempts else None
        return state if state in ("running", "interrupted", "failed") else "pending"

    def run(self, workers: Workers, retries: int = 2, progress_bar: bool = True) -> bool:
        """Work on what has not finished yet; a cell that fails does not keep others from being trained.

        Args:
            workers: Who does it.
            retries: How often a cell is tried again whose process died or whose run broke. Bad input is not.
            progress_bar: Show progress on standard error.

        Returns:
            Whether it came to its end; False where it was interrupted.

        Raises:
            UsageError: If another process works on this sweep.
            RunFailedError: At the end, if cells failed; names the first.
        """
        busy = f"another process works on the sweep {self.folder}; wait for it or stop it"
        with self._opened(), locked(self.folder / LOGS / ".lock", busy), _asked_to_stop() as signals:
            for cell in self.waiting:  # nobody works on any now
                Record(self.folder, cell.name).close_dead("the process was killed")
            queue = deque(self.waiting)
            total = len(self.cells)
            bar = tqdm(
                total=total,
                initial=total - len(queue),
                desc=str(self.folder),
                unit="cell",
                disable=not progress_bar,
                mininterval=0,
            )
            try:
                with bar:
                    self._work(queue, workers, retries, signals, bar)
            finally:
                workers.close()
                self.save()
        if signals:
            return False
        if self.failures:
            name, reason = next(iter(self.failures.items()))
            others = "the others are done, and " if len(self.failures) < total else ""
            raise RunFailedError(
                f"{len(self.failures)} of {total} cells failed, the first {self.folder / name}: {reason} "
                f"(log: {Record(self.folder, name).log}); {others}the same command tries these again"
            )
        return True

    def run_one(self, number: int, progress_bar: bool = True) -> Outcome:
        """Work on one cell in this process, beside others that work on other cells.

        Raises:
            UsageError: If there is no such cell, or a whole sweep is at work in the folder.
        """
        if not 0 <= number < len(self.cells):
            raise UsageError(f"--cell {number}: the sweep has the cells 0 to {len(self.cells) - 1}; --plan lists them")
        busy = f"another process works on the whole sweep {self.folder}; wait for it or stop it"
        with self._opened(), locked(self.folder / LOGS / ".lock", busy, shared=True):
            try:
                return work_on(self.folder.resolve(), self.cells[number].name, self.episodes, progress_bar)
            finally:
                self.save()

    def save(self) -> None:
        """Write ``sweep.json``."""
        lock = self.folder / LOGS / ".saving"
        with locked(lock, f"{lock} is locked by another process", patience=60):
            cells = [self._summary(cell) for cell in self.cells]
            states = Counter(cell["state"] for cell in cells)
            content = {
                "time": datetime.now(UTC).isoformat("T", "seconds"),
                "config": self.config.config,
                "episodes": self.episodes,
                "states": dict(states),
                "cells": cells,
            }
            write_text(self.folder / "sweep.json", json.dumps(content, indent=1) + "\n", self.folder)

    def _work(self, queue: deque[Cell], workers: Workers, retries: int, signals: list[int], bar: Any) -> None:
        tried: Counter[str] = Counter()
        saved, heard = 0.0, 0
        while queue or workers.busy:
            while queue and workers.free and not signals:
                workers.start(queue.popleft())
                saved = 0.0
            if len(signals) > heard:
                (workers.kill if heard else workers.stop)()
                heard += 1
            if signals and not workers.busy:
                return
            for name, outcome in workers.ended(0.2):
                saved = 0.0
                if outcome.end == "finished":
                    self.failures.pop(name, None)
                    bar.update()
                elif signals:
                    continue
                elif outcome.end != "refused" and tried[name] < retries:
                    tried[name] += 1
                    bar.write(f"rimrl: {name} is tried again: {outcome.message}", file=sys.stderr)
                    queue.appendleft(self._by_name[name])
                else:
                    self.failures[name] = str(outcome.message)
                    bar.write(f"rimrl: {name} failed: {outcome.message}", file=sys.stderr)
                    bar.set_postfix(failed=len(self.failures), refresh=False)
            if time.monotonic() - saved > _SECONDS:
                self.save()
                saved = time.monotonic()

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Make the folder and write what is asked for, unless that is what is there."""
        experiments: dict[str, Any] = {}
        for cell in self.cells:
            experiments.setdefault(cell.experiment, yaml.safe_load(cell.config.to_yaml()))
        content = yaml.safe_dump(self.config.to_dict() | {"experiments": experiments}, sort_keys=False)
        file, logs = self.folder / FILE, self.folder / LOGS
        refuse_links(logs, self.folder)
        missing = [folder for folder in (logs, *logs.parents) if not folder.exists()]
        try:
            logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write the folder {logs}: {error.strerror}") from None
        lock = logs / ".saving"
        try:
            with locked(lock, f"{lock} is locked by another process", patience=60):
                if not file.is_file() or read_text(file, LARGEST, follow=False) != content:
                    write_text(file, content, self.folder)
        except UsageError:
            if logs in missing:  # nothing of this sweep stays on a disk that is full
                lock.unlink(missing_ok=True)
                remove_empty(missing)
            raise
        yield

    def _check_experiments(self) -> None:
        """Refuse cells that are not what they were: a configuration file, or a default, has changed."""
        found = read_yaml(self.folder / FILE, False, LARGEST, MOST_VALUES).get("experiments")
        checked: set[str] = set()
        for cell in self.cells:
            if cell.experiment not in checked and isinstance(found, dict) and cell.experiment in found:
                checked.add(cell.experiment)
                before = config_from(found[cell.experiment], self.folder / FILE)
                before = replace(before, train=replace(before.train, seed=cell.seed))
                check_same(self.folder, cell.experiment, flat(before), flat(cell.config))
            refuse_links(self.folder / cell.name, self.folder)
            if (self.folder / cell.name / "config.yaml").is_file():
                run = Run.open(self.folder / cell.name)
                check_same(self.folder, cell.name, flat(run.config), flat(cell.config))

    def _is_done(self, cell: Cell) -> bool:
        return is_done(self.folder / cell.name, cell.config, self.episodes)

    def _summary(self, cell: Cell) -> dict[str, Any]:
        attempts = Record(self.folder, cell.name).attempts
        state = self.state(cell)
        seconds = [attempt.get("seconds") for attempt in attempts]
        return {
            "number": cell.number,
            "path": cell.name,
            "settings": dict(cell.settings),
            "seed": cell.seed,
            "state": state,
            "trained": run_status(self.folder / cell.name) == "finished",
            "attempts": len(attempts),
            "seconds": round(sum(each for each in seconds if isinstance(each, int | float)), 1),
            "message": attempts[-1].get("message") if attempts and state != "finished" else None,
        }


def episodes_before(folder: Path) -> int | None:
    """With how many episodes the sweep in a folder was last to be evaluated; None if it was not."""
    try:
        found = read_json(folder / "sweep.json", follow=False)
    except UsageError:
        return None
    episodes = found.get("episodes") if isinstance(found, dict) else None
    well = isinstance(episodes, int) and not isinstance(episodes, bool) and 0 < episodes <= MOST_EPISODES
    return episodes if well else None


def default_folder(config: str) -> Path:
    """``runs/sweeps/NAME``: always the same, so that the same command goes on with what it began."""
    return Path("runs") / "sweeps" / (Path(config).stem if Path(config).suffix else config)


def _is_free(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} <= {LOGS}  # which a process beside this one makes first


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of being ended by them."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield asked
        return

    def note(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
