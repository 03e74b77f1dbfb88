"""Pictures of runs."""

from __future__ import annotations

import math
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from rimrl.reporting.charts import in_thousands
from rimrl.reporting.curves import TrainingCurve, split_curves, training_curve
from rimrl.reporting.groups import Metric, common_metric, common_splits, random_scores
from rimrl.reporting.level_lines import draw_levels
from rimrl.reporting.results import RunResults
from rimrl.runs.evaluations import wilson_interval

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito: safe for colour-blind eyes
CHANCE = "#999999"
ROW_HEIGHT = 3.0  # inches, of a row of panels
_PANELS = 4  # beside each other
# Labels come from users and files: a dollar in them is a dollar, and no formula that may be wrong.
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}


def save_comparison(runs: list[RunResults], file: Path) -> None:
    """Save learning curves beside the evaluation on every split.

    Below them are those on held-out splits, where runs were evaluated there in training.

    Args:
        runs: Runs of one suite.
        file: Picture to write; its suffix names the format.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If the suffix is missing or names no picture format.
    """
    check_suffix(file)
    _, names = common_splits(runs)
    held_out = split_curves(runs, names, common_metric(runs))
    with mpl.rc_context(STYLE):
        rows = panel_rows(len(held_out))
        figure = Figure(figsize=(11, 4.4 + ROW_HEIGHT * rows), layout="constrained")
        grid = figure.add_gridspec(1 + bool(rows), 1, height_ratios=[4.4, *([ROW_HEIGHT * rows] if rows else [])])
        upper = grid[0].subgridspec(1, 2, width_ratios=(1, 1.3))
        training, shown = figure.add_subplot(upper[0]), training_curve(runs)
        _draw_curves(training, runs, shown)
        draw_levels([training], [shown])
        draw_runs(figure.add_subplot(upper[1]), runs)
        panels = add_panels(figure, grid[-1], len(held_out))
        for axes, curve in zip(panels, held_out, strict=True):
            _draw_curves(axes, runs, curve)
        draw_levels(panels, held_out)
        figure.savefig(file, dpi=130)


def panel_rows(number: int) -> int:
    """Rows that so many panels are put into."""
    return math.ceil(number / _PANELS)


def add_panels(figure: Figure, place: SubplotSpec, number: int) -> list[Axes]:
    """Axes beside and below each other that share their vertical scale.

    Args:
        figure: Gets them.
        place: Where to.
        number: How many.
    """
    if not number:
        return []
    grid = place.subgridspec(panel_rows(number), min(number, _PANELS))
    first = figure.add_subplot(grid[0, 0])
    others = [figure.add_subplot(grid[k // _PANELS, k % _PANELS], sharey=first) for k in range(1, number)]
    return [first, *others]


def check_suffix(file: Path) -> None:
    """Refuse a file whose name does not say which format it should have.

    Raises:
        ValueError: If there is no suffix, or none of a picture.
    """
    if not file.suffix:
        raise ValueError("its suffix must name the format, such as .png or .svg")
    known = FigureCanvasBase.get_supported_filetypes()
    if file.suffix[1:].lower() not in known:
        raise ValueError(f"its suffix must be one of {', '.join(f'.{name}' for name in sorted(known))}")


def label_curves(axes: Axes, shown: TrainingCurve) -> None:
    """Say what learning curves show, along their axes and above them."""
    axes.set(xlabel=shown.steps, ylabel=shown.label)
    axes.set_title(shown.title, loc="left")
    axes.xaxis.set_major_formatter(lambda steps, _: in_thousands(steps))
    axes.grid(axis="y", alpha=0.3)
    if shown.is_rate:
        axes.set_ylim(0, 1.02)


def label_bars(axes: Axes, metric: Metric, title: str) -> None:
    """Say what bars show."""
    axes.set_ylabel(metric.label)
    axes.set_title(title, loc="left")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if metric.is_rate:
        axes.set_ylim(0, 1.02)


def _draw_curves(axes: Axes, runs: list[RunResults], shown: TrainingCurve) -> None:
    for run, colour in zip(runs, cycle(COLOURS), strict=False):
        steps, values, each = run.steps, run.progress.get(shown.column, []), shown.per_step(run)
        points = [(x * each, y) for x, y in zip(steps, values, strict=False) if x is not None and y is not None]
        axes.plot([x for x, _ in points], [y for _, y in points], color=colour, label=run.label, linewidth=1.8)
    label_curves(axes, shown)


def draw_runs(axes: Axes, runs: list[RunResults]) -> None:
    """Draw a bar for each run on each split; for success rates with intervals over episodes.

    Args:
        axes: Where to; gets a legend below.
        runs: Runs of one suite.
    """
    names = list(dict.fromkeys(split for run in runs for split in run.splits))
    successes = all(result.get("success_rate") is not None for run in runs for result in run.splits.values())
    metric = common_metric(runs)
    column = metric.name
    players = [(run.label, "", run, colour) for run, colour in zip(runs, cycle(COLOURS), strict=False)]
    chance = random_scores(runs, column)
    if chance is not None:
        players.insert(0, ("random", "random_", chance, CHANCE))
    width = 0.8 / len(players)
    for k, (label, prefix, run, colour) in enumerate(players):
        shown = [i for i, name in enumerate(names) if run.splits.get(name, {}).get(f"{prefix}{column}") is not None]
        heights = [run.splits[names[i]][f"{prefix}{column}"] for i in shown]
        places = [i + (k - (len(players) - 1) / 2) * width for i in shown]
        axes.bar(places, heights, width * 0.92, color=colour, label=label)
        if successes:
            bounds = [wilson_interval(height, run.trials(names[i])) for height, i in zip(heights, shown, strict=True)]
            below = [height - low for height, (low, _) in zip(heights, bounds, strict=True)]
            above = [high - height for height, (_, high) in zip(heights, bounds, strict=True)]
            axes.errorbar(places, heights, [below, above], fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
    held_out = {name for run in runs for name, result in run.splits.items() if result["held_out"]}
    labels = [name.replace("_", "\n") + ("" if name in held_out else "\n(seen)") for name in names]
    axes.set_xticks(range(len(names)), labels)
    label_bars(axes, metric, "After training, with 95 % intervals over episodes" if successes else "After training")
    axes.legend(frameon=False, loc="upper center", ncols=len(players), bbox_to_anchor=(0.5, -0.14))
