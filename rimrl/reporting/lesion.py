"""The picture of what dropping single units does, from the files that ``rimrl sequence lesion`` left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from rimrl.errors import UsageError, damaged, trying
from rimrl.files import replacing_file
from rimrl.reading import read_json
from rimrl.reporting.rollouts import chosen_frames, read_arrays
from rimrl.runs.validated import DamagedError, Fields

PICTURE = "dropping.png"
_FRAMES = 10
_GREY, _ORANGE = "#999999", "#d55e00"


def save_lesions(runs: Sequence[Path], picture: Path) -> None:
    """Draw runs one below the other: frames without each unit, the error, and the change of every other unit.

    Args:
        runs: Folders that hold ``dropping.json`` and ``dropping.npz``.
        picture: Where to; its suffix names the format.

    Raises:
        UsageError: If files are missing or damaged, or the picture cannot be written.
    """
    read = [(_facts(run), read_arrays(run / "dropping.npz", ("truth", "whole", "without", "change"))) for run in runs]
    heights = [len(facts["units"]) + 3 for facts, _ in read]
    figure = Figure(figsize=(15, 0.62 * sum(heights) + 0.6 * len(read)), layout="constrained")
    highest = max(float(_of_others(arrays["change"]).max()) for _, arrays in read)
    rows = figure.subfigures(len(read), 1, squeeze=False, height_ratios=heights)[:, 0]
    for row, (facts, arrays) in zip(rows, read, strict=True):
        row.suptitle(
            f"{facts['config']}, seed {facts['seed']}: {facts['warm_up']} frames shown, then the model alone without "
            f"one of its {facts['parts']}",
            x=0.01,
            ha="left",
            fontsize=11,
        )
        films, bars, matrix = row.subfigures(1, 3, width_ratios=(9, 3, 3))
        _draw_films(films, arrays)
        _draw_errors(bars.subplots(), facts)
        _draw_changes(matrix.subplots(), arrays["change"], highest)
    with trying("save the picture", picture, ValueError), replacing_file(picture) as partial:
        figure.savefig(partial, dpi=130)


def _facts(run: Path) -> dict[str, Any]:
    file = run / "dropping.json"
    try:
        facts = read_json(file, follow=False)
        fields = Fields(facts, "dropping")
        for name in ("config", "parts"):
            fields.text(name)
        for name in ("seed", "warm_up"):
            fields.integer(name)
        for unit in (fields, *fields.objects("units")):
            unit.number("cross_entropy")
    except (UsageError, DamagedError) as error:
        raise damaged(file, error, "run rimrl sequence lesion again") from None
    assert isinstance(facts, dict)
    return facts


def _draw_films(figure: SubFigure, arrays: dict[str, NDArray[Any]]) -> None:
    named = {"truth": arrays["truth"], "whole": arrays["whole"]}
    named |= {f"without {unit}": film for unit, film in enumerate(arrays["without"])}
    frames = chosen_frames(len(arrays["truth"]), _FRAMES)
    grid = figure.subplots(len(named), len(frames), squeeze=False)
    for row, (name, film) in zip(grid, named.items(), strict=True):
        for axes, frame in zip(row, frames, strict=True):
            axes.imshow(film[frame], cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for axes, frame in zip(grid[0], frames, strict=True):
        axes.set_title(f"+{frame + 1}", fontsize=8)


def _draw_errors(axes: Axes, facts: dict[str, Any]) -> None:
    errors = [unit["cross_entropy"] for unit in facts["units"]]
    axes.barh(range(len(errors)), errors, color=_ORANGE, height=0.7)
    axes.axvline(facts["cross_entropy"], color=_GREY, linestyle="--")
    axes.set_yticks(range(len(errors)), [f"without {unit}" for unit in range(len(errors))])
    axes.invert_yaxis()
    axes.set_xlabel("nats a frame (line: whole model)")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_changes(axes: Axes, change: NDArray[np.float64], highest: float) -> None:
    shown = np.ma.masked_array(change, mask=np.eye(len(change), dtype=bool))
    axes.imshow(shown, cmap="cividis", vmin=0.0, vmax=highest)
    axes.set_facecolor("#bbbbbb")
    for (row, column), value in np.ndenumerate(change):
        if row != column:
            colour = "black" if value > 0.6 * highest else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
    axes.set(xlabel="change of", ylabel="without", xticks=range(len(change)), yticks=range(len(change)))
    axes.set_title("Change of the others,\nof their norm", fontsize=9, loc="left")


def _of_others(change: NDArray[np.float64]) -> NDArray[np.float64]:
    return change[~np.eye(len(change), dtype=bool)]
