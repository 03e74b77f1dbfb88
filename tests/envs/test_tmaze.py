"""T-maze: remembering the sign solves every split, and no policy without memory turns right more often than a coin."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from rimrl.envs.suites import TMAZE
from rimrl.envs.tmaze import TMazeEnv
from rimrl.envs.vector import make_env
from rimrl.errors import UsageError

LEFT, RIGHT, UP, DOWN = range(4)
SPLITS = [split.name for split in TMAZE.splits]
LENGTHS = {"train": range(1, 21), **{f"l{length}": range(length, length + 1) for length in (50, 100, 250, 500)}}
START, CORRIDOR, JUNCTION = ([0.0, 1, 0, 0], [0.0, 0, 1, 0], [0.0, 0, 0, 1])
Policy = Callable[[Sequence[Any]], int]  # the observations of the episode so far -> action


def play(env: Any, policy: Policy) -> tuple[list[Any], list[float], bool]:
    """Observations, rewards and success of one episode."""
    obs, _ = env.reset()
    seen, rewards, ended = [obs], [], False
    while not ended:
        obs, reward, terminated, truncated, info = env.step(np.int64(policy(seen)))
        ended = terminated or truncated
        assert ended == ("is_success" in info)
        rewards.append(float(reward))
        seen.append(obs)
    assert not truncated or not info["is_success"]
    return seen, rewards, info["is_success"]


def seeded(split: str, seed: int = 0, **kwargs: Any) -> Any:
    env = make_env("tmaze", split=split, **kwargs)
    env.reset(seed=seed)
    return env


def turn(seen: Sequence[Any]) -> int:
    return UP if seen[0][0] > 0 else DOWN


def remember(seen: Sequence[Any]) -> int:
    return turn(seen) if seen[-1][3] else RIGHT


@pytest.mark.parametrize("split", SPLITS)
def test_remembering_earns_the_optimum_on_the_way_it_should(split: str) -> None:
    env, lengths, signs = seeded(split), [], set()
    for _ in range(400 if split == "train" else 10):
        seen, rewards, success = play(env, remember)
        length = len(rewards) - 1
        assert success
        assert rewards == [0.0] * length + [1.0]
        assert seen[0].tolist() in ([1, *START[1:]], [-1, *START[1:]])
        np.testing.assert_array_equal(seen[1:], [*[CORRIDOR] * (length - 1), JUNCTION, [0.0] * 4])
        lengths.append(length)
        signs.add(seen[0][0])
    assert set(lengths) == set(LENGTHS[split])
    assert signs == {-1, 1}


def test_lengths_and_goals_are_drawn_uniformly() -> None:
    env, episodes = seeded("train"), 4000
    counts = np.zeros((2, 20))
    for _ in range(episodes):
        seen, rewards, _ = play(env, remember)
        counts[int(seen[0][0] > 0), len(rewards) - 2] += 1
    expected = episodes / 40
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()


def test_no_policy_without_memory_beats_a_coin() -> None:
    # The five observations upon which there is something to do: the sign, start, corridor and junction.
    shown = [[1, *START[1:]], [-1, *START[1:]], START, CORRIDOR, JUNCTION]
    best = 0.0
    for length in (1, 3):
        for table in product(range(4), repeat=5):
            env = TMazeEnv(min_length=length, max_length=length)
            env.reset(seed=0)

            def policy(seen: Sequence[Any], table: Sequence[int] = table) -> int:
                return table[shown.index(seen[-1].tolist())]

            outcomes: dict[float, tuple[bool, float]] = {}  # by sign; the rest of an episode is not chance
            while len(outcomes) < 2:
                seen, rewards, success = play(env, policy)
                outcomes[seen[0][0]] = (success, sum(rewards))
            assert np.mean([success for success, _ in outcomes.values()]) <= 0.5
            best = max(best, float(np.mean([total for _, total in outcomes.values()])))
    assert best == 0.5


@pytest.mark.parametrize("length", [1, 2, 5])
def test_nothing_at_the_junction_tells_the_goal(length: int) -> None:
    """With efference copies, too: whatever an agent does, it comes to the junction by a step that costs nothing."""
    env = make_env("tmaze", min_length=length, max_length=length, efference_copies=True)
    rng = np.random.default_rng(0)
    arrivals: set[tuple[Any, ...]] = set()
    signs, junctions = set(), 0
    for episode in range(400):
        obs, _ = env.reset(seed=episode)
        signs.add(obs["observation"][0])
        ended, there = False, False
        while not ended:
            obs, _, terminated, truncated, _ = env.step(np.int64(rng.choice([RIGHT, RIGHT, RIGHT, LEFT, UP])))
            ended = terminated or truncated
            if obs["observation"][3] and not there:
                junctions += 1
                arrivals.add((*obs["observation"], *obs["previous_action"], *obs["previous_reward"]))
            there = bool(obs["observation"][3])
    assert signs == {-1, 1}
    assert junctions > 100
    assert arrivals == {(*JUNCTION, *np.eye(4)[RIGHT], 0.0)}


def test_steps_that_do_not_lead_on_cost_and_tell_nothing() -> None:
    env = TMazeEnv(min_length=4, max_length=4)
    env.reset(seed=0)
    script = [LEFT, UP, DOWN, RIGHT, UP, LEFT, RIGHT, RIGHT, RIGHT]
    places = [START, START, START, CORRIDOR, CORRIDOR, START, CORRIDOR, CORRIDOR, CORRIDOR]
    costs = [1, 1, 1, 0, 1, 1, 0, 0, 0]
    for action, place, cost in zip(script, places, costs, strict=True):
        obs, reward, terminated, truncated, _ = env.step(np.int64(action))
        assert obs.tolist() == place
        assert reward == pytest.approx(-cost / 5)
        assert not terminated
        assert not truncated
    obs, _, _, truncated, info = env.step(np.int64(RIGHT))  # the tenth step, twice what it takes
    assert obs.tolist() == JUNCTION
    assert truncated
    assert info == {"is_success": False}


@pytest.mark.parametrize("habit", [LEFT, UP, DOWN, RIGHT])
@pytest.mark.parametrize("length", [1, 7])
def test_nobody_dawdles_for_ever(habit: int, length: int) -> None:
    env = TMazeEnv(min_length=length, max_length=length)
    env.reset(seed=0)
    _, rewards, success = play(env, lambda _: habit)
    assert len(rewards) == 2 * (length + 1)
    assert not success
    steps_on = length if habit == RIGHT else 0
    assert sum(rewards) == pytest.approx(-(2 * (length + 1) - steps_on) / (length + 1))


def test_the_turn_decides() -> None:
    env, outcomes = seeded("train"), set()
    rng = np.random.default_rng(0)
    for _ in range(40):
        chosen = int(rng.choice([UP, DOWN]))

        def policy(seen: Sequence[Any], chosen: int = chosen) -> int:
            return chosen if seen[-1][3] else RIGHT

        seen, rewards, success = play(env, policy)
        assert success == (chosen == turn(seen))
        assert rewards[-1] == success
        outcomes.add(success)
    assert outcomes == {True, False}


def test_seed_decides_the_episodes() -> None:
    def episodes(seed: int) -> list[tuple[float, int]]:
        env = seeded("train", seed)
        played = [play(env, remember) for _ in range(10)]
        return [(seen[0][0], len(rewards)) for seen, rewards, _ in played]

    assert episodes(1) == episodes(1)
    assert episodes(1) != episodes(2)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"min_length": 0}, "min_length.*integer.*1.*0"),
        ({"min_length": 30}, "max_length.*integer.*30.*20"),
        ({"max_length": -3}, "max_length.*integer.*1.*-3"),
        ({"max_length": True}, "max_length.*integer.*1.*True"),
    ],
)
def test_bad_arguments_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        TMazeEnv(**kwargs)
    assert re.search(message, str(error.value))


def test_unknown_action_is_refused() -> None:
    env = TMazeEnv()
    env.reset(seed=0)
    with pytest.raises(UsageError, match="action 4 is unknown; valid: 0 left"):
        env.step(np.int64(4))
