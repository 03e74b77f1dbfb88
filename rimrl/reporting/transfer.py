"""Transfer scores (Rusu et al., arXiv 1606.04671; RIM paper, App. E.2), from the files of a transfer folder alone.

``transfer.json`` names the runs; their learning curves are in their ``monitor.csv``. What is computed:

* A run's *curve* has `BINS` points. The episodes of ``monitor.csv`` are put one after the other, and an episode belongs
  to the bin of ``total_timesteps / BINS`` steps in which the sum of lengths up to its end falls. A point is the mean
  return of a bin's episodes; bins without any are interpolated between their neighbours, and held at the ends.
* Its *area* is the mean of the curve: the area under it for a training of length 1.
* The *score* of a method is the mean over seeds of its areas, divided by the mean over the same seeds of the areas of
  ``scratch``. With *offset*, the mean return of random actions on the target is taken from every area first.

A score needs a positive area of ``scratch`` below the line, and is left out (null) otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rimrl.errors import UsageError, damaged
from rimrl.reading import read_json, read_rows
from rimrl.reporting.bootstrap import draw, resampled
from rimrl.reporting.statistics import RESAMPLES, Estimate, interval
from rimrl.runs.validated import DamagedError, Fields

Floats = NDArray[np.float64]
BINS = 20
_LARGEST_MONITOR = 2**31
_LONGEST_NAME = 4096
SCRATCH = "scratch"
KINDS = ("raw", "offset")


@dataclass(frozen=True)
class Area:
    """What one run on a target learned.

    Attributes:
        core: Label of the core.
        method: How it was transferred.
        source: Name of the source; None for a method without one.
        target: Name of the target.
        seed: Of the run.
        curve: `BINS` mean returns.
    """

    core: str
    method: str
    source: str | None
    target: str
    seed: int
    curve: tuple[float, ...]

    @property
    def area(self) -> float:
        """Mean of the curve."""
        return float(np.mean(self.curve))


@dataclass(frozen=True)
class Score:
    """How a method did on a target beside learning from scratch.

    Attributes:
        core: Label of the core.
        method: The method.
        source: Name of the source; None for a method without one, and for the mean over all sources.
        target: Name of the target.
        over_sources: Whether areas are means over all sources.
        seeds: Seeds that both have finished.
        raw: Ratio of areas; None where scratch has none above zero.
        offset: The same above the return of random actions.
    """

    core: str
    method: str
    source: str | None
    target: str
    over_sources: bool
    seeds: tuple[int, ...]
    raw: Estimate | None
    offset: Estimate | None


@dataclass(frozen=True)
class Count:
    """Positive and negative transfer of a method.

    Attributes:
        core: Label of the core.
        method: The method.
        kind: ``"raw"`` or ``"offset"``.
        over: ``"targets"``: one score a target, of areas that are means over the sources (as the RIM paper counts);
            ``"pairs"``: one score for each source and target.
        positive: Scores above 1.
        negative: Scores below 1.
        surely_positive: Those of them whose interval lies above 1.
        surely_negative: Those whose interval lies below 1.
        without_score: Finished, but without a score.
    """

    core: str
    method: str
    kind: str
    over: str
    positive: int
    negative: int
    surely_positive: int
    surely_negative: int
    without_score: int


def learning_curve(monitor: Path, total_timesteps: int, bins: int = BINS) -> tuple[float, ...]:
    """The learning curve of a run, as the module's text says.

    Args:
        monitor: Its ``monitor.csv``.
        total_timesteps: Length of the training.
        bins: Points of the curve.

    Returns:
        `bins` mean returns; none where no episode has finished.

    Raises:
        UsageError: If the file cannot be read.
    """
    try:
        _, header, *episodes = read_rows(monitor, _LARGEST_MONITOR, follow=False)  # SB3's own line comes first
        columns = header.index("r"), header.index("l")
        rows = np.array([[float(row[column]) for column in columns] for row in episodes]).reshape(-1, 2)
        if not np.isfinite(rows).all() or (rows[:, 1] < 1).any():
            raise ValueError
    except (ValueError, IndexError):
        raise damaged(monitor, "or missing", "remove the run folder and train it again") from None
    if not len(rows):
        return ()
    returns, lengths = rows.T
    place = np.minimum((np.cumsum(lengths) * bins / total_timesteps).astype(int), bins - 1)
    filled = np.unique(place)
    means = [returns[place == each].mean() for each in filled]
    return tuple(float(point) for point in np.interp(np.arange(bins), filled, means))


def transfer_score(areas: Floats, scratch: Floats) -> Estimate | None:
    """Ratio of mean areas, with a bootstrap interval over seeds.

    Args:
        areas: [R], one for each seed.
        scratch: [R]: learning from scratch with the same seeds.

    Returns:
        The score; None if the mean of `scratch` is not positive. Without an interval if there is one seed, or the seeds
        leave open whether the mean of `scratch` is positive.
    """
    if not len(scratch) or scratch.mean() <= 0:
        return None
    pairs = np.stack([areas, scratch], axis=1)  # [R, 2]: seeds are resampled with both of their runs

    def ratio(runs: Floats) -> Floats:
        means = runs.mean(axis=-2)
        return np.asarray(means[..., 0] / means[..., 1])

    value = float(ratio(pairs))
    if len(pairs) < 2:
        return Estimate(value)
    below = resampled(pairs, draw(len(pairs), 1, RESAMPLES, 0)).mean(axis=-2)[:, 1]
    left_out = (scratch.sum() - scratch) / (len(scratch) - 1)
    if min(below.min(), left_out.min()) <= 0:
        return Estimate(value)
    return interval(pairs, ratio)


def scores(areas: Iterable[Area], random: Mapping[str, float]) -> list[Score]:
    """Score every method, for each source and over all sources together.

    Args:
        areas: Of finished runs.
        random: Mean return of random actions on each target; targets without one have no score with offset.

    Returns:
        In the order of the first run of each.
    """
    by_seed: dict[tuple[str, str, str | None, str], dict[int, float]] = {}
    for each in areas:
        by_seed.setdefault((each.core, each.method, each.source, each.target), {})[each.seed] = each.area

    def score(core: str, method: str, source: str | None, target: str, runs: Mapping[int, float], over: bool) -> Score:
        scratch = by_seed.get((core, SCRATCH, None, target), {})
        seeds = tuple(sorted(runs.keys() & scratch.keys()))
        ours, theirs = (np.array([part[seed] for seed in seeds]) for part in (runs, scratch))
        chance = random.get(target)
        offset = None if chance is None else transfer_score(ours - chance, theirs - chance)
        return Score(core, method, source, target, over, seeds, transfer_score(ours, theirs), offset)

    found = []
    sources: dict[tuple[str, str, str], list[dict[int, float]]] = {}
    for (core, method, source, target), runs in by_seed.items():
        if method != SCRATCH:
            found.append(score(core, method, source, target, runs, False))
            sources.setdefault((core, method, target), []).append(runs)
    for (core, method, target), parts in sources.items():
        common = set.intersection(*(set(part) for part in parts))
        means = {seed: float(np.mean([part[seed] for part in parts])) for seed in sorted(common)}
        found.append(score(core, method, None, target, means, True))
    return found


def counts(found: Sequence[Score]) -> list[Count]:
    """Count positive and negative transfer for each core and method."""
    rows = []
    for core, method in dict.fromkeys((score.core, score.method) for score in found):
        for over in ("targets", "pairs"):
            of_method = [
                score
                for score in found
                if (score.core, score.method, score.over_sources) == (core, method, over == "targets")
            ]
            for kind in KINDS:
                known = [estimate for score in of_method if (estimate := getattr(score, kind)) is not None]
                rows.append(
                    Count(
                        core,
                        method,
                        kind,
                        over,
                        positive=sum(each.value > 1 for each in known),
                        negative=sum(each.value < 1 for each in known),
                        surely_positive=sum(each.low > 1 for each in known),  # NaN is not
                        surely_negative=sum(each.high < 1 for each in known),
                        without_score=len(of_method) - len(known),
                    )
                )
    return rows


def score_folder(folder: Path) -> dict[str, Any]:
    """Everything there is to say about a transfer so far, finished or not.

    Args:
        folder: A folder that ``rimrl transfer`` works in.

    Returns:
        `scored` content of its ``transfer.json``.

    Raises:
        UsageError: If there is no such file, or it or a finished run is damaged.
    """
    file = folder / "transfer.json"
    try:
        plan = read_json(file, follow=False)
        _check_plan(plan)
    except (UsageError, DamagedError) as error:
        raise damaged(file, error, "run rimrl transfer again to write it anew") from None
    assert isinstance(plan, dict)
    return scored(folder, plan)


def scored(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Content of a ``transfer.json`` with what there is to say about its finished runs.

    Args:
        folder: The transfer folder.
        plan: Runs with their states, and what random actions earn; its runs are changed.

    Returns:
        The plan with ``scores``, ``counts`` and each finished run's ``curve`` and ``area``.

    Raises:
        UsageError: If a finished run is damaged.
    """
    random = {name: played["return_mean"] for name, played in plan["random"].items()}
    areas = []
    for run in plan["runs"]:
        if run["status"] == "finished" and run["target"] is not None:
            curve = learning_curve(folder / run["path"] / "monitor.csv", run["total_timesteps"])
            if curve:  # at least one episode has finished
                area = Area(run["core"], run["method"], run["source"], run["target"], run["seed"], curve)
                run |= {"area": area.area, "curve": list(curve)}
                areas.append(area)
    found = scores(areas, random)
    return plan | {
        "bins": BINS,
        "scores": [_plain(score) for score in found],
        "counts": [asdict(count) for count in counts(found)],
    }


def _check_plan(plan: object) -> None:
    """Refuse content of a ``transfer.json`` that cannot be scored."""
    fields = Fields(plan, "transfer")
    played = fields.nested("random")
    for target in played.names():
        played.nested(target).number("return_mean")
    for run in fields.objects("runs"):
        for name in ("core", "path", "status"):
            run.text(name, _LONGEST_NAME)
        for name in ("method", "source", "target"):
            if run.raw(name) is not None:
                run.text(name, _LONGEST_NAME)
        run.integer("seed")
        run.integer("total_timesteps", 1)


def _plain(score: Score) -> dict[str, Any]:
    content = asdict(score) | {"seeds": list(score.seeds)}
    for kind in KINDS:
        estimate: Estimate | None = getattr(score, kind)
        content[kind] = estimate and estimate.to_json()
    return content
