"""Schedules against closed forms, and in saved files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

import rimrl
from rimrl.agents.saved.settings import checked_setting
from rimrl.agents.schedules import CosineSchedule, WarmupSchedule, scheduled
from rimrl.errors import UsageError

START = 0.3
DONE = np.linspace(0.0, 1.0, 21)
FORMS: dict[str, Callable[[float], float]] = {
    "constant": lambda t: START,
    "linear": lambda t: START * (1 - t),
    "cosine": lambda t: START * math.cos(math.pi * t / 2) ** 2,
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_a_schedule_has_its_closed_form(name: Any, warmup: float) -> None:
    schedule = FloatSchedule(scheduled(START, name, warmup))
    for done in DONE:
        rest = (done - warmup) / (1 - warmup)
        wanted = START * done / warmup if done < warmup else FORMS[name](rest)
        assert schedule(1 - done) == pytest.approx(wanted, abs=1e-12)


def test_what_stays_the_same_stays_a_number() -> None:
    assert scheduled(START, "constant") == START
    assert isinstance(scheduled(START, "linear"), LinearSchedule)


def test_a_warm_up_begins_at_nothing_and_meets_what_follows() -> None:
    schedule = WarmupSchedule(0.2, CosineSchedule(START))
    assert schedule(1.0) == 0.0
    assert schedule(0.8) == pytest.approx(START)
    assert schedule(0.8 + 1e-9) == pytest.approx(START)
    assert schedule(0.0) == pytest.approx(0.0)


SCHEDULES = [
    LinearSchedule(1e-3, 0.0, 1.0),
    CosineSchedule(1e-3),
    WarmupSchedule(0.1, CosineSchedule(1e-3)),
    WarmupSchedule(0.3, ConstantSchedule(1e-3)),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_file_brings_it_back_without_running_code(schedule: Any, tmp_path: Path) -> None:
    core = {"core": "lstm", "core_kwargs": {"hidden_size": 4}}
    agent = rimrl.RecurrentPPO(
        "MlpPolicy", "CartPole-v1", schedule, n_steps=8, batch_size=8, clip_range=schedule, policy_kwargs=core
    )
    agent.save(tmp_path / "agent.zip")
    loaded = rimrl.load(tmp_path / "agent.zip")
    for done in DONE:
        assert loaded.lr_schedule(1 - done) == agent.lr_schedule(1 - done)
        assert loaded.clip_range(1 - done) == agent.clip_range(1 - done)  # type: ignore[attr-defined]
    assert type(loaded.learning_rate) is type(schedule)


@pytest.mark.parametrize(
    "schedule",
    [WarmupSchedule(2.0, CosineSchedule(1e-3)), WarmupSchedule(0.1, WarmupSchedule(0.1, CosineSchedule(1.0)))],
)
def test_a_damaged_one_is_refused(schedule: Any, tmp_path: Path) -> None:
    core = {"core": "lstm", "core_kwargs": {"hidden_size": 4}}
    agent = rimrl.RecurrentA2C("MlpPolicy", "CartPole-v1", n_steps=8, policy_kwargs=core)
    agent.learning_rate = schedule
    agent.save(tmp_path / "agent.zip")
    with pytest.raises(UsageError, match="warm-up"):
        rimrl.load(tmp_path / "agent.zip")


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"schedule": "linear"},
        {"schedule": "cosine", "start": "1"},
        {"schedule": "warmup", "warmup": 0.1},
        {"schedule": "warmup", "warmup": 0, "then": 1.0},
        {"schedule": "warmup", "warmup": 0.1, "then": {"schedule": "sine"}},
    ],
)
def test_plain_data_that_is_no_schedule_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="learning_rate"):
        checked_setting("learning_rate", value, "learning_rate")
