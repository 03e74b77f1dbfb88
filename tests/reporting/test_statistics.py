"""Statistics: equal rliable's on published scores, and intervals hold the truth as often as they say."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rimrl.errors import UsageError
from rimrl.reporting.bootstrap import newcombe, student_t
from rimrl.reporting.statistics import (
    METHODS,
    Aggregate,
    Estimate,
    Method,
    curve,
    difference,
    generalisation_gap,
    improvement,
    interquartile_mean,
    interval,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    score_distribution,
)
from tests.reporting.record_rliable import DATA, normalised_scores

Floats = NDArray[np.float64]
RLIABLE: dict[str, Any] = json.loads((DATA / "rliable.json").read_text())
AGGREGATES: dict[str, Aggregate] = {
    "interquartile_mean": interquartile_mean,
    "mean": mean,
    "median": median,
    "optimality_gap": optimality_gap,
}


@pytest.fixture(scope="module")
def scores() -> dict[str, Floats]:
    """Atari 100k: five runs on each of 26 games."""
    return normalised_scores()


# -- against rliable and the literature --------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["iris", "simple"])
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_point_estimates_are_rliables(agent: str, aggregate: str, scores: dict[str, Floats]) -> None:
    value = float(AGGREGATES[aggregate](scores[agent]))
    assert value == pytest.approx(RLIABLE[agent][aggregate]["value"], abs=1e-9)
    # Micheli et al. (ICLR 2023), Table 1, to the three digits printed there.
    published = {
        "iris": {"mean": 1.046, "median": 0.289, "interquartile_mean": 0.501, "optimality_gap": 0.512},
        "simple": {"mean": 0.332, "median": 0.134, "interquartile_mean": 0.130, "optimality_gap": 0.729},
    }
    assert value == pytest.approx(published[agent][aggregate], abs=6e-4)


@pytest.mark.parametrize("agent", ["iris", "simple"])
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_percentile_intervals_are_rliables(agent: str, aggregate: str, scores: dict[str, Floats]) -> None:
    theirs = RLIABLE[agent][aggregate]["interval"]
    ours = interval(scores[agent], AGGREGATES[aggregate], method="percentile", stratified=True, resamples=20_000)
    # Both are drawn at random: bounds of 20 000 resamples vary by a hundredth of the width.
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.04 * (theirs[1] - theirs[0]))


@pytest.mark.parametrize("agent", ["iris", "simple"])
def test_profiles_are_rliables(agent: str, scores: dict[str, Floats]) -> None:
    thresholds = RLIABLE["thresholds"]
    expected = RLIABLE[agent]["score_distribution"]
    np.testing.assert_allclose(score_distribution(scores[agent], thresholds), expected, atol=1e-12)
    profile = performance_profile(scores[agent], thresholds)
    assert [point.value for point in profile] == pytest.approx(expected)
    assert all(0 <= point.low <= point.value <= point.high <= 1 for point in profile)


def test_probabilities_of_improvement_are_rliables(scores: dict[str, Floats]) -> None:
    iris, simple = scores["iris"], scores["simple"]
    for name, ours, theirs in (
        ("iris_over_simple", iris, simple),
        ("four_iris_over_simple_rounded", iris[:4].round(1), simple.round(1)),
        ("iris_over_iris", iris, iris),
    ):
        found = probability_of_improvement(ours, theirs, "percentile", stratified=True)
        assert found.value == pytest.approx(RLIABLE[name]["value"], abs=1e-9)
        low, high = RLIABLE[name]["interval"]
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.08 * (high - low))
        assert improvement(theirs, ours) == pytest.approx(1 - found.value)


def test_student_t_is_the_tables() -> None:
    # Two-sided 95 % and 99 %, as in any table of the distribution.
    table = {1: (12.706, 63.657), 2: (4.303, 9.925), 4: (2.776, 4.604), 9: (2.262, 3.250), 30: (2.042, 2.750)}
    for degrees, (wide, wider) in table.items():
        assert student_t(0.975, degrees) == pytest.approx(wide, abs=6e-4)
        assert student_t(0.995, degrees) == pytest.approx(wider, abs=6e-4)


def test_the_t_interval_of_a_mean_is_students() -> None:
    """Of a mean, the bootstrap's standard error is known: that of the sample, with R in place of R - 1."""
    runs = np.random.default_rng(3).normal(size=(7, 1))
    found = interval(runs, mean, resamples=200_000)
    half = 2.4469 * runs.std(ddof=1) / math.sqrt(7)  # t with 6 degrees of freedom
    assert (found.low, found.high) == pytest.approx((runs.mean() - half, runs.mean() + half), abs=0.01 * half)


