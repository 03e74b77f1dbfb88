"""Masks of invalid actions from the command line; the environments break where an invalid action is taken."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rimrl.agents.load import load
from rimrl.errors import UsageError
from rimrl.experiments.callbacks import Stopping
from rimrl.runs.recording import read_recording
from tests.commands import call, files, read_json, same_weights, succeed

ENV = "tests.masked:Tests/MaskedMultiDiscrete-v0"
UPDATE = 4 * 16
SMALL = (
    *("--env.id", ENV, "--env.n_envs", "4", "--agent.n_steps", "16", "--agent.batch_size", "32", "--quiet"),
    *("--core.hidden_size", "8", "--train.eval_episodes", "2", "--agent.use_masking", "true"),
)
TRAIN = ("train", "recall/lstm", *SMALL, "--train.eval_freq", str(UPDATE))
IMPORT = ("--import", "tests.masked")


@pytest.fixture(scope="module")
def masked_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four updates; to look at, not to touch."""
    path = tmp_path_factory.mktemp("masked") / "run"
    succeed(*TRAIN, "--total-timesteps", str(4 * UPDATE), "--run-dir", path)
    return path


def test_every_verb_plays_under_masks(masked_run: Path, tmp_path: Path) -> None:
    """Random actions, too; and actions are sampled as well as the mode."""
    succeed("evaluate", masked_run, "--episodes", "20", "--quiet", *IMPORT)
    split = read_json(masked_run / "evaluation.json")["splits"]["train"]
    assert split["episodes"] == 20
    assert split["random_return_mean"] > 0  # rewards are sums of valid actions
    succeed("evaluate", masked_run, "--episodes", "20", "--deterministic", "--quiet", *IMPORT)
    succeed("inspect", masked_run, "--episodes", "5", "--output", tmp_path / "seen", "--quiet", *IMPORT)
    assert read_recording(tmp_path / "seen/train").arrays["action"].shape[1] == 3
    succeed("watch", masked_run, "--episodes", "2", "--output", tmp_path / "film.gif", "--quiet", *IMPORT)


def test_a_resumed_run_equals_an_unbroken_one(
    masked_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped within a rollout, and goes on in the middle of episodes."""

    def on_step(self: Any) -> bool:
        self._stop.requested = self.num_timesteps >= 2 * UPDATE + 20
        return not self._stop.requested

    run = tmp_path / "run"
    with monkeypatch.context() as stopping:
        stopping.setattr(Stopping, "_on_step", on_step)
        assert call(*TRAIN, "--total-timesteps", str(4 * UPDATE), "--run-dir", run).code == 130
    assert not same_weights(masked_run, run)
    succeed("train", "--resume", run, "--quiet", *IMPORT)
    assert read_json(run / "environment.json")["resumed"][0]["exact"] is True
    assert same_weights(masked_run, run)


def test_exports_keep_the_switch_and_graphs_are_refused(masked_run: Path, tmp_path: Path) -> None:
    succeed("export", masked_run, tmp_path / "agent", *IMPORT)
    agent = load(tmp_path / "agent")
    assert agent.use_masking is True
    assert "action_masks=" in (tmp_path / "agent/README.md").read_text()
    with pytest.raises(UsageError, match="pass action_masks"):
        agent.predict(agent.observation_space.sample())
    answer = call("export", masked_run, tmp_path / "graph", "--onnx", *IMPORT)
    assert answer.code == 2
    assert "agent.use_masking" in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "graph").exists()


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_an_environment_without_masks_is_refused_before_there_is_a_folder(env: str, tmp_path: Path) -> None:
    answer = call(*TRAIN, "--env.id", env, "--total-timesteps", str(UPDATE), "--run-dir", tmp_path / "run")
    assert answer.code == 2
    assert "use_masking needs" in answer.err
    assert answer.err.count("\n") == 1
    assert files(tmp_path) == {}


def test_a_suite_without_masks_is_refused(masked_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(masked_run, run)
    before = files(run)
    answer = call("evaluate", run, "--suite", "tests.masked:Tests/Unmasked-v0", "--quiet", *IMPORT)
    assert answer.code == 2
    assert "environment that is played" in answer.err
    assert files(run) == before
