"""Figures of a comparison for papers: a file each, without titles, with text that stays text."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rimrl.reporting.comparison import Comparison
from rimrl.reporting.curves import training_curve
from rimrl.reporting.group_plots import (
    add_legend,
    draw_curves,
    draw_profiles,
    draw_splits,
    is_known,
    known_curves,
)
from rimrl.reporting.level_lines import draw_levels
from rimrl.reporting.plots import STYLE, draw_runs

FIGURES = ("learning_curves", "held_out_curves", "final_scores", "performance_profile")

# Type 3 fonts, matplotlib's default, are refused by many venues.
_STYLE = STYLE | {"font.size": 9, "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "rimrl"}
_UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
_WIDTH, _HEIGHT = 5.5, 3.4  # inches; the text of most venues is as wide
_WIDEST = 14.0
_PANELS = 3  # beside each other
_LETTERS_AN_INCH = 14


def figure_names(picture_format: str) -> list[str]:
    """Names of the files that `save_figures` may write."""
    return [f"{name}.{picture_format}" for name in FIGURES]


def save_figures(comparison: Comparison, folder: Path, picture_format: str = "pdf") -> list[str]:
    """Save each figure in a file of its own; the same comparison gives the same bytes.

    Args:
        comparison: What to show; its order and labels are those of lines, bars and legends.
        folder: Where to.
        picture_format: ``"pdf"``, ``"svg"`` or ``"png"``.

    Returns:
        Names of the files: ``final_scores`` and ``performance_profile`` always, ``learning_curves`` where runs kept a
        ``progress.csv``, ``held_out_curves`` where they were evaluated on held-out splits in training.

    Raises:
        OSError: If a file cannot be written.
    """
    saved = []
    with mpl.rc_context(_STYLE):
        for name, draw in zip(FIGURES, (_learning, _held_out, _final, _profile), strict=True):
            figure = draw(comparison)
            if figure is not None:
                file = folder / f"{name}.{picture_format}"
                with warnings.catch_warnings():
                    if picture_format == "svg":  # whoever shows it chooses the font
                        warnings.filterwarnings("ignore", "Glyph .* missing")
                    figure.savefig(file, format=picture_format, dpi=300, metadata=_UNDATED[picture_format])
                saved.append(file.name)
    return saved


def _learning(comparison: Comparison) -> Figure | None:
    shown = training_curve([run for group in comparison.groups for run in group.runs])
    if not is_known(comparison, shown):
        return None

    def draw(axes: Axes) -> None:
        draw_curves(axes, comparison.groups, shown)
        draw_levels([axes], [shown])

    return _alone(draw)


def _held_out(comparison: Comparison) -> Figure | None:
    curves = known_curves(comparison)
    if not curves:
        return None
    columns = min(len(curves), _PANELS)
    rows = math.ceil(len(curves) / columns)
    size = (max(_WIDTH, 3.2 * columns), max(_HEIGHT, 2.7 * rows + 0.4))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, curve in zip(panels, curves, strict=False):
        draw_curves(axes, comparison.groups, curve)
    draw_levels(list(panels[: len(curves)]), curves)
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    fullest = max(panels, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    add_legend(figure, fullest, round(size[0] * _LETTERS_AN_INCH))
    return figure


def _final(comparison: Comparison) -> Figure:
    players = len(comparison.summaries) + bool(comparison.random)
    width = min(max(_WIDTH, 0.3 * players * (len(comparison.splits) + 1)), _WIDEST)
    if comparison.has_seeds:
        return _alone(lambda axes: draw_splits(axes, comparison), width)
    # Of single runs nothing is known over runs, but something over episodes.
    return _alone(lambda axes: draw_runs(axes, comparison.single_runs()), width, legend=False)


def _profile(comparison: Comparison) -> Figure:
    return _alone(lambda axes: draw_profiles(axes, comparison))


def _alone(draw: Callable[[Axes], None], width: float = _WIDTH, legend: bool = True) -> Figure:
    """A figure of a single drawing, whose title is left to the caption."""
    figure = Figure(figsize=(width, _HEIGHT), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set_title("", loc="left")
    if legend:
        add_legend(figure, axes, round(width * _LETTERS_AN_INCH))
    return figure
