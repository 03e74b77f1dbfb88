"""Environments are put back where others were, or it is noticed that they were not."""

from __future__ import annotations

import random
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rimrl.envs.replay import EpisodeRecord, Replayable, ReplayError, ReportCrash
from rimrl.envs.vector import make_vec_env
from rimrl.envs.vector_state import mark, marked_episodes, restore

B = 3


def vector(env_id: str, seed: int, **kwargs: Any) -> Any:
    venv = make_vec_env(env_id, n_envs=B, seed=seed, replayable=True, **kwargs)
    venv.action_space.seed(seed)
    return venv


def play(venv: Any, steps: int, seed: int) -> list[Any]:
    """Everything that an agent sees in so many steps."""
    venv.action_space.seed(seed)
    seen = []
    for _ in range(steps):
        actions = np.array([venv.action_space.sample() for _ in range(B)])
        observation, rewards, dones, infos = venv.step(actions)
        returns = [info["episode"]["r"] for info in infos if "episode" in info]
        seen.append((observation, rewards, dones, returns))
    return seen


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("distractors", {}),
        ("distractors", {"efference_copies": True}),
        ("layouts", {}),
        ("memory", {}),
        ("recall", {}),
        ("tmaze", {}),
        ("CartPole-v1", {}),
        ("Pendulum-v1", {}),
        ("rimrl/Bandit-v0", {}),
        pytest.param("distractors", {"backend": "subproc"}, marks=pytest.mark.slow),
    ],
)
def test_another_vector_goes_on_as_the_first(env_id: str, kwargs: dict[str, Any]) -> None:
    one, other = vector(env_id, 3, **kwargs), vector(env_id, 99, **kwargs)
    one.reset()
    play(one, 150, seed=1)  # several episodes, and to the middle of one
    counts = mark(one)
    going_on = play(one, 100, seed=2)
    restore(other, counts, marked_episodes(one))  # asked for only now, in later episodes
    for ours, theirs in zip(going_on, play(other, 100, seed=2), strict=True):
        np.testing.assert_equal(ours, theirs)
    one.close()
    other.close()


class Chance(gymnasium.Env[Any, Any]):
    """Draws from where nobody sees it, or counts its episodes."""

    observation_space = spaces.Box(0.0, np.inf, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, source: str) -> None:
        self.source = source
        self.episodes = 0
        if source == "own":
            self.own = random.Random(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episodes += 1
        draw = {"global": random.random(), "episodes": self.episodes, "own": 0.0, "none": 0.0}[self.source]
        return np.array([draw], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("source", ["global", "episodes"])
def test_an_environment_that_ends_up_elsewhere_is_noticed(source: str) -> None:
    one, other = Replayable(Chance(source)), Replayable(Chance(source))
    one.reset(seed=1)
    one.reset()
    one.mark()
    record = one.marked()
    assert isinstance(record, EpisodeRecord)
    assert "same actions" in str(other.replay(record))


def test_chance_of_another_kind_is_refused() -> None:
    env = Replayable(Chance("own"))
    env.reset(seed=1)
    env.mark()
    assert "random generators" in str(env.marked())


def test_actions_and_generators_that_do_not_fit_are_refused() -> None:
    def record(**changes: Any) -> EpisodeRecord:
        env = Replayable(Chance("none"))
        env.reset(seed=1)
        env.step(np.int64(1))
        env.mark()
        made = env.marked()
        assert isinstance(made, EpisodeRecord)
        for name, value in changes.items():
            setattr(made, name, value)
        return made

    def said(made: EpisodeRecord) -> str:
        return Replayable(Chance("none")).replay(made) or ""

    assert said(record()) == ""
    assert "actions" in said(record(actions=np.array([7])))
    assert "no random generator 5._np_random" in said(record(generators={"5._np_random": {}}))
    assert "no random generator 0.step" in said(record(generators={"0.step": {}}))
    assert "random generator" in said(record(generators={"0._np_random": {"bit_generator": "MT19937"}}))
    assert "same actions" in said(record(total_reward=3.0))


def test_native_vectors_say_that_they_cannot() -> None:
    venv = make_vec_env("ALE/Pong-v5", n_envs=1, seed=0, backend="native", replayable=True)
    venv.reset()
    mark(venv)
    with pytest.raises(ReplayError, match="back end"):
        marked_episodes(venv)
    venv.close()


def test_last_words(capsys: pytest.CaptureFixture[str]) -> None:
    class Breaks(Chance):
        def step(self, action: Any) -> Any:
            raise ZeroDivisionError("the simulator\nbroke")

    env = ReportCrash(Breaks("none"))
    env.reset()
    with pytest.raises(SystemExit):
        env.step(0)
    said = capsys.readouterr().err
    assert "ZeroDivisionError: the simulator broke" in said
    assert said.count("\n") == 1
