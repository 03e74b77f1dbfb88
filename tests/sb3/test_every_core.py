"""Every registered core works through nothing but its name, in rimrl's algorithms and in unmodified sb3-contrib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO

import rimrl
from rimrl.cores.registry import CORES
from rimrl.envs.vector import make_vec_env

EVERY_CORE = sorted(CORES)
BATCHES: dict[str, dict[str, Any]] = {"PPO": {"n_steps": 8, "batch_size": 16, "n_epochs": 1}, "A2C": {"n_steps": 8}}


def play(model: Any, steps: int = 12) -> list[list[int]]:
    env = make_vec_env("rimrl/RecallCue-v0", n_envs=2, seed=5)
    observation, state, starts = env.reset(), None, np.ones(2, dtype=bool)
    actions = []
    for _ in range(steps):
        action, state = model.predict(observation, state, starts, deterministic=True)
        observation, _, starts, _ = env.step(action)
        actions.append(action.tolist())
    return actions


def moved(model: Any, before: dict[str, th.Tensor], part: str) -> bool:
    after = model.policy.state_dict()
    return any(not th.equal(before[key], after[key]) for key in before if key.startswith(part))


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
@pytest.mark.parametrize("core", EVERY_CORE)
def test_one_update_reaches_the_core_and_the_file_plays_the_same(core: str, algorithm: str, tmp_path: Path) -> None:
    cls = {"PPO": rimrl.RecurrentPPO, "A2C": rimrl.RecurrentA2C}[algorithm]
    env = make_vec_env("rimrl/RecallCue-v0", n_envs=2, seed=0)
    model = cls("MlpPolicy", env, policy_kwargs={"core": core}, seed=0, **BATCHES[algorithm])
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.learn(16)
    assert moved(model, before, "lstm_actor.")
    model.save(tmp_path / "model.zip")
    assert play(rimrl.load(tmp_path / "model.zip")) == play(model)
    if algorithm == "PPO":
        assert play(ContribRecurrentPPO.load(tmp_path / "model.zip")) == play(model)


@pytest.mark.parametrize("core", EVERY_CORE)
def test_plain_contrib_trains_the_core(core: str, tmp_path: Path) -> None:
    env = make_vec_env("rimrl/RecallCue-v0", n_envs=2, seed=0)
    model = ContribRecurrentPPO(rimrl.RecurrentCorePolicy, env, policy_kwargs={"core": core}, seed=0, **BATCHES["PPO"])
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.learn(16)
    assert moved(model, before, "lstm_actor.")
    model.save(tmp_path / "model.zip")
    assert play(rimrl.load(tmp_path / "model.zip")) == play(model)
