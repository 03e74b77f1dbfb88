"""The sentence at the top of a report claims no more than its intervals allow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rimrl.reporting.comparison import compare
from rimrl.reporting.groups import Group
from rimrl.reporting.results import RunResults
from rimrl.reporting.statistics import Estimate
from rimrl.reporting.verdict import ComparisonSummary, format_estimate, listed, shortened
from tests.reporting.pages import comparison, make_runs


def verdict(tmp_path: Path, scores: dict[str, Sequence[float]], splits: Sequence[str] = ("train", "new")) -> str:
    seeds = len(next(iter(scores.values())))
    return ComparisonSummary(comparison(make_runs(tmp_path, list(scores), seeds, splits=splits, scores=scores))).verdict


LOW, MIDDLE, HIGH = [0.2, 0.25, 0.3, 0.22, 0.28], [0.5, 0.6, 0.4, 0.55, 0.45], [0.9, 0.92, 0.95, 0.91, 0.93]


def test_a_clear_difference_is_called_one(tmp_path: Path) -> None:
    sentence = verdict(tmp_path, {"rim": LOW, "lstm": HIGH})
    assert re.search(r"held-out split, lstm .*success rate of 0\.92 \[0\.89, 0\.95\]", sentence)
    assert "rim 0.25 [0.18, 0.32]" in sentence
    assert re.search(r"lstm was better.*not overlap", sentence)
    assert re.search(r"lstm beats one of rim .*1\.00 \[", sentence)


def test_equal_groups_are_not_ranked(tmp_path: Path) -> None:
    sentence = verdict(tmp_path, {"rim": [0.5, 0.6, 0.7, 0.4, 0.55], "lstm": [0.52, 0.58, 0.72, 0.41, 0.5]})
    assert re.search(r"intervals overlap.*not decide", sentence)
    assert "was better" not in sentence


def test_of_many_the_best_is_told_apart_only_from_those_it_beats(tmp_path: Path) -> None:
    near = [score - 0.01 for score in HIGH]
    sentence = verdict(tmp_path, {"a": LOW, "b": HIGH, "c": near})
    assert re.search(r"^.*\bb had the best success rate, 0\.92 \[", sentence)
    assert "better than a 0.25 [" in sentence
    assert "apart from c 0.91 [" in sentence
    assert "better than each of the others: b 0.50 [" in verdict(tmp_path / "x", {"a": LOW, "b": MIDDLE, "c": HIGH})
    level = verdict(tmp_path / "y", {"a": HIGH, "b": near, "c": near})
    assert "better than" not in level
    assert "apart from b 0.91 [" in level


def test_single_runs_decide_nothing(tmp_path: Path) -> None:
    sentence = verdict(tmp_path, {"rim": [0.2], "lstm": [0.9]})
    assert "lstm 0.90 and rim 0.20" in sentence
    assert "decides nothing" in sentence
    assert "better" not in sentence
    assert "One run says nothing" in verdict(tmp_path / "x", {"rim": [0.2]})


def test_without_held_out_splits_the_sentence_says_where(tmp_path: Path) -> None:
    sentence = verdict(tmp_path, {"rim": LOW}, splits=("train",))
    assert re.search(r"^On train, .*rim .*0\.25 \[", sentence)


def test_a_difference_is_claimed_rarely_where_there_is_none() -> None:
    """Among many draws of five runs each from one distribution about 5 in 100 claims are wrong."""
    rng = np.random.default_rng(0)
    claims = 0
    for _ in range(60):
        groups = [Group(name, tuple(made(name, score) for score in rng.normal(0.4, 0.1, 5))) for name in "ab"]
        claims += "was better" in ComparisonSummary(compare(groups)).verdict
    assert claims <= 8


def made(name: str, score: float) -> RunResults:
    result = {"held_out": True, "episodes": 40, "return_mean": score, "success_rate": score}
    return RunResults(name, Path(name), {"suite": "suite", "splits": {"new": result}}, {})


def test_figures_in_words() -> None:
    assert format_estimate(Estimate(0.8, 0.741, 0.849)) == "0.80 [0.74, 0.85]"
    assert format_estimate(Estimate(0.8)) == "0.80"
    assert format_estimate(Estimate(-1234.5, -2000.0, -1000.0)) == "-1234 [-2000, -1000]"
    assert [shortened("riglstm (core.num_active=3)", most) for most in (30, 16)] == [
        "riglstm (core.num_active=3)",
        "rigls…_active=3)",
    ]
    assert [listed("a"), listed("ab"), listed("abc")] == ["a", "a and b", "a, b and c"]
