"""The adapter of native simulators keeps Stable-Baselines3's promises, whatever the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from rimrl.envs.native import MAX_SEED, NativeVecEnv, Transition
from rimrl.errors import UsageError

LIMIT = 7


class Walk(gymnasium.Env[NDArray[np.int64], np.int64]):
    """Add up the actions from a start that the seed decides: 10 ends the walk, the seventh step cuts it off."""

    observation_space = spaces.Box(-100, 100, (2,), np.int64)
    action_space = spaces.Discrete(4)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = int(self.np_random.integers(4)), 0
        return self.seen(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.int64], float, bool, bool, dict[str, Any]]:
        self.place, self.steps = self.place + int(action), self.steps + 1
        ended = self.place >= 10
        return self.seen(), self.place / 4, ended, self.steps == LIMIT, {"place": self.place}

    def seen(self) -> NDArray[np.int64]:
        return np.array([self.place, self.steps])


class Walks:
    """The same in one simulator; final observations come for the walks that ended only."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.observation_space: spaces.Space[Any] = Walk.observation_space
        self.action_space: spaces.Space[Any] = Walk.action_space
        self.walks = [Walk() for _ in range(num_envs)]
        self.seeds: list[Any] = []

    def reset(self, seeds: Sequence[int] | None) -> NDArray[np.int64]:
        self.seeds.append(seeds)
        given = [None] * self.num_envs if seeds is None else seeds
        return np.stack([walk.reset(seed=seed)[0] for walk, seed in zip(self.walks, given, strict=True)])

    def step(self, actions: NDArray[Any]) -> Transition:
        moved = [walk.step(action) for walk, action in zip(self.walks, actions, strict=True)]
        terminated = np.array([step[2] for step in moved])
        truncated = np.array([step[3] for step in moved]) & ~terminated
        ended = np.flatnonzero(terminated | truncated)
        final = np.stack([moved[i][0] for i in ended]) if ended.size else None
        shown = [self.walks[i].reset()[0] if i in ended else moved[i][0] for i in range(self.num_envs)]
        rewards = np.array([step[1] for step in moved], dtype=np.float32)
        figures = {"place": np.array([step[4]["place"] for step in moved])}
        return Transition(
            np.stack(shown), rewards, terminated, truncated, final, {int(i): k for k, i in enumerate(ended)}, figures
        )

    def close(self) -> None:
        pass


def test_it_is_indistinguishable_from_a_dummy_vector() -> None:
    native: VecEnv = VecMonitor(NativeVecEnv(Walks(3)))
    dummy: VecEnv = VecMonitor(DummyVecEnv([Walk] * 3))
    for venv in (native, dummy):
        venv.seed(5)
    np.testing.assert_array_equal(native.reset(), dummy.reset())
    rng, kinds = np.random.default_rng(0), set()
    for _ in range(200):
        actions = rng.integers(4, size=3)
        seen, rewards, dones, infos = native.step(actions)
        theirs: Any = dummy.step(actions)
        for ours, other in zip((seen, rewards, dones), theirs[:3], strict=True):
            np.testing.assert_array_equal(ours, other)
            assert ours.dtype == other.dtype  # type: ignore[union-attr]
        for info, other in zip(infos, theirs[3], strict=True):
            if "episode" in other:
                kinds.add(other["TimeLimit.truncated"])
                for record in (info, other):
                    record["episode"].pop("t")
            np.testing.assert_equal(info, other)
    assert kinds == {True, False}


def test_only_the_first_reset_without_a_seed_draws_one() -> None:
    simulator = Walks(2)
    venv = NativeVecEnv(simulator)
    venv.reset()
    venv.reset()
    venv.seed(8)
    venv.reset()
    venv.reset()
    drawn, *others = simulator.seeds
    assert len(set(drawn)) == 2
    assert all(0 <= seed <= MAX_SEED for seed in drawn)
    assert others == [None, [8, 9], None]
    other = Walks(2)
    NativeVecEnv(other).reset()
    assert other.seeds[0] != drawn


def test_a_seed_beyond_the_simulators_is_refused() -> None:
    venv = NativeVecEnv(Walks(2))
    with pytest.raises(UsageError, match=f"^seed .*0 to {MAX_SEED - 1} for 2 environments, got {MAX_SEED}"):
        venv.seed(MAX_SEED)
    venv.seed(MAX_SEED - 1)
    assert len(venv.seed(None)) == 2


def test_there_are_no_objects_to_reach_into() -> None:
    venv = NativeVecEnv(Walks(2))
    assert venv.get_attr("render_mode") == [None, None]
    assert venv.env_is_wrapped(gymnasium.Wrapper) == [False, False]
    for reach in (
        lambda: venv.get_attr("place"),
        lambda: venv.set_attr("place", 1),
        lambda: venv.env_method("seen"),
    ):
        with pytest.raises(AttributeError, match=r"object.*environment"):
            reach()
