"""Agents with memory solve what agents without it cannot: the probes, and CartPole without velocities.

Each probe's docstring states the best expected return and the most that a policy without memory can expect. The
feed-forward control learns with the same settings, so that only memory can make the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import rimrl
from rimrl.cores.registry import CORES
from rimrl.envs.vector import make_vec_env

pytestmark = pytest.mark.slow

OPTIONS: dict[str, dict[str, Any]] = {
    "rim": {
        "num_units": 4,
        "num_active": 3,
        "unit_size": 16,
        "input_key_size": 16,
        "input_value_size": 16,
        "communication_heads": 2,
        "communication_key_size": 8,
        "communication_value_size": 8,
        "initialization": "xavier",
    },
    "riglstm": {
        "num_units": 4,
        "num_active": 3,
        "unit_size": 16,
        "num_views": 4,
        "view_size": 32,
        "key_size": 16,
        "initialization": "xavier",
    },
    "brims": {
        "num_layers": 2,
        "num_units": 4,
        "num_active": 3,
        "unit_size": 16,
        "input_heads": 1,
        "input_key_size": 16,
        "input_value_size": 64,
        "communication_heads": 2,
        "communication_key_size": 8,
        "communication_value_size": 8,
        "initialization": "xavier",
    },
    "grid_lstm": {"num_units": 4, "unit_size": 16},
    "rmc": {"num_slots": 2, "slot_size": 32, "num_heads": 2},
    "scoff": {
        "num_units": 4,
        "num_active": 3,
        "num_schemata": 2,
        "unit_size": 16,
        "input_key_size": 16,
        "input_value_size": 16,
        "communication_heads": 2,
        "communication_key_size": 8,
        "communication_value_size": 8,
        "initialization": "xavier",
    },
    "rim_workspace": {
        "num_units": 4,
        "num_active": 3,
        "num_slots": 2,
        "unit_size": 16,
        "input_key_size": 16,
        "input_value_size": 16,
        "workspace_heads": 2,
        "workspace_key_size": 8,
        "workspace_value_size": 8,
        "initialization": "xavier",
    },
    "gtrxl": {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "memory_length": 16, "mlp_size": 64},
    "entnet": {"num_slots": 4, "slot_size": 16},
    "lstm": {"hidden_size": 64},
    "gru": {"hidden_size": 64},
    "rnn": {"hidden_size": 64},
    "indrnn": {"hidden_size": 64},
    "ntm": {"hidden_size": 64, "num_slots": 8, "slot_size": 8},
    "dnc": {"hidden_size": 64, "num_slots": 8, "slot_size": 8, "num_reads": 1},
    "feedforward": {"hidden_size": 64},
}
"""Small networks, for speed. A core that is missing here learns with its own defaults.

