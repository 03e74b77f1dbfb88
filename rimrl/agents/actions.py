"""Actions as their space holds them: what a distribution over real numbers drew becomes what the environment takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


def cast_to_space(actions: NDArray[Any], space: spaces.Space[Any]) -> NDArray[Any]:
    """Actions in the dtype of their space; those of a Box of whole numbers or bits are rounded.

    Args:
        actions: ``[B, *action shape]``, within the bounds of the space.
        space: Action space.

    Returns:
        The same actions, each of which the space contains.
    """
    if isinstance(space, spaces.Box) and space.dtype.kind != "f":
        actions = np.asarray(np.rint(actions))
    return actions.astype(space.dtype, copy=False)


def unscale_actions(actions: NDArray[Any], space: spaces.Box) -> NDArray[Any]:
    """Actions ``[B, *action shape]`` from -1 to 1 as numbers between the bounds of their space.

    SB3's ``unscale_action`` does so in the dtype of the space, where bounds of small integers overflow and the result
    may be rounded to beyond a bound.
    """
    dtype = space.dtype if space.dtype in (np.float32, np.float64) else np.float64
    low, high = space.low.astype(dtype), space.high.astype(dtype)
    return np.clip(low + 0.5 * (actions + 1.0) * (high - low), low, high)