def newcombe_on_a_grid(value: float, m: int, n: int) -> tuple[float, float]:
    """Where the score test of Newcombe's method 5 changes sides, found on a grid."""
    p = np.linspace(0, 1, 1_000_001)
    half = (m + n) / 2 - 1
    variance = p * (1 - p) * (1 + half * ((1 - p) / (2 - p) + p / (1 + p))) / (m * n)
    kept = p[np.abs(value - p) <= 1.959964 * np.sqrt(variance)]
    return float(kept.min()), float(kept.max())


@pytest.mark.parametrize(("wins", "m", "n"), [(25, 5, 5), (0, 5, 5), (12.5, 5, 5), (31, 10, 4), (3, 2, 2)])
def test_improvement_keeps_the_probabilities_that_a_score_test_keeps(wins: float, m: int, n: int) -> None:
    value = wins / (m * n)
    ours = np.zeros((m, 1))
    theirs = np.zeros((n, 1))
    found = newcombe(value, m, n, 0.05)
    assert found == pytest.approx(newcombe_on_a_grid(value, m, n), abs=2e-6)
    if value == 0.5:  # all equal
        assert probability_of_improvement(ours, theirs) == Estimate(0.5, *found)


def test_runs_that_always_win_do_not_prove_that_they_always_will() -> None:
    better, worse = np.arange(10.0, 15.0)[:, None], np.arange(5.0)[:, None]
    assert probability_of_improvement(better, worse, "percentile") == Estimate(1.0, 1.0, 1.0)
    found = probability_of_improvement(better, worse)
    assert found.high == pytest.approx(1.0)
    assert 0.5 < found.low < 0.8


# -- coverage ----------------------------------------------------------------------------------------------------------


def correlated(rng: np.random.Generator, experiments: int, R: int, M: int, share: float) -> Floats:
    """Normal scores [experiments, R, M]; a run's quality makes up a share of the variance on each of its splits."""
    run = rng.normal(size=(experiments, R, 1))
    return math.sqrt(share) * run + math.sqrt(1 - share) * rng.normal(size=(experiments, R, M))


def success_rates(normal: Floats, rng: np.random.Generator) -> Floats:
    """Rates over 200 episodes, pressed against their ceiling: logit-normal, most between 0.7 and 0.98."""
    rates: Floats = rng.binomial(200, 1 / (1 + np.exp(-2.0 - normal))) / 200
    return rates


def coverage(experiments: Floats, truth: float, **options: Any) -> float:
    estimates = [interval(runs, resamples=400, **options) for runs in experiments]
    return sum(estimate.low <= truth <= estimate.high for estimate in estimates) / len(estimates)


@pytest.mark.parametrize(("R", "M", "share"), [(5, 3, 0.3), (5, 4, 0.6), (10, 4, 0.6), (20, 1, 0.0)])
@pytest.mark.parametrize("rates", [False, True], ids=["normal", "rates"])
def test_default_intervals_cover_95_percent(R: int, M: int, share: float, rates: bool) -> None:
    rng = np.random.default_rng(1)
    experiments = correlated(rng, 1000, R, M, share)
    truth = 0.0
    if rates:
        experiments = success_rates(experiments, rng)
        truth = float(interquartile_mean(success_rates(correlated(rng, 1, 500_000, 1, 0.0), rng))[0])
    assert coverage(experiments, truth) == pytest.approx(0.95, abs=0.02)


