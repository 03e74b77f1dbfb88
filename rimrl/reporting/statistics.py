"""What several runs say together: aggregates over runs and tasks, and how sure they are.

Aggregates are those of Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS
2021), and equal their library rliable. Intervals come from the bootstrap, in two respects other than rliable's by
default, because five runs on the splits of one suite are not what rliable was made for:

* *Whole runs are resampled.* One agent plays all splits, so its scores rise and fall together. rliable resamples the
  runs of each task on their own (``stratified=True``), which is right where every task has agents of its own, and
  otherwise claims far too much.
* *The bootstrap's spread is read with Student's t* (``method="t"``). Percentiles of so few runs are too narrow.

``docs/statistics.md`` has the measured coverage of each.

Notation: R = runs, M = tasks (splits, games), B = resamples, K = numbers that an aggregate gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rimrl.errors import mismatch, unknown_name, wrong
from rimrl.reporting.bootstrap import bounds, draw, newcombe, percentile, resampled, welch

Floats = NDArray[np.float64]
Aggregate = Callable[[Floats], Floats]
"""Takes scores [..., R, M] and gives numbers [...], or [..., K]."""

Method = Literal["t", "percentile", "basic", "bca"]
METHODS: tuple[Method, ...] = get_args(Method)
RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: The point estimate.
        low: Lower bound; NaN where there are too few runs for an interval.
        high: Upper bound; NaN likewise.
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether there were enough runs for an interval."""
        return not math.isnan(self.low)

    def within(self, low: float, high: float) -> Estimate:
        """The same with bounds cut to what the metric can be, such as 0 to 1; no truth is lost by that."""
        if not self.has_interval:
            return self
        return Estimate(self.value, min(max(self.low, low), high), min(max(self.high, low), high))

    def written(self, write: Callable[[float], str]) -> str:
        """``VALUE [LOW, HIGH]``, each as `write` puts it; the value alone where there is no interval."""
        if not self.has_interval:
            return write(self.value)
        return f"{write(self.value)} [{write(self.low)}, {write(self.high)}]"

    def to_json(self) -> dict[str, float | None]:
        """The numbers as plain data; bounds that there are not are null."""
        low, high = (self.low, self.high) if self.has_interval else (None, None)
        return {"value": self.value, "low": low, "high": high}


# -- aggregates --------------------------------------------------------------------------------------------------------


def interquartile_mean(scores: ArrayLike) -> Floats:
    """Mean of the middle half of all scores, runs and tasks pooled.

    Args:
        scores: [..., R, M]. The lowest and the highest ``floor(R M / 4)`` are left out.

    Returns:
        [...].
    """
    pooled = np.asarray(scores, dtype=np.float64)
    pooled = np.sort(pooled.reshape(*pooled.shape[:-2], -1), axis=-1)
    cut = pooled.shape[-1] // 4
    middle: Floats = pooled[..., cut : pooled.shape[-1] - cut].mean(axis=-1)
    return middle


def mean(scores: ArrayLike) -> Floats:
    """Mean over tasks of the mean over runs, [..., R, M] to [...]."""
    means: Floats = np.asarray(scores, dtype=np.float64).mean(axis=-2).mean(axis=-1)
    return means


def median(scores: ArrayLike) -> Floats:
    """Median over tasks of the mean over runs, [..., R, M] to [...]."""
    medians: Floats = np.median(np.asarray(scores, dtype=np.float64).mean(axis=-2), axis=-1)
    return medians


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> Floats:
    """How far runs fall short of a score, on average; what exceeds the score does not count.

    Args:
        scores: [..., R, M].
        target: The score to reach; 1 for success rates and human-normalised scores.

    Returns:
        [...]; 0 where every run reaches the target on every task.
    """
    short: Floats = target - np.minimum(np.asarray(scores, dtype=np.float64), target).mean(axis=(-2, -1))
    return short


