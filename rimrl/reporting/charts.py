"""Geometry of the report's charts: where on a page numbers lie. The templates draw it; nothing here knows colours.

Places are percentages of a plot's width and height, from its upper left corner, so that a chart fits any screen while
its text keeps its size. Paths are in a square of 1000 by 1000 that the browser stretches over the plot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rimrl.reporting.levels import Level, beyond
from rimrl.reporting.statistics import Estimate
from rimrl.reporting.verdict import number

SQUARE = 1000
_POINTS = 160  # more than a screen tells apart
_LABEL_HEIGHT = 6.5  # percent of a plot's height that a line of text takes


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high`.

    Attributes:
        low: Value at the left or at the bottom.
        high: Value at the right or at the top.
        ticks: Values that are marked, each with its text.
        name: What is measured, units included.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    name: str

    def place(self, value: float) -> float:
        """Where a value lies from left to right, in percent, at most at the ends."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def height(self, value: float) -> float:
        """Where a value lies from top to bottom, in percent."""
        return round(100 - self.place(value), 2)


def axis(
    values: Iterable[float],
    name: str,
    write: Callable[[float], str] | None = None,
    zero: bool = False,
    tight: bool = False,
) -> Axis:
    """A scale with round marks that holds all of some values.

    Args:
        values: What is to be shown; what is not finite is left out.
        name: What is measured.
        write: Writes a mark; default: as few digits as tell marks apart.
        zero: Let the scale hold zero, as bars need it.
        tight: End where the values end instead of at a mark.
    """
    known = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-9:
        low, high = low - (0.0 if zero and low == 0 else 0.5), high + 0.5
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = next(digits for digits in range(20) if abs(round(step, digits) - step) < 1e-6 * step)
    marks = [count * step for count in range(first, last + 1)]
    if not tight:
        low, high = marks[0], marks[-1]
    ends = low - 1e-9 * step, high + 1e-9 * step
    ticks = [(mark, write(mark) if write else f"{mark:.{digits}f}") for mark in marks if ends[0] <= mark <= ends[1]]
    return Axis(low, high, tuple(ticks), name)


def _round_step(least: float) -> float:
    size: float = 10.0 ** math.floor(math.log10(least))
    return next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= least * 0.999)


def in_thousands(steps: float) -> str:
    """Environment steps as they are written on an axis: 250k, 1.5M."""
    if abs(steps) >= 1e6:
        return f"{steps / 1e6:g}M"
    return f"{steps / 1e3:g}k" if steps else "0"


