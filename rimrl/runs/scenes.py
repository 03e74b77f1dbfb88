"""One step of an episode as ``rimrl watch`` plays it and draws it.

Letters: H, W height and width of a picture in pixels; N units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scene:
    """One step as it is shown.

    Attributes:
        picture: ``[H, W, 3]``, the environment before the action.
        seen: ``[H, W, 3]``, the image that the agent acts on, of a size of its own: raw pixels, of a stack of frames
            the latest one. None where it observes no image.
        active: ``[N]``, the units at work; None for a core without units.
        fresh: Whether the core's memory was empty before this step.
        episode: Which episode, from 1.
        step: Which step of it, from 1.
        task: What the agent is told to do, where the environment puts it into words.
        action: The action's name, or its numbers.
        reward: What came of the action.
        total: The return so far, this reward included.
        ending: How the episode ended, in words; None before its last step.
    """

    picture: NDArray[np.uint8]
    seen: NDArray[np.uint8] | None
    active: NDArray[np.bool_] | None
    fresh: bool
    episode: int
    step: int
    task: str | None
    action: str
    reward: float
    total: float
    ending: str | None
