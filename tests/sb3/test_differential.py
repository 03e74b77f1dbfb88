"""Thirty small environments: an LSTM agent of unmodified sb3-contrib and ours collect the same rollouts."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

import rimrl
from tests.sb3.helpers import (
    ACTION_SPACES,
    OBSERVATION_SPACES,
    assert_close,
    contrib_policy_kwargs,
    copy_weights,
    lstm_policy_kwargs,
    randomize,
)

N_ENVS, N_STEPS = 2, 8
ROLLOUT = N_ENVS * N_STEPS

OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    **OBSERVATION_SPACES,
    "double": spaces.Box(-1.0, 1.0, (3,), np.float64),
    "half": spaces.Box(-1.0, 1.0, (3,), np.float16),
    "signed": spaces.Box(-100, 100, (2, 3), np.int8),
    "long": spaces.Box(-1000, 1000, (2,), np.int64),
    "bytes": spaces.Box(0, 255, (5,), np.uint8),
    "discrete": spaces.Discrete(5),
    "multi_binary": spaces.MultiBinary(4),
    "channels_first": spaces.Box(0, 255, (3, 36, 36), np.uint8),
    "camera": spaces.Dict({"see": OBSERVATION_SPACES["image"], "feel": spaces.Box(-1.0, 1.0, (2,), np.float64)}),
}
ACTIONS = {
    **ACTION_SPACES,
    "multi_binary": spaces.MultiBinary(3),
    "wide_box": spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([0.5, 3.0], np.float32)),
}


class Scripted(gymnasium.Env[Any, Any]):
    """Random observations and rewards; ``ends`` says how episodes end.

    Args:
        observation: Name in `OBSERVATIONS`.
        action: Name in `ACTIONS`.
        ends: ``"terminated"``, ``"truncated"``, ``"both"`` in turn, ``"each step"``, ``"never"``, or ``"at once"``
            for episodes that are over by end and by time in the same step.
        cast: What steps return instead of what the space promises.
    """

    def __init__(self, observation: str, action: str, ends: str, cast: str | None = None) -> None:
        self.observation_space = deepcopy(OBSERVATIONS[observation])
        self.action_space = deepcopy(ACTIONS[action])
        self._ends, self._cast = ends, cast
        self._episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self._episodes += 1
        self._left = 1 if self._ends == "each step" else int(self.np_random.integers(1, 8))
        return self._observe(first=True), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._left -= 1
        over = self._left == 0 and self._ends != "never"
        terminated = over and (self._ends in ("terminated", "each step", "at once") or self._episodes % 2 == 0)
        truncated = over and (self._ends == "at once" or not terminated)
        if self._ends == "truncated":
            terminated, truncated = False, over
        reward = float(np.mean(action)) + 0.1 * self._left + float(self.np_random.normal())
        return self._observe(first=False), reward, terminated, truncated, {}

    def _observe(self, first: bool) -> Any:
        seen = self.observation_space.sample()
        if self._cast is None:
            return seen
        return np.round(seen).astype(np.int64) if first else np.asarray(seen).astype(self._cast)


class Case(NamedTuple):
    """An environment, and what is wrapped around a vector of it."""

    observation: str = "vector"
    action: str = "discrete"
    ends: str = "both"
    wrap: Callable[[VecEnv], VecEnv] = lambda venv: venv
    workers: bool = False
    cast: str | None = None


def normalized(venv: VecEnv) -> VecEnv:
    return VecNormalize(venv, clip_obs=2.0, clip_reward=1.0, gamma=0.9)


def stacked(venv: VecEnv) -> VecEnv:
    return VecFrameStack(venv, 3)


CASES = {
    "plain": Case(),
    "terminated": Case(ends="terminated"),
    "truncated": Case(ends="truncated"),
    "each step": Case(ends="each step"),
    "never": Case(ends="never"),
    "ended and cut at once": Case(ends="at once"),
    "box actions": Case(action="box", ends="truncated"),
    "uneven box actions": Case(action="wide_box"),
    "multi discrete actions": Case(action="multi_discrete"),
    "multi binary actions": Case(action="multi_binary"),
    "double": Case("double"),
    "half": Case("half", ends="truncated"),
    "signed": Case("signed"),
    "long": Case("long", "box"),
    "bytes": Case("bytes", ends="truncated"),
    "discrete": Case("discrete"),
    # A MultiDiscrete alone is missing: contrib's LSTM refuses the width that SB3 gives for it.
    "multi binary": Case("multi_binary", "multi_discrete"),
    "image": Case("image"),
    "channels first": Case("channels_first", ends="truncated"),
    "transposed": Case("image", wrap=VecTransposeImage),
    "dict": Case("dict"),
    "dict cut by time": Case("dict", "box", "truncated"),
    "camera": Case("camera", ends="truncated"),
    "normalized": Case(wrap=normalized, ends="truncated"),
    "normalized double": Case("double", "box", wrap=normalized),
    "normalized image": Case("channels_first", wrap=lambda venv: VecNormalize(venv, norm_obs=False)),
    "stacked": Case(wrap=stacked, ends="truncated"),
    "stacked image": Case("image", wrap=stacked),
    "normalized and stacked": Case(wrap=lambda venv: stacked(normalized(venv))),
    "monitored": Case(wrap=VecMonitor),
    "workers": Case("dict", "multi_discrete", workers=True),
    "workers, whole numbers first": Case(workers=True, cast="float64", ends="truncated"),
}


def vector(case: Case) -> VecEnv:
    def make() -> gymnasium.Env[Any, Any]:
        return Scripted(case.observation, case.action, case.ends, case.cast)

    kind: Callable[..., VecEnv] = SubprocVecEnv if case.workers else DummyVecEnv
    return case.wrap(kind([make] * N_ENVS))


class Recorder(BaseCallback):
    """Keeps a copy of every whole rollout, and stops in the middle of one where told to."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.rollouts: list[dict[str, NDArray[Any]]] = []
        self._stop_after = stop_after

    def _on_step(self) -> bool:
        return self.n_calls != self._stop_after

    def _on_rollout_end(self) -> None:
        buffer = self.locals["rollout_buffer"]
        seen = buffer.observations
        parts = seen if isinstance(seen, dict) else {"": seen}
        kept = {f"observation {key}": part for key, part in parts.items()}
        for name in ("actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns"):
            kept[name] = getattr(buffer, name)
        # An action, or a number of a space, has an axis of its own in contrib's storage, and none in ours.
        self.rollouts.append({name: np.array(x).reshape(N_STEPS, N_ENVS, -1) for name, x in kept.items()})


