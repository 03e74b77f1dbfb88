"""Runs that are stopped or run out of disk while they are being prepared leave nothing behind."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rimrl.errors import UsageError
from rimrl.experiments import train as train_module
from rimrl.experiments.sweep import Sweep
from rimrl.experiments.sweep_config import ask
from rimrl.sequence import train as sequence_module
from tests.commands import SMALL, call, files, succeed
from tests.conftest import TRAINED_STEPS

BEGIN = ("train", "distractors/rim", *SMALL, "--total-timesteps", "128", "--run-dir", "new")
RESUME = ("train", "--resume", "run", "--total-timesteps", str(TRAINED_STEPS + 256), "--accept-changes", "--quiet")


def fill_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let no text be written after so many."""
    real, written = Path.write_text, []

    def full(self: Path, *args: Any, **kwargs: Any) -> int:
        written.append(self)
        if len(written) > after:
            real(self, "half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_run_is_prepared(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_module, "make_agent", stopped)
    monkeypatch.setattr(sequence_module, "make_model", stopped)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    for words in (BEGIN, ("sequence", "copying", "--run-dir", "new", "--quiet")):
        answer = call(*words)
        assert (answer.code, answer.err) == (130, "rimrl: interrupted\n")
        assert files(tmp_path) == {}
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_what_killed_processes_left_is_removed_once_a_run_goes_on(run: Path) -> None:
    left = [run / ".before-0123456789abcdef", run / "resume" / ".partial-0123456789abcdef", run / ".partial-old.zip"]
    for folder in left[:2]:
        folder.mkdir()
        (folder / "monitor.csv").write_text("old")
    left[2].write_text("half")
    os.utime(left[2], (0, 0))
    (run / ".partial-new.json").write_text("of an evaluation beside it")
    succeed(*RESUME)
    assert not any(path.exists() for path in left)
    assert [path.name for path in run.rglob(".*")] == [".partial-new.json"]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_when_a_run_goes_on(after: int, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (run / "progress.csv").open("a") as file:
        file.write("\n")  # which going on would cut off
    before = files(run)
    with monkeypatch.context() as patched:
        fill_disk(patched, after)
        answer = call(*RESUME)
    assert answer.code == 2
    assert "No space left" in answer.err
    assert answer.err.count("\n") == 1
    assert files(run) == before
    succeed(*RESUME)


def test_a_full_disk_when_a_sweep_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ask("distractors/rim", "0")
    with monkeypatch.context() as patched:
        fill_disk(patched, 0)
        with (
            pytest.raises(UsageError, match="No space left"),
            Sweep(asked, tmp_path / "a" / "b", check=False).opened("busy"),
        ):
            pytest.fail("there is no room")
    assert files(tmp_path) == {}
