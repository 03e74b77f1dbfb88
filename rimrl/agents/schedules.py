"""Schedules that a saved agent brings along as code, which is not run."""

from __future__ import annotations

from stable_baselines3.common.utils import FloatSchedule


class UnreadSchedule:
    """Stands for a schedule of the user's own in an agent that was loaded without running code.

    The agent acts as the one that was saved, for which no schedule is needed; `learn` refuses to go on with it.

    Args:
        what: What stands in the file, such as the name of a function.
        value: What the schedule gives in its place while networks are built.
    """

    def __init__(self, what: str, value: float) -> None:
        self.what = what
        self.value = value

    def __call__(self, progress_remaining: float) -> float:
        """The same value at any time."""
        return self.value


def unread(schedule: object) -> UnreadSchedule | None:
    """The unread schedule that this is, or that it wraps; None for any other."""
    if isinstance(schedule, FloatSchedule):
        schedule = schedule.value_schedule
    return schedule if isinstance(schedule, UnreadSchedule) else None
