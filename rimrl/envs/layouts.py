"""Levels by number: train on some, test on others.

How well does an agent do in levels that it never saw, if it saw only so many? The question and the two parameters'
names are Procgen's (Cobbe et al., "Leveraging Procedural Generation to Benchmark Reinforcement Learning", ICML 2020).
"""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.utils import RecordConstructorArgs
from minigrid.envs.multiroom import MultiRoomEnv

from rimrl.envs.checks import check_at_least
from rimrl.envs.minigrid import prepared

# Levels without an end are drawn from so many: one more would not fit the seeds that every simulator takes.
_LAST_LEVEL = 2**31


class LevelSeeds(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Draw every episode's level from a set of seeds.

    Level n is what `env` makes when it is reset with seed n. Which level comes next is decided by the seed of
    `reset` and by that alone.

    Args:
        env: An environment whose levels depend on its seed.
        start_level: The first level.
        num_levels: How many there are; 0 for as many as seeds can count.

    Raises:
        UsageError: If a number is out of range.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], start_level: int = 0, num_levels: int = 0) -> None:
        RecordConstructorArgs.__init__(self, start_level=start_level, num_levels=num_levels)
        super().__init__(env)
        check_at_least("start_level", start_level, 0)
        check_at_least("num_levels", num_levels, 0)
        self._levels = range(start_level, start_level + num_levels if num_levels else _LAST_LEVEL)
        self._choice, _ = gymnasium.utils.seeding.np_random()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin the next level; ``info["level"]`` is its number."""
        if seed is not None:
            self._choice, _ = gymnasium.utils.seeding.np_random(seed)
        level = int(self._choice.integers(self._levels.start, self._levels.stop))
        observation, info = self.env.reset(seed=level, options=options)
        return observation, {**info, "level": level}


def make_levels(
    start_level: int,
    num_levels: int,
    min_rooms: int = 2,
    max_rooms: int = 2,
    max_room_size: int = 4,
    render_mode: str | None = None,
) -> LevelSeeds:
    """Make MiniGrid's MultiRoom with numbered levels.

    Args:
        start_level: See `LevelSeeds`.
        num_levels: See `LevelSeeds`.
        min_rooms: Fewest rooms of a level; 2 as in ``MiniGrid-MultiRoom-N2-S4-v0``, like the two numbers below.
        max_rooms: Most rooms of a level.
        max_room_size: Largest side of a room, walls included; at least 4.
        render_mode: ``"human"``, ``"rgb_array"`` or None.

    Returns:
        The environment, with MiniGrid's observations.

    Raises:
        UsageError: As `LevelSeeds`, and if a number of rooms or a side is out of range.
    """
    check_at_least("min_rooms", min_rooms, 1)
    check_at_least("max_rooms", max_rooms, min_rooms)
    check_at_least("max_room_size", max_room_size, 4)
    rooms = MultiRoomEnv(min_rooms, max_rooms, max_room_size, render_mode=render_mode)
    return LevelSeeds(rooms, start_level=start_level, num_levels=num_levels)


make_layouts = prepared(make_levels, mission=False)
"""The entry point of ``rimrl/Layouts...``; the mission, which is always the same, is not shown by default."""
