"""MiniGrid's partial view, the same array in a tenth of the time.

MiniGrid cuts the view out of its grid, turns it by up to four quarters, finds what is seen and encodes that, tile by
tile and each time as a new grid. That is most of the time of a step. `observe` picks the tiles in one go, in the order
in which they are seen, and looks up which tiles of a row are seen.

Notation: V = view size. Rows of a view lie in front of each other: row V - 1 is the agent's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any, TypeVar

import gymnasium
import numpy as np
from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.core.world_object import Wall, WorldObj
from minigrid.minigrid_env import MiniGridEnv

from rimrl.errors import needs

EnvT = TypeVar("EnvT", bound=gymnasium.Env[Any, Any])
Tiles = Sequence[WorldObj | None]

_UNSEEN = bytes(3)
_EMPTY = bytes([OBJECT_TO_IDX["empty"], 0, 0])
_OUTSIDE = Wall()


def with_fast_view(env: EnvT) -> EnvT:
    """Let a MiniGrid environment compute its observations faster.

    They stay the same, as do levels and rewards: `MiniGridEnv.gen_obs` of this environment becomes `observe`. An
    environment that has a view of its own keeps it.

    Args:
        env: Any MiniGrid environment, with or without wrappers.

    Returns:
        The same object.

    Raises:
        UsageError: If it is no MiniGrid environment.
    """
    inner = env.unwrapped
    if not isinstance(inner, MiniGridEnv):
        raise needs("with_fast_view", "a MiniGrid environment", str(inner))
    if all(getattr(type(inner), name) is getattr(MiniGridEnv, name) for name in ("gen_obs", "gen_obs_grid")):
        inner.gen_obs = partial(observe, inner)  # type: ignore[method-assign]
    return env


def observe(env: MiniGridEnv) -> dict[str, Any]:
    """What `MiniGridEnv.gen_obs` returns.

    Args:
        env: The environment, after a reset.

    Returns:
        ``image`` uint8 [V, V, 3], indexed [column, row], ``direction`` and ``mission``.
    """
    size = env.agent_view_size
    left, top, _, _ = env.get_view_exts()  # type: ignore[no-untyped-call]
    pick = _picker(int(left), int(top), env.agent_dir, size, env.grid.width, env.grid.height)
    tiles = list(pick([*env.grid.grid, _OUTSIDE]))  # one row after the other
    seen = 2 ** (size * size) - 1 if env.see_through_walls else _seen(tiles, size)
    tiles[size * size - size + size // 2] = env.carrying  # the agent sees what it carries where it stands
    image = bytearray().join(
        [
            (_EMPTY if (tile := tiles[index]) is None else _code(*tile.encode())) if seen >> index & 1 else _UNSEEN
            for index in _columns(size)
        ]
    )
    return {
        "image": np.frombuffer(image, dtype=np.uint8).reshape(size, size, 3),
        "direction": env.agent_dir,
        "mission": env.mission,
    }


@lru_cache(maxsize=2**14)
def _picker(left: int, top: int, direction: int, size: int, width: int, height: int) -> Callable[[Tiles], Tiles]:
    """A function that takes the tiles of a view, row after row, from those of a grid and one more for all outside.

    Args:
        left: First column of the grid that is in the view.
        top: First row.
        direction: 0 right, 1 down, 2 left, 3 up.
        size: V.
        width: Columns of the grid.
        height: Rows.
    """
    inside = np.full((size, size), -1)  # [row, column], as the grid lies
    for row in range(size):
        for column in range(size):
            x, y = left + column, top + row
            if 0 <= x < width and 0 <= y < height:
                inside[row, column] = y * width + x
    return itemgetter(*np.rot90(inside, direction + 1).ravel().tolist())


@lru_cache(maxsize=16)
def _columns(size: int) -> tuple[int, ...]:
    """Where the tiles of a view are, column after column, if they come row after row."""
    return tuple(row * size + column for column in range(size) for row in range(size))


@lru_cache(maxsize=2**10)
def _code(*tile: int) -> bytes:
    """Type, colour and state as bytes."""
    return bytes(tile)


def _seen(tiles: Tiles, size: int) -> int:
    """Which tiles are seen, as `Grid.process_vis` finds it: bit i for tile i."""
    seen, reached = 0, 1 << size // 2
    for row in range(size - 1, -1, -1):
        clear = 0
        for column, tile in enumerate(tiles[row * size : row * size + size]):
            if tile is None or tile.see_behind():
                clear |= 1 << column
        here, reached = _spread(reached, clear, size)
        seen |= here << row * size
    return seen


@lru_cache(maxsize=2**16)
def _spread(reached: int, clear: int, size: int) -> tuple[int, int]:
    """How far one can see in a row, to either side and into the row in front.

    Args:
        reached: Bits of the tiles that are seen from the row behind; in the agent's own row, the agent's.
        clear: Bits of the tiles that do not hide what is behind them.
        size: V.

    Returns:
        Bits of the tiles that are seen in this row, and of those that are reached in the next.
    """
    beyond = 0
    for columns, step in ((range(size - 1), 1), (range(size - 1, 0, -1), -1)):
        for column in columns:
            if reached & clear & 1 << column:
                reached |= 1 << column + step
                beyond |= 1 << column | 1 << column + step
    return reached, beyond
