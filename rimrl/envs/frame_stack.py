"""The latest observations shown together, one environment at a time."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from rimrl.errors import needs
from rimrl.spaces import describe_space


class FrameStack(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Show the latest observations together, the last one last, as Stable-Baselines3's `VecFrameStack`.

    Images are stacked along their channels, everything else along its last axis. At the start of an episode, zeros
    stand for what came before it. A wrapper of one environment is replayed with it (`rimrl.envs.replay`), which one of
    a vector is not.

    Args:
        env: An environment that shows a Box, or a Dict of Boxes.
        n_stack: How many are shown, at least 1.

    Attributes:
        n_stack: The same.

    Raises:
        UsageError: For other observations.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], n_stack: int) -> None:
        RecordConstructorArgs.__init__(self, n_stack=n_stack)
        super().__init__(env)
        space = env.observation_space
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
        if not all(isinstance(part, spaces.Box) and part.shape for part in parts):
            raise needs("env.frame_stack", "a Box, or a Dict of Boxes", describe_space(space), "leave it out")
        self.n_stack = n_stack
        self._stack: StackedObservations[Any] = StackedObservations(1, n_stack, space)  # type: ignore[arg-type]
        self.observation_space = self._stack.stacked_observation_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return _first(self._stack.reset(_batched(observation))), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Advance the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        # The end of an episode clears the stack of a vector, whose next observation is of another one already.
        stacked, _ = self._stack.update(_batched(observation), np.zeros(1, dtype=bool), [{}])
        return _first(stacked), reward, terminated, truncated, info


def _batched(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: np.asarray(part)[None] for key, part in observation.items()}
    return np.asarray(observation)[None]


def _first(stacked: Any) -> Any:
    """The observation in a batch of one, which the next step must not change."""
    if isinstance(stacked, dict):
        return {key: part[0].copy() for key, part in stacked.items()}
    return stacked[0].copy()
