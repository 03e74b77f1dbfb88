"""What units did, as small pictures for a page: over training, and in the episodes of an inspection.

Letters: N units, K columns.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rimrl.errors import UsageError
from rimrl.reporting.inspection import format_evenness, format_mutual_information, percent, read_inspection
from rimrl.reporting.results import RunResults

_COLUMNS = 120
_LARGEST = 2**30
_MOST_SPLITS = 100
_ACTIVE = (0, 114, 178)


@dataclass(frozen=True)
class Strip:
    """One row a unit, from left to right in time; the more often active, the stronger the colour.

    Attributes:
        title: Which run or episodes.
        picture: ``data:`` address of a PNG, [N, K] pixels.
        units: N.
        shares: How often each unit is active, in words: at the end of training, or over all steps.
        measures: How evenly units are used, and how much they tell of events, in words; empty where that is not known.
        begin: What stands at the left end.
        end: What stands at the right end.
    """

    title: str
    picture: str
    units: int
    shares: tuple[str, ...]
    measures: tuple[str, ...]
    begin: str
    end: str

    @property
    def description(self) -> str:
        """The picture in words."""
        listed = ", ".join(f"unit {n} {share}" for n, share in enumerate(self.shares))
        return f"{self.title}, from {self.begin} to {self.end}. Active: {listed}."


def over_training(run: RunResults, title: str) -> Strip | None:
    """How often each unit was active at each update of a training; None for a core without units."""
    columns = {int(name.rpartition("_")[2]): name for name in run.progress if re.fullmatch(r"units/active_\d+", name)}
    if len(columns) < 2:
        return None
    rows = zip(*(run.progress[columns[n]] for n in sorted(columns)), strict=True)
    known = [(step, row) for step, row in zip(run.steps, rows, strict=True) if step is not None and None not in row]
    if not known:
        return None
    shares = np.array([row for _, row in known], dtype=np.float64).T  # [N, K]
    words = tuple(percent(share) for share in shares[:, -1].tolist())
    measured = {name: _last(run.progress.get(f"units/{name}", [])) for name in ("collapse", "worst_share")}
    ends = tuple(f"{run.kind.step} {known[i][0]:,.0f}" for i in (0, -1))
    return Strip(title, _picture(_averaged(shares)), len(shares), words, _sentences(format_evenness(measured)), *ends)


def of_inspections(run: RunResults, title: str) -> list[Strip]:
    """Which unit was active when, for each split that ``rimrl inspect`` has recorded."""
    strips = []
    for folder in sorted(path for path in (run.path / "inspection").glob("*") if path.is_dir())[:_MOST_SPLITS]:
        try:
            inspection = read_inspection(folder, _LARGEST)
        except UsageError:  # half an inspection is none; the page tells how to get a whole one
            continue
        if not inspection.has_units:
            continue
        shown = inspection.arrays["active"][inspection.shown].T
        facts = inspection.facts
        words = tuple(percent(share) for share in facts["active_frequency"][0]["units"])
        measures = _sentences(
            format_evenness(facts),
            format_mutual_information(facts) and f"mutual information with {format_mutual_information(facts)}",
        )
        last = len(inspection.spans)
        begin, end, episode = inspection.spans[-1]
        whole = end - begin == episode["length"]
        noun = inspection.kind.trial
        ends = (f"{noun} 1", f"the end of {noun} {last}" if whole else f"step {end} of {noun} {last}")
        strips.append(Strip(f"{title}, {folder.name}", _picture(shown), len(shown), words, measures, *ends))
    return strips


def _last(column: Sequence[float | None]) -> float | None:
    return next((value for value in reversed(column) if value is not None), None)


def _sentences(*measures: str) -> tuple[str, ...]:
    return tuple(f"{each[0].upper()}{each[1:]}." for each in measures if each)


def _averaged(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of neighbours, so that at most `_COLUMNS` columns are left."""
    if shares.shape[1] <= _COLUMNS:
        return shares
    parts = np.array_split(np.arange(shares.shape[1]), _COLUMNS)
    return np.stack([shares[:, part].mean(axis=1) for part in parts], axis=1)


def _picture(shares: NDArray[np.generic]) -> str:
    """Shares [N, K] of 0 to 1 as the opacity of one colour, which suits light and dark pages."""
    pixels = np.empty((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _ACTIVE
    pixels[..., 3] = (np.asarray(shares, dtype=np.float64).clip(0, 1) * 255).round()
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
