"""POPGym's environments with the observations that its authors' baselines get.

Morad et al., "POPGym: Benchmarking Partially Observable Reinforcement Learning", ICLR 2023; `rimrl.envs.popgym_suites`
has its suites. Their baselines (``popgym/baselines/ppo.py``) see the previous action and whether an episode has just
begun beside every observation, and no reward.

Notation: D = width of an observation.
"""

from __future__ import annotations

import importlib
import random
from itertools import compress
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from rimrl.envs.checks import check_at_least
from rimrl.errors import invalid_value, not_installed

_MAZES = "popgym-Labyrinth"


def register(env_id: str) -> None:
    """Import POPGym, which registers its ids, and what else it needs for one of them.

    Raises:
        UsageError: If that is not installed; says how to.
    """
    for module in ("mazelib", "popgym") if env_id.startswith(_MAZES) else ("popgym",):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise not_installed(env_id, module, "rimrl[popgym]", error) from error


def make_popgym(
    env_id: str, previous_action: bool = True, episode_start: bool = True, max_episode_steps: int | None = None
) -> gymnasium.Env[NDArray[np.float32], Any]:
    """Make an environment of POPGym as its baselines play it.

    Args:
        env_id: Such as ``popgym-RepeatPreviousEasy-v0``.
        previous_action: See `PopgymObservation`.
        episode_start: See `PopgymObservation`.
        max_episode_steps: End episodes early; None leaves them as they are.

    Raises:
        UsageError: If POPGym is not installed, or an argument has a value that it cannot have.
    """
    register(env_id)
    if max_episode_steps is not None:
        check_at_least("max_episode_steps", max_episode_steps, 1)
    env: gymnasium.Env[Any, Any] = gymnasium.make(env_id, max_episode_steps=max_episode_steps, disable_env_checker=True)
    if env_id.startswith(_MAZES):
        env = OwnMazes(env)
    return PopgymObservation(env, previous_action, episode_start)


class PopgymObservation(gymnasium.Wrapper[NDArray[np.float32], Any, Any, Any], RecordConstructorArgs):
    """Show everything as one vector: what the environment shows, the previous action, and whether an episode begins.

    Observations are float32 ``[D]``, these three one after the other. Choices are one-hot vectors, several choices
    their one-hot vectors side by side, numbers stay as they are. The result is that of POPGym's own wrappers,
    ``Flatten(Antialias(PreviousAction(env)))``.

    Args:
        env: An environment whose observations are spaces that gymnasium can flatten, Tuple included.
        previous_action: Show the previous action; in the first observation of an episode action 0, or zeros.
        episode_start: Tell the first observation of an episode from the others, where a previous action 0 may have been
            one: a choice of two, the second for the first observation.

    Raises:
        UsageError: If either is neither true nor false.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], previous_action: bool = True, episode_start: bool = True) -> None:
        for name, value in (("previous_action", previous_action), ("episode_start", episode_start)):
            if not isinstance(value, bool):
                raise invalid_value(name, "true or false", value)
        RecordConstructorArgs.__init__(self, previous_action=previous_action, episode_start=episode_start)
        super().__init__(env)
        self._shown = (True, previous_action, episode_start)
        self._parts = spaces.Tuple(compress((env.observation_space, env.action_space, spaces.Discrete(2)), self._shown))
        box = spaces.flatten_space(self._parts)
        assert isinstance(box, spaces.Box)
        # Its numbers may be of 64 bits, and gymnasium warns where it has to shorten bounds itself.
        low, high = box.low.astype(np.float32), box.high.astype(np.float32)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self._no_action = np.zeros(env.action_space.shape or (), env.action_space.dtype)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._joined(observation, self._no_action, 1), info

    def step(self, action: Any) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        """Advance the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._joined(observation, action, 0), reward, terminated, truncated, info

    def _joined(self, observation: Any, action: Any, first: int) -> NDArray[np.float32]:
        values = tuple(compress((observation, action, first), self._shown))
        flat: NDArray[np.float32] = np.asarray(spaces.flatten(self._parts, values), np.float32)
        return flat


class OwnMazes(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Let an environment's seed decide all of its mazes, and nothing else.

    POPGym draws them from the generators of Python and NumPy that everybody shares, and seeds these when it is given a
    seed: other environments, and the agent, would change the mazes, and be changed by them.

    Args:
        env: A labyrinth of POPGym.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in a new maze."""
        shared = random.getstate(), np.random.get_state()
        try:
            if seed is None:
                drawn = int(self.unwrapped.np_random.integers(2**32))
                random.seed(drawn)
                np.random.seed(drawn)
            return self.env.reset(seed=seed, options=options)
        finally:
            random.setstate(shared[0])
            np.random.set_state(shared[1])
