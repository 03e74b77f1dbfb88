"""Atari games stepped together in C++, by ale-py's own vector environment.

What is shown and scored is what `rimrl.envs.atari.make_atari` shows and scores, frame by frame.

Notation: B = environments, K = stacked frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from rimrl.envs.atari import SCREEN_SIZE, check_preparation
from rimrl.envs.flicker import BlankFrames, check_flicker
from rimrl.envs.native import Transition


class NativeAtari:
    """Whole games with their true scores, a `rimrl.envs.native.Simulator`.

    Arguments are those of `rimrl.envs.atari.make_atari`. Chance comes from another generator: the same seed gives other
    no-ops and other repeated actions, and a game begins with 0 to `noop_max` - 1 no-ops. Blank frames are the same.

    Args:
        env_id: ``ALE/<game>-v5``.
        num_envs: B.
        frameskip: Frames that an action is held for.
        noop_max: Bound of the no-ops that a game begins with.
        frame_stack: K.
        repeat_action_probability: Probability of a frame to repeat the action before; None for the id's own, 0.25.
        full_action_space: All 18 actions instead of those that do something in this game.
        max_num_frames_per_episode: Time limit in frames.
        screen_size: Pixels along a side of the screen.
        flicker: Probability of a new frame to be blank.
        flicker_burst: Mean length of a run of blank frames; None for independent ones.

    Raises:
        UsageError: If a number is out of range.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        frameskip: int = 4,
        noop_max: int = 0,
        frame_stack: int = 4,
        repeat_action_probability: float | None = None,
        full_action_space: bool = False,
        max_num_frames_per_episode: int = 108_000,
        screen_size: int = SCREEN_SIZE,
        flicker: float = 0.0,
        flicker_burst: float | None = None,
    ) -> None:
        registered = gymnasium.spec(env_id).kwargs
        if repeat_action_probability is None:
            repeat_action_probability = float(registered["repeat_action_probability"])
        check_preparation(frameskip, noop_max, frame_stack, repeat_action_probability, screen_size)
        check_flicker(flicker, flicker_burst)
        # Lives and clipping stay outside: `episodic_life` would restart the whole game at each lost life, and a
        # clipped reward could not be recorded any more.
        self._games = AtariVectorEnv(
            registered["game"],
            num_envs,
            frameskip=frameskip,
            noop_max=noop_max,
            stack_num=frame_stack,
            img_height=screen_size,
            img_width=screen_size,
            repeat_action_probability=repeat_action_probability,
            full_action_space=full_action_space,
            max_num_frames_per_episode=max_num_frames_per_episode,
            autoreset_mode=AutoresetMode.SAME_STEP,
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=False,
        )
        self.num_envs = num_envs
        self.observation_space: spaces.Space[Any] = self._games.single_observation_space
        self.action_space: spaces.Space[Any] = self._games.single_action_space
        self._flicker = [BlankFrames(flicker, flicker_burst) for _ in range(num_envs if flicker else 0)]
        self._blank: NDArray[np.bool_] = np.zeros((num_envs, frame_stack), dtype=bool)

    def reset(self, seeds: Sequence[int] | None) -> NDArray[np.uint8]:
        """Begin a game in every environment; see `Simulator`."""
        observation: NDArray[np.uint8]
        observation, _ = self._games.reset(seed=None if seeds is None else np.array(seeds))
        for env in range(len(self._flicker)):
            self._begin(env, None if seeds is None else int(seeds[env]))
        observation[self._blank] = 0
        return observation

    def step(self, actions: NDArray[Any]) -> Transition:
        """Advance every game and restart those that end; see `Simulator`."""
        observation, rewards, terminated, truncated, info = self._games.step(np.asarray(actions))
        # ale-py gives the last observations of all games, with no mask of those that it holds for.
        ended = {int(env): int(env) for env in np.flatnonzero(terminated | truncated)}
        figures = {name: info[name] for name in ("lives", "frame_number", "episode_frame_number")}
        final = info["final_obs"] if ended else None
        if self._flicker:
            self._blank[:, :-1] = self._blank[:, 1:]
            self._blank[:, -1] = [frames.next() for frames in self._flicker]
            if final is not None:
                final[self._blank] = 0
            for env in ended:
                self._begin(env)
            observation[self._blank] = 0
        return Transition(observation, rewards.astype(np.float32), terminated, truncated, final, ended, figures)

    def _begin(self, env: int, seed: int | None = None) -> None:
        """Begin an episode of what is blank: the frames before it are black already."""
        self._blank[env] = False
        self._blank[env, -1] = self._flicker[env].begin(seed)

    def close(self) -> None:
        """Free nothing: ale-py's vector has nothing to close, and goes with this object."""
