"""Levels in pictures: a thin line and a label each, or an arrow at the edge for what lies far away."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from rimrl.reporting.charts import spread
from rimrl.reporting.curves import TrainingCurve
from rimrl.reporting.levels import Level, beyond, scale_of

_COLOUR = "#666666"


def draw_levels(panels: Sequence[Axes], curves: Sequence[TrainingCurve]) -> None:
    """Draw what learning curves are read against, once all of them are drawn.

    Args:
        panels: Axes with curves in them; several share their vertical scale.
        curves: What each of them shows.
    """
    levels = [level for curve in curves for level in curve.levels]
    ends = [end for axes in panels for end in axes.dataLim.intervaly if math.isfinite(end)]
    if not levels or not ends:
        return
    low, high = scale_of(min(ends), max(ends), levels)
    for axes, curve in zip(panels, curves, strict=True):
        axes.set_ylim(low, high)
        _draw(axes, curve.levels, low, high)


def _draw(axes: Axes, levels: Sequence[Level], low: float, high: float) -> None:
    heights = [100 * min(max((high - level.value) / (high - low), 0.0), 1.0) for level in levels]
    for level, label_height in zip(levels, spread(heights), strict=True):
        arrow = beyond(level.value, low, high)
        if not arrow:
            axes.axhline(level.value, color=_COLOUR, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"{level.text} {arrow}".rstrip(),
            (1.0, 1 - label_height / 100),
            xycoords="axes fraction",
            xytext=(3, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize="small",
            color=_COLOUR,
            annotation_clip=False,
        )
