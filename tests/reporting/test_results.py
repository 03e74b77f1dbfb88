"""Reading run folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from rimrl.errors import UsageError
from rimrl.reporting.results import read_runs
from tests.reporting.results import results, split, write_run


def test_what_is_read(tmp_path: Path) -> None:
    run = results(tmp_path / "run", {"train": split(success_rate=0.5)})
    assert run.label == "rim"
    assert run.splits["train"]["success_rate"] == 0.5
    assert run.progress["time/total_timesteps"] == [512, 1024, 1024, 2048]
    assert run.progress["rollout/success_rate"] == [None, 0.5, None, 1.0]
    assert run.progress["eval/mean_reward"] == [None, None, 0.4, None]


def test_labels_are_the_last_part_of_the_configuration(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name, {"train": split()}, f"distractors/{name}") for name in ("lstm", "rim")]
    assert [run.label for run in read_runs(paths)] == ["lstm", "rim"]


def test_without_a_learning_curve(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"train": split()})
    (run / "progress.csv").write_text("")
    assert read_runs([run])[0].progress == {}
    (run / "progress.csv").unlink()
    assert read_runs([run])[0].progress == {}


def test_a_learning_curve_that_is_still_being_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"train": split()})
    with (run / "progress.csv").open("a") as file:
        file.write("3072,0.5")
    progress = read_runs([run])[0].progress
    assert progress["time/total_timesteps"][-1] == 3072
    assert progress["rollout/success_rate"][-1] is None


def test_runs_of_different_suites_do_not_compare(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / suite, {"train": split()}, suite=suite) for suite in ("one", "two")]
    with pytest.raises(UsageError, match=r"one: one, .*two: two"):
        read_runs(paths)
