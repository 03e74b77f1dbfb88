"""Flickering screens: as many frames are blank as asked for, the same ones in every back end, and nothing else."""

from __future__ import annotations

import math
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rimrl.envs.flicker import BlankFrames
from rimrl.envs.suites import get_suite
from rimrl.envs.vector import Backend, make_env, make_vec_env, resolve
from rimrl.errors import UsageError

both = pytest.mark.parametrize("backend", ["dummy", "native"])
# Games of 15 steps, without chance.
SHORT: dict[str, Any] = {"preset": "legacy", "noop_max": 0, "max_num_frames_per_episode": 63, "screen_size": 36}


def drawn(probability: float, burst: float | None, steps: int, seed: int = 0) -> list[bool]:
    frames = BlankFrames(probability, burst)
    return [frames.begin(seed), *(frames.next() for _ in range(steps - 1))]


def assert_binomial(successes: int, trials: int, probability: float) -> None:
    """Within five standard errors, which one draw in two million leaves."""
    assert abs(successes - trials * probability) < 5 * math.sqrt(trials * probability * (1 - probability))


@pytest.mark.parametrize("probability", [0.25, 0.5, 0.9])
def test_frames_are_blank_independently_and_as_often_as_asked(probability: float) -> None:
    blank = drawn(probability, None, 20_000)
    assert_binomial(sum(blank), len(blank), probability)
    after_blank = [after for before, after in pairwise(blank) if before]
    assert_binomial(sum(after_blank), len(after_blank), probability)
    frames = BlankFrames(probability)
    assert_binomial(sum(frames.begin(seed) for seed in range(2000)), 2000, probability)


@pytest.mark.parametrize(("probability", "burst"), [(0.5, 8.0), (0.25, 3.0), (0.75, 3.0)])
def test_bursts_have_the_mean_length_and_the_share_asked_for(probability: float, burst: float) -> None:
    """Runs of a two-state chain are geometric; its frames correlate as ``(1 - 1 / burst - enter) ** lag``."""
    steps = 60_000
    blank = drawn(probability, burst, steps)
    runs = [len(list(run)) for is_blank, run in groupby(blank) if is_blank]
    assert abs(np.mean(runs) - burst) < 5 * math.sqrt(burst * (burst - 1) / len(runs))
    correlation = 1 - 1 / burst - probability / ((1 - probability) * burst)
    variance = probability * (1 - probability) * (1 + correlation) / (1 - correlation) / steps
    assert abs(np.mean(blank) - probability) < 5 * math.sqrt(variance)
    frames = BlankFrames(probability, burst)
    assert_binomial(sum(frames.begin(seed) for seed in range(2000)), 2000, probability)


def test_seed_and_episode_decide() -> None:
    def episodes(frames: BlankFrames, seed: int | None, lengths: tuple[int, ...]) -> list[list[bool]]:
        played = []
        for i, length in enumerate(lengths):
            first = frames.begin(seed if i == 0 else None)
            played.append([first, *(frames.next() for _ in range(length - 1))])
        return played

    frames = BlankFrames(0.5)
    first, second = episodes(frames, 3, (64, 64))
    assert first != second
    # Neither what was played before nor how long an episode lasts changes the next one.
    assert episodes(frames, 3, (7, 64)) == [first[:7], second]
    assert episodes(frames, 4, (64,)) != [first]
    assert episodes(BlankFrames(0.5), None, (64,)) != episodes(BlankFrames(0.5), None, (64,))


def test_what_is_blank_is_independent_of_the_games_chance() -> None:
    """Gymnasium seeds its generator with the same number."""
    blank = np.array(drawn(0.5, None, 2000, seed=5))
    games_own = np.random.default_rng(5).random(2000) < 0.5
    assert_binomial(int((blank == games_own).sum()), 2000, 0.5)


def play(backend: Backend, steps: int = 36, **kwargs: Any) -> list[Any]:
    venv = make_vec_env("ALE/Breakout-v5", n_envs=2, seed=5, backend=backend, **{**SHORT, **kwargs})
    rng = np.random.default_rng(0)
    seen: list[Any] = [venv.reset()]
    for _ in range(steps):
        observation, rewards, dones, infos = venv.step(rng.integers(4, size=2))
        last = [info.get("terminal_observation") for info in infos]
        # With a game's last step the back ends report the lives of different games.
        scores = [info["episode"]["r"] if "episode" in info else info["lives"] for info in infos]
        seen.append((observation, last, rewards, dones, scores))
    venv.close()
    return seen


def newest(played: list[Any]) -> NDArray[np.uint8]:
    """The newest frame of each observation, [T, B, S, S]."""
    return np.array([played[0][:, -1], *(step[0][:, -1] for step in played[1:])])


