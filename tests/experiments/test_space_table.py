"""Every kind of space works in train, resume, evaluate and export, or `train` refuses it in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path

import gymnasium
import pytest
from gymnasium import spaces

from tests.commands import call, read_json, succeed
from tests.space_table import ACTIONS, OBSERVATIONS, WORKING_ACTIONS, WORKING_OBSERVATIONS, Witness, box

ID = "rimrl-test/Witness-v0"
WORDS = (
    "--agent.n_steps",
    "8",
    "--agent.batch_size",
    "16",
    "--total-timesteps",
    "16",
    "--train.eval_freq",
    "0",
    "--quiet",
)
PLAY = ("--episodes", "2", "--n-envs", "2", "--no-random", "--quiet")
Configure = Callable[[gymnasium.Space[object], gymnasium.Space[object]], Path]


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Configure]:
    """Registers an environment and writes a configuration of it."""

    def configure(observations: gymnasium.Space[object], actions: gymnasium.Space[object]) -> Path:
        gymnasium.register(ID, lambda **_: Witness(observations, actions), disable_env_checker=True)
        file = tmp_path / "witness.yaml"
        file.write_text(f"env: {{id: {ID}, n_envs: 2}}\ncore: {{name: lstm, hidden_size: 6}}\n")
        return file

    yield configure
    gymnasium.registry.pop(ID, None)


# Each kind once, together with one of the other side.
PAIRS = list(zip_longest(WORKING_OBSERVATIONS, WORKING_ACTIONS, fillvalue="Box"))


@pytest.mark.parametrize(("observations", "actions"), PAIRS)
def test_spaces_work_in_every_verb(observations: str, actions: str, configured: Configure, tmp_path: Path) -> None:
    """`Witness` breaks the run where it gets an action that is none of its own."""
    config, run, folder = (
        configured(OBSERVATIONS[observations].space, ACTIONS[actions].space),
        tmp_path / "run",
        tmp_path / "out",
    )
    succeed("train", config, *WORDS, "--train.resume_freq", "16", "--run-dir", run)
    resumed = succeed("train", "--resume", run, "--total-timesteps", "32", "--quiet")
    assert "begin anew" not in resumed.err  # episodes are played back, actions and all
    succeed("evaluate", run, *PLAY)
    succeed("export", run, folder)
    succeed("evaluate", folder, *PLAY)
    of_run, of_export = (read_json(path / "evaluation.json")["splits"]["train"] for path in (run, folder))
    assert of_export["episode_returns"] == of_run["episode_returns"]


@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        ("Discrete from 5", "MultiDiscrete from elsewhere"),
        ("Dict", "MultiDiscrete of uint64"),
        ("Box of one number", "Discrete of int8"),
        ("Box", "Box of bool"),
    ],
)
def test_spaces_work_with_efference_copies(
    observations: str, actions: str, configured: Configure, tmp_path: Path
) -> None:
    config = configured(OBSERVATIONS[observations].space, ACTIONS[actions].space)
    succeed("train", config, *WORDS, "--env.efference_copies", "true", "--run-dir", tmp_path / "run")
    succeed("evaluate", tmp_path / "run", *PLAY)


@pytest.mark.parametrize("actions", ["Discrete from 5", "MultiDiscrete from elsewhere", "Box of bool"])
def test_actions_can_be_inspected(actions: str, configured: Configure, tmp_path: Path) -> None:
    """Discrete ones under their own numbers."""
    run = tmp_path / "run"
    succeed("train", configured(box(2), ACTIONS[actions].space), *WORDS, "--run-dir", run)
    succeed("inspect", run, "--episodes", "1", "--quiet")
    if actions == "Discrete from 5":
        assert read_json(run / "inspection/train/inspection.json")["action_names"] == ["5", "6", "7"]


@pytest.mark.parametrize("name", [name for name, row in OBSERVATIONS.items() if row.refusal is not None])
def test_observations_are_refused_by_train(name: str, configured: Configure, tmp_path: Path) -> None:
    space, refusal = OBSERVATIONS[name]
    assert_refused(configured(space, spaces.Discrete(2)), refusal, tmp_path)


@pytest.mark.parametrize("name", [name for name, row in ACTIONS.items() if row.refusal is not None])
def test_actions_are_refused_by_train(name: str, configured: Configure, tmp_path: Path) -> None:
    space, refusal = ACTIONS[name]
    assert_refused(configured(box(2), space), refusal, tmp_path)


def assert_refused(config: Path, refusal: str | None, tmp_path: Path) -> None:
    assert refusal is not None
    for words in ((), ("--env.efference_copies", "true")):
        answer = call("train", config, *WORDS, *words, "--run-dir", tmp_path / "run")
        assert answer.code == 2
        assert answer.err.startswith("rimrl: ")
        assert answer.err.count("\n") == 1
        assert refusal in answer.err
        assert not (tmp_path / "run").exists()
