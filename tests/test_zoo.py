"""What rl-baselines3-zoo does with `rimrl.zoo`: read it, import policies by name, and build sb3-contrib's algorithm."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import gymnasium
import pytest
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO

import rimrl
from rimrl.zoo import hyperparams, sampler

# What the zoo takes out before the rest goes to the algorithm.
ZOOS_OWN = {"n_envs", "n_timesteps", "env_wrapper", "normalize", "frame_stack"}


def as_the_zoo_reads_it(experiment: dict[str, Any]) -> dict[str, Any]:
    """Policies are dotted names, arguments may be Python in a string."""
    settings = {key: value for key, value in experiment.items() if key not in ZOOS_OWN}
    module, _, name = settings["policy"].rpartition(".")
    settings["policy"] = getattr(import_module(module), name)
    if isinstance(settings["policy_kwargs"], str):
        settings["policy_kwargs"] = eval(settings["policy_kwargs"])
    return settings


@pytest.mark.parametrize("env_id", hyperparams)
def test_the_zoo_can_build_every_experiment(env_id: str) -> None:
    settings = as_the_zoo_reads_it(hyperparams[env_id])
    assert issubclass(settings["policy"], rimrl.RecurrentCorePolicy)
    for schedule in ("learning_rate", "clip_range"):
        if isinstance(settings.get(schedule), str):
            settings[schedule] = float(settings[schedule].removeprefix("lin_"))
    if env_id in gymnasium.registry:
        agent = ContribRecurrentPPO(env=env_id, **settings, device="cpu")
        action, _ = agent.predict(agent.observation_space.sample())
        assert agent.action_space.contains(int(action))
        assert isinstance(agent.policy, rimrl.RecurrentCorePolicy)
        assert agent.policy.core.hidden_size == 120
    else:
        assert env_id in ("default", "atari")
    steps = settings["n_steps"] * hyperparams[env_id]["n_envs"]
    assert steps % settings["batch_size"] == 0


def test_reading_the_module_does_not_wait_for_torch() -> None:
    code = "import sys, importlib; importlib.import_module('rimrl.zoo').hyperparams; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_naming_the_package_registers_its_environments() -> None:
    """``--gym-packages rimrl`` imports it and nothing more."""
    assert {env_id for env_id in hyperparams if env_id.startswith("rimrl/")} <= gymnasium.registry.keys()


def test_a_search_keeps_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The zoo builds an agent from its configuration, updated with what the sampler returns."""

    def sample_ppo_lstm_params(trial: Any, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> Any:
        assert (trial, n_actions, n_envs) == ("trial", 2, 8)
        return {"learning_rate": 1e-3, "policy_kwargs": {"net_arch": {"pi": [5], "vf": [5]}, "ortho_init": False}}

    of_zoo = ModuleType("rl_zoo3.hyperparams_opt")
    of_zoo.sample_ppo_lstm_params = sample_ppo_lstm_params  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rl_zoo3", ModuleType("rl_zoo3"))
    monkeypatch.setitem(sys.modules, "rl_zoo3.hyperparams_opt", of_zoo)
    core = {"core": "gru", "core_kwargs": {"hidden_size": 24}, "ortho_init": True}
    settings = as_the_zoo_reads_it(hyperparams["rimrl/RecallCue-v0"])
    settings |= sampler(core)("trial", 2, 8, {})
    agent = ContribRecurrentPPO(env="rimrl/RecallCue-v0", **settings, device="cpu")
    assert isinstance(agent.policy, rimrl.RecurrentCorePolicy)
    assert type(agent.policy.core).__name__ == "GRU"
    assert agent.policy.core.hidden_size == 24
    assert agent.policy.net_arch == {"pi": [5], "vf": [5]}
    assert agent.policy.ortho_init
    assert agent.learning_rate == 1e-3
