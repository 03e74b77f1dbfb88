"""What an agent believes about its environments is where they are, however a rollout ends and whoever plays them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

import rimrl
from rimrl.agents.step_counter import step_counter_of
from rimrl.errors import UsageError
from tests.sb3.helpers import SMALL_RIM

N_STEPS, N_ENVS, EPISODE = 8, 2, 5


class Clock(gymnasium.Env[Any, Any]):
    """Shows which episode it is in and how many steps into it; an episode has five steps."""

    observation_space = spaces.Box(0, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.episode = self.time = 0
        self.fails = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self.shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.fails:
            raise RuntimeError("out of order")
        self.time += 1
        return self.shown(), 0.0, self.time == EPISODE, False, {}

    def shown(self) -> NDArray[np.float32]:
        return np.array([self.episode, self.time], np.float32)


class Watcher(BaseCallback):
    """Keeps the observations and episode starts of every rollout, and does something in one step."""

    def __init__(self, at: int = 0, act: Callable[[Any], bool] = lambda _: True) -> None:
        super().__init__()
        self.seen: list[NDArray[Any]] = []
        self.starts: list[NDArray[Any]] = []
        self._at, self._act = at, act

    def _on_step(self) -> bool:
        return self._act(self.training_env) if self.n_calls == self._at else True

    def _on_rollout_end(self) -> None:
        buffer = self.locals["rollout_buffer"]
        self.seen.append(np.array(buffer.observations))
        self.starts.append(np.array(buffer.episode_starts))


def agent(venv: Any) -> Any:
    return rimrl.RecurrentPPO(
        "MlpPolicy", venv, n_steps=N_STEPS, batch_size=16, n_epochs=1, policy_kwargs={"core_kwargs": SMALL_RIM}, seed=0
    )


def vector(workers: bool = False) -> VecEnv:
    return (SubprocVecEnv if workers else DummyVecEnv)([Clock] * N_ENVS)


def learned(model: Any, watcher: Watcher | None = None, anew: bool = False) -> Watcher:
    """One rollout."""
    watcher = watcher or Watcher()
    model.learn(N_STEPS * model.n_envs, callback=watcher, reset_num_timesteps=anew)
    return watcher


def interrupt(_: Any) -> bool:
    raise KeyboardInterrupt


@pytest.mark.parametrize("at", [1, 3, EPISODE, N_STEPS])
@pytest.mark.parametrize("end", [lambda _: False, interrupt], ids=["stopped", "interrupted"])
def test_a_rollout_that_ended_early_is_followed_by_what_the_environment_shows(
    at: int, end: Callable[[Any], bool]
) -> None:
    venv = vector()
    model = agent(venv)
    try:
        learned(model, Watcher(at, end))
    except KeyboardInterrupt:
        assert end is interrupt
    shown = np.stack([env.unwrapped.shown() for env in venv.envs])  # type: ignore[attr-defined]
    following = learned(model)
    np.testing.assert_array_equal(following.seen[0][0], shown)
    np.testing.assert_array_equal(following.starts[0][0], shown[:, 1] == 0)


def test_learning_goes_on_in_the_middle_of_an_episode() -> None:
    model = agent(vector())
    learned(model, anew=True)
    following = learned(model)
    np.testing.assert_array_equal(following.seen[0][0], [[2, N_STEPS - EPISODE]] * N_ENVS)
    assert not following.starts[0][0].any()


@pytest.mark.parametrize("where", ["vector", "workers", "single", "behind a wrapper"])
def test_after_play_by_someone_else_new_episodes_begin(where: str) -> None:
    single = gymnasium.wrappers.TimeLimit(Clock(), 100)
    venv = vector(workers=where == "workers") if where in ("vector", "workers") else single
    model = agent(venv)
    learned(model, anew=True)
    if where in ("vector", "workers"):
        venv.step(np.zeros(N_ENVS, dtype=np.int64))
    else:
        (single if where == "behind a wrapper" else single.unwrapped).step(0)
    following = learned(model)
    if where == "workers":
        venv.close()
    np.testing.assert_array_equal(following.seen[0][0], [[3, 0]] * model.n_envs)
    assert following.starts[0][0].all()


def test_play_by_someone_else_in_the_middle_of_a_rollout_is_refused() -> None:
    def play(env: VecEnv) -> bool:
        env.reset()
        return True

    model = agent(vector())
    with pytest.raises(UsageError, match="environment"):
        learned(model, Watcher(3, play))
    following = learned(model)
    np.testing.assert_array_equal(following.seen[0][0, :, 1], 0)
    assert following.starts[0][0].all()


def test_after_an_environment_failed_new_episodes_begin() -> None:
    venv = vector()
    model = agent(venv)
    learned(model)
    venv.envs[1].unwrapped.fails = True  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="out of order"):
        learned(model)
    venv.envs[1].unwrapped.fails = False  # type: ignore[attr-defined]
    following = learned(model)
    np.testing.assert_array_equal(following.seen[0][0, :, 1], 0)
    assert following.starts[0][0].all()


def test_two_agents_of_one_environment_do_not_continue_each_others_episodes() -> None:
    venv = vector()
    one, other = agent(venv), agent(venv)
    learned(one)
    learned(other)
    following = learned(one)
    np.testing.assert_array_equal(following.seen[0][0, :, 1], 0)
    assert following.starts[0][0].all()


def test_a_copied_environment_is_counted_by_itself() -> None:
    venv = vector()
    model = agent(venv)
    learned(model)
    moves = step_counter_of(venv)
    before = moves.count
    twin = deepcopy(venv)
    twin.reset()
    assert moves.count == before
    assert step_counter_of(twin).count == before + N_ENVS
    times = [env.unwrapped.time for env in venv.envs]  # type: ignore[attr-defined]
    assert times == [N_STEPS - EPISODE] * N_ENVS


class Plays(BaseCallback):
    """Plays the training environment before anything else."""

    def _init_callback(self) -> None:
        self.training_env.reset()
        self.training_env.step(np.zeros(N_ENVS, dtype=np.int64))

    def _on_step(self) -> bool:
        return True


def test_a_callback_that_plays_before_the_first_step_is_followed_by_new_episodes() -> None:
    model, watcher = agent(vector()), Watcher()
    model.learn(N_STEPS * N_ENVS, callback=[Plays(), watcher])
    np.testing.assert_array_equal(watcher.seen[0][0, :, 1], 0)
    assert watcher.starts[0][0].all()


def test_a_reset_by_name_in_other_processes_is_noticed() -> None:
    venv = vector(workers=True)
    model = agent(venv)
    learned(model)
    venv.env_method("reset")
    following = learned(model)
    venv.close()
    np.testing.assert_array_equal(following.seen[0][0], [[4, 0]] * N_ENVS)
    assert following.starts[0][0].all()
