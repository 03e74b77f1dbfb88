"""Object picking: every level can be solved, pays what the formula says and looks as MiniGrid would draw it."""

from __future__ import annotations

import re
from collections import Counter, deque
from typing import Any

import gymnasium
import numpy as np
import pytest
from minigrid.minigrid_env import MiniGridEnv

import rimrl
from rimrl.envs.distractors import ObjectPickingEnv
from rimrl.envs.splits import EnvSplit
from rimrl.envs.suites import DISTRACTORS, KNOWN_COLORS, KNOWN_TYPES
from rimrl.errors import UsageError

LEFT, RIGHT, FORWARD, PICKUP = range(4)
HEADINGS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up, y pointing down

every_split = pytest.mark.parametrize("split", DISTRACTORS.splits, ids=lambda split: split.name)


def picking(**kwargs: Any) -> ObjectPickingEnv:
    return ObjectPickingEnv(**kwargs)


def of_split(split: EnvSplit) -> ObjectPickingEnv:
    return picking(**split.env_kwargs)


def objects(env: ObjectPickingEnv) -> dict[tuple[int, int], tuple[str, str]]:
    """Everything in the room but its walls: position -> (type, colour)."""
    cells = ((x, y) for x in range(env.width) for y in range(env.height))
    found = {cell: env.grid.get(*cell) for cell in cells}
    return {cell: (thing.type, thing.color) for cell, thing in found.items() if thing and thing.type != "wall"}


def shortest_plan(env: ObjectPickingEnv) -> list[int]:
    """The fewest actions that pick up the object named by the mission, by breadth-first search over the full state."""
    color, kind = env.mission.split()[-2:]
    things = objects(env)
    (target,) = [cell for cell, thing in things.items() if thing == (kind, color)]
    start = (int(env.agent_pos[0]), int(env.agent_pos[1]), env.agent_dir)
    plans: dict[tuple[int, int, int], list[int]] = {start: []}
    queue = deque([start])
    while queue:
        x, y, heading = state = queue.popleft()
        ahead = (x + HEADINGS[heading][0], y + HEADINGS[heading][1])
        if ahead == target:
            return [*plans[state], PICKUP]
        moves = {LEFT: (x, y, (heading - 1) % 4), RIGHT: (x, y, (heading + 1) % 4)}
        if ahead not in things and 0 < ahead[0] < env.width - 1 and 0 < ahead[1] < env.height - 1:
            moves[FORWARD] = (ahead[0], ahead[1], heading)
        for action, successor in moves.items():
            if successor not in plans:
                plans[successor] = [*plans[state], action]
                queue.append(successor)
    raise AssertionError("no way to the target")


@every_split
def test_shortest_plan_always_succeeds_and_pays_the_formula(split: EnvSplit) -> None:
    """The optimal policy's mean return is the one that the environment states."""
    stated = {3: 0.936, 6: 0.940}[split.env_kwargs["num_distractors"]]
    env, returns = of_split(split), []
    env.reset(seed=0)
    for _ in range(300):
        plan = shortest_plan(env)
        outcomes = [env.step(action) for action in plan]
        assert all(out[1:] == (0.0, False, False, {}) for out in outcomes[:-1])
        _, reward, terminated, truncated, info = outcomes[-1]
        assert reward == pytest.approx(1 - 0.9 * len(plan) / env.max_steps)
        assert (terminated, truncated, info) == (True, False, {"is_success": True})
        returns.append(float(reward))
        env.reset()
    assert np.mean(returns) == pytest.approx(stated, abs=4 * 0.032 / np.sqrt(300))  # 0.032: their standard deviation


@every_split
def test_split_shows_exactly_the_kinds_it_states(split: EnvSplit) -> None:
    env, seen, missions = of_split(split), set(), set()
    for seed in range(200):
        env.reset(seed=seed)
        things = list(objects(env).values())
        color, kind = env.mission.removeprefix("pick up the ").split()
        assert things.count((kind, color)) == 1
        assert len(things) == split.env_kwargs["num_distractors"] + 1
        things.remove((kind, color))
        seen.update(things)
        missions.add((kind, color))
    kwargs = split.env_kwargs
    assert seen == {(kind, color) for kind in kwargs["distractor_types"] for color in kwargs["distractor_colors"]}
    assert missions == {(kind, color) for kind in KNOWN_TYPES for color in KNOWN_COLORS}


def test_random_policy_rarely_succeeds() -> None:
    env = of_split(DISTRACTORS.train)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    results: list[bool] = []
    while len(results) < 500:
        *_, info = env.step(rng.integers(4))
        if info:
            results.append(info["is_success"])
            env.reset()
    assert np.mean(results) < 0.3


def test_wrong_object_ends_the_episode_without_reward() -> None:
    env = picking(size=4, num_distractors=2)
    env.reset(seed=0)
    for _ in range(50):
        x, y = env.agent_pos
        wrong = [h for h, (dx, dy) in enumerate(HEADINGS) if (x + dx, y + dy) in objects(env).keys() - {env.target_pos}]
        if wrong:
            while env.agent_dir != wrong[0]:
                env.step(LEFT)
            _, reward, *ends, info = env.step(PICKUP)
            assert (reward, ends, info) == (0.0, [True, False], {"is_success": False})
        env.reset()