@pytest.mark.parametrize("kwargs", [{"flicker": 0.5}, {"flicker": 0.25, "flicker_burst": 4, "frame_stack": 1}])
def test_both_backends_blank_the_same_frames(kwargs: dict[str, Any]) -> None:
    native, dummy = (play(backend, **kwargs) for backend in ("native", "dummy"))
    np.testing.assert_equal(native, dummy)
    assert sum(step[3].sum() for step in native[1:]) >= 4


@both
def test_seen_frames_rewards_scores_and_ends_are_those_of_a_steady_screen(backend: Backend) -> None:
    chance: dict[str, Any] = {"noop_max": 30, "repeat_action_probability": 0.25, "frame_stack": 1}
    steady, flickering = (play(backend, **chance, flicker=p) for p in (0.0, 0.5))
    np.testing.assert_equal([step[2:] for step in flickering[1:]], [step[2:] for step in steady[1:]])
    frames, shown = newest(steady), newest(flickering)
    blank = ~shown.any(axis=(2, 3))
    assert frames.any(axis=(2, 3)).all()  # a screen that is seen is never black
    assert_binomial(int(blank.sum()), blank.size, 0.5)
    np.testing.assert_array_equal(shown[~blank], frames[~blank])
    for step, other in zip(flickering[1:], steady[1:], strict=True):
        for last, whole in zip(step[1], other[1], strict=True):
            assert (last is None) == (whole is None)
            assert last is None or not last.any() or np.array_equal(last, whole)


@both
def test_a_stack_holds_frames_as_they_were_seen(backend: Backend) -> None:
    """Losing a life ends no game here: what follows a done is a new game."""
    played = play(backend, flicker=0.5, terminal_on_life_loss=False, frame_stack=3)
    before = played[0]
    assert not before[:, :-1].any()
    for observation, last, _, dones, _ in played[1:]:
        for env, done in enumerate(dones):
            stack = last[env] if done else observation[env]
            np.testing.assert_array_equal(stack[:-1], before[env, 1:])
            assert not done or not observation[env, :-1].any()
        before = observation


@both
def test_a_new_seed_begins_what_is_blank_anew(backend: Backend) -> None:
    """As where a run is resumed: games begin anew with other seeds."""
    options: dict[str, Any] = {"backend": backend, **SHORT, "flicker": 0.5}
    resumed, fresh = make_vec_env("ALE/Pong-v5", seed=0, **options), make_vec_env("ALE/Pong-v5", seed=77, **options)
    resumed.reset()
    for _ in range(6):
        resumed.step(np.zeros(1, dtype=np.int64))
    resumed.seed(77)
    np.testing.assert_array_equal(resumed.reset(), fresh.reset())
    for _ in range(20):  # beyond the first game
        mine, theirs = (venv.step(np.zeros(1, dtype=np.int64))[0] for venv in (resumed, fresh))
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("kwargs", "key"),
    [
        ({"flicker": 1}, "flicker"),
        ({"flicker": -0.1}, "flicker"),
        ({"flicker": math.nan}, "flicker"),
        ({"flicker": True}, "flicker"),
        ({"flicker": "often"}, "flicker"),
        ({"flicker": 0.5, "flicker_burst": 0.5}, "flicker_burst"),
        ({"flicker": 0.9, "flicker_burst": 8}, "flicker_burst"),  # nine in ten, and one between two runs
        ({"flicker": 0.5, "flicker_burst": math.inf}, "flicker_burst"),
        ({"flicker_burst": 8}, "flicker_burst"),
    ],
)
@both
def test_what_no_screen_does_is_refused(backend: Backend, kwargs: dict[str, Any], key: str) -> None:
    with pytest.raises(UsageError, match="flicker") as refused:
        make_vec_env("ALE/Pong-v5", backend=backend, **kwargs)
    assert refused.value.key == key


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MiniGrid-DoorKey-5x5-v0", "recall"])
def test_environments_that_are_no_games_are_refused(env_id: str) -> None:
    for make in (make_env, make_vec_env):
        with pytest.raises(UsageError, match=r"^flicker .*ALE/\*-v5"):
            make(env_id, flicker=0.5)


def test_the_suite_differs_in_one_respect_a_split() -> None:
    suite = get_suite("flicker/pong")
    assert suite.name == "flicker/Pong"
    _, train = resolve("flicker/Pong")
    assert (train["flicker"], train["repeat_action_probability"], train["preset"]) == (0.5, 0, "legacy")
    held_out = {}
    for split in suite.held_out:
        _, kwargs = resolve("flicker/Pong", split.name)
        held_out[split.name] = {key: value for key, value in kwargs.items() if train.get(key) != value}
    assert held_out == {
        "p0": {"flicker": 0.0},
        "p25": {"flicker": 0.25},
        "p75": {"flicker": 0.75},
        "p90": {"flicker": 0.9},
        "bursts": {"flicker_burst": 8.0},
        "sticky": {"repeat_action_probability": 0.25},
    }
