"""Continuous control that shows where things are, but not how fast they move: the classic test of a memory.

Ni et al., "Recurrent Model-Free RL Can Be a Strong Baseline for Many POMDPs", ICML 2022, and Meng et al.,
"Memory-based Deep Reinforcement Learning for POMDPs", IROS 2021, mask velocities so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from rimrl.errors import not_installed


@dataclass(frozen=True)
class Task:
    """An environment of gymnasium whose observations are positions, then velocities.

    Attributes:
        entry_point: Its class.
        positions: How many numbers of an observation are positions.
    """

    entry_point: str
    positions: int


TASKS: Mapping[str, Task] = {
    "Pendulum": Task("gymnasium.envs.classic_control.pendulum:PendulumEnv", 2),
    "HalfCheetah": Task("gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv", 8),
    "Hopper": Task("gymnasium.envs.mujoco.hopper_v5:HopperEnv", 5),
    "Walker2d": Task("gymnasium.envs.mujoco.walker2d_v5:Walker2dEnv", 8),
}
"""What there is as ``rimrl/NAMENoVelocity-v0``; all but Pendulum need MuJoCo."""


class HiddenVelocity(gymnasium.ObservationWrapper[NDArray[Any], Any, Any]):
    """Shows the positions in an observation, and no more.

    Observation: ``[P]`` for P positions, with the dtype and bounds of the environment. Actions, rewards and termination
    are the environment's.

    Args:
        env: Its observations are vectors.
        positions: Which numbers to show.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], positions: Sequence[int]) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, spaces.Box)
        self._positions = list(positions)
        low, high = space.low[self._positions], space.high[self._positions]
        self.observation_space = spaces.Box(low, high, dtype=space.dtype.type)

    def observation(self, observation: Any) -> NDArray[Any]:
        """Keep the positions: ``[D]`` -> ``[P]``."""
        kept: NDArray[Any] = observation[self._positions]
        return kept


def make_hidden_velocity(task: str, render_mode: str | None = None, **kwargs: Any) -> HiddenVelocity:
    """Make one of `TASKS` without a time limit, which its registered id adds.

    Args:
        task: Its name.
        render_mode: As the environment's.
        **kwargs: Further arguments of the environment.

    Raises:
        UsageError: If it needs MuJoCo, which is not installed.
    """
    env = make_task(task, f"rimrl/{task}NoVelocity-v0", render_mode, **kwargs)
    return HiddenVelocity(env, range(TASKS[task].positions))


def make_task(task: str, env_id: str, render_mode: str | None = None, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Make the environment of one of `TASKS` as gymnasium has it, without a time limit.

    Args:
        task: Its name.
        env_id: What needs it, for the refusal.
        render_mode: As the environment's.
        **kwargs: Further arguments of the environment.

    Raises:
        UsageError: If it needs MuJoCo, which is not installed.
    """
    module, _, name = TASKS[task].entry_point.partition(":")
    try:
        env: gymnasium.Env[Any, Any] = getattr(import_module(module), name)(render_mode=render_mode, **kwargs)
    except (DependencyNotInstalled, ImportError) as error:
        raise not_installed(env_id, "MuJoCo", "gymnasium[mujoco]", error) from error
    return env
