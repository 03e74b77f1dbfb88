"""Which level each episode was, where environments say it."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class Levels(VecEnvWrapper):
    """Remembers ``info["level"]`` of the reset that began an episode.

    `rimrl.envs.layouts.LevelSeeds` and other environments whose levels are numbered report it.

    Args:
        venv: Environments in a `VecMonitor`.

    Attributes:
        ended: Of each environment the level of the episode that ended last; None where it reports no number.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.ended: list[int | None] = [None] * venv.num_envs
        self._begun = list(self.ended)

    def reset(self) -> VecEnvObs:
        """Begin an episode in each environment."""
        observation = self.venv.reset()
        self._begun = [_level(info) for info in self.unwrapped.reset_infos]
        return observation

    def step_wait(self) -> VecEnvStepReturn:
        """Take a step in each environment."""
        step = self.venv.step_wait()
        for i, info in enumerate(step[3]):
            if "episode" in info:  # and the next one has begun
                self.ended[i] = self._begun[i]
                self._begun[i] = _level(self.unwrapped.reset_infos[i])
        return step


def _level(info: dict[str, Any]) -> int | None:
    level = info.get("level")
    return int(level) if isinstance(level, int | np.integer) and not isinstance(level, bool) else None
