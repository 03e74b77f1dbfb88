"""A wrapper, callbacks and parts of a policy of a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor


class Paid(gymnasium.RewardWrapper[Any, Any]):
    """Pays `a` times as much, and `b` more."""

    def __init__(self, env: gymnasium.Env[Any, Any], a: float = 1.0, b: float = 0.0) -> None:
        super().__init__(env)
        self.a, self.b = a, b

    def reward(self, reward: Any) -> float:
        return self.a * float(reward) + self.b


class Noting(BaseCallback):
    """Counts episodes, and changes the discount after each third: what it has counted decides how learning goes on."""

    def __init__(self, file: str | None = None, discount: float = 0.5) -> None:
        super().__init__()
        self.ended = 0
        self._file = file
        self._discount = discount

    def _on_step(self) -> bool:
        self.ended += int(self.locals["dones"].sum())
        return True

    def _on_rollout_end(self) -> None:
        self.model.gamma = self._discount if self.ended % 3 == 2 else 0.99  # type: ignore[attr-defined]

    def _on_training_end(self) -> None:
        if self._file is not None:
            Path(self._file).write_text(str(self.ended))


class Ending(BaseCallback):
    """Ends the training after so many steps."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def _on_step(self) -> bool:
        return self.num_timesteps < self._after


class Twice(BaseFeaturesExtractor):
    """Vectors, multiplied."""

    def __init__(self, observation_space: spaces.Space[Any], by: float = 2.0) -> None:
        super().__init__(observation_space, int(observation_space.shape[0]))  # type: ignore[index]
        self.by = by

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.by * observations


class Slow(th.optim.SGD):
    """Half the step."""

    def __init__(self, params: Any, lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, lr=lr / 2, momentum=momentum)
