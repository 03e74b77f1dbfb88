"""A folder that holds a run: written whole or not at all, locked while it is trained, and never over another.

config.yaml       the complete configuration, which repeats the run
environment.json  versions, commit and machine, and how the run ended
resume/           checkpoints, see `rimrl.runs.checkpoint_files`
progress.csv      every update        events.out.*  TensorBoard
tracking.json     by what names trackers know the run, if it is tracked (`rimrl.runs.tracked`)
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import yaml

from rimrl.errors import UsageError, invalid_value, missing, quoted, trying, wrong
from rimrl.files import check_writable, locked, remove_leftovers, separate, temporary_folder, write_text, write_together
from rimrl.imports import options as import_options
from rimrl.runs.config import Configuration
from rimrl.runs.environment import Status, run_facts, run_status
from rimrl.runs.kinds import Kind
from rimrl.runs.tracking import Tracking
from rimrl.runs.tracking import options as track_options

TRACKING = "tracking.json"
_WRITTEN_FILES = (
    "config.yaml",
    "environment.json",
    "model.zip",
    "model.safetensors",
    "best_model.zip",
    "monitor.csv",
    "progress.csv",
    "traceback.txt",
    TRACKING,
)
_WRITTEN_FOLDERS = ("resume", "checkpoints")
_BEFORE = ".before-"
_LONGEST_WRITE = 3600.0  # seconds; an evaluation may be writing beside a training
_LONGEST_NAME = 250  # bytes; a folder's name may have 255, with a number behind it
_PACKAGES = (
    "rimrl",
    "torch",
    "stable-baselines3",
    "sb3-contrib",
    "gymnasium",
    "minigrid",
    "ale-py",
    "envpool",
    "numpy",
)


C = TypeVar("C", bound=Configuration)


def missing_run(path: Path) -> UsageError:
    """There is no such run folder."""
    return missing(f"run folder {path}", advice="give the folder that a training named when it ended")


class RunFolder(ABC, Generic[C]):
    """One run folder.

    Args:
        path: The folder.
        config: Its configuration.

    Attributes:
        processes: How many train it together; noted in ``environment.json`` if more than one.
        core_backend: What runs the core that learns (`rimrl.cores.base.RecurrentCore.backend`); noted there, too.
        tracking: Where it is logged beside TensorBoard; None for nowhere.
        ended_early: Why a finished training ended before its total; noted there. None if it did not.
    """

    def __init__(self, path: Path, config: C) -> None:
        self.path = path
        self.config = config
        self.processes = 1
        self.core_backend: str | None = None
        self.tracking: Tracking | None = None
        self.ended_early: str | None = None
        self._resumed: list[dict[str, Any]] = []

    @classmethod
    @contextmanager
    def create(cls, path: Path, config: C) -> Iterator[Self]:
        """Begin a run; while the block prepares it, a failure leaves no trace of the folder.

        Raises:
            UsageError: If the folder holds something already or cannot be written.
        """
        with trying("write the run folder", path):  # such as a name that is too long
            _refuse_taken(path)
        missing = [parent for parent in (path, *path.parents) if not parent.exists()]
        run = cls(path, config)
        try:
            with trying("write the run folder", path):
                path.mkdir(parents=True, exist_ok=True)
            run.write("config.yaml", config.to_yaml())
            run.set_status("running", 0)
            yield run
        except BaseException:
            _remove(path, missing)
            raise

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this folder; the lock goes with the process, however it ends.

        What a process that was killed has left behind is removed.

        Raises:
            UsageError: If one does already, or the folder holds links where training writes.
        """
        self.check_own_files()
        with locked(self.path, f"{self.path} is being trained by another process; wait for it or stop it"):
            remove_leftovers(self.path, _BEFORE)
            remove_leftovers(self.path, age=_LONGEST_WRITE)
            for file in self._written_files():
                separate(file)
            yield

    def check_own_files(self) -> None:
        """Refuse a folder in which training, whose writers are SB3's and torch's, would write to another place.

        Raises:
            UsageError: Names the link, or what is neither a file nor a folder of the run.
        """
        folders = [self.path / name for name in _WRITTEN_FOLDERS]
        for place in (*folders, *self._written_files()):
            try:
                kind = stat.S_IFMT(place.lstat().st_mode)
            except OSError:
                continue
            if kind not in (stat.S_IFREG, stat.S_IFDIR) or (place.name in _WRITTEN_FOLDERS and kind != stat.S_IFDIR):
                what = "a link" if kind == stat.S_IFLNK else "no folder" if kind == stat.S_IFREG else "a pipe or device"
                raise wrong(
                    place, f"is {what}, and training would write to it", "copy it, or give another --run-dir", "state"
                )

    def _written_files(self) -> Iterator[Path]:
        """What training writes to, whether or not it is there; of folders what is in them."""
        yield from (self.path / name for name in _WRITTEN_FILES)
        yield from self.path.glob("events.out.tfevents.*")
        for name in _WRITTEN_FOLDERS:
            yield from (self.path / name).glob("*")

    @property
    def kind(self) -> Kind:
        """Which kind of run it is."""
        return self.config.kind

    @property
    def resume_command(self) -> str:
        """What goes on with it, with the modules and the tracker that have to be named."""
        more = import_options(self.config.modules) + track_options(self.tracking)
        return f"{self.kind.command(self.processes)} --resume {quoted(self.path)}{more}"

    @property
    @abstractmethod
    def model_file(self) -> Path:
        """What was learned, at the end of training or where it was interrupted."""

    @property
    def status(self) -> Status | None:
        """How the run ended, or ``"running"``; None if that cannot be read."""
        return run_status(self.path)

    def note_resumption(self, reached: int, exact: bool, changes: list[str], progress: str) -> None:
        """Note in ``environment.json`` that the run goes on, beside earlier times.

        Args:
            reached: From where.
            exact: Whether as if it had not been stopped.
            changes: What changed of the configuration, which is written if anything did.
            progress: ``progress.csv`` up to there.

        Raises:
            UsageError: If one of these files cannot be written; all of them are as they were then.
        """
        self._resumed = run_facts(self.path).get("resumed", [])
        now = datetime.now(UTC).isoformat("T", "seconds")
        self._resumed.append({"time": now, self.kind.reached: reached, "exact": exact, "changes": changes})
        contents = {"environment.json": self._environment("running", reached), "progress.csv": progress}
        if changes:
            contents["config.yaml"] = self.config.to_yaml()
        write_together({self.path / name: content for name, content in contents.items()}, self.path)

    @contextmanager
    def restarting(self, config: C) -> Iterator[None]:
        """Begin a run again that was stopped before its first checkpoint; its files are written anew.

        While the block prepares it, a failure leaves the folder as it was.

        Raises:
            UsageError: If it has learned something, which would be lost.
        """
        if self.model_file.exists() or self.status in ("finished", "interrupted"):
            raise missing("a checkpoint", self.path, f"train {self.path / 'config.yaml'} anew with another --run-dir")
        with trying("write the run folder", self.path):
            before = temporary_folder(self.path, _BEFORE)
        for file in self._logs():
            file.replace(before / file.name)
        try:
            yield
            self.write("config.yaml", config.to_yaml())
        except BaseException:
            for file in self._logs():
                file.unlink()
            for file in before.iterdir():
                file.replace(self.path / file.name)
            raise
        finally:
            shutil.rmtree(before, ignore_errors=True)
        self.config = config
        self.set_status("running", 0)
        print(f"rimrl: {self.path} was stopped before its first checkpoint and starts again", file=sys.stderr)

    def _logs(self) -> list[Path]:
        named = [self.path / "monitor.csv", self.path / "progress.csv"]
        return [file for file in (*named, *self.path.glob("events.out.tfevents.*")) if file.exists()]

    def write(self, name: str, content: str) -> None:
        """Write a text file so that a reader finds the old one or the new one, never a part.

        Raises:
            UsageError: If it cannot be written.
        """
        write_text(self.path / name, content, self.path)

    def check_writable(self, name: str) -> None:
        """Refuse early what `write` would refuse after long work.

        Raises:
            UsageError: If the file could not be written.
        """
        check_writable(self.path / name, self.path)

    def set_status(self, status: Status, reached: int) -> None:
        """Note how far the run is, beside the versions and the machine it runs on."""
        self.write("environment.json", self._environment(status, reached))

    def _environment(self, status: Status, reached: int) -> str:
        now = datetime.now(UTC).isoformat("T", "seconds")
        facts: dict[str, Any] = {"status": status, self.kind.reached: reached, "time": now}
        if self.processes > 1:
            facts["processes"] = self.processes
        if self.core_backend is not None:
            facts["core_backend"] = self.core_backend
        if self.ended_early is not None and status == "finished":
            facts["ended_early"] = self.ended_early
        resumed = {"resumed": self._resumed} if self._resumed else {}
        trained_with = {"config": yaml.safe_load(self.config.to_yaml())}
        return json.dumps(facts | resumed | machine_facts() | trained_with, indent=2, default=str) + "\n"


