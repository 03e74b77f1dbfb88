"""What is trained can be loaded: the loader takes what the constructor took, or the constructor refuses it."""

from __future__ import annotations

import functools
import re
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.utils import LinearSchedule

import rimrl
from rimrl.agents.saved.exported import write_exported
from rimrl.agents.saved.options import ACTIVATIONS, OPTIMIZERS
from rimrl.errors import UsageError
from tests.agents.test_saving import assert_same_play, play
from tests.sb3.helpers import SMALL_RIM, randomize, short_episodes


def make(**options: Any) -> rimrl.RecurrentPPO:
    policy_kwargs = {"core_kwargs": SMALL_RIM, **options.pop("policy_kwargs", {})}
    given = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "seed": 0, **options}
    return rimrl.RecurrentPPO("MlpPolicy", short_episodes(2), policy_kwargs=policy_kwargs, device="cpu", **given)


# -- schedules of one's own -------------------------------------------------------------------------------------------


def halved(remaining: float) -> float:
    return 5e-4 * remaining


def from_start(start: float) -> Callable[[float], float]:
    """The closure of SB3's documentation."""

    def schedule(remaining: float) -> float:
        return remaining * start

    return schedule


class Stepped:
    """A callable of a class of one's own."""

    def __call__(self, remaining: float) -> float:
        return 1e-3 if remaining > 0.5 else 1e-4


OWN: dict[str, Any] = {
    "lambda": lambda remaining: 1e-3 * remaining,
    "closure": from_start(1e-3),
    "function": halved,
    "instance": Stepped(),
    "partial": functools.partial(max, 1e-4),
}


@pytest.mark.parametrize("setting", ["learning_rate", "clip_range", "clip_range_vf"])
@pytest.mark.parametrize("kind", OWN)
def test_an_agent_with_a_schedule_of_ones_own_plays_and_says_why_it_does_not_learn(
    kind: str, setting: str, tmp_path: Path
) -> None:
    agent = make(**{setting: OWN[kind]})
    agent.learn(2 * 16)
    randomize(agent.policy, scale=0.2)
    agent.save(tmp_path / "agent.zip")
    loaded = rimrl.load(tmp_path / "agent.zip", env=short_episodes(2), device="cpu")
    assert_same_play(loaded, agent, agent.observation_space)
    with pytest.raises(UsageError, match=rf"^{setting} .*schedule.*trust=True") as caught:
        loaded.learn(16)
    assert "\n" not in str(caught.value)
    # Saved once more it is still the same: no constant takes the schedule's place.
    loaded.save(tmp_path / "again.zip")
    again = rimrl.load(tmp_path / "again.zip", env=short_episodes(2), device="cpu")
    with pytest.raises(UsageError, match=f"^{setting} of this agent"):
        again.learn(16)


@pytest.mark.parametrize("kind", OWN)
def test_trusted_schedules_go_on(kind: str, tmp_path: Path) -> None:
    agent = make(learning_rate=OWN[kind])
    agent.learn(2 * 16)
    agent.save(tmp_path / "agent.zip")
    loaded = rimrl.load(tmp_path / "agent.zip", env=short_episodes(2), device="cpu", trust=True)
    for remaining in (1.0, 0.5, 0.25):
        assert loaded.lr_schedule(remaining) == agent.lr_schedule(remaining)
    loaded.learn(16, reset_num_timesteps=False)


def test_an_agent_with_a_schedule_of_ones_own_can_be_exported(tmp_path: Path) -> None:
    agent = make(learning_rate=OWN["lambda"])
    randomize(agent.policy, scale=0.2)
    agent.save(tmp_path / "agent.zip")
    (tmp_path / "export").mkdir()
    write_exported(rimrl.load(tmp_path / "agent.zip", device="cpu"), tmp_path / "export")
    assert_same_play(rimrl.load(tmp_path / "export", device="cpu"), agent, agent.observation_space)


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"verbose": True},
        {"gamma": np.float64(0.9), "n_steps": np.int64(8), "ent_coef": np.float32(0.5)},
        {"gamma": 1, "learning_rate": 0},
        {"learning_rate": LinearSchedule(1e-3, 1e-4, 0.5), "clip_range": 1},
        {"stats_window_size": 7},
        {"seed": 2**32 - 1},
        {"target_kl": 0.1, "clip_range_vf": 0.3, "sde_sample_freq": 4},
        {"policy_kwargs": {"core_kwargs": OrderedDict(SMALL_RIM)}},
        {"policy_kwargs": {"net_arch": {"pi": (4,), "vf": (3, 2)}}},
        {"policy_kwargs": {"core": "lstm", "core_kwargs": {"hidden_size": np.int64(6), "chrono": 100_000}}},
        {"policy_kwargs": {"optimizer_kwargs": {"betas": (0.8, 0.9), "eps": np.float64(1e-4)}}},
        {"policy_kwargs": {"core_sharing": Enum("Sharing", {"own": "separate"}, type=str).own}},  # type: ignore[attr-defined]
    ],
    ids=str,
)
def test_settings_come_back(options: dict[str, Any], tmp_path: Path) -> None:
    agent = make(**options)
    agent.learn(2 * 16)
    agent.save(tmp_path / "agent.zip")
    loaded = rimrl.load(tmp_path / "agent.zip", env=short_episodes(2), device="cpu")
    for name in ("gamma", "n_steps", "ent_coef", "seed", "target_kl", "sde_sample_freq", "_stats_window_size"):
        assert getattr(loaded, name) == getattr(agent, name)
    for remaining in (1.0, 0.6, 0.2):
        assert loaded.lr_schedule(remaining) == agent.lr_schedule(remaining)
        assert isinstance(loaded, rimrl.RecurrentPPO)
        assert loaded.clip_range(remaining) == agent.clip_range(remaining)
    assert loaded.policy.core_kwargs == agent.policy.core_kwargs
    for found, known in zip(
        play(loaded, agent.observation_space, 2), play(agent, agent.observation_space, 2), strict=True
    ):
        np.testing.assert_array_equal(found, known)
    loaded.learn(16)


