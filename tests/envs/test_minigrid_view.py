"""The fast view is MiniGrid's own view, in every one of its environments."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
from typing import Any

import gymnasium
import minigrid  # noqa: F401 (registers its environments)
import numpy as np
import pytest
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Ball, Box, Door, Goal, Key, Lava, Wall, WorldObj
from minigrid.minigrid_env import MiniGridEnv

from rimrl.envs.minigrid_view import observe, with_fast_view
from rimrl.errors import UsageError

# WFC's need a package of their own.
IDS = [name for name in gymnasium.registry if name.startswith(("MiniGrid-", "BabyAI-")) and "-WFC-" not in name]


class Mirror(WorldObj):
    """A thing of a user's own that hides what is behind it while its owner says so."""

    def __init__(self, opaque: bool) -> None:
        super().__init__("box", "purple")
        self._opaque = opaque

    def see_behind(self) -> bool:
        return not self._opaque

    def encode(self) -> tuple[int, int, int]:
        return (7, 4, 2 if self._opaque else 1)


class Scattered(MiniGridEnv):
    """A room in which things, walls and doors lie anywhere, and so does the agent."""

    def __init__(self, width: int, height: int, **kwargs: Any) -> None:
        super().__init__(MissionSpace(lambda: "look"), width=width, height=height, max_steps=100, **kwargs)

    def _gen_grid(self, width: int, height: int) -> None:
        self.grid = Grid(width, height)
        rng = self.np_random
        ball, lava = Ball("red"), Lava()  # type: ignore[no-untyped-call]
        for x in range(width):
            for y in range(height):
                closed, locked = (bool(flag) for flag in rng.integers(2, size=2))
                door = Door("yellow", is_open=not closed, is_locked=closed and locked)
                things: list[WorldObj] = [Wall(), ball, Box("green"), Key("blue"), Goal(), lava, Mirror(closed), door]
                choice = rng.integers(2 * len(things))
                self.grid.set(x, y, things[choice] if choice < len(things) else None)
        self.agent_pos = (int(rng.integers(width)), int(rng.integers(height)))
        self.agent_dir = int(rng.integers(4))
        self.carrying = Key("red") if rng.integers(2) else None  # type: ignore[assignment]
        self.mission = "look"


def check_same(seen: dict[str, Any], own: dict[str, Any]) -> None:
    np.testing.assert_array_equal(seen["image"], own["image"])
    assert seen["image"].dtype == own["image"].dtype
    assert seen["image"].flags.writeable
    assert (list(seen), seen["direction"], seen["mission"]) == (list(own), own["direction"], own["mission"])


@pytest.mark.parametrize("env_id", IDS)
def test_every_environment_looks_as_it_did(env_id: str) -> None:
    env = gymnasium.make(env_id, disable_env_checker=True).unwrapped
    assert isinstance(env, MiniGridEnv)
    rng = np.random.default_rng(0)
    with contextlib.redirect_stdout(io.StringIO()):  # BabyAI says which levels it throws away
        env.reset(seed=1)
        for _ in range(25):
            check_same(observe(env), MiniGridEnv.gen_obs(env))  # type: ignore[no-untyped-call]
            *_, terminated, truncated, _ = env.step(int(rng.integers(7)))
            if terminated or truncated:
                env.reset()


@pytest.mark.parametrize("see_through_walls", [False, True])
@pytest.mark.parametrize("size", [(9, 9, 3), (5, 13, 7), (6, 4, 11)])
def test_any_room_looks_as_it_did(size: tuple[int, int, int], see_through_walls: bool) -> None:
    width, height, view = size
    env = Scattered(width, height, agent_view_size=view, see_through_walls=see_through_walls)
    # Without MiniGrid's own check that the agent does not start on top of something.
    env._np_random = np.random.default_rng(0)
    for _ in range(200):
        env._gen_grid(width, height)
        check_same(observe(env), MiniGridEnv.gen_obs(env))  # type: ignore[no-untyped-call]


def test_episodes_are_the_same() -> None:
    plain, fast = (gymnasium.make("MiniGrid-KeyCorridorS3R3-v0", disable_env_checker=True) for _ in range(2))
    assert with_fast_view(fast) is fast
    rng = np.random.default_rng(0)
    check_same(fast.reset(seed=5)[0], plain.reset(seed=5)[0])
    for action in rng.integers(7, size=200).tolist():
        (own, *own_rest), (seen, *rest) = plain.step(action), fast.step(action)
        check_same(seen, own)
        assert rest == own_rest


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_shows_its_own_room(duplicate: Any) -> None:
    env = with_fast_view(gymnasium.make("MiniGrid-Empty-5x5-v0", disable_env_checker=True)).unwrapped
    env.reset(seed=1)
    twin = duplicate(env)
    before = env.gen_obs()["image"]  # type: ignore[attr-defined]
    twin.step(0)
    np.testing.assert_array_equal(env.gen_obs()["image"], before)  # type: ignore[attr-defined]
    assert not np.array_equal(twin.gen_obs()["image"], before)


def test_a_view_of_its_own_stays() -> None:
    class Blind(MiniGridEnv):
        def gen_obs(self) -> dict[str, Any]:
            return {"image": np.zeros((7, 7, 3), dtype=np.uint8), "direction": 0, "mission": "grope"}

        def _gen_grid(self, width: int, height: int) -> None:
            self.grid = Grid(width, height)
            self.place_agent()  # type: ignore[no-untyped-call]

    env = with_fast_view(Blind(MissionSpace(lambda: "grope"), grid_size=5, max_steps=5))
    assert env.reset()[0]["mission"] == "grope"


def test_other_environments_are_refused() -> None:
    with pytest.raises(UsageError, match="MiniGrid"):
        with_fast_view(gymnasium.make("CartPole-v1"))
