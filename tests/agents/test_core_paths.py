"""The fast path and the plain step of a core give the same training curve."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

import rimrl
from tests import paths

LOGGED = (
    *("train/loss", "train/value_loss", "train/entropy_loss"),
    *("train/policy_gradient_loss", "train/policy_loss", "train/approx_kl"),
)
UPDATES, N_STEPS, N_ENVS = 4, 64, 4
# Small scores differ by little more than what paths round differently, which then activates other units.
CORE = {"num_units": 4, "num_active": 2, "unit_size": 8, "initialization": "xavier"}


@cache
def learn(path: str, algorithm: type[Any], core: str) -> tuple[list[dict[str, float]], list[float], Any]:
    """What an update logs, the returns of the finished episodes, and the trained policy."""
    batch = {"batch_size": 128, "n_epochs": 2} if algorithm is rimrl.RecurrentPPO else {}
    with paths.on(path):
        model = algorithm(
            "MlpPolicy",
            make_vec_env("CartPole-v1", N_ENVS, seed=7),
            n_steps=N_STEPS,
            policy_kwargs={"core": core, "core_kwargs": CORE},
            seed=7,
            device="cpu",
            **batch,
        )
        logged: list[dict[str, float]] = []
        train = model.train

        def train_and_keep() -> None:
            train()
            logged.append({name: v for name, v in model.logger.name_to_value.items() if name in LOGGED})

        model.train = train_and_keep
        returns: list[float] = []

        def keep_returns(local_variables: dict[str, Any], _: dict[str, Any]) -> bool:
            returns.extend(info["episode"]["r"] for info in local_variables["infos"] if "episode" in info)
            return True

        model.learn(UPDATES * N_STEPS * N_ENVS, callback=keep_returns)
    return logged, returns, model.policy


@paths.every_fast_path
@pytest.mark.parametrize(("algorithm", "core"), [(rimrl.RecurrentPPO, "rim"), (rimrl.RecurrentA2C, "riglstm")])
def test_the_same_training_curve(algorithm: Any, core: str, path: str) -> None:
    logged, returns, policy = learn(path, algorithm, core)
    logged_step, returns_step, policy_step = learn("step", algorithm, core)
    assert returns == returns_step
    assert len(returns) > 10
    assert len(logged) == len(logged_step) == UPDATES
    for now, then in zip(logged, logged_step, strict=True):
        assert now.keys() == then.keys()
        assert {"train/value_loss", "train/entropy_loss"} <= now.keys()
        for name, value in then.items():
            np.testing.assert_allclose(now[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    for (name, a), b in zip(policy.named_parameters(), policy_step.parameters(), strict=True):
        th.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=partial("{}: {}".format, name))
