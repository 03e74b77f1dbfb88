"""What docs/statistics.md tells authors to write is what the code computes."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest

from rimrl.reporting import statistics

TEXT = (Path(__file__).resolve().parents[2] / "docs/statistics.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("## What to write in a methods section")[2].partition("\n## ")[0]
T_OF_4_DEGREES = 2.776445105  # its 97.5 % quantile, from a table


def default(name: str, argument: str) -> object:
    return inspect.signature(getattr(statistics, name)).parameters[argument].default


def test_numbers_of_resamples() -> None:
    (row,) = re.findall(r"^\| number of resamples \| ([\d ]+); \D* ([\d ]+) \|$", SECTION, re.MULTILINE)
    numbers, curves = (int(number.replace(" ", "")) for number in row)
    assert {default(name, "resamples") for name in ("interval", "intervals", "difference", "generalisation_gap")} == {
        numbers
    }
    assert {default(name, "resamples") for name in ("curve", "performance_profile")} == {curves}
    assert f"{numbers:,}".replace(",", " ") in SECTION.partition("|")[0]


def test_an_interval_is_what_the_paragraph_says() -> None:
    scores = np.array([[0.2], [0.5], [0.6], [0.7], [0.9]])
    R = len(scores)
    chosen = np.random.default_rng(0).integers(R, size=(10_000, R, 1))[..., 0]
    means = scores[chosen, 0].mean(axis=1)
    s = math.sqrt(((means - means.mean()) ** 2).sum() / len(means))
    half = T_OF_4_DEGREES * math.sqrt(R / (R - 1)) * s
    found = statistics.interval(scores, statistics.mean)
    assert (found.low, found.high) == pytest.approx((0.58 - half, 0.58 + half))


def test_the_reference_of_a_difference_is_resampled_with_the_next_seed() -> None:
    assert default("difference", "seed") == 0
    scores = np.array([[0.1], [0.4], [0.9]])
    variances = []
    for seed in (0, 1):
        means = scores[np.random.default_rng(seed).integers(3, size=(10_000, 3))].mean(axis=(1, 2))
        variances.append(3 / 2 * means.var())
    degrees = math.floor(sum(variances) ** 2 / sum(v**2 / 2 for v in variances))
    t = {3: 3.182446305, 4: T_OF_4_DEGREES}[degrees]
    assert statistics.difference(scores, scores, statistics.mean).high == pytest.approx(t * math.sqrt(sum(variances)))