def test_five_runs_on_one_split_are_covered_rather_too_often() -> None:
    experiments = correlated(np.random.default_rng(1), 1000, 5, 1, 0.0)
    assert 0.95 < coverage(experiments, 0.0) < 0.985
    assert coverage(experiments, 0.0, method="percentile") < 0.92


def test_resampling_each_split_alone_claims_too_much() -> None:
    """Why whole runs are resampled, and why percentiles are not the default."""
    experiments = correlated(np.random.default_rng(1), 1000, 5, 4, 0.6)
    assert coverage(experiments, 0.0, method="percentile", stratified=True) < 0.80
    assert coverage(experiments, 0.0, method="percentile") < 0.90
    # Where each task has runs of its own, rliable's way of resampling is right, if read with t.
    assert coverage(correlated(np.random.default_rng(1), 1000, 5, 4, 0.0), 0.0, stratified=True) > 0.93


def test_the_gap_covers_95_percent_and_is_paired_within_runs() -> None:
    rng = np.random.default_rng(2)
    held_out = correlated(rng, 1000, 5, 4, 0.9)
    train = held_out.mean(axis=2) + 0.3 + 0.1 * rng.normal(size=(1000, 5))
    gaps = [generalisation_gap(seen, unseen, resamples=400) for seen, unseen in zip(train, held_out, strict=True)]
    assert np.mean([gap.low <= 0.3 <= gap.high for gap in gaps]) == pytest.approx(0.95, abs=0.02)
    # Runs differ by about 1, their gaps by 0.1.
    assert np.mean([_width(gap) for gap in gaps]) < 0.3


def test_the_difference_of_two_means_is_welchs() -> None:
    """Welch (1947): Student's problem where the variances differ."""
    rng = np.random.default_rng(4)
    ours, theirs = rng.normal(1.0, 1.0, (5, 1)), rng.normal(0.0, 3.0, (8, 1))
    squared = np.array([ours.var(ddof=1) / 5, theirs.var(ddof=1) / 8])
    degrees = int(squared.sum() ** 2 / (squared**2 / [4, 7]).sum())
    half = student_t(0.975, degrees) * math.sqrt(squared.sum())
    value = float(ours.mean() - theirs.mean())
    found = difference(ours, theirs, mean, resamples=200_000)
    assert found.value == pytest.approx(value)
    assert (found.low, found.high) == pytest.approx((value - half, value + half), abs=0.01 * half)
    back = difference(theirs, ours, mean, resamples=200_000)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=0.02 * half)


@pytest.mark.parametrize(("R", "other"), [(5, 5), (10, 5), (10, 10)])
def test_differences_of_interquartile_means_cover_95_percent(R: int, other: int) -> None:
    rng = np.random.default_rng(5)
    ours = correlated(rng, 1000, R, 1, 0.0) + 0.5
    theirs = 2.0 * correlated(rng, 1000, other, 1, 0.0)
    found = [difference(a, b, resamples=400) for a, b in zip(ours, theirs, strict=True)]
    assert 0.94 <= np.mean([each.low <= 0.5 <= each.high for each in found]) <= 0.985


def test_a_difference_to_one_run_has_no_interval() -> None:
    found = difference([[0.5], [0.7]], [[0.25]])
    assert found.value == pytest.approx(0.35)
    assert not found.has_interval
    assert difference([[0.5], [0.5]], [[0.25], [0.25]]) == Estimate(0.25, 0.25, 0.25)
    with pytest.raises(UsageError, match="1 tasks") as caught:
        difference([[0.5]], [[0.5, 0.5]])
    assert (caught.value.kind, caught.value.found) == ("mismatch", "2")


