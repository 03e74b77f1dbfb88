"""An environment of a user's own: a cue is shown, and asked for some steps later."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

import rimrl


class Cue(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Answer with the cue of the first step after `delay` steps."""

    metadata = {"info_keywords": ("is_success",), "render_modes": ["rgb_array"]}  # noqa: RUF012 (as in gymnasium)

    def __init__(self, delay: int = 2, render_mode: str | None = None) -> None:
        self.delay = delay
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._cue = self._time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._cue, self._time = int(self.np_random.integers(2)), 0
        return self._shown(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        over = self._time >= self.delay
        success = bool(over and action == self._cue)
        self._time += 1
        return self._shown(), float(success), over, False, {"is_success": success} if over else {}

    def render(self) -> NDArray[np.uint8]:
        return np.full((32, 32, 3), 255 * self._cue, np.uint8)

    def _shown(self) -> NDArray[np.float32]:
        shown = np.zeros(3, np.float32)
        if self._time == 0:
            shown[self._cue] = 1
        shown[2] = float(self._time == self.delay)
        return shown


gymnasium.register("Own/Cue-v0", "own_env:Cue")
rimrl.register_suite(
    "own-cue",
    {
        "train": {"id": "Own/Cue-v0", "description": "Two steps."},
        "longer": {"id": "Own/Cue-v0", "kwargs": {"delay": 4}, "description": "Four steps."},
    },
    "Remember a cue; held-out waits are longer.",
)
