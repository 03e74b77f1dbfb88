"""Efference copies: what the agent did last and what it got for it, beside what the environment shows.

The RIM paper (Goyal et al., ICLR 2021, App. C.3) gives agents the previous action and reward as further inputs and
names them after von Helmholtz's and von Holst's copies of motor signals. Without them a reward reaches an agent only
through learning; with them it can act on it within the episode (Wang et al., "Learning to reinforcement learn", 2016).

Notation: B = environments, A = width of an encoded action.
"""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from rimrl.errors import conflict, needs

PREVIOUS_ACTION = "previous_action"
PREVIOUS_REWARD = "previous_reward"
OBSERVATION = "observation"
"""Where an observation goes that is not a Dict itself."""

_OBSERVATIONS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Dict)


class ActionEncoding:
    """Actions as vectors.

    A choice becomes a one-hot vector, several choices their one-hot vectors side by side; bits and real numbers stay as
    they are, flat.

    Args:
        space: Discrete, MultiDiscrete, MultiBinary or Box.

    Attributes:
        space: Box of the encoded actions, float32 [A]; holds zeros, which stand for no action.

    Raises:
        UsageError: For any other space.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._choices: NDArray[np.int64] | None = None
        low: Any = 0.0
        high: Any = 1.0
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            # Their own dtype may be one that numpy does not count in, or too small for the sums.
            counts = (
                np.atleast_1d(space.n if isinstance(space, spaces.Discrete) else space.nvec).ravel().astype(np.int64)
            )
            starts = np.broadcast_to(np.asarray(space.start, dtype=np.int64).ravel(), counts.shape)
            self._owner = np.repeat(np.arange(len(counts)), counts)  # which of the choices each entry belongs to
            self._choices = np.concatenate([start + np.arange(n) for start, n in zip(starts, counts, strict=True)])
            width = int(counts.sum())
        elif isinstance(space, spaces.MultiBinary):
            width = int(np.prod(space.shape))
        elif isinstance(space, spaces.Box):
            width = int(np.prod(space.shape))
            low, high = np.minimum(space.low.ravel(), 0), np.maximum(space.high.ravel(), 0)
        else:
            raise needs("efference copies", "Discrete, MultiDiscrete, MultiBinary or Box actions", str(space))
        low, high = (np.broadcast_to(bound, (width,)).astype(np.float32) for bound in (low, high))
        self.space = spaces.Box(low, high, dtype=np.float32)

    def __call__(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """[B, ...] actions to float32 [B, A], a new array."""
        flat = np.asarray(actions).reshape(len(actions), -1)
        if self._choices is not None:
            flat = flat[:, self._owner] == self._choices
        return flat.astype(np.float32)


def with_copies(space: spaces.Space[Any], action: spaces.Box) -> spaces.Dict:
    """The observation space that holds the copies, too.

    Args:
        space: Observation space of the environment.
        action: Space of encoded actions.

    Raises:
        UsageError: If the space has a key of that name already, or is of a kind that Stable-Baselines3 does not know.
    """
    if not isinstance(space, _OBSERVATIONS):
        raise needs("efference copies", "Box, Dict or (Multi)Discrete observations", str(space))
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}
    for name in (PREVIOUS_ACTION, PREVIOUS_REWARD):
        if name in parts:
            raise conflict(
                f"{name!r} of the environment's own", "efference_copies", "leave them off, or rename that part"
            )
    reward = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    return spaces.Dict({**parts, PREVIOUS_ACTION: action, PREVIOUS_REWARD: reward})


def _joined(observation: Any, action: NDArray[np.float32], reward: NDArray[np.float32]) -> dict[str, Any]:
    parts = observation if isinstance(observation, dict) else {OBSERVATION: observation}
    return {**parts, PREVIOUS_ACTION: action, PREVIOUS_REWARD: reward}


class VecEfferenceCopies(VecEnvWrapper):
    """Show previous action and reward in any Stable-Baselines3 vector.

    Observations become a dictionary: the keys of a Dict observation, or ``observation`` for any other, and

    * ``previous_action``: float32 [B, A], see `ActionEncoding`: the action as the environment got it (a Gaussian's
      clipped to its bounds);
    * ``previous_reward``: float32 [B, 1], the reward as this wrapper passes it on.

    Both are zero in the first observation of an episode, where ``dones`` was true. ``info["terminal_observation"]``
    holds the last action and reward. A wrapper inside changes the rewards that are shown, one outside does not.

    Args:
        venv: Any vector whose observations SB3 can learn from.

    Raises:
        UsageError: As `ActionEncoding` and `with_copies`.
    """

    def __init__(self, venv: VecEnv) -> None:
        self._encode = ActionEncoding(venv.action_space)
        super().__init__(venv, observation_space=with_copies(venv.observation_space, self._encode.space))
        self._actions = self._no_action()

    def reset(self) -> VecEnvObs:
        """Begin an episode in every environment."""
        return _joined(self.venv.reset(), self._no_action(), np.zeros((self.num_envs, 1), dtype=np.float32))

    def step_async(self, actions: NDArray[Any]) -> None:
        """Hand on the actions, and keep a copy."""
        self._actions = self._encode(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Advance every environment."""
        observation, rewards, dones, infos = self.venv.step_wait()
        action, reward = self._actions, np.array(rewards, dtype=np.float32).reshape(-1, 1)
        for env in np.flatnonzero(dones):
            if infos[env].get("terminal_observation") is not None:
                last = infos[env]["terminal_observation"]
                infos[env]["terminal_observation"] = _joined(last, action[env].copy(), reward[env].copy())
        action[dones] = 0.0
        reward[dones] = 0.0
        return _joined(observation, action, reward), rewards, dones, infos

    def _no_action(self) -> NDArray[np.float32]:
        return np.zeros((self.num_envs, *self._encode.space.shape), dtype=np.float32)


class EfferenceCopies(gymnasium.Wrapper[dict[str, Any], Any, Any, Any], RecordConstructorArgs):
    """Show previous action and reward in a single environment, as `VecEfferenceCopies` does in a vector.

    Args:
        env: Any environment whose observations SB3 can learn from.

    Raises:
        UsageError: As `VecEfferenceCopies`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._encode = ActionEncoding(env.action_space)
        self.observation_space = with_copies(env.observation_space, self._encode.space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode; both copies are zero."""
        observation, info = self.env.reset(seed=seed, options=options)
        nothing = np.zeros(self._encode.space.shape, dtype=np.float32)
        return _joined(observation, nothing, np.zeros(1, dtype=np.float32)), info

    def step(self, action: Any) -> tuple[dict[str, Any], SupportsFloat, bool, bool, dict[str, Any]]:
        """Advance the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        copies = self._encode(np.asarray(action)[None])[0], np.array([reward], dtype=np.float32)
        return _joined(observation, *copies), reward, terminated, truncated, info
