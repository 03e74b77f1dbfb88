"""Random observations of any space that agents learn with, in numbers that a policy may meet."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rimrl.agents.normalization import ObservationStatistics

# Bounds further apart say little of what an environment shows: many are those of the dtype.
_WIDEST = 1000.0


def draw(
    space: spaces.Space[Any], statistics: ObservationStatistics | None, rows: int, rng: np.random.Generator
) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """Draw observations.

    Args:
        space: Observation space.
        statistics: Of the observations that the policy has seen; None where it does not normalise them.
        rows: How many.
        rng: Draws them.

    Returns:
        ``[rows, *observation shape]`` in the dtype of the space, or a dict of such. Each part is normal around the
        mean that was seen, uniform between bounds, or normal where bounds are far apart.
    """
    if isinstance(space, spaces.Dict):
        return {key: _part(part, key, statistics, rows, rng) for key, part in space.spaces.items()}
    return _part(space, None, statistics, rows, rng)


def _part(
    space: spaces.Space[Any],
    key: str | None,
    statistics: ObservationStatistics | None,
    rows: int,
    rng: np.random.Generator,
) -> NDArray[Any]:
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        counts = space.n if isinstance(space, spaces.Discrete) else space.nvec
        shape = (rows, *np.shape(counts))
        zero_based = rng.integers(0, np.broadcast_to(np.asarray(counts, dtype=np.int64), shape), shape)
        return (zero_based + np.asarray(space.start, dtype=np.int64)).astype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(0, 2, (rows, *space.shape)).astype(space.dtype)
    assert isinstance(space, spaces.Box)
    shape = (rows, *space.shape)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if statistics is not None and key in statistics.keys:
        moments: Any = statistics.parts[statistics.keys.index(key)]
        mean, variance = (each.cpu().numpy() for each in (moments.mean, moments.var))
        drawn = mean + np.sqrt(variance) * rng.standard_normal(shape)
    else:
        last = high + (space.dtype.kind in "iub")  # whole numbers take their last value, too
        narrow = last / 2 - low / 2 <= _WIDEST / 2  # halves do not overflow
        start, width = np.where(narrow, low, 0.0), np.where(narrow, last, 0.0) - np.where(narrow, low, 0.0)
        drawn = np.where(narrow, start + rng.random(shape) * width, rng.standard_normal(shape))
    if space.dtype.kind in "iub":
        drawn = np.floor(drawn)
    result: NDArray[Any] = np.clip(drawn, low, high).astype(space.dtype)
    return result
