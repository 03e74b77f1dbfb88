"""Stacked frames and scaled rewards against Stable-Baselines3's own vector wrappers."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from rimrl.envs.frame_stack import FrameStack
from rimrl.envs.replay import Replayable
from rimrl.envs.reward_scale import RewardScale, VecNormalizedRewards
from rimrl.envs.vector import make_vec_env
from rimrl.errors import UsageError
from tests.envs.shown import Shown, short_episodes

BOXES: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-1, 1, (3,), np.float32),
    "channels_last": spaces.Box(0, 255, (40, 36, 3), np.uint8),
    "channels_first": spaces.Box(0, 255, (1, 36, 40), np.uint8),
    "map": spaces.Box(0, 1, (7, 5, 2), np.float32),
}
SPACES: dict[str, spaces.Space[Any]] = BOXES | {
    "dict": spaces.Dict({"a": BOXES["vector"], "b": BOXES["channels_last"]})
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one.dtype == other.dtype and np.array_equal(one, other)


@pytest.mark.parametrize("name", SPACES)
def test_frames_are_those_of_sb3(name: str) -> None:
    space = SPACES[name]

    def stacked(length: int) -> FrameStack:
        return FrameStack(Shown(space, length), 3)

    theirs = VecFrameStack(DummyVecEnv([partial(Shown, space, 4 + i) for i in range(2)]), 3)
    ours = DummyVecEnv([partial(stacked, 4 + i) for i in range(2)])
    assert ours.observation_space == theirs.observation_space
    for vector in (ours, theirs):
        vector.seed(5)
    assert same(ours.reset(), theirs.reset())
    for _ in range(12):
        mine, wanted = (vector.step(np.zeros(2, dtype=int)) for vector in (ours, theirs))
        assert same(mine[0], wanted[0])
        for info, other in zip(mine[3], wanted[3], strict=True):
            assert ("terminal_observation" in info) == ("terminal_observation" in other)
            if "terminal_observation" in info:
                assert same(info["terminal_observation"], other["terminal_observation"])


def test_stacked_frames_are_replayed() -> None:
    def make() -> Replayable:
        return Replayable(FrameStack(Shown(BOXES["vector"], 6), 3))

    first, second = make(), make()
    first.reset(seed=3)
    for _ in range(4):
        shown = first.step(0)[0]
    first.mark()
    record = first.marked()
    assert not isinstance(record, str)
    assert record is not None
    assert second.replay(record) is None
    np.testing.assert_array_equal(second._observation, shown)
    np.testing.assert_array_equal(first.step(0)[0], second.step(0)[0])


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Dict({"a": BOXES["vector"], "b": spaces.Discrete(2)})])
def test_other_observations_cannot_be_stacked(space: spaces.Space[Any]) -> None:
    with pytest.raises(UsageError, match="frame_stack"):
        FrameStack(Shown(space, 4), 2)


@pytest.mark.parametrize("gamma", [0.99, 0.5])
def test_rewards_are_scaled_as_by_sb3(gamma: float) -> None:
    ours = VecNormalizedRewards(short_episodes(), gamma)
    theirs = VecNormalize(short_episodes(), norm_obs=False, gamma=gamma)
    for vector in (ours, theirs):
        vector.seed(1)
        vector.reset()
    for _ in range(50):
        mine, wanted = (vector.step(np.zeros(3, dtype=int))[1] for vector in (ours, theirs))
        np.testing.assert_array_equal(mine, wanted)
        assert mine.dtype == wanted.dtype
    scale = ours.scale
    known = theirs.ret_rms
    assert [scale.mean, scale.var, scale.number] == [float(known.mean), float(known.var), float(known.count)]
    np.testing.assert_array_equal(scale.returns, theirs.returns)


def test_a_scale_that_is_put_back_goes_on() -> None:
    whole, half = (VecNormalizedRewards(short_episodes(), 0.9) for _ in range(2))
    for vector in (whole, half):
        vector.seed(1)
        vector.reset()
    for _ in range(20):
        whole.step(np.zeros(3, dtype=int))
        half.step(np.zeros(3, dtype=int))
    scale = half.scale
    half.scale = RewardScale(np.ones(3), 7.0, 9.0, 3.0)
    half.scale = scale
    for _ in range(20):
        mine, wanted = (vector.step(np.zeros(3, dtype=int))[1] for vector in (half, whole))
        np.testing.assert_array_equal(mine, wanted)


# -- wrappers of single environments ----------------------------------------------------------------------------------


class Affine(gymnasium.RewardWrapper[Any, Any]):
    """Pays ``a * reward + b``: in which order two of them stand shows in what they pay."""

    def __init__(self, env: gymnasium.Env[Any, Any], a: float, b: float = 0.0) -> None:
        super().__init__(env)
        self.a, self.b = a, b

    def reward(self, reward: Any) -> float:
        return self.a * float(reward) + self.b


@pytest.mark.parametrize("backend", ["dummy", pytest.param("subproc", marks=pytest.mark.slow)])
def test_wrappers_stand_in_the_order_in_which_they_are_given(backend: Any) -> None:
    wrappers = [partial(Affine, a=3.0), partial(Affine, a=1.0, b=1.0)]
    for order, paid in ((wrappers, 1.0 * 3 + 1), (wrappers[::-1], (1.0 + 1) * 3)):
        vector = make_vec_env("CartPole-v1", n_envs=2, seed=0, backend=backend, wrappers=order, replayable=True)
        try:
            vector.reset()
            np.testing.assert_array_equal(vector.step(np.zeros(2, dtype=int))[1], [paid, paid])
        finally:
            vector.close()


def no_environment(env: Any) -> Any:
    return 3


@pytest.mark.parametrize("wrapper", [partial(Affine, b=1.0), no_environment, gymnasium.wrappers.FilterObservation])
def test_a_wrapper_that_does_not_fit_is_refused_in_one_line(wrapper: Any) -> None:
    with pytest.raises(UsageError, match="CartPole-v1") as refusal:
        make_vec_env("CartPole-v1", wrappers=[wrapper])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("backend", ["native", "envpool"])
def test_simulators_of_all_environments_at_once_take_none(backend: Any) -> None:
    with pytest.raises(UsageError, match="wrappers"):
        make_vec_env("ALE/Pong-v5", backend=backend, wrappers=[gymnasium.wrappers.ClipReward])
