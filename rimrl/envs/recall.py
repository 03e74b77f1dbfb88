"""Recall: name at the end the cues that were shown at the start, whatever came in between.

The copying task of the RIM paper (Goyal et al., ICLR 2021, Sec. 4.1) as an environment for an agent, with distractors
where the paper's stretch is blank. `rimrl.envs.suites` says which delays and distractors each split has.

Notation: A = `num_symbols`, D = `num_distractors`, k = `num_cues`, d = the delay of an episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rimrl.envs.checks import check_at_least, check_probability
from rimrl.envs.suites import MAX_DELAY, NUM_CUES, NUM_DISTRACTOR_SYMBOLS, NUM_SYMBOLS, SEEN_DISTRACTORS
from rimrl.errors import invalid_value, wrong

Observation = NDArray[np.float32]


class RecallEnv(gymnasium.Env[Observation, np.int64]):
    """Remember a few cues through a stretch of distractors and name them in order.

    ## Description

    An episode has three parts. First k cues are shown, one a step, each drawn uniformly from A symbols. Then comes a
    stretch of d steps, where d is drawn uniformly from `min_delay` to `max_delay`; each of its steps shows a distractor
    with probability `distractor_probability`, drawn uniformly from `shown_distractors`, and nothing otherwise. Last
    come k markers, one a step: marker i asks for cue i.

    ## Action Space

    0 to A - 1: the symbol that is named. Only the actions upon markers count.

    ## Observation

    float32 [A + D + k] of zeros and at most one 1: the symbol of a cue, then the distractor, then the number of the
    marker. The distractors that are never shown have their channels, too, so that all splits share their spaces. The
    observation after the last answer is zero.

    ## Rewards

    1 / k for each right answer. Optimal return: 1. Without memory: 1 / A, and all answers are right in A ** -k of the
    episodes, however the policy answers: a marker tells which cue is asked for and nothing about the cue, and actions
    change nothing that is shown, so no observation can hold what an earlier one said.

    ## Termination

    After 2 k + d steps. On the last one ``info["is_success"]`` says whether all answers were right. On every step
    ``info["event"]`` says what was acted upon: ``"cue"``, ``"distractor"``, ``"blank"`` or ``"marker"``.

    ## Arguments

    * `num_cues`: k, at least 1. Default 2.
    * `num_symbols`: A, at least 2. Default 4.
    * `min_delay`: shortest stretch, at least 0. Default 0.
    * `max_delay`: longest stretch, at least `min_delay`. Default 20.
    * `distractor_probability`: how often a step of the stretch shows a distractor, 0 to 1. Default 0.5.
    * `num_distractors`: D, at least 0. Default 8.
    * `shown_distractors`: which distractors, from 0 to D - 1, are shown. Default 0 to 3.

    Every setting asks for memory: at delay 0 the first cue is still k steps old when it is asked for. With efference
    copies (`rimrl.envs.efference`) a policy without memory can carry one cue along by naming it at every step; all
    answers are then right in A ** (1 - k) of the episodes, which with one cue is every time.

    Raises:
        UsageError: If an argument is out of range.
    """

    metadata = {"render_modes": [], "info_keywords": ("is_success",)}  # noqa: RUF012 (gymnasium's own attribute)

    def __init__(
        self,
        num_cues: int = NUM_CUES,
        num_symbols: int = NUM_SYMBOLS,
        min_delay: int = 0,
        max_delay: int = MAX_DELAY,
        distractor_probability: float = 0.5,
        num_distractors: int = NUM_DISTRACTOR_SYMBOLS,
        shown_distractors: Sequence[int] = SEEN_DISTRACTORS,
    ) -> None:
        check_at_least("num_cues", num_cues, 1)
        check_at_least("num_symbols", num_symbols, 2)
        check_at_least("min_delay", min_delay, 0)
        check_at_least("max_delay", max_delay, min_delay)
        check_probability("distractor_probability", distractor_probability)
        check_at_least("num_distractors", num_distractors, 0)
        _check_shown(shown_distractors, num_distractors, distractor_probability)
        self.num_cues = num_cues
        self.num_symbols = num_symbols
        self.min_delay = min_delay
        self.max_delay = max_delay
        self.distractor_probability = distractor_probability
        self.num_distractors = num_distractors
        self.shown_distractors = tuple(shown_distractors)
        self.observation_space = spaces.Box(0.0, 1.0, (num_symbols + num_distractors + num_cues,), np.float32)
        self.action_space = spaces.Discrete(num_symbols)
        self._shown = np.zeros((0, *self.observation_space.shape), dtype=np.float32)
        self._cues: list[int] = []
        self._time = 0
        self._num_right = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; the arguments are gymnasium's."""
        super().reset(seed=seed, options=options)
        k = self.num_cues
        self._cues = self.np_random.integers(self.num_symbols, size=k).tolist()
        delay = int(self.np_random.integers(self.min_delay, self.max_delay + 1))

        self._shown = np.zeros((2 * k + delay + 1, *self._shown.shape[1:]), dtype=np.float32)
        cues, stretch, markers = np.split(self._shown[:-1], [k, k + delay])
        cues[np.arange(k), self._cues] = 1.0
        distracted = np.flatnonzero(self.np_random.random(delay) < self.distractor_probability)
        if distracted.size:
            symbols = self.np_random.choice(self.shown_distractors, size=distracted.size)
            stretch[distracted, self.num_symbols + symbols] = 1.0
        markers[:, self.num_symbols + self.num_distractors :] = np.eye(k)

        self._time = 0
        self._num_right = 0
        return self._shown[0].copy(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Judge one action; the returns are gymnasium's, and `info["is_success"]` tells whether all were right.

        Raises:
            UsageError: If there is no such action.
        """
        if not self.action_space.contains(action):
            raise wrong("action", f"{action} is unknown", f"valid: 0 to {self.num_symbols - 1}", "name")
        end = len(self._shown) - 1
        asked = self._time - (end - self.num_cues)  # the cue that the marker asks for; negative before the first
        right = asked >= 0 and int(action) == self._cues[asked]
        info: dict[str, Any] = {"event": self._event()}
        self._num_right += right
        self._time += 1
        ended = self._time == end
        if ended:
            info["is_success"] = self._num_right == self.num_cues
        return self._shown[self._time].copy(), right / self.num_cues, ended, False, info

    def _event(self) -> str:
        """What the observation that is acted upon shows."""
        if self._time < self.num_cues:
            return "cue"
        if self._time >= len(self._shown) - 1 - self.num_cues:
            return "marker"
        return "distractor" if self._shown[self._time].any() else "blank"


def _check_shown(shown: Sequence[int], num_distractors: int, probability: float) -> None:
    """Refuse distractors that there are not, or none at all where one is to be shown."""
    valid = range(num_distractors)
    if not isinstance(shown, list | tuple):
        raise invalid_value("shown_distractors", "a list of numbers", shown)
    for symbol in shown:
        if not isinstance(symbol, int) or isinstance(symbol, bool) or symbol not in valid:
            raise invalid_value(
                "each of shown_distractors", f"at least 0 and below num_distractors {num_distractors}", symbol
            )
    if len(set(shown)) < len(shown):
        raise wrong("shown_distractors", f"names a distractor twice: {list(shown)}")
    if not shown and probability > 0:
        raise wrong("shown_distractors", "names none, but distractor_probability is above 0", kind="conflict")
