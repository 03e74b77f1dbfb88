"""Environments of random observations and rewards, for wrappers."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv


class Shown(gymnasium.Env[Any, Any]):
    """Shows anything of a space for a number of steps.

    Args:
        space: What is shown.
        length: Steps of an episode.
    """

    def __init__(self, space: spaces.Space[Any], length: int) -> None:
        self.observation_space = space
        self.action_space = spaces.Discrete(2)
        self._length = length
        self._time = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._time = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._time += 1
        return self._observation(), float(self.np_random.normal(2.0, 3.0)), self._time >= self._length, False, {}

    def _observation(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()


def short_episodes() -> DummyVecEnv:
    """Three such environments with episodes of different lengths."""
    space = spaces.Box(-1, 1, (2,))
    return DummyVecEnv([partial(Shown, space, length) for length in (3, 5, 9)])
