"""MiniGrid and BabyAI in C++: EnvPool's environments with rimrl's observations.

Levels are drawn by another random number generator than MiniGrid's, so the same seed is another level; what a level can
be and what happens in it is the same. docs/environments.md says how that was tested and which ids failed.

Notation: B = environments, V = view size, L = mission length in tokens.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rimrl.envs.checks import check_at_least
from rimrl.envs.minigrid import Preparation
from rimrl.envs.native import Transition
from rimrl.errors import needs, not_installed, wrong

PREFIXES = ("MiniGrid-", "BabyAI-")

# What EnvPool 1.2.5 has by a MiniGrid name that is another game: beginnings of ids, each with the difference.
# Another version is compared by python -m tests.envs.envpool_levels.
_GREY_BOXES = "the boxes that hide keys are blue instead of grey"
NOT_EQUIVALENT = {
    "MiniGrid-MultiRoom-": "the door to the next room is often walled up, and such a level cannot be solved",
    "MiniGrid-ObstructedMaze-1D": "the map is 16 x 16 instead of 11 x 6 tiles",
    "MiniGrid-ObstructedMaze-2Dlh": _GREY_BOXES,
    "MiniGrid-ObstructedMaze-1Q": _GREY_BOXES,
    "MiniGrid-ObstructedMaze-2Q": _GREY_BOXES,
    "MiniGrid-ObstructedMaze-Full": _GREY_BOXES,
    "MiniGrid-WFC-": "the two have not been compared",
    "BabyAI-ActionObjDoor-": "doors can be locked",
    "BabyAI-GoToImpUnlock-": "there are two things fewer",
    "BabyAI-Unlock-": "there are three things fewer",
}


class EnvPoolMiniGrid:
    """EnvPool's MiniGrid and BabyAI environments, a `rimrl.envs.native.Simulator`.

    Observations are those of `rimrl.envs.minigrid.MiniGridObservation`, whose arguments are taken here, too. EnvPool
    does not tell an end from the time limit when both fall on the same step: with a reward it counts as an end, without
    one as the limit. MiniGrid would call it an end in either case, so an episode that fails (lava, the wrong object) in
    its very last step is bootstrapped as if it had been cut off.

    Args:
        env_id: A MiniGrid or BabyAI id that EnvPool has.
        num_envs: B.
        max_steps: Time limit; None for that of the id.
        **preparation: Arguments of `MiniGridObservation`.

    Raises:
        UsageError: If EnvPool is not installed, or does not have `env_id` or has something else by that name.
    """

    def __init__(self, env_id: str, num_envs: int, max_steps: int | None = None, **preparation: Any) -> None:
        check_id(env_id)
        try:
            self._envpool = importlib.import_module("envpool")
        except ImportError as error:
            raise not_installed("backend 'envpool'", "EnvPool", "rimrl[fast]", error) from error
        if env_id not in self._envpool.list_all_envs():
            raise wrong("EnvPool", f"does not have {env_id}", "use backend 'dummy' or 'subproc'", "missing")
        if max_steps is not None:
            check_at_least("max_steps", max_steps, 1)
        self._env_id = env_id
        self._options = {} if max_steps is None else {"max_episode_steps": max_steps}
        self._pool: Any = None
        self._missions = np.zeros((num_envs, 0), dtype=np.int64)
        spec = self._envpool.make_spec(env_id, **self._options)
        width, height, _ = spec.observation_space["image"].shape
        self._prepare = Preparation((width, height), **preparation)
        self.num_envs = num_envs
        self.observation_space: spaces.Space[Any] = self._prepare.space
        self.action_space: spaces.Space[Any] = spaces.Discrete(int(spec.action_space.n))

    def reset(self, seeds: Sequence[int] | None) -> dict[str, NDArray[Any]]:
        """Begin an episode in every environment; see `Simulator`."""
        if seeds is not None:
            # EnvPool takes seeds only when it makes a pool.
            self._pool = self._envpool.make(
                self._env_id, env_type="gymnasium", num_envs=self.num_envs, env_seed=list(seeds), **self._options
            )
        raw, _ = self._pool.reset()
        if self._prepare.shows_mission:
            self._missions = self._read_missions(raw["mission"])
        return self._prepared(raw["image"], self._missions)

    def step(self, actions: NDArray[Any]) -> Transition:
        """Advance every environment and reset those that end; see `Simulator`."""
        raw, rewards, terminated, truncated, _ = self._pool.step(actions)
        terminated = terminated | (truncated & (rewards != 0))
        truncated = truncated & ~terminated
        images, final, ended = raw["image"], None, np.flatnonzero(terminated | truncated)
        if ended.size:
            final = self._prepared(images[ended], self._missions[ended])
            # EnvPool itself would reset them in the next step, and ignore the action.
            first, about = self._pool.reset(ended)
            order = about["env_id"]
            images[order] = first["image"]
            if self._prepare.shows_mission:
                self._missions[order] = self._read_missions(first["mission"])
        rows = {int(env): row for row, env in enumerate(ended)}
        outcomes = {"is_success": rewards > 0}  # as `MiniGridObservation` tells it
        observation = self._prepared(images, self._missions)
        return Transition(observation, rewards, terminated, truncated, final, rows, {}, outcomes)

    def close(self) -> None:
        """Free the pool; see `Simulator`."""
        self._pool = None

    def _prepared(self, images: NDArray[np.uint8], missions: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        prepared: dict[str, NDArray[Any]] = {"image": self._prepare.image(images)}
        if self._prepare.shows_mission:
            prepared["mission"] = missions.copy()  # the next reset writes into them
        return prepared

    def _read_missions(self, texts: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Turn zero-terminated bytes [B, bytes] into tokens [B, L]."""
        if texts[:, -1].any():
            raise RuntimeError(
                f"a mission of {self._env_id} is longer than the {texts.shape[1]} bytes EnvPool has for it"
            )
        return np.stack([self._prepare.mission(bytes(text).rstrip(b"\0").decode()) for text in texts])


def check_id(env_id: str) -> None:
    """Refuse what EnvPool cannot stand in for.

    Raises:
        UsageError: If `env_id` is no MiniGrid or BabyAI id, or EnvPool's is not the same game.
    """
    if not env_id.startswith(PREFIXES):
        others = "'dummy', 'subproc' or 'native'" if env_id.startswith("ALE/") else "'dummy' or 'subproc'"
        raise needs("backend 'envpool'", "a MiniGrid or BabyAI id", repr(env_id), f"use {others}")
    reason = next((why for family, why in NOT_EQUIVALENT.items() if env_id.startswith(family)), None)
    if reason is not None:
        raise wrong(f"EnvPool's {env_id}", f"is not MiniGrid's: {reason}", "use backend 'dummy' or 'subproc'")
