"""The picture of a transfer: a matrix of scores, sources by targets, for each core and method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rimrl.files import replacing_file

_NO_SOURCE = "no source"
# Colours span a quarter to four times the area of scratch, on a logarithmic scale.
_WIDEST = 4.0


def save_matrix(result: Mapping[str, Any], file: Path, kind: str = "offset") -> None:
    """Draw one matrix for each method (rows) and core (columns).

    Blue is positive transfer, red negative; a score whose interval does not hold 1 is bold. A grey cell has no score.

    Args:
        result: What `rimrl.reporting.transfer.score_folder` returns.
        file: Picture to write; its suffix names the format.
        kind: ``"raw"`` or ``"offset"``.

    Raises:
        OSError: If the file cannot be written.
    """
    scores = [score for score in result["scores"] if not score["over_sources"]]
    cores = list(dict.fromkeys(run["core"] for run in result["runs"]))
    on_targets = [run for run in result["runs"] if run["target"]]
    targets = list(dict.fromkeys(run["target"] for run in on_targets))
    rows: dict[str, dict[str, None]] = {}  # sources of each method
    for run in on_targets:
        if run["method"] != "scratch":
            rows.setdefault(run["method"], {})[run["source"] or _NO_SOURCE] = None
    heights = [len(sources) + 1 for sources in rows.values()] or [1]
    size = (1.8 + len(cores) * (1.0 + 0.62 * len(targets)), 1.4 + 0.45 * sum(heights))
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(heights), len(cores), squeeze=False, height_ratios=heights)
        image = None
        for j, core in enumerate(cores):
            for i, (method, sources) in enumerate(rows.items()):
                known = {
                    (score["source"] or _NO_SOURCE, score["target"]): score[kind]
                    for score in scores
                    if (score["core"], score["method"]) == (core, method)
                }
                image = _draw(panels[i][j], known, list(sources), targets)
                panels[i][j].set_title(f"{core}: {method}", loc="left")
                if i < len(rows) - 1:
                    panels[i][j].set_xticklabels([])
        if image is not None:
            bar = figure.colorbar(image, ax=panels, shrink=0.5)
            bar.set_ticks([-2, -1, 0, 1, 2], labels=["1/4", "1/2", "1", "2", "4"])
            above = "\n(above random actions)" if kind == "offset" else ""
            bar.set_label(f"area under the learning curve\nover that of scratch{above}")
        figure.savefig(file, dpi=130)


def save_matrices(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Save ``matrix.png``, scores above random actions, and ``matrix_raw.png``.

    Returns:
        The pictures.

    Raises:
        UsageError: If they cannot be written.
    """
    pictures = []
    for kind, name in (("offset", "matrix.png"), ("raw", "matrix_raw.png")):
        with replacing_file(folder / name, folder) as partial_file:
            save_matrix(result, partial_file, kind)
        pictures.append(folder / name)
    return pictures


def _draw(
    axes: Axes, known: Mapping[tuple[str, str], Mapping[str, Any] | None], sources: list[str], targets: list[str]
) -> Any:
    colours = np.full((len(sources), len(targets)), np.nan)
    for i, source in enumerate(sources):
        for j, target in enumerate(targets):
            score = known.get((source, target))
            if score is None:
                axes.text(j, i, "–", ha="center", va="center", color="#555555")
                continue
            value = score["value"]
            colours[i, j] = math.log2(min(max(value, 1 / _WIDEST), _WIDEST))
            sure = score["low"] is not None and not score["low"] <= 1 <= score["high"]
            axes.text(
                *(j, i, f"{value:.2f}"),
                ha="center",
                va="center",
                fontweight="bold" if sure else "normal",
                color="white" if abs(colours[i, j]) > 1.4 else "black",
            )
    limit = math.log2(_WIDEST)
    axes.set_facecolor("#dddddd")
    axes.set_xticks(range(len(targets)), targets, rotation=40, ha="right")
    axes.set_yticks(range(len(sources)), sources)
    axes.tick_params(length=0)
    return axes.imshow(colours, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
