"""Hyperparameters for rl-baselines3-zoo: its configuration module for ``--algo ppo_lstm``.

``python -m rl_zoo3.train --algo ppo_lstm --env rimrl/RecallCue-v0 --conf-file rimrl.zoo --gym-packages rimrl``

The zoo trains sb3-contrib's own RecurrentPPO with rimrl's policies. Names and meanings are the zoo's; it looks up the
environment's id, then ``atari`` for Atari, then ``default``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def sampler(policy_kwargs: Mapping[str, Any]) -> Callable[[Any, int, int, dict[str, Any]], dict[str, Any]]:
    """A sampler for the zoo's ``-optimize`` that searches settings for one core.

    The zoo's own sampler replaces the ``policy_kwargs`` of a configuration by those it draws, and a policy without a
    core gets the default RIM, whatever the configuration says. This one adds them to what is drawn.

    Args:
        policy_kwargs: What every trial has, such as ``dict(core="gru", core_kwargs=dict(hidden_size=24))``. It comes
            before what the zoo draws: ``net_arch`` and ``activation_fn``.

    Returns:
        What belongs into ``rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER["ppo_lstm"]``.
    """

    def sample(trial: Any, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
        of_zoo = import_module("rl_zoo3.hyperparams_opt").sample_ppo_lstm_params
        drawn: dict[str, Any] = of_zoo(trial, n_actions, n_envs, additional_args)
        return {**drawn, "policy_kwargs": {**drawn.get("policy_kwargs", {}), **policy_kwargs}}

    return sample


def _experiment(policy: str, **changes: Any) -> dict[str, Any]:
    return {
        "policy": f"rimrl.{policy}",
        "policy_kwargs": {"core": "rim", "core_kwargs": {"num_units": 6, "num_active": 4, "hidden_size": 120}},
        "n_envs": 8,
        "n_timesteps": 1e6,
        "n_steps": 128,
        "batch_size": 256,
        "n_epochs": 4,
        "learning_rate": 3e-4,
        "ent_coef": 0.01,
    } | changes


# A string is Python to the zoo: where the class of an extractor is named, and torch not waited for.
_TILES = (
    "dict(core='rim', core_kwargs=dict(num_units=6, num_active=4, hidden_size=120), "
    "features_extractor_class=__import__('rimrl.agents.extractors', fromlist=['_']).MiniGridExtractor)"
)

hyperparams: dict[str, dict[str, Any]] = {
    "default": _experiment("RecurrentCorePolicy"),
    "atari": _experiment(
        "CnnRecurrentCorePolicy",
        n_timesteps=1e7,
        learning_rate="lin_2.5e-4",
        clip_range="lin_0.1",
        env_wrapper=["stable_baselines3.common.atari_wrappers.AtariWrapper"],
    ),
    "rimrl/RecallCue-v0": _experiment("RecurrentCorePolicy", n_timesteps=1e5),
    "rimrl/RepeatPrevious-v0": _experiment("RecurrentCorePolicy", n_timesteps=2e5),
    "rimrl/CartPoleNoVelocity-v0": _experiment("RecurrentCorePolicy", n_timesteps=2e5, ent_coef=0.0),
    "rimrl/Distractors-v0": _experiment("MultiInputRecurrentCorePolicy", n_timesteps=2e6, policy_kwargs=_TILES),
}
