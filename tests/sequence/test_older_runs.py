"""Runs of versions that wrote a sequence model's facts under an agent's keys are read, gone on with and compared."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch as th
from safetensors.torch import load_file

from rimrl.reporting.groups import group_runs
from rimrl.reporting.inspection import read_inspection
from rimrl.reporting.results import read_runs
from rimrl.runs.evaluations import read_evaluation
from tests.commands import call, read_json, succeed
from tests.sequence.small import COPYING

WORDS = (*COPYING, "--train.log_freq", "2", "--train.eval_freq", "4", "--train.resume_freq", "4")
SPLIT = "9_blanks"


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of today, evaluated and inspected."""
    run = tmp_path_factory.mktemp("older") / "new"
    schedule = ("--train.learning_rate_schedule", "constant")
    succeed("sequence", *WORDS, *schedule, "--num-updates", "8", "--run-dir", run)
    succeed("inspect", run, "--episodes", "3", "--split", SPLIT, "--quiet")
    return run


@pytest.fixture
def old(new: Path, tmp_path: Path) -> Path:
    """The same run as version 0.1 left it."""
    run = tmp_path / "old"
    shutil.copytree(new, run)
    change(run / "environment.json", lambda facts: rename(facts, num_updates="num_timesteps"))
    change(run / "evaluation.json", as_before)
    change(run / "inspection" / SPLIT / "inspection.json", as_before)
    for file in (run / "progress.csv", *run.glob("resume/*/progress.csv")):
        file.write_text(file.read_text().replace("time/updates", "time/total_timesteps"))
    for checkpoint in (run / "resume").iterdir():
        seal(checkpoint)
    return run


def rename(facts: dict[str, Any], **names: str) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in facts.items()}


def as_before(facts: dict[str, Any]) -> dict[str, Any]:
    facts = rename(facts, num_updates="num_timesteps", sequences="episodes") | {"deterministic": True, "n_envs": 64}
    del facts["kind"]
    for name, split in facts.get("splits", {}).items():
        each = {"settings": "env_kwargs", "sequences": "episodes", "sequence_cross_entropy": "episode_cross_entropy"}
        facts["splits"][name] = rename(split, **each) | {"env_id": "sequence/copying"}
    if "splits" not in facts:
        facts |= {"episode_noun": "sequence", "timestep_noun": "update"}
    return facts


def change(file: Path, alter: Any) -> None:
    file.write_text(json.dumps(alter(read_json(file))))


def seal(checkpoint: Path) -> None:
    def listed(manifest: dict[str, Any]) -> dict[str, Any]:
        for name, facts in manifest["files"].items():
            content = (checkpoint / name).read_bytes()
            facts |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return manifest

    change(checkpoint / "manifest.json", listed)


def test_its_files_read_as_those_of_today(new: Path, old: Path) -> None:
    assert read_json(old / "evaluation.json") != read_json(new / "evaluation.json")
    assert read_evaluation(old / "evaluation.json") == read_json(new / "evaluation.json")
    assert read_inspection(old / "inspection" / SPLIT).facts == read_inspection(new / "inspection" / SPLIT).facts
    ours, theirs = read_runs([old, new])
    assert ours.steps == theirs.steps == [2, 4, 6, 8]
    assert ours.trials(SPLIT) == 70
    assert ours.asked(SPLIT)["blanks"] == 9


def test_it_is_compared_with_a_run_of_today(new: Path, old: Path, tmp_path: Path) -> None:
    (group,) = group_runs(read_runs([old, new]))
    assert len(group.runs) == 2
    answer = succeed("compare", old, new, "--json", tmp_path / "numbers.json")
    assert "numbers of" not in answer.err
    (summary,) = read_json(tmp_path / "numbers.json")["groups"].values()
    assert [run["num_updates"] for run in summary["runs"]] == [8, 8]
    succeed("report", old, new, "--output", tmp_path / "page.html")


def test_it_is_evaluated_again_to_the_same(new: Path, old: Path) -> None:
    succeed("evaluate", old, "--quiet")
    assert read_json(old / "evaluation.json") == read_json(new / "evaluation.json")


def test_another_split_is_added_to_what_was_evaluated(new: Path, old: Path) -> None:
    succeed("evaluate", old, "--split", SPLIT, "--quiet")
    assert read_json(old / "evaluation.json") == read_json(new / "evaluation.json")


def test_it_goes_on_as_one_of_today_would(new: Path, old: Path, tmp_path: Path) -> None:
    shutil.copytree(new, tmp_path / "again")
    for run in (old, tmp_path / "again"):
        succeed("sequence", "--resume", run, "--num-updates", "12", "--quiet")
    ours, theirs = (load_file(run / "model.safetensors") for run in (old, tmp_path / "again"))
    assert all(th.equal(ours[name], theirs[name]) for name in ours)
    assert read_runs([old])[0].steps == [2, 4, 6, 8, 10, 12]
    assert read_json(old / "environment.json")["num_updates"] == 12
    assert (old / "progress.csv").read_text().count("total_timesteps") == 0


@pytest.mark.parametrize("kind", [None, 7, "", "agents", ["sequence"]])
def test_a_kind_that_there_is_not_is_refused(kind: Any, old: Path) -> None:
    change(old / "evaluation.json", lambda facts: {**facts, "kind": kind})
    answer = call("compare", old)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
