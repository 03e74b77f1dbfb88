"""Schedules of learning rates and clip ranges, and those that a saved agent brings along as code, which is not run.

Notation: p = remaining progress, 1 at the start of training and 0 at its end, as in Stable-Baselines3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

ScheduleName = Literal["constant", "linear", "cosine"]


@dataclass(eq=False)
class CosineSchedule:
    """Half a cosine from `start` to 0: ``start * (1 + cos(pi * (1 - p))) / 2`` (Loshchilov & Hutter, 2017, Eq. 5).

    Attributes:
        start: Value at the start of training.
    """

    start: float

    def __call__(self, progress_remaining: float) -> float:
        """The value at p."""
        return self.start * (1.0 + math.cos(math.pi * (1.0 - progress_remaining))) / 2.0


@dataclass(eq=False)
class WarmupSchedule:
    """A rise in proportion to time from 0 to where another schedule starts, and then that one over the rest.

    Attributes:
        warmup: Share of the training that the rise takes, from 0 to less than 1.
        schedule: What follows; its own progress goes from 1 to 0 over the rest.
    """

    warmup: float
    schedule: Callable[[float], float]

    def __call__(self, progress_remaining: float) -> float:
        """The value at p."""
        done = 1.0 - progress_remaining
        if done < self.warmup:
            return self.schedule(1.0) * done / self.warmup
        return self.schedule(progress_remaining / (1.0 - self.warmup))


def scheduled(value: float, name: ScheduleName, warmup: float = 0.0) -> float | Callable[[float], float]:
    """A setting over the course of training, as SB3's algorithms take it.

    Args:
        value: Where it starts, after the warm-up if there is one.
        name: ``"constant"``, ``"linear"`` or ``"cosine"``; the last two fall to 0 at the end of training.
        warmup: Share of the training over which it first rises from 0.

    Returns:
        The value itself where it stays the same.
    """
    if name == "constant" and not warmup:
        return value
    schedules: dict[str, Callable[[float], float]] = {
        "constant": ConstantSchedule(value),
        "linear": LinearSchedule(value, 0.0, 1.0),
        "cosine": CosineSchedule(value),
    }
    return WarmupSchedule(warmup, schedules[name]) if warmup else schedules[name]


@dataclass(eq=False)
class UnreadSchedule:
    """Stands for a schedule of the user's own in an agent that was loaded without running code.

    The agent acts as the one that was saved, for which no schedule is needed; `learn` refuses to go on with it.

    Attributes:
        what: What stands in the file, such as the name of a function.
        value: What the schedule gives in its place while networks are built.
    """

    what: str
    value: float

    def __call__(self, progress_remaining: float) -> float:
        """The same value at any time."""
        return self.value


def unread(schedule: object) -> UnreadSchedule | None:
    """The unread schedule that this is, or that it wraps; None for any other."""
    if isinstance(schedule, FloatSchedule):
        schedule = schedule.value_schedule
    return schedule if isinstance(schedule, UnreadSchedule) else None
