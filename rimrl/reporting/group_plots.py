"""Pictures of groups of runs: curves, bars and profiles, each with its interval over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rimrl.reporting.comparison import Comparison
from rimrl.reporting.curves import TrainingCurve, split_curves, training_curve
from rimrl.reporting.groups import Group
from rimrl.reporting.level_lines import draw_levels
from rimrl.reporting.plots import (
    CHANCE,
    COLOURS,
    ROW_HEIGHT,
    STYLE,
    add_panels,
    check_suffix,
    label_bars,
    label_curves,
    panel_rows,
)
from rimrl.reporting.statistics import Estimate, Floats, curve, performance_profile

_CURVE_POINTS = 100
_PROFILE_POINTS = 201
_LETTERS = 150
_GREY = "#333333"
# With more groups than colours, lines still differ.
_DASHES = ("-", "--", ":", "-.")


def save_groups(comparison: Comparison, file: Path) -> None:
    """Save learning curves and performance profiles above the evaluation on every split.

    Between them are learning curves on held-out splits, where runs were evaluated there in training.

    Args:
        comparison: What to show.
        file: Picture to write; its suffix names the format.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If the suffix is missing or names no picture format.
    """
    check_suffix(file)
    groups = comparison.groups
    held_out = known_curves(comparison)
    with mpl.rc_context(STYLE):
        rows = panel_rows(len(held_out))
        figure = Figure(figsize=(11, 8.2 + ROW_HEIGHT * rows), layout="constrained")
        grid = figure.add_gridspec(2 + bool(rows), 1, height_ratios=[4, *([3 * rows] if rows else []), 4])
        upper = grid[0].subgridspec(1, 2, width_ratios=(1.25, 1))
        training, shown = figure.add_subplot(upper[0]), training_curve([run for group in groups for run in group.runs])
        draw_curves(training, groups, shown)
        draw_levels([training], [shown])
        draw_profiles(figure.add_subplot(upper[1]), comparison)
        panels = add_panels(figure, grid[1], len(held_out))
        for axes, curve in zip(panels, held_out, strict=True):
            draw_curves(axes, groups, curve)
        draw_levels(panels, held_out)
        splits = figure.add_subplot(grid[-1])
        draw_splits(splits, comparison)
        add_legend(figure, splits, _LETTERS)
        seeds = sorted({len(group.runs) for group in groups})
        figure.suptitle(
            f"{comparison.suite}: {'/'.join(map(str, seeds))} runs each; "
            "lines and bars are interquartile means with 95 % intervals over runs, dots are runs",
            x=0.01,
            ha="left",
            fontsize=11,
        )
        figure.savefig(file, dpi=130)


def draw_curves(axes: Axes, groups: Sequence[Group], shown: TrainingCurve) -> None:
    """Draw learning curves: the interquartile mean over a group's runs, in a band of its interval.

    Args:
        axes: Where to.
        groups: Groups whose runs left a ``progress.csv``; a group is shown as far as all of its runs have come.
        shown: Which curve.
    """
    for group, style in zip(groups, _styles(), strict=False):
        steps, values = learning_curves(group, shown.column)
        if values.size:
            places = steps * shown.per_step(group.runs[0])
            _draw_line(axes, places, estimates(values, shown), group.label, style, len(groups))
    label_curves(axes, shown)


def learning_curves(group: Group, column: str, points: int = _CURVE_POINTS) -> tuple[Floats, Floats]:
    """A column of ``progress.csv`` of each run, at the same steps.

    Args:
        group: R runs.
        column: Such as ``"rollout/success_rate"``.
        points: K.

    Returns:
        Steps [K] from where all runs have begun to where the first ends, and values [R, K] between the rows of each
        run's file; both empty where a run has none.
    """
    curves = []
    for run in group.runs:
        steps, values = run.steps, run.progress.get(column, [])
        known = [(x, y) for x, y in zip(steps, values, strict=False) if x is not None and y is not None]
        if not known:
            return np.empty(0), np.empty((len(group.runs), 0))
        curves.append(np.array(known).T)
    grid = np.linspace(max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves), points)
    return grid, np.stack([np.interp(grid, x, y) for x, y in curves])


def estimates(values: Floats, shown: TrainingCurve) -> list[Estimate]:
    """Interquartile means over runs [R, K] at each point of a curve, with bounds no further than it goes."""
    return [each.within(0.0, 1.0) if shown.is_rate else each for each in curve(values)]


def known_curves(comparison: Comparison) -> list[TrainingCurve]:
    """How the groups did on held-out splits while they learned, where every run of some group was evaluated there."""
    runs = [run for group in comparison.groups for run in group.runs]
    curves = split_curves(runs, comparison.held_out, comparison.metric)
    return [curve for curve in curves if is_known(comparison, curve)]


def is_known(comparison: Comparison, shown: TrainingCurve) -> bool:
    """Whether every run of some group kept a curve."""
    return any(learning_curves(group, shown.column)[1].size for group in comparison.groups)


def draw_profiles(axes: Axes, comparison: Comparison) -> None:
    """Draw which share of runs scores above what, over held-out splits, or over all where none is held out."""
    metric = comparison.metric
    splits = comparison.held_out or comparison.trained
    scores = [group.scores(splits, metric) for group in comparison.groups]
    thresholds = metric.thresholds(scores, _PROFILE_POINTS)
    for group, each, style in zip(comparison.groups, scores, _styles(), strict=False):
        _draw_line(axes, thresholds, performance_profile(each, thresholds), group.label, style, len(scores))
    axes.set(xlabel=metric.label, ylabel="share of runs above", ylim=(0, 1.02))
    axes.margins(x=0)
    axes.set_title(f"Performance profile, {'held-out' if comparison.held_out else 'all'} splits", loc="left")
    axes.grid(alpha=0.3)


def draw_splits(axes: Axes, comparison: Comparison) -> None:
    """Draw a bar for each group on each split and over held-out splits, with its interval and a point for each run."""
    metric = comparison.metric
    names = comparison.splits
    chance = comparison.random
    players = len(comparison.summaries) + bool(chance)
    width = 0.8 / players
    offset = (players - 1) / 2
    if chance:
        places = [i - offset * width for i, name in enumerate(names) if name in chance]
        axes.bar(places, list(chance.values()), width * 0.92, color=CHANCE, label="random")
    together = len(names) + 0.25 if len(comparison.held_out) > 1 else None
    for k, (summary, (colour, _)) in enumerate(zip(comparison.summaries, _styles(), strict=False)):
        shift = (k + bool(chance) - offset) * width
        places = [i + shift for i in range(len(names))]
        estimates = [summary.splits[name] for name in names]
        if together is not None and summary.held_out is not None:
            places.append(together + shift)
            estimates.append(summary.held_out)
        axes.bar(places, [each.value for each in estimates], width * 0.92, color=colour, label=summary.group.label)
        _draw_intervals(axes, places, estimates)
        scores = summary.group.scores(names, metric)
        if len(scores) > 1:
            spread = np.linspace(-0.25, 0.25, len(scores)) * width
            for place, column in zip(places, scores.T, strict=False):
                axes.plot(place + spread, column, "o", color="white", markeredgecolor=_GREY, markersize=3, alpha=0.8)
    labels = [name.replace("_", "\n") + ("\n(seen)" if name in comparison.trained else "") for name in names]
    ticks: list[float] = list(range(len(names)))
    if together is not None:
        ticks.append(together)
        labels.append("held-out\ntogether")
        axes.axvline(together - 0.625, color=CHANCE, linewidth=0.8)
    axes.set_xticks(ticks, labels)
    label_bars(axes, metric, "After training")


def _draw_intervals(axes: Axes, places: list[float], estimates: list[Estimate]) -> None:
    drawn = [(place, each) for place, each in zip(places, estimates, strict=True) if each.has_interval]
    if not drawn:
        return
    values = [each.value for _, each in drawn]
    lengths = [[each.value - each.low for _, each in drawn], [each.high - each.value for _, each in drawn]]
    axes.errorbar([place for place, _ in drawn], values, lengths, fmt="none", ecolor=_GREY, elinewidth=1.2, capsize=2.5)


def add_legend(figure: Figure, axes: Axes, letters: int) -> None:
    """Put a legend below a picture.

    Args:
        figure: The picture.
        axes: Whose labels are shown.
        letters: How many fit beside each other.
    """
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        columns = max(1, min(len(labels), letters // (max(map(len, labels)) + 6)))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _draw_line(
    axes: Axes, x: Floats, points: Sequence[Estimate], label: str, style: tuple[str, str], bands: int
) -> None:
    """Draw estimates as a line in a band, which is so opaque that many of them still let the lines show."""
    colour, dashes = style
    axes.plot(x, [point.value for point in points], dashes, color=colour, label=label, linewidth=1.8)
    if points[0].has_interval:
        low, high = [point.low for point in points], [point.high for point in points]
        axes.fill_between(x, low, high, color=colour, alpha=min(0.18, 0.4 / bands), linewidth=0)


def _styles() -> Iterator[tuple[str, str]]:
    """Colours, and line styles once the colours have been used up."""
    return ((colour, dashes) for dashes in _DASHES for colour in COLOURS)
