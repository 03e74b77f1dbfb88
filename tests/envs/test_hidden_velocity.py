"""Environments without velocities are gymnasium's own, but for what they show."""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
import pytest

from rimrl.envs.hidden_velocity import TASKS
from rimrl.envs.vector import make_env
from rimrl.errors import UsageError
from tests.commands import SMALL_PPO, call

ORIGINALS = {"Pendulum": "Pendulum-v1"} | {task: f"{task}-v5" for task in ("HalfCheetah", "Hopper", "Walker2d")}


@pytest.mark.parametrize("task", TASKS)
def test_it_is_the_original_without_its_last_numbers(task: str) -> None:
    if task != "Pendulum":
        pytest.importorskip("mujoco")
    ours, original = make_env(f"rimrl/{task}NoVelocity-v0"), gymnasium.make(ORIGINALS[task])
    assert ours.spec is not None
    assert original.spec is not None
    assert ours.spec.max_episode_steps == original.spec.max_episode_steps
    shown, whole = ours.reset(seed=3)[0], original.reset(seed=3)[0]
    original.action_space.seed(0)
    for _ in range(20):
        assert ours.observation_space.contains(shown)
        np.testing.assert_array_equal(shown, whole[: len(shown)])
        action = original.action_space.sample()
        shown, *ours_say = ours.step(action)
        whole, *original_says = original.step(action)
        assert ours_say[:3] == original_says[:3]


def test_positions_are_those_that_mujoco_counts() -> None:
    pytest.importorskip("mujoco")
    for task in TASKS.keys() - {"Pendulum"}:
        structure = gymnasium.make(ORIGINALS[task]).unwrapped.observation_structure  # type: ignore[attr-defined]
        assert TASKS[task].positions == structure["qpos"]


def test_pendulum_shows_the_angle_alone() -> None:
    env = make_env("rimrl/PendulumNoVelocity-v0")
    shown, _ = env.reset(seed=0)
    assert shown.shape == (2,)
    assert np.square(shown).sum() == pytest.approx(1.0)  # cosine and sine


def test_without_mujoco_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(UsageError, match=r"gymnasium\[mujoco\]"):
        make_env("rimrl/HalfCheetahNoVelocity-v0")
    answer = call("train", "recall/rim", "--env.id", "rimrl/HalfCheetahNoVelocity-v0", *SMALL_PPO)
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
    assert "gymnasium[mujoco]" in answer.err
