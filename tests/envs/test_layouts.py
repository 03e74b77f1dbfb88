"""Levels are those of their seeds, and what is held out is never trained on."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from minigrid.envs.multiroom import MultiRoomEnv

from rimrl.envs.layouts import LevelSeeds
from rimrl.envs.suites import LAYOUTS, NUM_LEVELS
from rimrl.envs.vector import make_env
from rimrl.errors import UsageError


def rooms() -> MultiRoomEnv:
    return MultiRoomEnv(2, 2, 4)


def drawing(env: gymnasium.Env[Any, Any]) -> bytes:
    level = env.unwrapped
    assert isinstance(level, MultiRoomEnv)
    return bytes(level.grid.encode().tobytes()) + bytes([*map(int, level.agent_pos), level.agent_dir])


def test_a_level_is_what_its_seed_makes() -> None:
    levels = LevelSeeds(rooms(), start_level=40, num_levels=5)
    seen = set()
    for episode in range(40):
        _, info = levels.reset(seed=None if episode else 3)
        direct = rooms()
        direct.reset(seed=info["level"])
        assert drawing(levels) == drawing(direct)
        seen.add(info["level"])
    assert seen == set(range(40, 45))


def test_the_seed_decides_the_order_of_levels() -> None:
    def order(seed: int) -> list[int]:
        levels = LevelSeeds(rooms(), num_levels=1000)
        first = levels.reset(seed=seed)[1]["level"]
        for _ in range(7):  # what happens in an episode has no say in the next
            levels.step(levels.action_space.sample())
        return [first, *(levels.reset()[1]["level"] for _ in range(10))]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_levels_are_drawn_uniformly() -> None:
    levels = LevelSeeds(rooms(), num_levels=4)
    levels.reset(seed=0)
    drawn = np.bincount([levels.reset()[1]["level"] for _ in range(800)], minlength=4)
    assert (np.abs(drawn - 200) < 4 * np.sqrt(800 * 0.25 * 0.75)).all()


def test_no_training_level_is_held_out() -> None:
    trained = set()
    for level in range(NUM_LEVELS):
        env = rooms()
        env.reset(seed=level)
        trained.add(drawing(env))
    unseen = make_env("layouts", split="unseen")
    unseen.reset(seed=0)
    for _ in range(500):
        _, info = unseen.reset()
        assert info["level"] >= LAYOUTS.split("unseen").env_kwargs["start_level"] > NUM_LEVELS
        assert drawing(unseen) not in trained  # another seed could make the same level


def test_ids_take_other_levels_and_say_what_they_cannot_use() -> None:
    env = make_env("layouts", num_levels=1, start_level=7, max_rooms=3)
    assert {env.reset()[1]["level"] for _ in range(5)} == {7}
    with pytest.raises(UsageError, match=r"num_levels.*integer.*0.*-1"):
        make_env("layouts", num_levels=-1)
    with pytest.raises(UsageError, match=r"max_rooms.*integer.*2.*1"):
        make_env("layouts", max_rooms=1)
    with pytest.raises(UsageError, match=r"'num_level'.*did.*'num_levels'"):
        make_env("layouts", num_level=3)
