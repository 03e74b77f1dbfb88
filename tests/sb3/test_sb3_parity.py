"""With the feed-forward core, PPO and A2C do what Stable-Baselines3's own do, number for number."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

import rimrl
from tests.sb3.helpers import ACTION_SPACES, HIDDEN, NET_ARCH, assert_close, learn_seeded, randomize, short_episodes

N_STEPS, N_ENVS = 16, 3


class TanhLinear(BaseFeaturesExtractor):
    """What the feed-forward core computes, in the place where SB3 has room for it."""

    def __init__(self, observation_space: gymnasium.Space[Any]) -> None:
        super().__init__(observation_space, HIDDEN)
        assert observation_space.shape is not None
        self.linear = nn.Linear(observation_space.shape[0], HIDDEN)

    def forward(self, observations: Tensor) -> Tensor:
        return th.tanh(self.linear(observations))


def core_name(sb3_name: str) -> str:
    return sb3_name.replace("features_extractor.linear", "lstm_actor.linear")


def named(module: nn.Module) -> dict[str, Tensor]:
    return {core_name(name): p for name, p in module.named_parameters()}


@pytest.mark.parametrize("actions", ACTION_SPACES)
@pytest.mark.parametrize(
    ("theirs", "ours", "options"),
    [
        (A2C, rimrl.RecurrentA2C, {}),
        (A2C, rimrl.RecurrentA2C, {"normalize_advantage": True, "ent_coef": 0.1, "vf_coef": 0.3, "gae_lambda": 0.9}),
        (A2C, rimrl.RecurrentA2C, {"use_rms_prop": False, "max_grad_norm": 0.01, "gamma": 0.8}),
        (A2C, rimrl.RecurrentA2C, {"rms_prop_eps": 0.1, "learning_rate": lambda progress: 0.01 * progress}),
        (PPO, rimrl.RecurrentPPO, {"batch_size": 48, "n_epochs": 3, "ent_coef": 0.1}),
        (PPO, rimrl.RecurrentPPO, {"batch_size": 48, "n_epochs": 3, "clip_range": 0.05, "clip_range_vf": 0.1}),
        (PPO, rimrl.RecurrentPPO, {"batch_size": 48, "normalize_advantage": False, "target_kl": 1e-3}),
    ],
    ids=["a2c", "a2c terms", "a2c adam", "a2c schedule", "ppo", "ppo clipping", "ppo target_kl"],
)
def test_feed_forward_updates(theirs: Any, ours: Any, options: dict[str, Any], actions: str) -> None:
    def build(algorithm: Any, policy_kwargs: dict[str, Any]) -> Any:
        return algorithm(
            "MlpPolicy",
            short_episodes(N_ENVS, ACTION_SPACES[actions]),
            n_steps=N_STEPS,
            seed=0,
            device="cpu",
            policy_kwargs={"net_arch": NET_ARCH, "activation_fn": nn.ReLU, **policy_kwargs},
            **options,
        )

    sb3 = build(theirs, {"features_extractor_class": TanhLinear})
    own = build(ours, {"core": "feedforward", "core_kwargs": {"hidden_size": HIDDEN}})
    randomize(sb3.policy)
    expected = named(sb3.policy)
    own.policy.load_state_dict({name: p.detach().clone() for name, p in expected.items()}, strict=True)
    before = {name: p.detach().clone() for name, p in expected.items()}

    for model in (sb3, own):
        model.set_logger(configure(None, []))
        learn_seeded(model, 3 * N_STEPS * N_ENVS)

    for name in ("rewards", "values", "advantages", "returns", "log_probs", "episode_starts"):
        flat = getattr(sb3.rollout_buffer, name)
        flattened = flat.shape[0] == N_STEPS * N_ENVS  # by their minibatches
        as_collected = flat.reshape(N_ENVS, N_STEPS).T if flattened else flat
        assert_close(getattr(own.rollout_buffer, name), as_collected, name, 1e-5)
    found = named(own.policy)
    assert set(found) == set(expected)
    for name, parameter in expected.items():
        assert_close(found[name], parameter, name, 1e-5)
    assert max(float((p.detach() - before[name]).abs().max()) for name, p in expected.items()) > 1e-4

    log = sb3.logger.name_to_value
    keys = {key for key in log if key.startswith("train/")}
    assert keys == {key for key in own.logger.name_to_value if key.startswith("train/")}
    for key in keys:
        assert own.logger.name_to_value[key] == pytest.approx(log[key], abs=1e-4, rel=1e-4), key
    np.testing.assert_allclose(own.policy.optimizer.param_groups[0]["lr"], sb3.policy.optimizer.param_groups[0]["lr"])
