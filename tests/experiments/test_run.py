"""The run folder: written whole or not at all, and never over another."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import rimrl.runs.folder as folder_module
from rimrl.errors import UsageError
from rimrl.experiments.config_files import load_config
from rimrl.experiments.run import Run
from rimrl.runs.folder import default_run_dir, machine_facts
from tests.commands import files, read_json


def test_a_failure_while_preparing_takes_the_folders_away(tmp_path: Path) -> None:
    config = load_config("distractors/rim")
    (tmp_path / "a").mkdir()

    def prepare() -> None:
        with Run.create(tmp_path / "a/b/run", config) as run:
            (run.path / "checkpoints").mkdir()
            (run.path / "checkpoints/early.zip").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        prepare()
    assert files(tmp_path) == {"a": None}


def test_an_interrupt_while_preparing_takes_the_folders_away(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "run", load_config("distractors/rim")):
        raise KeyboardInterrupt
    assert files(tmp_path) == {}


def test_a_failure_after_preparing_keeps_the_folder(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", load_config("distractors/rim")) as run:
        pass
    run.set_status("failed", 12)
    facts = read_json(tmp_path / "run/environment.json")
    assert (facts["status"], facts["num_timesteps"]) == ("failed", 12)
    assert Run.open(tmp_path / "run").config == load_config("distractors/rim")


def test_what_cannot_be_written_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    run = Run(tmp_path, load_config("distractors/rim"))
    run.write("notes.txt", "old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        run.write("folder", "new")
    with pytest.raises(UnicodeEncodeError):
        run.write("notes.txt", "\udcff")
    assert (tmp_path / "notes.txt").read_text() == "old"


def test_a_folder_without_write_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Who runs the tests may be allowed to write anywhere; only what is asked of the system can be tested.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UsageError, match=r"cannot write .*evaluation\.json: the folder .* is read-only"):
        Run(tmp_path, load_config("distractors/rim")).check_writable("evaluation.json")


def test_default_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config("distractors/rim")
    assert default_run_dir(config) == Path("runs/distractors/rim_1")
    (tmp_path / "runs/distractors/rim_1").mkdir(parents=True)
    assert default_run_dir(config) == Path("runs/distractors/rim_2")


def test_the_commit_is_that_of_this_checkout() -> None:
    root = Path(folder_module.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert machine_facts()["commit"] == head.stdout.strip()


def test_a_checkout_of_something_else_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # rimrl installed into the virtual environment of another project that is under version control.
    installed = tmp_path / "venv/lib/site-packages/rimrl/runs"
    installed.mkdir(parents=True)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    monkeypatch.setattr(folder_module, "__file__", str(installed / "folder.py"))
    assert machine_facts()["commit"] is None
