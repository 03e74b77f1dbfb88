"""Run folders of others: nothing in them leads a verb to write, cut or replace a file that lies elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rimrl.errors import UsageError
from rimrl.experiments.run import Run
from rimrl.experiments.sweep import Sweep
from rimrl.experiments.sweep_config import ask
from tests.commands import call, files, succeed
from tests.conftest import TRAINED_STEPS

EVALUATE = ("evaluate", "run", "--episodes", "1", "--split", "train", "--no-random", "--quiet")
RESUME = ("train", "--resume", "run", "--total-timesteps", str(TRAINED_STEPS + 256), "--accept-changes", "--quiet")
OF_OLD = (
    ".evaluation.json.partial",
    ".environment.json.partial",
    ".config.yaml.partial",
    ".progress.csv.partial",
    ".model.partial.zip",
)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder beside the run that nobody may touch."""
    folder = tmp_path / "outside"
    (folder / "train").mkdir(parents=True)
    for name in ("file", "train/recording.npz", "train.gif", "000000000512"):
        (folder / name).write_text("mine\n" * 1000)
    before = files(folder)
    yield folder
    assert files(folder) == before


def plant(place: Path, outside: Path, kind: str = "file") -> None:
    """Put a link in the place of a file or of a folder, to a file, to where none is yet, or to a folder."""
    if place.is_dir():
        place.rename(place.with_name("moved"))
    place.unlink(missing_ok=True)
    place.symlink_to({"file": outside / "file", "new file": outside / "new", "folder": outside}[kind])


def test_names_that_temporary_files_once_had_mean_nothing(run: Path, outside: Path) -> None:
    for name in OF_OLD:
        plant(run / name, outside)
    succeed(*EVALUATE)
    succeed(*RESUME)
    assert all((run / name).is_symlink() for name in OF_OLD)


def test_a_link_in_the_place_of_a_file_is_replaced(run: Path, outside: Path) -> None:
    plant(run / "evaluation.json", outside)
    succeed(*EVALUATE)
    assert not (run / "evaluation.json").is_symlink()


@pytest.mark.parametrize(
    ("name", "verb"),
    [("inspection", "inspect"), ("inspection/train", "inspect"), ("watch", "watch")],
)
def test_a_link_in_the_place_of_a_folder_is_refused(name: str, verb: str, run: Path, outside: Path) -> None:
    (run / name).parent.mkdir(exist_ok=True)
    plant(run / name, outside, "folder")
    before = sorted(run.rglob("*"))
    answer = call(verb, "run", "--episodes", "1", "--quiet")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert f"{run / name} is a link" in answer.err
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    "name",
    [
        *("config.yaml", "monitor.csv", "progress.csv", "model.zip", "best_model.zip", "environment.json"),
        *("traceback.txt", "resume", "resume/000000009999", "checkpoints", "checkpoints/model_1280_steps.zip"),
        "events.out.tfevents.1.host.1.0",
    ],
)
def test_training_does_not_go_on_where_it_would_write_through_a_link(name: str, run: Path, outside: Path) -> None:
    plant(run / name, outside, "folder" if name in ("resume", "checkpoints", "resume/000000009999") else "file")
    before = sorted(run.rglob("*"))
    answer = call(*RESUME)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert str(run / name) in answer.err
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize("name", ["monitor.csv", "progress.csv", "environment.json", "model.zip", "evaluation.json"])
def test_a_pipe_is_refused_and_nobody_waits_for_it(name: str, run: Path) -> None:
    (run / name).unlink()
    os.mkfifo(run / name)
    verbs = [("compare", "run"), EVALUATE] if name == "evaluation.json" else [RESUME]
    for words in verbs:
        answer = call(*words)
        assert answer.code == 2
        assert answer.err.count("\n") == 1


def test_another_name_of_a_log_keeps_what_it_had(run: Path, tmp_path: Path) -> None:
    copies = {}
    for file in [run / "monitor.csv", run / "best_model.zip", *run.glob("events.*"), *run.glob("checkpoints/*")]:
        copy = tmp_path / f"copy of {file.name}"
        os.link(file, copy)
        copies[copy] = file.read_bytes()
    succeed(*RESUME)
    assert (run / "monitor.csv").read_bytes() != copies[tmp_path / "copy of monitor.csv"]
    assert all(copy.read_bytes() == content for copy, content in copies.items())


def test_a_run_folder_may_itself_be_reached_through_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    run.rename(tmp_path / "scratch" / "kept")
    run.symlink_to(tmp_path / "scratch" / "kept")
    succeed(*EVALUATE)
    succeed(*RESUME)
    assert Run.open(run).status == "finished"
    assert run.is_symlink()


def test_a_sweep_does_not_train_in_cells_that_are_links(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    asked = ask("distractors/rim", "0..1")
    with Sweep(asked, folder, check=False).opened("busy"):
        (folder / "seed_0").symlink_to(run.resolve())
    before = files(run)
    with pytest.raises(UsageError, match="seed_0 is a link"):
        Sweep(asked, folder, check=False)
    assert files(run) == before


@pytest.mark.parametrize("name", ["logs", "logs/.lock", "logs/.saving", "logs/seed_0.log"])
def test_a_sweep_does_not_open_links(name: str, tmp_path: Path, outside: Path) -> None:
    folder = tmp_path / "sweep"
    with Sweep(ask("distractors/rim", "0"), folder, check=False).opened("busy"):
        pass
    plant(folder / name, outside, "folder" if name == "logs" else "new file")
    answer = call("sweep", folder, "--trial", "0", "--quiet")
    assert answer.code == 2, answer
    assert answer.err.count("\n") == 1