def default_run_dir(config: Configuration) -> Path:
    """The first free ``runs/NAME_1``, ``runs/NAME_2``, … as rl-baselines3-zoo numbers its folders.

    Raises:
        UsageError: If the name of the configuration would lead out of ``runs``, or is none for a folder.
    """
    name, number = config.name, 1
    if not name.isprintable() or not {"", ".", ".."}.isdisjoint(name.split("/")) or len(name.encode()) > _LONGEST_NAME:
        raise invalid_value(
            "the configuration's name", f"words with / between, {_LONGEST_NAME} bytes at most", name, "give --run-dir"
        )
    while (path := Path("runs") / f"{name}_{number}").exists():
        number += 1
    return path


def machine_facts() -> dict[str, Any]:
    """Versions, commit and machine of this process."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "versions": versions,
        "python": platform.python_version(),
        "commit": _commit(),
        "system": platform.platform(),
        "processor": platform.machine(),
        "cpu_count": os.cpu_count(),
    }


def _commit() -> str | None:
    """The commit that rimrl was imported from, if it is a checkout."""
    root = Path(__file__).resolve().parents[2]
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    top, _, commit = answer.stdout.strip().partition("\n")
    return commit if commit and Path(top) == root else None  # site-packages may lie in a checkout of something else


def _refuse_taken(path: Path) -> None:
    if path.is_dir():
        if not any(path.iterdir()):
            return
        status = run_status(path)
        held = f"a run that is marked {status!r}" if status else "other files"
        raise wrong(path, f"already holds {held}", "choose another --run-dir, or remove it first", "state")
    if path.exists():
        raise wrong(path, "is a file", "--run-dir needs a folder", "state")


def _remove(path: Path, missing: list[Path]) -> None:
    """Take away the folders that this run added, and nothing else."""
    if path in missing:
        shutil.rmtree(path, ignore_errors=True)
    else:
        for child in path.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
            else:
                child.unlink()
    for parent in missing[1:]:
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