def collected(model: Any) -> list[dict[str, NDArray[Any]]]:
    """Every whole rollout of four calls of `learn`, the second of which a callback stops; weights stay."""
    model.train = lambda: None
    model.get_env().seed(3)
    th.manual_seed(3)
    rollouts = []
    for steps, stop_after, anew in ((2, None, True), (2, N_STEPS + 5, True), (1, None, True), (1, None, False)):
        recorder = Recorder(stop_after)
        model.learn(steps * ROLLOUT, callback=recorder, reset_num_timesteps=anew)
        rollouts += recorder.rollouts
    model.get_env().close()
    return rollouts


@pytest.mark.parametrize("name", CASES)
def test_rollouts_are_those_of_contrib(name: str) -> None:
    case = CASES[name]
    kind = "MultiInput" if isinstance(OBSERVATIONS[case.observation], spaces.Dict) else "Mlp"
    kind = "Cnn" if case.observation in ("image", "channels_first") else kind
    options: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": ROLLOUT, "seed": 0, "device": "cpu", "gamma": 0.9}
    theirs = ContribRecurrentPPO(
        f"{kind}LstmPolicy", vector(case), policy_kwargs=contrib_policy_kwargs("separate"), **options
    )
    ours = rimrl.RecurrentPPO(f"{kind}Policy", vector(case), policy_kwargs=lstm_policy_kwargs("separate"), **options)
    randomize(theirs.policy, scale=0.1 if kind == "Cnn" else 0.4)
    copy_weights(theirs.policy, ours.policy)
    expected, found = collected(theirs), collected(ours)
    assert len(found) == len(expected) == 5
    for rollout, other in zip(found, expected, strict=True):
        assert rollout.keys() == other.keys()
        for part, values in rollout.items():
            exact = part.startswith("observation") or part == "episode_starts"
            assert_close(values, other[part], f"{part} of {name}", 0.0 if exact else 2e-5)
