"""Atari games as learners see them: what is shown, and what of the score is learned from.

Preparation is the usual one (Mnih et al., 2015; Machado et al., 2018): every action is held for four frames, the last
two of them are merged, turned grey and scaled to 84 x 84, the last four results are stacked, and a game may begin with
a random number of no-ops. Screens can be smaller, and can flicker (`rimrl.envs.flicker`).

The score and the signal to learn from are two things. Environments and `VecMonitor` deal in whole games and true
scores; `LearningSignal`, around the monitor, clips rewards and lets a lost life end an episode.

Notation: B = environments, K = stacked frames, S = pixels along a side of the screen.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from ale_py import ALEInterface, LoggerMode
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from rimrl.envs.atari_games import check_flavour, find_game
from rimrl.envs.checks import check_at_least
from rimrl.envs.flicker import FlickeringScreen, check_flicker
from rimrl.errors import invalid_value

SCREEN_SIZE = 84
# Of the emulator's own screen, which is 210 high.
_SCREEN_WIDTH = 160


def check_preparation(
    frameskip: int,
    noop_max: int,
    frame_stack: int,
    repeat_action_probability: float = 0.0,
    screen_size: int = SCREEN_SIZE,
) -> None:
    """Refuse numbers that make no game.

    Raises:
        UsageError: With the argument's name and what was given.
    """
    check_at_least("frameskip", frameskip, 1)
    check_at_least("noop_max", noop_max, 0)
    check_at_least("frame_stack", frame_stack, 1)
    if not isinstance(screen_size, int) or isinstance(screen_size, bool) or not 1 <= screen_size <= _SCREEN_WIDTH:
        raise invalid_value("screen_size", f"an integer from 1 to {_SCREEN_WIDTH}", screen_size)
    if not 0 <= repeat_action_probability <= 1:
        raise invalid_value("repeat_action_probability", "between 0 and 1", repeat_action_probability)


def make_atari(
    env_id: str,
    frameskip: int = 4,
    noop_max: int = 0,
    frame_stack: int = 4,
    mode: int | None = None,
    difficulty: int | None = None,
    screen_size: int = SCREEN_SIZE,
    flicker: float = 0.0,
    flicker_burst: float | None = None,
    **env_kwargs: Any,
) -> gymnasium.Env[Any, Any]:
    """Make one prepared game.

    Observations are uint8 [K, S, S], oldest frame first; after a reset all but the last are black. An episode is a
    whole game and rewards are the game's own.

    Args:
        env_id: ``ALE/<game>-v5``.
        frameskip: Frames that an action is held for.
        noop_max: A game begins with 1 to this many no-ops; 0 for none.
        frame_stack: K; 1 for agents that remember.
        mode: Mode of the game; None for the one it starts with.
        difficulty: Difficulty of the game; None for the one it starts with.
        screen_size: S, up to 160.
        flicker: Probability of a new frame to be blank. It is blanked before it is stacked: a stack holds frames as
            they were seen.
        flicker_burst: Mean length of a run of blank frames; None for independent ones.
        **env_kwargs: Arguments of ale-py's environment, over those of the id: among them
            ``repeat_action_probability`` (sticky actions; 0.25 for these ids, 0 turns them off),
            ``full_action_space`` and ``max_num_frames_per_episode``.

    Returns:
        The environment.

    Raises:
        UsageError: If a number is out of range, or the game lacks that mode or difficulty.
    """
    check_preparation(frameskip, noop_max, frame_stack, env_kwargs.get("repeat_action_probability", 0.0), screen_size)
    check_flicker(flicker, flicker_burst)
    if mode is not None or difficulty is not None:
        check_flavour(find_game(env_id.removeprefix("ALE/").removesuffix("-v5")), mode, difficulty)
        env_kwargs |= {"mode": mode, "difficulty": difficulty}
    ALEInterface.setLoggerMode(LoggerMode.Error)  # or it greets on standard error
    # Grey costs less than the default, and AtariPreprocessing reads the screen itself.
    env = gymnasium.make(env_id, frameskip=1, obs_type="grayscale", **env_kwargs)
    env = AtariPreprocessing(env, noop_max=noop_max, frame_skip=frameskip, screen_size=screen_size)
    if flicker:
        env = FlickeringScreen(env, flicker, flicker_burst)
    return FrameStackObservation(env, frame_stack, padding_type="zero")


class LearningSignal(VecEnvWrapper):
    """Turn scores of whole games into what an agent learns from.

    Goes around `VecMonitor`, which so records whole games and true scores under ``info["episode"]``.

    Args:
        venv: Games that report ``info["lives"]``.
        terminal_on_life_loss: A lost life ends an episode, as with SB3's ``EpisodicLifeEnv``: `dones` is true and
            ``info["terminal_observation"]`` is set. The game goes on where it is: the next observation is that same
            one, where ``EpisodicLifeEnv`` makes one no-op first.
        clip_rewards: Rewards become their sign.

    Attributes:
        lives: Lives left in each game, int64 [B]; 0 where that is not known yet.

    Raises:
        UsageError: If an option is neither true nor false.
    """

    def __init__(self, venv: VecEnv, terminal_on_life_loss: bool = False, clip_rewards: bool = True) -> None:
        options = {"terminal_on_life_loss": terminal_on_life_loss, "clip_rewards": clip_rewards}
        for name, value in options.items():
            if not isinstance(value, bool):
                raise invalid_value(name, "true or false", value)
        super().__init__(venv)
        self._terminal_on_life_loss = terminal_on_life_loss
        self._clip_rewards = clip_rewards
        self.lives: NDArray[np.int64] = np.zeros(self.num_envs, dtype=np.int64)

    def reset(self) -> VecEnvObs:
        """Begin a game in every environment."""
        self.lives[:] = 0
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Advance every game."""
        observation, rewards, dones, infos = self.venv.step_wait()
        if self._clip_rewards:
            rewards = np.sign(rewards)
        if self._terminal_on_life_loss:
            lives = np.array([info["lives"] for info in infos])
            # Some games show no life left for a while before they are over; SB3 waits for the end, too.
            lost = (lives < self.lives) & (lives > 0) & ~dones
            self.lives = np.where(dones, 0, lives)
            for env in np.flatnonzero(lost):
                assert isinstance(observation, np.ndarray)
                infos[env]["terminal_observation"] = observation[env]
            dones = dones | lost
        return observation, rewards, dones, infos
