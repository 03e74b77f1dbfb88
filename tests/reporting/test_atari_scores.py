"""The published scores of Atari games, and which runs they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rimrl.envs.atari_games import find_game
from rimrl.reporting.atari_runs import frames_per_step, game_of, published_scores
from rimrl.reporting.atari_scores import ATARI_SCORES, GameScores
from rimrl.reporting.comparison import compare
from rimrl.reporting.csv_table import csv_table
from rimrl.reporting.groups import group_runs
from rimrl.reporting.results import RunResults, read_runs
from tests.reporting.atari import write_game
from tests.reporting.pages import make_runs


@pytest.mark.parametrize(
    ("game", "random", "human"),
    [
        ("breakout", 1.7, 30.5),
        ("freeway", 0.0, 29.6),
        ("montezuma_revenge", 0.0, 4753.3),
        ("ms_pacman", 307.3, 6951.6),
        ("pong", -20.7, 14.6),
        ("qbert", 163.9, 13455.0),
        ("seaquest", 68.4, 42054.7),
        ("skiing", -17098.1, -4336.9),
        ("video_pinball", 16256.9, 17667.9),
    ],
)
def test_scores_are_the_published_ones(game: str, random: float, human: float) -> None:
    """As ``dqn_zoo/atari_data.py`` of google-deepmind/dqn_zoo has them, under names of its own."""
    assert ATARI_SCORES[find_game(game).name] == GameScores(random, human)


def test_all_57_games_are_called_as_in_their_ids() -> None:
    assert len(ATARI_SCORES) == 57
    assert [find_game(name).name for name in ATARI_SCORES] == list(ATARI_SCORES)


def test_random_actions_are_0_and_the_human_is_1() -> None:
    for scores in ATARI_SCORES.values():
        assert scores.random < scores.human
        middle = (scores.random + scores.human) / 2
        found = scores.normalized(np.array([scores.random, middle, scores.human]))
        np.testing.assert_allclose(found, [0.0, 0.5, 1.0], atol=1e-12)


def run_of(path: Path, **options: Any) -> RunResults:
    return read_runs([write_game(path, [-20.0, -18.0], **options)])[0]


def test_a_game_is_one_that_all_runs_play_on_every_split(tmp_path: Path) -> None:
    pong, other = run_of(tmp_path / "a"), run_of(tmp_path / "b", game="Breakout")
    wrapped = run_of(tmp_path / "c", asked={"env_wrapper": ["some.Wrapper"]})
    (no_game,) = read_runs(make_runs(tmp_path / "d", names=("rim",), seeds=1))
    assert game_of([pong, pong]) == "Pong"
    assert [game_of(runs) for runs in ([pong, other], [wrapped], [no_game], [pong, no_game])] == [None] * 4
    del other.splits["sticky"]["env_id"]  # evaluated by an earlier version
    assert game_of([other]) is None


@pytest.mark.parametrize(
    ("asked", "kwargs", "changed", "expected"),
    [
        ({}, {}, {}, 4),
        ({"frameskip": 3}, {}, {}, 3),
        ({"frameskip": 3}, {"frameskip": 2}, {"frameskip": 3}, 2),  # tested otherwise than trained
        ({"frameskip": 3}, {}, {"frameskip": 3}, None),
        ({"frameskip": True}, {}, {}, None),
    ],
)
def test_frames_of_a_step_are_those_of_the_training(
    asked: dict[str, Any], kwargs: dict[str, Any], changed: dict[str, Any], expected: int | None, tmp_path: Path
) -> None:
    run = run_of(tmp_path / "run", asked=asked, kwargs=kwargs)
    run.evaluation["changed_kwargs"] = changed
    assert frames_per_step(run) == expected


def test_scores_are_for_the_mode_and_difficulty_that_a_game_starts_with(tmp_path: Path) -> None:
    plain = run_of(tmp_path / "a")
    assert published_scores([plain], ["train", "sticky"]) == ATARI_SCORES["Pong"]
    assert published_scores([run_of(tmp_path / "b", asked={"mode": 1})], ["train"]) is None
    assert published_scores([run_of(tmp_path / "c", asked={"mode": 1})], ["sticky"]) == ATARI_SCORES["Pong"]
    assert published_scores([plain, run_of(tmp_path / "d", kwargs={"difficulty": 1})], []) is None
    assert published_scores([run_of(tmp_path / "e", game="Adventure")], ["train"]) is None


def test_comparisons_normalise_the_score_on_the_training_split(tmp_path: Path) -> None:
    """Halfway from random actions to the human, in the mean over runs that lie as far on both sides of it."""
    middle = (-20.7 + 14.6) / 2
    paths = [
        write_game(tmp_path / f"{seed}", [middle + offset], seed=seed, random=-20.0)  # the published -20.7 counts
        for seed, offset in enumerate((-3.53, 0.0, 3.53))
    ]
    comparison = compare(group_runs(read_runs(paths)))
    estimate = comparison.summaries[0].human_normalized
    assert estimate is not None
    assert estimate.value == pytest.approx(0.5)
    # Student's t with 2 degrees of freedom, 4.303, times the standard error of 0.4, 0.5 and 0.6.
    assert (estimate.low, estimate.high) == pytest.approx(
        (0.5 - 4.303 * 0.1 / 3**0.5, 0.5 + 4.303 * 0.1 / 3**0.5), abs=0.01
    )
    assert comparison.to_json()["groups"]["rim"]["human_normalized_score"] == estimate.to_json()
    assert "rim,human_normalized_score,,,,0.5" in csv_table(comparison)


def test_other_returns_are_not_normalised(tmp_path: Path) -> None:
    paths = [write_game(tmp_path / "run", [3.0, 4.0], game="Adventure")]
    comparison = compare(group_runs(read_runs(paths)))
    assert comparison.summaries[0].human_normalized is None
    assert comparison.to_json()["groups"]["rim"]["human_normalized_score"] is None
    assert "human_normalized_score" not in csv_table(comparison)
