"""How an interval is read from resamples, and from the counts of a Mann-Whitney statistic.

Notation: R = runs, M = tasks, B = resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@lru_cache(maxsize=16)
def draw(R: int, strata: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """Which runs make up each resample, [B, R, 1] for whole runs and [B, R, M] for the runs of each task."""
    return np.random.default_rng(seed).integers(R, size=(resamples, R, strata))


def resampled(runs: Floats, indices: NDArray[np.int64]) -> Floats:
    """Resamples of `runs`, [B, R, M]."""
    if indices.shape[-1] == 1:
        return runs[indices[..., 0]]
    return runs[indices, np.arange(runs.shape[1])]


def bounds(method: str, value: float, replicates: Floats, left_out: Floats, missed: float) -> tuple[float, float]:
    """Bounds of an estimate, by a method of `rimrl.reporting.statistics.interval`.

    Args:
        method: Its name.
        value: The estimate.
        replicates: The same of each resample, [B].
        left_out: The same without each of the runs, [R].
        missed: Share of truths that intervals may miss.

    Returns:
        Lower and upper bound.
    """
    if method == "t":
        R = len(left_out)
        half = student_t(1.0 - missed / 2, R - 1) * math.sqrt(R / (R - 1)) * float(replicates.std())
        return value - half, value + half
    if method == "bca":
        return _bca(value, replicates, left_out, missed)
    low, high = percentile(replicates, missed)
    return (2 * value - high, 2 * value - low) if method == "basic" else (low, high)


def percentile(replicates: Floats, missed: float) -> tuple[float, float]:
    """Bounds that leave out half of the share `missed` of the resamples at each end."""
    low, high = np.quantile(replicates, [missed / 2, 1.0 - missed / 2])
    return float(low), float(high)


def _bca(value: float, replicates: Floats, left_out: Floats, missed: float) -> tuple[float, float]:
    below = float(((replicates < value).mean() + (replicates <= value).mean()) / 2)
    if not 0.0 < below < 1.0:
        return percentile(replicates, missed)
    normal = NormalDist()
    bias = normal.inv_cdf(below)
    deviations = left_out.mean() - left_out
    squares = float((deviations**2).sum())
    acceleration = float((deviations**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    corrected = []
    for z in (normal.inv_cdf(missed / 2), normal.inv_cdf(1.0 - missed / 2)):
        shifted = bias + z
        corrected.append(normal.cdf(bias + shifted / (1.0 - acceleration * shifted)))
    low, high = np.quantile(replicates, corrected)
    return float(low), float(high)


def welch(value: float, variances: Sequence[float], numbers: Sequence[int], missed: float) -> tuple[float, float]:
    """Bounds of a difference of two estimates from samples of unequal variance (Welch, 1947).

    Args:
        value: The difference.
        variances: Squared standard error of each estimate.
        numbers: Runs of each.
        missed: Share of truths that intervals may miss.
    """
    total = sum(variances)
    if total == 0.0:
        return value, value
    degrees = total**2 / sum(v**2 / (R - 1) for v, R in zip(variances, numbers, strict=True))
    half = student_t(1.0 - missed / 2, max(1, math.floor(degrees))) * math.sqrt(total)
    return value - half, value + half


def newcombe(value: float, m: int, n: int, missed: float) -> tuple[float, float]:
    """The probabilities p that lie z standard errors from the estimate, with the standard error that p itself has."""
    z = NormalDist().inv_cdf(1.0 - missed / 2)

    def too_far(p: float) -> bool:
        half = (m + n) / 2 - 1
        variance = p * (1 - p) * (1 + half * ((1 - p) / (2 - p) + p / (1 + p))) / (m * n)
        return abs(value - p) > z * math.sqrt(variance)

    def edge(outer: float) -> float:
        """Where, between the estimate and an end of the scale, probabilities become too far."""
        inner = value
        for _ in range(60):
            middle = (inner + outer) / 2
            inner, outer = (inner, middle) if too_far(middle) else (middle, outer)
        return (inner + outer) / 2

    return edge(0.0), edge(1.0)


@lru_cache(maxsize=256)
def student_t(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution.

    Args:
        probability: Between 0.5 and 1.
        degrees: Degrees of freedom, at least 1.

    Returns:
        The quantile, to ten digits.
    """
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_t_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def _student_t_cdf(t: float, degrees: int) -> float:
    """Abramowitz & Stegun 26.7.3 and 26.7.4: a finite sum for a whole number of degrees of freedom."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = cosine if odd else 1.0, 0.0
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + inside / 2
