"""Screens that flicker: frames that an agent does not get to see (Hausknecht and Stone, 2015, "Flickering Pong").

Each new frame is blanked, all zeros, with a given probability. In the paper that is independent of all other frames; as
a two-state Markov chain, blank frames come in runs. Rewards, scores and ends stay as they are.

Which frames are blank depends on nothing but the seed of an environment, the number of the episode since then, and the
number of the frame in it, so that all back ends blank the same ones.
"""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from rimrl.envs.checks import is_number
from rimrl.errors import invalid_value, needs


def check_flicker(flicker: float, flicker_burst: float | None) -> None:
    """Refuse probabilities and lengths of runs that no screen can flicker with.

    Args:
        flicker: Probability of a frame to be blank.
        flicker_burst: Mean length of a run of blank frames; None for that of independent frames.

    Raises:
        UsageError: With the argument's name and what was given.
    """
    if not is_number(flicker) or not 0 <= flicker < 1:
        raise invalid_value("flicker", "a probability of at least 0 and less than 1", flicker)
    if flicker_burst is None:
        return
    if flicker == 0:
        raise needs("flicker_burst", "flicker above 0", str(flicker), "it is the length of runs of blank frames")
    shortest = max(1.0, flicker / (1 - flicker))  # a run needs a frame, and so does what parts it from the next one
    if not is_number(flicker_burst) or not shortest <= flicker_burst < np.inf:
        raise invalid_value(
            "flicker_burst", f"at least {shortest:g} frames where flicker is {flicker:g}", flicker_burst
        )


class BlankFrames:
    """Says of every frame of one environment whether it is blank.

    A chain of two states, seen and blank. A run of blank frames goes on with probability ``1 - 1 / burst``, and begins
    after a frame that is seen with ``p / ((1 - p) burst)``, so that a share p of all frames is blank. The first frame
    of an episode is drawn from that share.

    Args:
        probability: Share p of blank frames.
        burst: Mean length of a run of them; None for ``1 / (1 - p)``, with which frames are independent.

    Raises:
        UsageError: If there is no such chain.
    """

    def __init__(self, probability: float, burst: float | None = None) -> None:
        check_flicker(probability, burst)
        burst = 1 / (1 - probability) if burst is None else burst
        self._first = probability
        self._enter, self._stay = probability / ((1 - probability) * burst), 1 - 1 / burst
        self._seed: int | None = None
        self._episode = 0

    def begin(self, seed: int | None = None) -> bool:
        """Begin an episode; says whether its first frame is blank.

        Args:
            seed: Of the environment: the episode is its first. None for the next episode of the same seed; the first
                time, for a seed that differs each time.
        """
        if seed is not None or self._seed is None:
            self._seed, self._episode = np.random.SeedSequence(seed).entropy, 0  # type: ignore[assignment]
        else:
            self._episode += 1
        # A key of its own: the game's chance comes from the same seed.
        self._rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(self._episode,)))
        self._blank: bool = self._rng.random() < self._first
        return self._blank

    def next(self) -> bool:
        """Say whether the next frame of the episode is blank."""
        self._blank = self._rng.random() < (self._stay if self._blank else self._enter)
        return self._blank


class FlickeringScreen(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Blank some of an environment's observations; goes inside of what stacks them.

    Args:
        env: Shows one frame at a time.
        flicker: Probability of a frame to be blank.
        flicker_burst: Mean length of a run of blank frames; None (default) for independent ones.

    Raises:
        UsageError: As `check_flicker`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], flicker: float, flicker_burst: float | None = None) -> None:
        RecordConstructorArgs.__init__(self, flicker=flicker, flicker_burst=flicker_burst)
        super().__init__(env)
        self._frames = BlankFrames(flicker, flicker_burst)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        frame, info = self.env.reset(seed=seed, options=options)
        return _shown(frame, self._frames.begin(seed)), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Advance the environment."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        return _shown(frame, self._frames.next()), reward, terminated, truncated, info


def _shown(frame: NDArray[np.uint8], blank: bool) -> NDArray[np.uint8]:
    return np.zeros_like(frame) if blank else frame
