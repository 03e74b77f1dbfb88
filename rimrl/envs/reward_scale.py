"""Rewards on one scale, for learning alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

EPSILON = 1e-8
CLIP = 10.0


class RewardScale(NamedTuple):
    """What scales rewards, at one point of a training.

    Attributes:
        returns: Discounted return of each running episode so far, float64 [B].
        mean: Of all such returns.
        var: Their variance.
        number: How many there were.
    """

    returns: NDArray[np.float64]
    mean: float
    var: float
    number: float


class VecNormalizedRewards(VecEnvWrapper):
    """Divide rewards by the running deviation of discounted returns, and clip them to `CLIP`.

    The numbers are those of Stable-Baselines3's `VecNormalize` with ``norm_obs=False``, which agents would look for
    around every environment that they are evaluated in. It belongs outside of the monitor, which counts the
    environment's own rewards.

    Args:
        venv: The environments.
        gamma: Discount factor of the returns.
    """

    def __init__(self, venv: VecEnv, gamma: float) -> None:
        super().__init__(venv)
        self._gamma = gamma
        self._statistics = RunningMeanStd(shape=())
        self._returns = np.zeros(self.num_envs)

    def reset(self) -> VecEnvObs:
        """Begin an episode in every environment."""
        self._returns = np.zeros(self.num_envs)
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Advance all environments."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self._returns = self._returns * self._gamma + rewards
        self._statistics.update(self._returns)
        scaled: NDArray[Any] = np.clip(rewards / np.sqrt(self._statistics.var + EPSILON), -CLIP, CLIP)
        self._returns[dones] = 0
        return observations, scaled.astype(np.float32), dones, infos

    @property
    def scale(self) -> RewardScale:
        """What rewards are scaled by now; a copy."""
        found = self._statistics
        return RewardScale(self._returns.copy(), float(found.mean), float(found.var), float(found.count))

    @scale.setter
    def scale(self, scale: RewardScale) -> None:
        self._returns = scale.returns.copy()
        self._statistics.mean, self._statistics.var = np.asarray(scale.mean), np.asarray(scale.var)
        self._statistics.count = scale.number