# -- properties --------------------------------------------------------------------------------------------------------


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    assert interquartile_mean([[0.0], [1.0], [2.0], [6.0], [1000.0]]) == 3.0
    assert interquartile_mean([[5.0, -100.0], [3.0, 100.0]]) == 4.0
    assert interquartile_mean([[1.0], [4.0]]) == 2.5  # too few to leave one out
    many = np.random.default_rng(0).normal(size=(3, 2, 5, 4))
    each = [[interquartile_mean(many[i, j]) for j in range(2)] for i in range(3)]
    np.testing.assert_allclose(interquartile_mean(many), each)


@pytest.mark.parametrize("method", METHODS)
def test_intervals_move_and_stretch_with_their_scores(method: Method) -> None:
    runs = np.random.default_rng(0).random((5, 4))
    found = interval(runs, method=method)
    assert found.low < found.value < found.high
    moved = interval(100 - 10 * runs, method=method)
    assert moved.value == pytest.approx(100 - 10 * found.value)
    # Mirrored, but for the chance in which resamples fall between two numbers.
    assert (moved.low, moved.high) == pytest.approx((100 - 10 * found.high, 100 - 10 * found.low), abs=0.02)
    assert interval(runs, method=method) == found
    narrow = interval(runs, method=method, confidence=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_more_runs_narrow_the_interval() -> None:
    experiments = np.random.default_rng(0).normal(size=(30, 80, 1))
    few, more, many = (
        np.mean([_width(interval(runs[:R], resamples=500)) for runs in experiments]) for R in (5, 20, 80)
    )
    # By a half at least for four times the runs, and from few of them by more, which Student's t adds.
    assert few > 2.5 * more
    assert 2.4 * many > more > 1.8 * many


def _width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


def test_one_run_has_no_interval() -> None:
    for estimate in (
        interval([[0.5, 0.7]]),
        probability_of_improvement([[0.5]], [[0.1], [0.2]]),
        generalisation_gap([0.6], [[0.5, 0.7]]),
        *curve([[0.6]]),
    ):
        assert not estimate.has_interval
        assert math.isnan(estimate.low)
        assert math.isnan(estimate.high)
        assert estimate.within(0, 1) is estimate
        assert estimate.value in (pytest.approx(0.6), 1.0, pytest.approx(0.0))


def test_bounds_are_cut_to_what_is_possible() -> None:
    assert Estimate(0.9, -0.2, 1.2).within(0.0, 1.0) == Estimate(0.9, 0.0, 1.0)
    assert Estimate(0.9, 0.5, 0.95).within(0.0, 1.0) == Estimate(0.9, 0.5, 0.95)


def test_a_curve_is_an_interval_at_each_point() -> None:
    runs = np.random.default_rng(0).random((6, 3))
    for point, column in zip(curve(runs), runs.T, strict=True):
        alone = interval(column[:, None], resamples=2000)
        assert (point.value, point.low, point.high) == pytest.approx((alone.value, alone.low, alone.high))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (np.zeros(5), r"\[5\]"),
        (np.zeros((0, 3)), r"\[0, 3\]"),
        (np.zeros((5, 2, 2)), r"\[5, 2, 2\]"),
        (np.array([[0.5], [np.nan]]), "finite"),
    ],
)
def test_scores_that_are_none(wrong: Floats, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        interval(wrong)


def test_names_and_sizes_that_do_not_fit() -> None:
    runs = np.zeros((3, 2))
    with pytest.raises(UsageError, match=r"'percentil'.*'percentile'"):
        interval(runs, method="percentil")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="method 'bca'"):
        probability_of_improvement(runs, runs, "bca")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="1 tasks") as caught:
        probability_of_improvement(runs, runs[:, :1])
    assert (caught.value.kind, caught.value.found) == ("mismatch", "2")
