"""How often 95 % intervals hold the truth, by method, number of runs, number of splits and kind of scores.

    python -m benchmarks.intervals --json docs/benchmarks/intervals.json

Runs are drawn from populations whose interquartile mean is known; an interval is made of each draw and compared with
the truth. On several splits a run's scores go up and down together, as those of one agent do: `SHARE` of their variance
is the run's.

Populations, all of them of success rates over 200 episodes but for the first:

normal   standard normal
rates    logit-normal, most between 0.7 and 0.98
ceiling  logit-normal, most above 0.95
failing  a fifth of the runs reach 0.1 to 0.4, the others 0.85 to 0.98
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rimrl.reporting.statistics import Method, interquartile_mean, interval, mean, probability_of_improvement

Floats = NDArray[np.float64]
EXPERIMENTS = 1000
RESAMPLES = 1000
SHARE = 0.6
RUNS = (3, 5, 10, 20)
SPLITS = (1, 3, 4)


def normal(z: Floats, _: np.random.Generator) -> Floats:
    return z


def rates(z: Floats, rng: np.random.Generator) -> Floats:
    return rng.binomial(200, 1 / (1 + np.exp(-2.0 - z))) / 200


def ceiling(z: Floats, rng: np.random.Generator) -> Floats:
    return rng.binomial(200, 1 / (1 + np.exp(-4.0 - z))) / 200


def failing(z: Floats, rng: np.random.Generator) -> Floats:
    """The lowest fifth of the normal scores fails."""
    spread = 1 / (1 + np.exp(-z))
    fails = z < -0.8416
    return rng.binomial(200, np.where(fails, 0.1 + 1.0 * spread, 0.80 + 0.2 * spread)) / 200


POPULATIONS: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    each.__name__: each for each in (normal, rates, ceiling, failing)
}


def draw(rng: np.random.Generator, experiments: int, R: int, M: int) -> Floats:
    """Normal scores [experiments, R, M] of runs whose splits go together."""
    run = rng.normal(size=(experiments, R, 1))
    own = rng.normal(size=(experiments, R, M))
    scores: Floats = run if M == 1 else np.sqrt(SHARE) * run + np.sqrt(1 - SHARE) * own
    return scores


def studentised(runs: Floats, resamples: int = 200, seed: int = 0) -> tuple[float, float]:
    """The bootstrap-t of Efron (1981): each resample over its own standard error, which is a jackknife's."""
    R = len(runs)
    left = np.array([np.delete(np.arange(R), run) for run in range(R)])  # [R, R - 1]

    def standard_error(samples: Floats) -> Floats:
        parts = interquartile_mean(samples[..., left, :])
        error: Floats = np.sqrt((R - 1) / R * ((parts - parts.mean(-1, keepdims=True)) ** 2).sum(-1))
        return error

    samples = runs[np.random.default_rng(seed).integers(R, size=(resamples, R))]
    value, error = float(interquartile_mean(runs)), float(standard_error(runs))
    errors = standard_error(samples)
    usable = errors > 1e-12
    if not usable.any():
        return value, value
    t = (interquartile_mean(samples)[usable] - value) / errors[usable]
    low, high = np.quantile(t, [0.025, 0.975])
    return value - float(high) * error, value - float(low) * error


def cover_interquartile_mean(population: str, R: int, M: int, experiments: int) -> dict[str, float]:
    """Percent of intervals that hold the interquartile mean of the population, by method."""
    rng = np.random.default_rng(0)
    truth = float(interquartile_mean(POPULATIONS[population](draw(rng, 1, 400_000, 1), rng))[0])
    held: dict[str, list[bool]] = {}

    def note(name: str, low: float, high: float) -> None:
        held.setdefault(name, []).append(low <= truth <= high)

    methods: tuple[Method, ...] = ("t", "percentile", "basic", "bca")
    for runs in POPULATIONS[population](draw(rng, experiments, R, M), rng):
        for method in methods:
            found = interval(runs, method=method, resamples=RESAMPLES)
            note(method, found.low, found.high)
        note("studentised", *studentised(runs))
        found = interval(runs, method="percentile", stratified=True, resamples=RESAMPLES)
        note("rliable", found.low, found.high)
        found = interval(runs, method="t", stratified=True, resamples=RESAMPLES)
        note("t, each split alone", found.low, found.high)
    return {name: round(100 * float(np.mean(each)), 1) for name, each in held.items()}


def cover_mean(population: str, R: int, experiments: int) -> float:
    """Percent of default intervals that hold the mean, as of a generalisation gap."""
    rng = np.random.default_rng(0)
    truth = float(POPULATIONS[population](draw(rng, 1, 400_000, 1), rng).mean())
    found = [
        interval(runs, mean, resamples=RESAMPLES) for runs in POPULATIONS[population](draw(rng, experiments, R, 1), rng)
    ]
    return round(100 * float(np.mean([each.low <= truth <= each.high for each in found])), 1)


def cover_improvement(shift: float, R: int, M: int, experiments: int) -> dict[str, float]:
    """Percent of intervals that hold the probability that a score beats another that is `shift` lower on average."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 4_000_000))
    truth = float(np.mean(one + shift > other))
    held: dict[str, list[bool]] = {"newcombe": [], "percentile": []}
    better, worse = draw(rng, experiments, R, M) + shift, draw(rng, experiments, R, M)
    for ours, theirs in zip(better, worse, strict=True):
        for method in ("newcombe", "percentile"):
            found = probability_of_improvement(ours, theirs, method, resamples=RESAMPLES)
            held[method].append(found.low <= truth <= found.high)
    return {name: round(100 * float(np.mean(each)), 1) for name, each in held.items()} | {"truth": round(truth, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save the figures")
    parser.add_argument("--experiments", type=int, default=EXPERIMENTS, metavar="N")
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"interquartile_mean": [], "mean": [], "improvement": []}

    def note(kind: str, case: dict[str, Any], figures: dict[str, float]) -> None:
        if not found[kind]:
            print("\n| " + " | ".join([*case, *figures]) + " |\n|" + "---|" * (len(case) + len(figures)))
        found[kind].append(case | figures)
        print("| " + " | ".join(str(each) for each in (case | figures).values()) + " |", flush=True)

    for R in RUNS:
        for M in SPLITS:
            for population in POPULATIONS:
                case = {"runs": R, "splits": M, "scores": population}
                note("interquartile_mean", case, cover_interquartile_mean(population, R, M, options.experiments))
    for R in RUNS:
        figures = {population: cover_mean(population, R, options.experiments) for population in POPULATIONS}
        note("mean", {"runs": R}, figures)
    for R in RUNS:
        for M in (1, 4):
            for shift in (0.0, 1.0, 2.0):
                case = {"runs": R, "splits": M, "shift": shift}
                note("improvement", case, cover_improvement(shift, R, M, options.experiments))
    if options.json:
        options.json.write_text(json.dumps({"experiments": options.experiments, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
