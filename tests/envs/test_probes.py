"""Probes: a scripted policy earns the stated optimum, and the best policy without memory the stated ceiling."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from rimrl.envs.probes import (
    CartPoleNoVelocity,
    CountStepsEnv,
    ForgetEnv,
    RecallCueEnv,
    RepeatPreviousEnv,
    make_cartpole_no_velocity,
)
from rimrl.envs.vector import make_env
from rimrl.errors import UsageError

PROBES = (RecallCueEnv, RepeatPreviousEnv, CountStepsEnv, ForgetEnv)
Policy = Callable[[Sequence[float]], int]  # the observations of the episode so far -> action


def returns(env: Any, policy: Policy, episodes: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    totals = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=0) if episode == 0 else env.reset()
        seen, total, ended = [float(obs[0])], 0.0, False
        while not ended:
            obs, reward, ended, truncated, info = env.step(policy(seen))
            assert not truncated
            assert ended == ("is_success" in info)
            seen.append(float(obs[0]))
            total += reward
        totals.append(total)
    return np.array(totals)


OPTIMAL: dict[type[Any], Policy] = {
    RecallCueEnv: lambda seen: int(seen[0] > 0),
    RepeatPreviousEnv: lambda seen: int(seen[-2] > 0) if len(seen) > 1 else 0,
    CountStepsEnv: lambda seen: int(len(seen) == 6),
    ForgetEnv: lambda seen: round(seen[0]) + 1,
}


@pytest.mark.parametrize("probe", PROBES)
def test_scripted_policy_earns_the_optimum_in_short_episodes(probe: type[Any]) -> None:
    lengths: list[int] = []

    def policy(seen: Sequence[float]) -> int:
        lengths.append(len(seen))
        return OPTIMAL[probe](seen)

    np.testing.assert_allclose(returns(probe(), policy, episodes=100), 1.0)
    assert max(lengths) <= 16


@pytest.mark.parametrize(
    ("probe", "num_actions", "ceiling"),
    [(RecallCueEnv, 2, 0.5), (RepeatPreviousEnv, 2, 0.5), (CountStepsEnv, 2, 0.0), (ForgetEnv, 3, 0.5)],
)
def test_best_memoryless_policy_earns_the_ceiling(probe: type[Any], num_actions: int, ceiling: float) -> None:
    means = []
    for table in product(range(num_actions), repeat=3):  # an action for each of the observations -1, 0, 1

        def policy(seen: Sequence[float], table: Sequence[int] = table) -> int:
            return table[round(seen[-1]) + 1]

        means.append(returns(probe(), policy, episodes=600).mean())
    # Four standard errors of a coin, 4 * 0.5 / sqrt(600).
    assert max(means) == pytest.approx(ceiling, abs=0.082)


def test_counting_cannot_be_replaced_by_chance() -> None:
    rng = np.random.default_rng(0)
    for chance in (0.1, 0.5, 0.9):

        def policy(_: Sequence[float], chance: float = chance) -> int:
            return int(rng.random() < chance)

        assert returns(CountStepsEnv(), policy, episodes=2000).mean() == pytest.approx(0.0, abs=0.05)


def test_state_kept_across_episodes_earns_half_in_forget() -> None:
    last_cue = [0.0]

    def policy(seen: Sequence[float]) -> int:
        last_cue[0] = seen[-1] or last_cue[0]
        return round(last_cue[0]) + 1

    assert returns(ForgetEnv(), policy, episodes=2000).mean() == pytest.approx(0.5, abs=0.045)


@pytest.mark.parametrize("probe", PROBES)
def test_success_means_no_fault(probe: type[Any]) -> None:
    env = probe()
    rng, outcomes = np.random.default_rng(0), set()
    env.reset(seed=0)
    total = 0.0
    for _ in range(20_000):
        _, reward, ended, _, info = env.step(rng.integers(env.action_space.n))
        total += reward
        if ended:
            assert info["is_success"] == (total == pytest.approx(1.0))
            outcomes.add(info["is_success"])
            total = 0.0
            env.reset()
    assert outcomes == {True, False}


@pytest.mark.parametrize("probe", PROBES)
def test_seed_decides_the_episodes(probe: type[Any]) -> None:
    def observations(seed: int) -> list[float]:
        env, seen = probe(), []
        for episode in range(20):
            obs, _ = env.reset(seed=seed) if episode == 0 else env.reset()
            seen.append(float(obs[0]))
            while True:
                obs, _, ended, _, _ = env.step(0)
                if ended:
                    break
                seen.append(float(obs[0]))
        return seen

    assert observations(1) == observations(1)
    if probe is not CountStepsEnv:  # which has nothing to draw
        assert observations(1) != observations(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecallCueEnv(delay=0), "delay.*integer.*1.*0"),
        (lambda: RepeatPreviousEnv(length=0), "length.*integer.*1.*0"),
        (lambda: CountStepsEnv(press_at=5, length=4), "length.*integer.*5.*4"),
        (lambda: ForgetEnv(min_delay=3, max_delay=2), "max_delay.*integer.*3.*2"),
    ],
)
def test_bad_arguments_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        make()
    assert re.search(message, str(error.value))


def test_unknown_action_is_refused() -> None:
    env = ForgetEnv()
    env.reset(seed=0)
    with pytest.raises(UsageError, match="action 3 is unknown; valid: 0 to 2"):
        env.step(np.int64(3))


def test_cartpole_shows_position_and_angle_alone() -> None:
    env = make_cartpole_no_velocity()
    assert isinstance(env, CartPoleNoVelocity)
    obs, _ = env.reset(seed=0)
    for action in (0, 1, 1):
        full = np.asarray(env.unwrapped.state, dtype=np.float32)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(obs, full[[0, 2]])
        assert env.observation_space.contains(obs)
        obs, *_ = env.step(action)


def test_cartpole_needs_memory() -> None:
    def balance(use_memory: bool) -> list[int]:
        env, lengths = make_env("rimrl/CartPoleNoVelocity-v0"), []
        for seed in range(5):
            obs, _ = env.reset(seed=seed)
            before, steps, ended = obs, 0, False
            while not ended:
                velocity, angular_velocity = (obs - before) / 0.02 if use_memory else (0.0, 0.0)
                push = 0.5 * obs[0] + 0.8 * velocity + 10 * obs[1] + 3 * angular_velocity
                before = obs
                obs, _, terminated, truncated, _ = env.step(int(push > 0))
                ended, steps = terminated or truncated, steps + 1
            lengths.append(steps)
        return lengths

    assert balance(use_memory=True) == [500] * 5
    assert np.mean(balance(use_memory=False)) < 60
