"""Environments that cost nothing: they play a recording, whatever the actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

Transition = tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]


class Replay(VecEnv):
    """Plays recorded steps of another vector over and over.

    Args:
        env: Where spaces and the number of environments come from.
        first: The observation of the reset.
        steps: What each step returned.
    """

    def __init__(self, env: VecEnv, first: Any, steps: list[Transition]) -> None:
        self._source = env
        super().__init__(env.num_envs, env.observation_space, env.action_space)
        self._first = first
        self._steps = steps
        self._next = 0

    @classmethod
    def record(cls, env: VecEnv, n_steps: int) -> Replay:
        """Record `n_steps` of `env` under random actions."""
        first = env.reset()
        steps: list[Transition] = []
        for _ in range(n_steps):
            actions = np.array([env.action_space.sample() for _ in range(env.num_envs)])
            obs, rewards, dones, infos = env.step(actions)
            steps.append((obs, rewards.copy(), dones.copy(), infos))
        return cls(env, first, steps)

    def twin(self) -> Replay:
        """Another that plays the same recording from its beginning."""
        return Replay(self._source, self._first, self._steps)

    def reset(self) -> Any:
        """The recorded reset."""
        return self._first

    def step_async(self, actions: NDArray[Any]) -> None:
        """Nothing depends on the actions."""

    def step_wait(self) -> Any:
        """The next recorded step; the first again after the last."""
        obs, rewards, dones, infos = self._steps[self._next]
        self._next = (self._next + 1) % len(self._steps)
        return obs, rewards.copy(), dones, infos

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of the environments that were recorded."""
        return self._source.get_attr(attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """A recording has no attributes to set."""
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """A recording has no methods to call."""
        raise NotImplementedError

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """A recording has no seed."""
        return [None] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        """What was recorded, wrappers included."""
        return self._source.env_is_wrapped(wrapper_class, indices)
