"""An agent is played only under a configuration that describes it; how many of its units work may be changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.errors import UsageError
from rimrl.experiments.inspect import record
from rimrl.experiments.loading import load_agent
from rimrl.experiments.run import Run
from tests.commands import SMALL, SMALL_ANY, STEPS, call, read_json, succeed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loading") / "run"
    succeed("train", "tmaze/rim", *SMALL, "--total-timesteps", str(STEPS), "--run-dir", path)
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    return copy


@pytest.fixture(scope="module")
def evaluated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with an evaluation."""
    path = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained, path)
    succeed("evaluate", path, "--episodes", "2", "--split", "train", "--no-random", "--quiet")
    return path


def edit(run: Path, group: str, **changes: Any) -> None:
    file = run / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config[group] |= changes
    file.write_text(yaml.safe_dump(config))


EDITS: dict[str, dict[str, Any]] = {
    "core.num_active": {"num_active": 1},
    "core.communication_heads": {"communication_heads": 2},
    "core.initialization": {"initialization": "xavier"},
    "agent.gamma": {"gamma": 0.5},
    "agent.core_sharing": {"core_sharing": "separate"},
    "agent.n_epochs": {"n_epochs": 7},
    "agent.learning_rate": {"learning_rate": 0.5},
    "agent.net_arch": {"net_arch": [8]},
    "env.kwargs.max_length": {"kwargs": {"max_length": 3}},
    "env.n_envs": {"n_envs": 3},
    "train.seed": {"seed": 9},
    "train.total_timesteps": {"total_timesteps": 5},
}


@pytest.mark.parametrize(
    ("verb", "key"),
    [("evaluate", key) for key in EDITS]
    + [(verb, key) for verb in ("inspect", "export") for key in ("core.num_active", "agent.net_arch", "train.seed")],
)
def test_an_edited_configuration_is_refused_before_anything_is_played(verb: str, key: str, run: Path) -> None:
    edit(run, key.split(".", maxsplit=1)[0], **EDITS[key])
    before = {file.name for file in run.iterdir()}
    answer = call(verb, run, *((run.parent / "out",) if verb == "export" else ()))
    assert answer.code == 2
    assert key in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert {file.name for file in run.iterdir()} == before
    assert not (run.parent / "out").exists()


@pytest.mark.parametrize("key", ["agent.learning_rate", "train.seed", "core.num_active"])
@pytest.mark.parametrize("verb", ["compare", "report", "resume"])
def test_no_other_verb_takes_it_either(key: str, verb: str, evaluated: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated, run)
    edit(run, key.split(".", maxsplit=1)[0], **EDITS[key])
    words = ("train", "--resume", run, "--total-timesteps", "999") if verb == "resume" else (verb, run)
    answer = call(*words)
    assert answer.code == 2
    assert key in answer.err


def test_where_a_run_is_played_may_be_changed(run: Path) -> None:
    edit(run, "train", num_threads=1, device="cpu")
    succeed("evaluate", run, "--episodes", "2", "--split", "train", "--no-random", "--quiet")


def test_changes_that_were_accepted_are_no_edits(tmp_path: Path) -> None:
    run = tmp_path / "run"
    best = ("--train.eval_freq", "32", "--train.eval_episodes", "2")
    succeed("train", "tmaze/rim", *SMALL, *best, "--total-timesteps", str(STEPS), "--run-dir", run)
    succeed(
        "train", "--resume", run, "--accept-changes", "--agent.ent_coef", "0.5", "--total-timesteps", str(2 * STEPS),
        "--quiet",
    )  # fmt: skip
    for which in ((), ("--best",)):
        succeed("evaluate", run, "--episodes", "2", "--split", "train", "--no-random", "--quiet", *which)


def test_an_edited_run_of_a_sequence_task_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    succeed(
        "sequence", "copying", "--core", "rim", "--core.hidden_size", "24", "--core.input_value_size", "16",
        "--num-updates", "2", "--task.blanks", "3", "--task.test_blanks", "[3]", "--task.num_digits", "2",
        "--train.test_sequences", "8", "--run-dir", run, "--quiet",
    )  # fmt: skip
    succeed("compare", run)
    edit(run, "core", num_active=2)
    for verb in ("compare", "evaluate"):
        answer = call(verb, run)
        assert answer.code == 2
        assert "core.num_active" in answer.err


def test_a_core_of_another_name_is_refused(run: Path) -> None:
    edit(run, "core", name="riglstm")
    answer = call("evaluate", run)
    assert answer.code == 2


def test_a_configuration_edited_after_its_evaluation_labels_no_column(run: Path) -> None:
    succeed("evaluate", run, "--episodes", "2", "--split", "train", "--no-random", "--quiet")
    succeed("compare", run)
    edit(run, "core", num_active=1)
    answer = call("compare", run)
    assert answer.code == 2
    assert "core.num_active" in answer.err


@pytest.mark.parametrize("num_active", [1, 2, 3])
def test_as_many_units_work_as_asked_for(num_active: int, trained: Path) -> None:
    agent = load_agent(Run.open(trained), num_active=num_active)
    assert isinstance(agent.policy, RecurrentCorePolicy)
    assert agent.policy.core.num_active == num_active
    recording = record(Run.open(trained), episodes=2, num_active=num_active, progress_bar=False)
    np.testing.assert_array_equal(recording.arrays["active"].sum(axis=-1), num_active)


def test_an_ablation_goes_to_files_of_its_own(run: Path) -> None:
    played = ("--episodes", "4", "--split", "train", "--no-random", "--quiet")
    succeed("evaluate", run, *played)
    before = (run / "evaluation.json").read_text()
    answer = succeed("evaluate", run, *played, "--core.num_active", "1")
    assert (run / "evaluation.json").read_text() == before
    ablated = read_json(run / "evaluation-num_active=1.json")
    assert ablated["num_active"] == 1
    assert ablated["core_options"]["num_active"] == 2
    assert "train" in answer.out
    succeed("inspect", run, "--episodes", "1", "--core.num_active", "1", "--quiet")
    assert [folder.name for folder in (run / "inspection").iterdir()] == ["train-num_active=1"]


@pytest.mark.parametrize("value", ["0", "4", "2,1", "x", "1.5"])
def test_a_number_that_the_core_cannot_have_is_refused(value: str, run: Path) -> None:
    answer = call("evaluate", run, "--core.num_active", value)
    assert answer.code == 2
    assert "num_active" in answer.err
    assert not list(run.glob("evaluation*"))


def test_a_core_without_units_has_no_number_of_them(tmp_path: Path) -> None:
    succeed(
        "train", "tmaze/lstm", *SMALL_ANY, "--agent.batch_size", "32", "--core.hidden_size", "8", "--total-timesteps",
        str(STEPS), "--run-dir", tmp_path / "run",
    )  # fmt: skip
    with pytest.raises(UsageError, match="selects units"):
        load_agent(Run.open(tmp_path / "run"), num_active=1)