Probes show one number, which values of the default initialisation make so quiet that agents need longer than `Effort`.
"""

NET_ARCH: dict[str, list[int]] = {"entnet": [64]}
"""Hidden layers after the core. EntNet's slots are normalised and have no output map, unlike every other core's."""


class Effort(NamedTuple):
    """How long and how fast to learn, where a core needs something else than the others.

    Attributes:
        learning_rate: Adam's.
        total_timesteps: Steps of training.
        n_envs: Environments; the size of a minibatch grows with them, and steps cost less.
        decay: On a probe, lower the learning rate linearly to zero. On CartPole that is always so.
        net_arch: Hidden layers after the core, where the task needs others than `NET_ARCH` says.
    """

    learning_rate: float
    total_timesteps: int
    n_envs: int
    decay: bool = False
    net_arch: tuple[int, ...] = ()


# The figures are what was reached at the end, by seed; the tests run seed 0, and the others if it fails.
# They were measured on the plain step; the whole-sequence paths round otherwise.
# lstm, gru and grid_lstm: 1.0 in every probe at seeds 0, 11, 12. At 13 and 14, where only CountSteps and Forget were
# tried with lstm and gru: 1.0, but lstm 0.745 in Forget at both. After half the steps without decay (gru and grid_lstm
# at 2e-3) each of the three missed a probe at 11 or 12.
PROBE_EFFORT = Effort(5e-3, 40_960, 32, decay=True)
PROBE_EFFORTS: dict[str, Effort] = {
    # 1.0 in every probe at seeds 11 and 12, but 0.748 in Forget at 12. Twice the steps with decay fail 3 of 12 cases,
    # of which one at seed 0: 0.56 in RecallCue.
    "rmc": Effort(5e-3, 20_480, 32),
    # At least 0.994 in every probe at seeds 0, 11, 12. Without the hidden layer CountSteps ended in never pressing at 0
    # and 12.
    "rim": Effort(5e-3, 30_720, 32, decay=True, net_arch=(64,)),
    # At least 0.997 in every probe at seeds 0, 11, 12. With what rim has, CountSteps ended in never pressing at 12.
    "riglstm": Effort(3e-3, 40_960, 32, decay=True, net_arch=(64,)),
    # 1.0 in every probe at seeds 0, 11, 12, 13, 14, but 0.839 in RepeatPrevious at 13. CountSteps at 0 gave 0.889 (one
    # press too many) without decay, 0.556 with it after half the steps, and 0.556 at 3e-3.
    "entnet": Effort(2e-3, 40_960, 32, decay=True),
    # At least 0.999 in every probe at seeds 0, 11, 12. Without the hidden layer RepeatPrevious misses lone bits, as the
    # 1 in 0 1 0: 0.874 at 0 without decay; with it 0.986, 0.898, 0.869 (2e-3, 41k steps), and 0.996, 0.863 at 11 and 12
    # (5e-3, 20k steps).
    "brims": Effort(5e-3, 30_720, 32, decay=True, net_arch=(64,)),
    # 1.0 in CountSteps at seeds 0, 11, 12. Without the hidden layer it ended in pressing early: 0.556, 0.889, 0.889.
    "indrnn": Effort(2e-3, 40_960, 32, decay=True, net_arch=(64,)),
}
# Steps held at seeds 2, 11 and 12, on the whole-sequence paths, one thread: rim 500, 500, 168; riglstm 433, 385, 296;
# grid_lstm 288, 379, 500; brims 158, 500 (12 not run); at seed 2 lstm, gru, rmc and entnet 500. Here modular cores
# depend on the seed. Twice the steps with twice the environments was no better for rim (349, 112, 384) and riglstm
# (270, 476, 234).
CARTPOLE_EFFORT = Effort(2e-3, 70_000, 16)
CARTPOLE_EFFORTS: dict[str, Effort] = {
    # With half of both, seed 2 held the pole for 406 steps. Seeds 2, 11, 12: 460, 500, 492.
    "gru": Effort(2e-3, 140_000, 32),
    # At 2e-3 it holds the pole for 214 steps.
    "grid_lstm": Effort(3e-3, 70_000, 16),
    # Half of it with half the minibatch and narrower values held the pole for 205 steps; which of them matters is open.
    "brims": Effort(3e-3, 140_000, 32),
}

TOLERANCE = 0.1
"""Four standard errors of a mean of 400 episodes that are won or lost, and room for a policy that is nearly there."""


class Probe(NamedTuple):
    """A probe with its stated bounds.

    Attributes:
        optimum: Best expected return.
        ceiling: The most without memory.
        gamma: Discount; small where each action is rewarded at once.
        length: Steps of an episode.
    """

    env_id: str
    optimum: float
    ceiling: float
    gamma: float
    length: int


PROBES = (
    Probe("rimrl/RecallCue-v0", optimum=1.0, ceiling=0.5, gamma=0.95, length=9),
    Probe("rimrl/RepeatPrevious-v0", optimum=1.0, ceiling=0.5, gamma=0.8, length=11),
    Probe("rimrl/CountSteps-v0", optimum=1.0, ceiling=0.0, gamma=0.5, length=10),
    Probe("rimrl/Forget-v0", optimum=1.0, ceiling=0.5, gamma=0.95, length=7),
)
CORES_WITH_MEMORY = [name for name in CORES if name != "feedforward"]
COMPARED = ("rim", "riglstm", "brims", "lstm", "gru")
"""The cores of the results; `make test-slow` trains each on everything, and every other on the first probe."""
OUT_OF_REACH = {("gtrxl", "rimrl/CountSteps-v0")}
"""What a core cannot express, whatever it learns: tests/cores/test_gtrxl.py shows why."""
every_probe = pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.env_id)


def case(core: str, *values: Any, always: bool = False) -> Any:
    """A case of a test, which `make test-slow` leaves to `make test-exhaustive` where it is one of many."""
    return pytest.param(core, *values, marks=[] if always or core in COMPARED else [pytest.mark.exhaustive])


every_core = pytest.mark.parametrize("core", [case(core) for core in CORES_WITH_MEMORY])
every_core_and_probe = pytest.mark.parametrize(
    ("core", "probe"),
    [
        case(core, probe, always=probe is PROBES[0])
        for core in CORES_WITH_MEMORY
        for probe in PROBES
        if (core, probe.env_id) not in OUT_OF_REACH
    ],
    ids=lambda value: getattr(value, "env_id", value),
)


def policy_kwargs(core: str, net_arch: tuple[int, ...] = ()) -> dict[str, Any]:
    return {"core": core, "core_kwargs": OPTIONS.get(core, {}), "net_arch": list(net_arch) or NET_ARCH.get(core, [])}


def mean_return(model: BaseAlgorithm, env: VecEnv, episodes: int, deterministic: bool) -> float:
    returns, _ = evaluate_policy(model, env, episodes, deterministic=deterministic, return_episode_rewards=True)
    return float(np.mean(returns))


def learned_by_ppo(probe: Probe, core: str, seed: int = 0) -> float:
    """Mean return of the most probable actions at the end."""
    effort = PROBE_EFFORTS.get(core, PROBE_EFFORT)
    model = rimrl.RecurrentPPO(
        "MlpPolicy",
        make_vec_env(probe.env_id, n_envs=effort.n_envs, seed=seed),
        learning_rate=lambda progress: effort.learning_rate * (progress if effort.decay else 1.0),
        n_steps=16,
        batch_size=8 * effort.n_envs,
        n_epochs=4,
        gamma=probe.gamma,
        gae_lambda=0.9,
        ent_coef=0.01,
        policy_kwargs=policy_kwargs(core, effort.net_arch),
        seed=seed,
        device="cpu",
    )
    model.learn(effort.total_timesteps)
    return mean_return(model, make_vec_env(probe.env_id, n_envs=20, seed=10_000), 400, deterministic=True)


def learned_by_a2c(probe: Probe, core: str, seed: int = 0) -> float:
    """Mean return of the most probable actions after 24k steps, with updates an episode long."""
    model = rimrl.RecurrentA2C(
        "MlpPolicy",
        make_vec_env(probe.env_id, n_envs=16, seed=seed),
        learning_rate=7e-3,
        n_steps=probe.length,
        gamma=probe.gamma,
        ent_coef=0.01,
        policy_kwargs=policy_kwargs(core),
        seed=seed,
        device="cpu",
    )
    model.learn(24_000)
    return mean_return(model, make_vec_env(probe.env_id, n_envs=20, seed=10_000), 400, deterministic=True)


def learned_on_cartpole(core: str, seed: int = 0) -> float:
    """Mean return of 20 episodes with sampled actions, as in training."""
    effort = CARTPOLE_EFFORTS.get(core, CARTPOLE_EFFORT)
    env_id, gamma = "rimrl/CartPoleNoVelocity-v0", 0.98
    env = VecNormalize(make_vec_env(env_id, n_envs=effort.n_envs, seed=seed), gamma=gamma)
    model = rimrl.RecurrentPPO(
        "MlpPolicy",
        env,
        learning_rate=lambda progress: effort.learning_rate * progress,
        n_steps=32,
        sequence_length=16,
        batch_size=16 * effort.n_envs,
        n_epochs=6,
        gamma=gamma,
        gae_lambda=0.8,
        clip_range=lambda progress: 0.2 * progress,
        policy_kwargs=policy_kwargs(core),
        seed=seed,
        device="cpu",
    )
    model.learn(effort.total_timesteps)
    unseen = VecNormalize(make_vec_env(env_id, n_envs=20, seed=10_000), training=False, norm_reward=False)
    unseen.obs_rms = env.obs_rms
    return mean_return(model, unseen, 20, deterministic=False)


def first_success(learned: Callable[[int], float], enough: float, seeds: tuple[int, ...]) -> tuple[bool, list[float]]:
    """Train with one seed after the other until one is enough, and tell what each reached.

    A training follows another course where the last digit of a product differs, as between two processors, and now and
    then one fails with any core; a core that cannot do it fails with all seeds.
    """
    reached: list[float] = []
    for seed in seeds:
        reached.append(learned(seed))
        if reached[-1] >= enough:
            return True, reached
    return False, reached


@every_core_and_probe
def test_ppo_with_memory_solves(core: str, probe: Probe) -> None:
    solved, reached = first_success(
        lambda seed: learned_by_ppo(probe, core, seed), probe.optimum - TOLERANCE, seeds=(0, 11, 12)
    )
    assert solved, reached


@every_probe
def test_ppo_without_memory_stays_at_the_ceiling(probe: Probe) -> None:
    assert learned_by_ppo(probe, "feedforward") <= probe.ceiling + TOLERANCE


@pytest.mark.parametrize("probe", PROBES[:2], ids=lambda probe: probe.env_id)
def test_a2c_with_a_rim_solves(probe: Probe) -> None:
    solved, reached = first_success(
        lambda seed: learned_by_a2c(probe, "rim", seed), probe.optimum - TOLERANCE, seeds=(0, 11, 12)
    )
    assert solved, reached


@pytest.mark.parametrize("probe", PROBES[:2], ids=lambda probe: probe.env_id)
def test_a2c_without_memory_stays_at_the_ceiling(probe: Probe) -> None:
    assert learned_by_a2c(probe, "feedforward") <= probe.ceiling + TOLERANCE


@every_core
def test_ppo_with_memory_balances_the_pole_without_seeing_velocities(core: str) -> None:
    enough = 450.0 if core == "rim" else 400.0
    balanced, reached = first_success(lambda seed: learned_on_cartpole(core, seed), enough, seeds=(2, 11, 12, 13, 14))
    assert balanced, reached


def test_ppo_without_memory_drops_the_pole() -> None:
    assert learned_on_cartpole("feedforward") < 100.0
