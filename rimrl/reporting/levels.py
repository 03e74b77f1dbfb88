"""Scores that learning curves are read against: what random actions and a human reach in the same game."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rimrl.reporting.atari_runs import game_of, published_scores
from rimrl.reporting.results import RunResults

# Curves keep at least this share of a picture's height; a human may score a thousand times what they reach.
LEAST_SHARE = 0.4
_MARGIN = 0.05  # of the height, above and below: as matplotlib has them


@dataclass(frozen=True)
class Level:
    """A score that is drawn as a horizontal line.

    Attributes:
        name: ``"random"`` or ``"human"``.
        value: Mean return.
        measured: Whether these runs' evaluations played for it; otherwise it is published.
    """

    name: str
    value: float
    measured: bool = False

    @property
    def text(self) -> str:
        """Its name with its value, for a label: ``random -20.7``."""
        return f"{self.name} {self.value:.0f}" if abs(self.value) >= 1000 else f"{self.name} {self.value:.1f}"


def levels_of(runs: Sequence[RunResults], splits: Sequence[str]) -> tuple[Level, ...]:
    """What returns on some splits of an Atari game are read against.

    Args:
        runs: Of one suite.
        splits: Names of splits that every run was evaluated on. None of them: what the runs were trained on.

    Returns:
        Random actions, as the runs' evaluations measured them on these splits (mean over runs) or else as published,
        and the human; what is not known is left out. Empty where the runs do not play one game.
    """
    if game_of(runs) is None:
        return ()
    published = published_scores(runs, splits)
    chance = [run.splits[name].get("random_return_mean") for run in runs for name in splits]
    measured = [float(value) for value in chance if value is not None and math.isfinite(value)]
    levels = []
    if measured:
        levels.append(Level("random", math.fsum(measured) / len(measured), measured=True))
    elif published is not None:
        levels.append(Level("random", published.random))
    if published is not None:
        levels.append(Level("human", published.human))
    return tuple(levels)


def described(levels: Sequence[Level]) -> str:
    """What the lines are and where their scores come from, in sentences; empty without levels."""
    if not levels:
        return ""
    sources = {True: "played in the evaluations of these runs", False: "published by Wang et al., 2016"}
    said = f"Dashed lines: {', '.join(f'{level.text} ({sources[level.measured]})' for level in levels)}."
    if any(level.name == "human" for level in levels):
        said += (
            " The human played on the original screen, with other starts and limits of a game: orientation, no bound."
        )
    return said


def scale_of(low: float, high: float, levels: Iterable[Level]) -> tuple[float, float]:
    """The vertical scale of a picture of curves and of those levels near enough for curves to remain readable.

    Args:
        low: Least value of the curves.
        high: Greatest value of the curves.
        levels: What the curves are read against.

    Returns:
        Its ends, with margins. But for these, `low` to `high`, or 1 if that is more, is at least `LEAST_SHARE` of it.
    """
    longest = max(high - low, 1.0) / LEAST_SHARE
    least, most = low, high
    for value in sorted((level.value for level in levels), key=lambda value: max(low - value, value - high)):
        wider = min(least, value), max(most, value)
        if wider[1] - wider[0] <= longest:
            least, most = wider
    margin = _MARGIN * (most - least or 1.0)
    return least - margin, most + margin


def beyond(value: float, low: float, high: float) -> str:
    """An arrow from a range to a value that lies outside of it; nothing if it lies inside."""
    if value > high:
        return "↑"
    return "↓" if value < low else ""
