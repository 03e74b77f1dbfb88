"""The image in what an agent observes: of a stack of frames the latest one, as pixels that can be drawn.

Letters: H, W height and width in pixels; C channels; K stacked frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rimrl.envs.frame_stack import FrameStack


@dataclass(frozen=True)
class Screen:
    """Where in an observation its latest image is.

    Attributes:
        key: Part of a Dict; None for an observation that is none.
        channels_first: Whether images are [C, H, W] instead of [H, W, C].
        n_stack: K, as far as wrappers tell; 1 for none.
    """

    key: str | None
    channels_first: bool
    n_stack: int

    def latest(self, observation: NDArray[Any] | Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
        """Cut the latest frame out of an observation.

        The last C / K channels are one frame. If their number is a multiple of three, the last three are red, green and
        blue; otherwise, the last one is grey. So an image of three channels is a stack of grey frames only where a
        wrapper stacks them, and RGB everywhere else; without a wrapper, one of four channels is a stack of grey frames.

        Args:
            observation: A batch of one, pixels not normalised.

        Returns:
            uint8 [H, W, 3], a new array; of grey pixels, the three channels are equal.
        """
        image = np.asarray(observation if self.key is None else observation[self.key])[0]
        if self.channels_first:
            image = image.transpose(1, 2, 0)
        stacked = image.shape[2]
        channels = stacked if stacked % self.n_stack else stacked // self.n_stack
        frame = image[:, :, -3:] if channels % 3 == 0 else image[:, :, -1:].repeat(3, axis=2)
        return np.array(frame, dtype=np.uint8, order="C")


def screen_of(env: VecEnv) -> Screen | None:
    """The image that environments show, the first one of a Dict; None where they show none.

    Args:
        env: The environments. Wrappers that stack frames are known by name around those of a `DummyVecEnv`:
            `rimrl.envs.frame_stack.FrameStack` and gymnasium's `FrameStackObservation`, which Atari games have.
    """
    space = env.observation_space
    parts: Mapping[Any, spaces.Space[Any]] = space.spaces if isinstance(space, spaces.Dict) else {None: space}
    for key, part in parts.items():
        if isinstance(part, spaces.Box) and is_image_space(part):
            single = env.unwrapped.envs[0] if isinstance(env.unwrapped, DummyVecEnv) else None
            return Screen(key, is_image_space_channels_first(part), prod(_stacks(single)))
    return None


def _stacks(env: gymnasium.Env[Any, Any] | None) -> list[int]:
    """How many frames each wrapper around an environment stacks, of those that stack any."""
    sizes = []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, FrameStack):
            sizes.append(env.n_stack)
        elif isinstance(env, FrameStackObservation):
            sizes.append(env.stack_size)
        env = env.env
    return sizes
