"""Which column of ``progress.csv`` stands for a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from rimrl.reporting.curves import training_curve
from rimrl.reporting.results import RunResults

LOSS, VALIDATION = "train/loss", "validation/loss"
RETURN, SUCCESS = "rollout/ep_rew_mean", "rollout/success_rate"


def run(*columns: str) -> RunResults:
    evaluation = {"kind": "agent", "suite": "tmaze", "splits": {"train": {"return_mean": 1.0}}}
    return RunResults("run", Path(), evaluation, {column: [0.0] for column in columns})


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([run(LOSS, RETURN, SUCCESS)], SUCCESS),
        ([run(LOSS, RETURN)], RETURN),
        ([run(LOSS)], RETURN),
        ([run(LOSS, VALIDATION)], VALIDATION),  # nothing is played to imitate
        ([run(LOSS, VALIDATION), run(LOSS, RETURN)], RETURN),  # a loss and a return do not compare
        ([run(LOSS, RETURN), run(LOSS, VALIDATION)], RETURN),
    ],
)
def test_agents_are_shown_by_success_else_by_returns_or_held_out_demonstrations(
    runs: list[RunResults], expected: str
) -> None:
    assert training_curve(runs).column == expected