# -- lines -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One group's line.

    Attributes:
        label: The group.
        number: Which group, from 0; chooses colour and dashes.
        path: SVG path.
        band: SVG path around its intervals; empty without.
        threads: SVG paths of its runs.
        end: Height of its last point, in percent.
        label_height: Height of its label, which gives way to others.
    """

    label: str
    number: int
    path: str
    band: str
    threads: tuple[str, ...]
    end: float
    label_height: float


@dataclass(frozen=True)
class LevelLine:
    """A horizontal line, or a remark at the edge of the plot where it lies beyond.

    Attributes:
        text: Its label.
        height: Of the line or of the edge, in percent.
        label_height: Height of its label, which gives way to others.
        inner_height: The same where lines have no labels at their ends, so that only those of levels give way.
        beyond: An arrow to where it lies if that is not in the plot; empty if it is.
    """

    text: str
    height: float
    label_height: float
    inner_height: float
    beyond: str


@dataclass(frozen=True)
class LineChart:
    """Lines over one axis.

    Attributes:
        x: Horizontal scale.
        y: Vertical scale.
        lines: One a group.
        description: The chart in words, for those who do not see it.
        levels: What they are read against.
    """

    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    description: str
    levels: tuple[LevelLine, ...] = ()


@dataclass(frozen=True)
class Series:
    """What a line is drawn from.

    Attributes:
        label: The group.
        x: Horizontal values, ascending.
        estimates: One for each.
        threads: Of each run, horizontal and vertical values.
    """

    label: str
    x: Sequence[float]
    estimates: Sequence[Estimate]
    threads: Sequence[tuple[Sequence[float], Sequence[float]]] = ()


def line_chart(series: Sequence[Series], x: Axis, y: Axis, description: str, levels: Sequence[Level] = ()) -> LineChart:
    """Lay out lines with their intervals, their runs and their labels, and what they are read against."""
    ends = [y.height(each.estimates[-1].value) for each in series]
    heights = [y.height(level.value) for level in levels]
    labels = spread([*ends, *heights])
    lines = [
        Line(
            label=each.label,
            number=k,
            path=path(each.x, [estimate.value for estimate in each.estimates], x, y),
            band=_band(each, x, y),
            threads=tuple(path(*thread, x, y) for thread in each.threads),
            end=end,
            label_height=label_height,
        )
        for k, (each, end, label_height) in enumerate(zip(series, ends, labels, strict=False))
    ]
    drawn = [
        LevelLine(level.text, height, outer, inner, beyond(level.value, y.low, y.high))
        for level, height, outer, inner in zip(levels, heights, labels[len(ends) :], spread(heights), strict=True)
    ]
    return LineChart(x, y, tuple(lines), description, tuple(drawn))


def path(xs: Sequence[float], ys: Sequence[float], x: Axis, y: Axis) -> str:
    """An SVG path through some points, thinned to what a screen tells apart."""
    points = [_point(xs[k], ys[k], x, y) for k in _kept(len(xs))]
    return f"M{' '.join(points)}" if points else ""


def _band(series: Series, x: Axis, y: Axis) -> str:
    points = list(zip(series.x, series.estimates, strict=True))
    points = [points[k] for k in _kept(len(points)) if points[k][1].has_interval]
    if not points:
        return ""
    upper = [_point(place, estimate.high, x, y) for place, estimate in points]
    lower = [_point(place, estimate.low, x, y) for place, estimate in reversed(points)]
    return f"M{' '.join([*upper, *lower])}Z"


def _point(x_value: float, y_value: float, x: Axis, y: Axis) -> str:
    return f"{round(x.place(x_value) * SQUARE / 100)},{round(y.height(y_value) * SQUARE / 100)}"


def _kept(length: int) -> list[int]:
    """Which points of a path are drawn; the first and the last always."""
    if length <= _POINTS:
        return list(range(length))
    return [round(k * (length - 1) / (_POINTS - 1)) for k in range(_POINTS)]


def spread(heights: Sequence[float]) -> list[float]:
    """Heights of labels near the lines' ends, in percent, none over another."""
    order = sorted(range(len(heights)), key=lambda k: heights[k])
    placed = [heights[k] for k in order]
    for _ in range(200):
        moved = False
        for k in range(1, len(placed)):
            short = _LABEL_HEIGHT - (placed[k] - placed[k - 1])
            if short > 1e-6:
                placed[k - 1] -= short / 2
                placed[k] += short / 2
                moved = True
        if not moved:
            break
    found = dict(zip(order, placed, strict=True))
    return [round(found[k], 2) for k in range(len(heights))]


# -- bars --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """One group's bar.

    Attributes:
        label: The group.
        number: Which group.
        start: Left end in percent.
        width: In percent.
        interval: Left and right end of its interval; None without.
        dots: One a run.
        text: The figures.
    """

    label: str
    number: int
    start: float
    width: float
    interval: tuple[float, float] | None
    dots: tuple[float, ...]
    text: str


@dataclass(frozen=True)
class BarChart:
    """Bars of all groups for one question, such as one split.

    Attributes:
        title: The question.
        x: Horizontal scale, which holds zero.
        bars: One a group.
        chance: Place of what random actions reach; None if that was not measured.
        chance_text: The same in figures.
        description: The chart in words.
    """

    title: str
    x: Axis
    bars: tuple[Bar, ...]
    chance: float | None
    chance_text: str
    description: str


def bar_chart(
    title: str,
    labels: Sequence[str],
    estimates: Sequence[Estimate],
    runs: Sequence[Sequence[float]],
    x: Axis,
    write: Callable[[Estimate], str],
    chance: float | None = None,
) -> BarChart:
    """Lay out one bar a group, with its interval and its runs."""
    bars = []
    for k, (label, estimate, scores) in enumerate(zip(labels, estimates, runs, strict=True)):
        ends = sorted((x.place(0.0), x.place(estimate.value)))
        interval = (x.place(estimate.low), x.place(estimate.high)) if estimate.has_interval else None
        dots = tuple(x.place(score) for score in scores)
        bars.append(Bar(label, k, ends[0], round(ends[1] - ends[0], 2), interval, dots, write(estimate)))
    described = "; ".join(f"{bar.label}: {bar.text}" for bar in bars)
    place, text = (None, "") if chance is None else (x.place(chance), number(chance))
    if text:
        described += f"; random actions: {text}"
    return BarChart(title, x, tuple(bars), place, text, f"{title}, {x.name}. {described}.")
