"""A coin lies on one side; the agent says on which."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


class CoinEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One step: the observation shows the side, the reward is 1 for the action that names it."""

    def __init__(self, noise: float = 0.0) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.noise = noise
        self._side = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._side = int(self.np_random.integers(2))
        return self._seen(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        right = int(action) == self._side
        return self._seen(), float(right), True, False, {"is_success": right}

    def _seen(self) -> NDArray[np.float32]:
        shown = np.eye(2)[self._side] + self.noise * self.np_random.standard_normal(2)
        seen: NDArray[np.float32] = shown.astype(np.float32)
        return seen