def test_time_runs_out_without_success() -> None:
    env = picking(max_steps=5)
    env.reset(seed=0)
    steps = [env.step(LEFT)[1:] for _ in range(5)]
    assert steps == [(0.0, False, False, {})] * 4 + [(0.0, False, True, {"is_success": False})]


def test_right_object_on_the_last_step_counts() -> None:
    env = picking()
    env.reset(seed=0)
    plan = shortest_plan(env)
    env.max_steps = len(plan)
    *_, last = [env.step(action) for action in plan]
    assert last[1] == pytest.approx(0.1)
    assert last[2:] == (True, False, {"is_success": True})


@pytest.mark.parametrize(("size", "view"), [(4, 7), (7, 3), (7, 7), (9, 5), (6, 11)])
def test_observation_is_minigrids_own(size: int, view: int) -> None:
    env = picking(size=size, num_distractors=2, agent_view_size=view, distractor_types=("key", "box"))
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    for _ in range(300):
        own = MiniGridEnv.gen_obs(env)  # type: ignore[no-untyped-call]
        np.testing.assert_array_equal(obs["image"], own["image"])
        assert obs["image"].dtype == own["image"].dtype
        assert (obs["direction"], obs["mission"]) == (own["direction"], own["mission"])
        obs, _, terminated, truncated, _ = env.step(rng.integers(4))
        if (terminated or truncated) and rng.random() < 0.5:  # otherwise go on, carrying what was picked up
            obs, _ = env.reset()


def test_step_is_minigrids_own() -> None:
    env, twin = picking(max_steps=10_000), picking(max_steps=10_000)
    rng = np.random.default_rng(0)
    for seed in range(20):
        env.reset(seed=seed)
        twin.reset(seed=seed)
        for action in rng.integers(4, size=40):
            obs, _, ended, _, _ = env.step(action)
            own = MiniGridEnv.step(twin, action)[0]
            np.testing.assert_array_equal(obs["image"], own["image"])
            assert obs["direction"] == own["direction"]
            if ended:
                break


def test_layouts_are_uniform_over_solvable_ones() -> None:
    # In a 2x2 interior filled by target, two distractors and agent, the agent must start beside the target: 8 ways.
    env = picking(size=4, num_distractors=2)
    env.reset(seed=0)
    draws = 4000
    counts: Counter[Any] = Counter()
    headings: Counter[int] = Counter()
    for _ in range(draws):
        counts[env.target_pos, env.agent_pos] += 1
        headings[env.agent_dir] += 1
        env.reset()
    for table, ways in ((counts, 8), (headings, 4)):
        assert len(table) == ways
        deviation = 5 * np.sqrt(draws / ways)
        assert all(abs(count - draws / ways) < deviation for count in table.values())


def test_crowded_room_is_made_solvable_when_no_draw_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ObjectPickingEnv, "_reachable", lambda *_: False)
    env = picking(size=6, num_distractors=14)
    for seed in range(50):
        env.reset(seed=seed)
        assert len(objects(env)) == 15
        assert env.grid.get(*env.agent_pos) is None
        shortest_plan(env)


def test_seed_decides_the_episodes() -> None:
    def rooms(seed: int) -> list[Any]:
        env = picking()
        env.reset(seed=seed)
        seen = []
        for _ in range(5):
            seen.append((env.mission, objects(env), env.agent_pos, env.agent_dir))
            env.reset()
        return seen

    assert rooms(3) == rooms(3)
    assert rooms(3) != rooms(4)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": 2}, "size.*integer.*3.*2"),
        ({"size": "7"}, "size.*integer.*3.*'7'"),
        ({"max_steps": 0}, "max_steps.*integer.*1.*0"),
        ({"num_distractors": -1}, "num_distractors.*integer.*0.*-1"),
        ({"agent_view_size": 6}, "agent_view_size.*odd.*6"),
        ({"target_types": "ball"}, "target_types.*list.*'ball'"),
        ({"target_colors": ()}, "target_colors.*list"),
        ({"distractor_types": ("bal",)}, r"'bal'.*distractor_types.*'ball'\?"),
        ({"distractor_colors": ("red", "red")}, "distractor_colors names something twice: red, red"),
        (
            {"distractor_types": ("ball",), "distractor_colors": ("red",)},
            "distractors.*target.*red ball",
        ),
        (
            {"size": 4, "num_distractors": 3},
            "num_distractors 3.* 4 cells.*size 4",
        ),
    ],
)
def test_bad_arguments_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        picking(**kwargs)
    assert re.search(message, str(error.value))


def test_unknown_action_is_refused() -> None:
    env = picking()
    env.reset(seed=0)
    with pytest.raises(UsageError, match="action 4 is unknown"):
        env.step(4)


def test_environment_can_be_made_again_from_its_spec() -> None:
    env = rimrl.make_env("distractors", "more_objects", tiles="rgb", tile_size=4)
    assert env.spec is not None
    again: gymnasium.Env[Any, Any] = gymnasium.make(env.spec)
    assert again.observation_space == env.observation_space
    first, second = env.reset(seed=5)[0], again.reset(seed=5)[0]
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_render_shows_the_room() -> None:
    env = picking(render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()  # type: ignore[no-untyped-call]
    assert frame.shape == (6 * env.tile_size, 6 * env.tile_size, 3)
