"""Environments with noise in the joints are gymnasium's own, but for what they show of the joints."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

from rimrl.envs.perturbed_suites import NOISES, TASKS
from rimrl.envs.suites import get_suite
from rimrl.envs.vector import make_env
from rimrl.errors import UsageError
from tests.envs.test_hidden_velocity import ORIGINALS

STEPS = 40


def shown(task: str, noise: float, seed: int = 3) -> tuple[NDArray[Any], NDArray[Any]]:
    """Observations with noise and gymnasium's own, under the same actions; rewards and ends are the same."""
    ours, original = make_env(f"perturbed/{task}", noise=noise), gymnasium.make(ORIGINALS[task])
    seen, whole = [ours.reset(seed=seed)[0]], [original.reset(seed=seed)[0]]
    original.action_space.seed(0)
    for _ in range(STEPS):
        action = original.action_space.sample()
        observation, *ours_say = ours.step(action)
        true, *original_says = original.step(action)
        assert ours_say[:3] == original_says[:3]
        assert ours.observation_space.contains(observation)
        seen.append(observation)
        whole.append(true)
    assert ours.observation_space == original.observation_space
    return np.array(seen), np.array(whole)


def skip_without_mujoco(task: str) -> None:
    if task != "Pendulum":
        pytest.importorskip("mujoco")


@pytest.mark.parametrize("task", TASKS)
def test_without_noise_it_is_the_original(task: str) -> None:
    skip_without_mujoco(task)
    np.testing.assert_array_equal(*shown(task, 0.0))


def test_noise_is_in_the_joints_of_a_walker_alone() -> None:
    """Half-Cheetah shows height and pitch, six angles, three speeds of the torso and six of the joints."""
    pytest.importorskip("mujoco")
    seen, whole = shown("HalfCheetah", 0.2)
    joints = [*range(2, 8), *range(11, 17)]
    others = [each for each in range(17) if each not in joints]
    np.testing.assert_array_equal(seen[:, others], whole[:, others])
    noise = (seen - whole)[:, joints]
    assert np.unique(noise).size == noise.size
    assert noise.std() == pytest.approx(0.2, rel=0.1)
    assert abs(noise.mean()) < 0.03


def test_noise_turns_the_pendulum() -> None:
    """Angle and speed are perturbed, and cosine and sine stay those of an angle."""
    seen, whole = shown("Pendulum", 0.1)
    np.testing.assert_allclose(np.square(seen[:, :2]).sum(axis=1), 1.0, rtol=1e-5)
    angles = (np.arctan2(each[:, 1], each[:, 0]) for each in (seen, whole))
    turned = np.angle(np.exp(1j * np.subtract(*angles)))
    for noise in (turned, (seen - whole)[:, 2]):
        assert noise.std() == pytest.approx(0.1, rel=0.35)


def test_a_seed_repeats_the_noise_and_another_one_does_not() -> None:
    one, again, other = (shown("Pendulum", 0.1, seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("name", ["perturbed/Pendulum", "perturbed/pendulum", "perturbed/HalfCheetah"])
def test_the_suite_trains_without_noise_and_holds_it_out(name: str) -> None:
    suite = get_suite(name)
    assert suite.name.lower() == name.lower()
    assert suite.train.env_kwargs["noise"] == 0
    assert [split.env_kwargs["noise"] for split in suite.held_out] == list(NOISES)


@pytest.mark.parametrize("noise", [-0.1, float("nan"), "much", True])
def test_what_is_no_deviation_is_refused(noise: Any) -> None:
    with pytest.raises(UsageError, match="noise"):
        make_env("perturbed/Pendulum", noise=noise)


def test_an_unknown_task_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="HalfCheetah"):
        get_suite("perturbed/HalfCheeta")
