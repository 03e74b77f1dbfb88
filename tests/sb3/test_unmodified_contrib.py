"""Our files and our policy in the hands of sb3-contrib as it comes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import rimrl
from rimrl.agents.extractors import MiniGridExtractor
from tests.sb3.helpers import SMALL_RIM, randomize

EPISODES = 3

# Runs in a process of its own that never imports rimrl by name: the saved file alone has to bring it in.
LOAD_AND_PLAY = """
import json, sys
import gymnasium
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

path, env_id, episodes = sys.argv[1], sys.argv[2], int(sys.argv[3])
assert not any(name.split(".")[0] == "rimrl" for name in sys.modules)
model = RecurrentPPO.load(path, device="cpu")
assert type(model).__module__.startswith("sb3_contrib"), type(model)
env = make_vec_env(lambda: gymnasium.make(env_id), n_envs=1, seed=11)
actions = []
returns, lengths = evaluate_policy(
    model, env, episodes, deterministic=True, return_episode_rewards=True,
    callback=lambda local, _: actions.append(int(local["actions"][0])),
)
RecurrentPPO.load(path, env, device="cpu").learn(model.n_steps)  # and goes on learning
print(json.dumps({"actions": actions, "returns": returns, "lengths": [int(n) for n in lengths]}))
"""


def played(model: Any, env_id: str) -> dict[str, Any]:
    """What the other process does, here."""
    env = make_vec_env(lambda: gymnasium.make(env_id), n_envs=1, seed=11)
    actions: list[int] = []
    returns, lengths = evaluate_policy(
        model,
        env,
        EPISODES,
        deterministic=True,
        return_episode_rewards=True,
        callback=lambda local, _: actions.append(int(local["actions"][0])),
    )
    return {"actions": actions, "returns": returns, "lengths": lengths}


def played_elsewhere(path: Path, env_id: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", LOAD_AND_PLAY, str(path), env_id, str(EPISODES)],
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize(
    ("env_id", "policy", "policy_kwargs", "learn_initial_state"),
    [
        (
            "rimrl/Distractors-v0",
            "MultiInputPolicy",
            {
                "features_extractor_class": MiniGridExtractor,
                "features_extractor_kwargs": {"features_dim": 16, "tile_channels": 8},
            },
            False,
        ),
        ("rimrl/RepeatPrevious-v0", "MlpPolicy", {"core_sharing": "separate", "net_arch": []}, True),
    ],
)
def test_a_saved_agent_plays_the_same_in_plain_contrib(
    env_id: str, policy: str, policy_kwargs: dict[str, Any], learn_initial_state: bool, tmp_path: Path
) -> None:
    core_kwargs = {**SMALL_RIM, "learn_initial_state": learn_initial_state}
    model = rimrl.RecurrentPPO(
        policy,
        make_vec_env(lambda: gymnasium.make(env_id), n_envs=2),
        n_steps=16,
        batch_size=32,
        n_epochs=1,
        policy_kwargs={"core": "rim", "core_kwargs": core_kwargs, **policy_kwargs},
        seed=0,
        device="cpu",
    )
    model.learn(32)
    randomize(model.policy, seed=3, scale=1.0)  # play that varies, so that equal actions mean something
    model.save(tmp_path / "model.zip")

    expected = played(model, env_id)
    assert len(set(expected["actions"])) > 1
    found = played_elsewhere(tmp_path / "model.zip", env_id)
    assert found["actions"] == expected["actions"]
    assert found["lengths"] == expected["lengths"]
    assert found["returns"] == pytest.approx(expected["returns"])


def test_plain_contrib_saves_files_that_rimrl_loads(tmp_path: Path) -> None:
    model = ContribRecurrentPPO(
        rimrl.RecurrentCorePolicy,
        gymnasium.make("rimrl/RepeatPrevious-v0"),
        n_steps=32,
        policy_kwargs={"core": "rim", "core_kwargs": SMALL_RIM},
        device="cpu",
    )
    model.learn(32)
    model.save(tmp_path / "model.zip")
    loaded = rimrl.load(tmp_path / "model.zip", device="cpu")
    assert type(loaded) is rimrl.RecurrentPPO
    assert played(loaded, "rimrl/RepeatPrevious-v0") == played(model, "rimrl/RepeatPrevious-v0")


@pytest.mark.slow
def test_unmodified_contrib_teaches_a_rim_to_remember() -> None:
    """Without memory the mean return is 0.5 at best."""
    env_id = "rimrl/RecallCue-v0"
    model = ContribRecurrentPPO(
        rimrl.RecurrentCorePolicy,
        make_vec_env(lambda: gymnasium.make(env_id, delay=3), n_envs=8),
        learning_rate=3e-3,
        n_steps=32,
        batch_size=256,
        n_epochs=6,
        policy_kwargs={"core": "rim", "core_kwargs": {"num_units": 4, "num_active": 3, "unit_size": 16}},
        seed=0,
        device="cpu",
    )
    model.learn(8_000)
    env = make_vec_env(lambda: gymnasium.make(env_id, delay=3), n_envs=8, seed=100)
    returns, _ = evaluate_policy(model, env, 100, deterministic=True, return_episode_rewards=True)
    assert np.mean(returns) > 0.9
