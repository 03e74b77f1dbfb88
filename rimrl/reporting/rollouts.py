"""Pictures of frames that a model predicted, beside the true ones, from the files that ``rimrl inspect`` recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rimrl.errors import UsageError, damaged
from rimrl.runs.recording import read_npz

PICTURE = "rollouts.png"
_BEFORE, _COLUMNS = 4, 12
_BLUE, _ORANGE = "#0072b2", "#d55e00"


def read_arrays(file: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Arrays of an ``.npz`` file.

    Raises:
        UsageError: If it is not there or damaged.
    """
    try:
        arrays = read_npz(file)
        return {name: arrays[name] for name in names}
    except (UsageError, KeyError) as error:
        raise damaged(file, error, "record it again") from None


def chosen_frames(count: int, columns: int = _COLUMNS) -> list[int]:
    """Indices of frames that stand for `count` of them: evenly spaced, the first and the last among them."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(columns, count))})


def save_rollouts(recording: Path, picture: Path) -> str:
    """Draw a few sequences, the truth above what was predicted, and the error by frame over all of them.

    Args:
        recording: ``rollouts.npz``.
        picture: Where to.

    Returns:
        Name of the picture.

    Raises:
        UsageError: As `read_arrays`.
    """
    arrays = read_arrays(recording, ("shown", "truth", "predicted", "cross_entropy"))
    shown, truth, predicted = arrays["shown"], arrays["truth"], arrays["predicted"]
    warm_up, b = shown.shape[:2]
    before = list(range(max(0, warm_up - _BEFORE), warm_up))
    after = chosen_frames(len(truth))
    figure = Figure(figsize=(0.75 * (len(before) + len(after)) + 0.8, 1.55 * b + 2.6), layout="constrained")
    films, curve = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.55 * b, 2.2))[:, 0]
    grid = films.subplots(2 * b, len(before) + len(after), squeeze=False)
    films.suptitle(
        f"Truth above prediction, {b} sequences: last {len(before)} of {warm_up} frames shown, then the model alone",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    for row in range(b):
        for column, frame in enumerate([*before, *after]):
            is_shown = column < len(before)
            upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
            upper.imshow((shown if is_shown else truth)[frame, row], cmap="gray", vmin=0, vmax=255)
            if is_shown:
                lower.set_visible(False)
            else:
                lower.imshow(predicted[frame, row], cmap="gray", vmin=0, vmax=255)
            for axes in (upper, lower):
                axes.set(xticks=[], yticks=[])
                for spine in axes.spines.values():
                    spine.set_color(_BLUE if is_shown else _ORANGE)
            if row == 0:
                upper.set_title(str(frame + 1 if is_shown else warm_up + frame + 1), fontsize=8)
    axes = curve.subplots()
    axes.plot(np.arange(len(truth)) + warm_up + 1, arrays["cross_entropy"], color=_ORANGE)
    axes.set(xlabel="frame", ylabel="nats a frame", ylim=(0, None))
    axes.set_title("Cross entropy of the predictions, mean over all inspected sequences", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=130)
    return picture.name