def test_a_log_may_be_a_path(tmp_path: Path) -> None:
    agent = make(tensorboard_log=tmp_path / "logs")
    agent.learn(16)
    assert list((tmp_path / "logs").rglob("events.out.*"))
    agent.save(tmp_path / "agent.zip")
    assert rimrl.load(tmp_path / "agent.zip", device="cpu").tensorboard_log == str(tmp_path / "logs")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_comes_back(activation: str, tmp_path: Path) -> None:
    agent = make(policy_kwargs={"activation_fn": ACTIVATIONS[activation], "net_arch": [4]})
    agent.save(tmp_path / "agent.zip")
    assert rimrl.load(tmp_path / "agent.zip", device="cpu").policy.activation_fn is ACTIVATIONS[activation]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimiser_comes_back_with_its_state(optimizer: str, tmp_path: Path) -> None:
    agent = make(policy_kwargs={"optimizer_class": OPTIMIZERS[optimizer], "net_arch": [4]})
    agent.learn(2 * 16)
    agent.save(tmp_path / "agent.zip")
    loaded = rimrl.load(tmp_path / "agent.zip", env=short_episodes(2), device="cpu")
    assert type(loaded.policy.optimizer) is OPTIMIZERS[optimizer]
    expected, found = (each.policy.optimizer.state_dict()["state"] for each in (agent, loaded))
    assert found.keys() == expected.keys()
    for key, entry in expected.items():
        assert all(th.equal(th.as_tensor(found[key][name]), th.as_tensor(value)) for name, value in entry.items())
    loaded.learn(16)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"normalize_advantage": 1}, "normalize_advantage.*true.*false.*1"),
        ({"gamma": float("nan")}, "gamma.*finite number.*nan"),
        ({"ent_coef": float("inf")}, "ent_coef.*finite number.*inf"),
        ({"max_grad_norm": None}, "max_grad_norm.*finite number.*None"),
        ({"n_epochs": 2.0}, "n_epochs.*integer"),
        ({"n_steps": 2**31, "batch_size": 2**31}, "asks.*rollouts"),
        ({"policy_kwargs": {"net_arch": [4] * 65}}, r"policy_kwargs\.net_arch has 65 layers"),
        ({"policy_kwargs": {"ortho_init": 1}}, r"policy_kwargs\.ortho_init.*true.*false"),
        ({"policy_kwargs": {"optimizer_kwargs": {"weight_decay": th.tensor(0.1)}}}, "weight_decay holds a Tensor"),
        ({"policy_kwargs": {"log_std_init": float("-inf")}}, r"policy_kwargs\.log_std_init.*finite number"),
    ],
    ids=str,
)
def test_what_could_not_be_loaded_is_refused_before_training(options: dict[str, Any], refusal: str) -> None:
    with pytest.raises(UsageError) as caught:
        make(**options)
    assert re.search(refusal, str(caught.value))
    assert "\n" not in str(caught.value)


class OwnTanh(th.nn.Tanh):
    """An activation of one's own."""


def test_classes_of_ones_own_are_made_and_need_trust(tmp_path: Path) -> None:
    agent = make(policy_kwargs={"activation_fn": OwnTanh})
    agent.save(tmp_path / "agent.zip")
    with pytest.raises(UsageError, match=r"OwnTanh.*trust=True"):
        rimrl.load(tmp_path / "agent.zip", device="cpu")
    assert rimrl.load(tmp_path / "agent.zip", device="cpu", trust=True).policy.activation_fn is OwnTanh