def score_distribution(scores: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Share of runs, over all tasks, whose score is above each threshold.

    Args:
        scores: [..., R, M].
        thresholds: [K].

    Returns:
        [..., K].
    """
    above = np.asarray(scores, dtype=np.float64)[..., None] > np.asarray(thresholds, dtype=np.float64)
    shares: Floats = above.mean(axis=(-3, -2))
    return shares


def improvement(scores: ArrayLike, reference: ArrayLike) -> Floats:
    """Probability that a run scores higher than a run of the reference, averaged over tasks; a tie counts half.

    On one task this is the Mann-Whitney U statistic over the number of pairs.

    Args:
        scores: [..., R, M].
        reference: [..., R', M].

    Returns:
        [...].
    """
    ours = np.asarray(scores, dtype=np.float64)[..., :, None, :]
    theirs = np.asarray(reference, dtype=np.float64)[..., None, :, :]
    wins: Floats = ((ours > theirs) + 0.5 * (ours == theirs)).mean(axis=(-3, -2, -1))
    return wins


# -- intervals ---------------------------------------------------------------------------------------------------------


def interval(
    scores: ArrayLike,
    aggregate: Aggregate = interquartile_mean,
    method: Method = "t",
    stratified: bool = False,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """An aggregate of several runs, with a bootstrap interval.

    Args:
        scores: [R, M].
        aggregate: What to estimate, [..., R, M] to [...].
        method: ``"t"``: the estimate +- Student's t with R - 1 degrees of freedom times ``sqrt(R / (R - 1))`` times the
            bootstrap's standard deviation (the t interval with a bootstrap standard error of Hesterberg, "What Teachers
            Should Know About the Bootstrap", The American Statistician 2015). ``"percentile"``: the bootstrap's own
            quantiles, rliable's default, which is too narrow for few runs. ``"basic"``: these mirrored at the estimate.
            ``"bca"``: corrected for bias and acceleration (Efron, 1987).
        stratified: Resample the runs of each task on their own, as rliable does, which is right where each task has
            agents of its own. By default whole runs are resampled: one agent plays all tasks.
        confidence: Share of such intervals that should hold the truth.
        resamples: B.
        seed: Of the resampling: the same runs give the same interval.

    Returns:
        The estimate; without an interval if there is one run only.

    Raises:
        UsageError: If there is no such method, or `scores` is not [R, M] or holds what is not finite.
    """
    (estimate,) = intervals(
        scores,
        lambda runs: np.asarray(aggregate(runs))[..., None],
        method=method,
        stratified=stratified,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    return estimate


def intervals(
    scores: ArrayLike,
    aggregate: Aggregate,
    method: Method = "t",
    stratified: bool = False,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """Several numbers at once, each with an interval of its own.

    Args:
        scores: [R, M].
        aggregate: [..., R, M] to [..., K].
        method: As for `interval`, and so are the others.
        stratified: As for `interval`.
        confidence: As for `interval`.
        resamples: As for `interval`.
        seed: As for `interval`.

    Returns:
        K estimates.

    Raises:
        UsageError: As `interval`.
    """
    runs = _checked(scores)
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    values = np.asarray(aggregate(runs))
    R, M = runs.shape
    if R < 2:
        return [Estimate(float(value)) for value in values]
    replicates = aggregate(resampled(runs, draw(R, M if stratified else 1, resamples, seed)))  # [B, K]
    left_out = np.stack([aggregate(np.delete(runs, run, axis=0)) for run in range(R)])  # [R, K]
    return [
        Estimate(value, *bounds(method, value, replicates[:, k], left_out[:, k], 1.0 - confidence))
        for k, value in enumerate(values.tolist())
    ]


def performance_profile(
    scores: ArrayLike, thresholds: ArrayLike, method: Method = "t", resamples: int = 2000, seed: int = 0
) -> list[Estimate]:
    """Share of runs above each threshold, with pointwise intervals (the run-score distribution of Agarwal et al.).

    Args:
        scores: [R, M].
        thresholds: [K].
        method: As for `interval`.
        resamples: B.
        seed: Of the resampling.

    Returns:
        K estimates, each between 0 and 1.

    Raises:
        UsageError: As `interval`.
    """
    shares = partial(score_distribution, thresholds=thresholds)
    return [estimate.within(0.0, 1.0) for estimate in intervals(scores, shares, method, resamples=resamples, seed=seed)]


def curve(values: ArrayLike, resamples: int = 2000, seed: int = 0) -> list[Estimate]:
    """Interquartile mean over runs at every point of their curves, with pointwise intervals.

    Args:
        values: [R, K]: the same K points of each run.
        resamples: B.
        seed: Of the resampling.

    Returns:
        K estimates.

    Raises:
        UsageError: As `interval`.
    """
    return intervals(
        values,
        lambda runs: interquartile_mean(np.swapaxes(runs, -1, -2)[..., None]),
        resamples=resamples,
        seed=seed,
    )


def generalisation_gap(
    train: ArrayLike,
    held_out: ArrayLike,
    method: Method = "t",
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """How much worse runs are on what they were not trained on: train split minus mean of the held-out splits.

    The difference is taken within each run, so that what makes a run good or bad on both does not widen the interval.

    Args:
        train: [R]: score of each run on the training split.
        held_out: [R, M]: scores of the same runs on the held-out splits.
        method: As for `interval`.
        confidence: As for `interval`.
        resamples: As for `interval`.
        seed: As for `interval`.

    Returns:
        Mean over runs, with the interval of that mean.

    Raises:
        UsageError: As `interval`.
    """
    gaps = np.asarray(train, dtype=np.float64) - _checked(held_out).mean(axis=1)
    return interval(gaps[:, None], mean, method, confidence=confidence, resamples=resamples, seed=seed)


def probability_of_improvement(
    scores: ArrayLike,
    reference: ArrayLike,
    method: Literal["newcombe", "percentile"] = "newcombe",
    stratified: bool = False,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """`improvement` over a reference, with an interval.

    Args:
        scores: [R, M].
        reference: [R', M]: the same tasks.
        method: ``"newcombe"``: method 5 of Newcombe, "Confidence intervals for an effect size measure based on the
            Mann-Whitney statistic", Statistics in Medicine 2006, with R and R' as the sample sizes however many tasks
            there are, because one agent plays them all; it stays honest where every run beats every run of the
            reference. ``"percentile"``: the bootstrap's quantiles, as rliable, which has no width at all there.
        stratified: For ``"percentile"``, as for `interval`.
        confidence: As for `interval`.
        resamples: For ``"percentile"``: B.
        seed: For ``"percentile"``: of the resampling.

    Returns:
        The estimate; without an interval if either side has one run only.

    Raises:
        UsageError: As `interval`, and if the tasks are not as many.
    """
    ours, theirs = _checked(scores), _checked(reference)
    if ours.shape[1] != theirs.shape[1]:
        raise mismatch("scores", f"of {theirs.shape[1]} tasks, as the reference", ours.shape[1])
    if method not in ("newcombe", "percentile"):
        raise unknown_name("method", method, ("newcombe", "percentile"))
    value = float(improvement(ours, theirs))
    if min(len(ours), len(theirs)) < 2:
        return Estimate(value)
    if method == "newcombe":
        return Estimate(value, *newcombe(value, len(ours), len(theirs), 1.0 - confidence))
    strata = ours.shape[1] if stratified else 1
    replicates = improvement(
        resampled(ours, draw(len(ours), strata, resamples, seed)),
        resampled(theirs, draw(len(theirs), strata, resamples, seed + 1)),
    )
    return Estimate(value, *percentile(replicates, 1.0 - confidence))


def difference(
    scores: ArrayLike,
    reference: ArrayLike,
    aggregate: Aggregate = interquartile_mean,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """How much higher an aggregate is than that of a reference whose runs are others, with an interval.

    Each side has the standard error that `interval` reads from its bootstrap, ``s = sqrt(R / (R - 1)) sd``. The
    interval is Welch's: Student's t times ``sqrt(s^2 + s'^2)``, with the degrees of freedom of Welch and Satterthwaite,
    rounded down.

    Args:
        scores: [R, M].
        reference: [R', M]: the same tasks.
        aggregate: As for `interval`.
        confidence: As for `interval`.
        resamples: As for `interval`.
        seed: As for `interval`.

    Returns:
        The estimate; without an interval if either side has one run only.

    Raises:
        UsageError: As `interval`, and if the tasks are not as many.
    """
    sides = [_checked(scores), _checked(reference)]
    if sides[0].shape[1] != sides[1].shape[1]:
        raise mismatch("scores", f"of {sides[0].shape[1]} tasks, as the others", sides[1].shape[1])
    ours, theirs = (float(aggregate(side)) for side in sides)
    if min(map(len, sides)) < 2:
        return Estimate(ours - theirs)
    variances = []
    for number, side in enumerate(sides):
        R = len(side)
        replicates = aggregate(resampled(side, draw(R, 1, resamples, seed + number)))
        variances.append(R / (R - 1) * float(replicates.var()))
    return Estimate(ours - theirs, *welch(ours - theirs, variances, [len(side) for side in sides], 1.0 - confidence))


def is_certain(scores: ArrayLike) -> bool:
    """Whether all runs agree on every task, so that no bootstrap can tell how sure an aggregate is."""
    runs = np.asarray(scores, dtype=np.float64)
    return len(runs) > 1 and bool((runs == runs[0]).all())


def _checked(scores: ArrayLike) -> Floats:
    runs = np.asarray(scores, dtype=np.float64)
    if runs.ndim != 2 or 0 in runs.shape:
        raise mismatch("scores", "[runs, tasks], with at least one of each", list(runs.shape))
    if not np.isfinite(runs).all():
        raise wrong("scores", "must be finite", kind="not_finite")
    return runs
