"""Memory: remembering the object solves every split, and no policy without memory does better than a coin."""

from __future__ import annotations

import re
from collections.abc import Generator, Hashable
from typing import Any

import gymnasium
import minigrid  # noqa: F401 (registers its environments)
import numpy as np
import pytest
from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.core.world_object import Ball, Key

from rimrl.envs.memory import HallwayEnv
from rimrl.envs.minigrid import decode_tiles
from rimrl.envs.suites import MEMORY
from rimrl.envs.vector import make_env, make_vec_env
from rimrl.errors import UsageError

LEFT, RIGHT, FORWARD = range(3)
EAST = 0
SPLITS = [split.name for split in MEMORY.splits]
ENDS = {"train": range(4, 9), "s13": [10], "s17": [14], "s21": [18], "s25": [22]}
WALL, KEY, BALL = (OBJECT_TO_IDX[name] for name in ("wall", "key", "ball"))


def object_in(view: Any) -> int | None:
    """The key or ball in a view of 3x3 tiles, if there is one."""
    found = [int(kind) for kind in view.ravel() if kind in (KEY, BALL)]
    return found[0] if found else None


def shown_to(env: HallwayEnv, x: int, y: int, facing: int) -> bytes:
    """What the agent would see from there."""
    put(env, x, y, facing)
    seen: dict[str, Any] = env.gen_obs()  # type: ignore[no-untyped-call]
    return bytes(seen["image"].tobytes())


def put(env: HallwayEnv, x: int, y: int, facing: int) -> None:
    env.agent_pos, env.agent_dir, env.step_count = np.array((x, y)), facing, 0


class Remembers:
    """Wins every episode from what is seen: go back to look, go to the junction, compare, go."""

    def __init__(self) -> None:
        self.plan = self.act()
        next(self.plan)

    def __call__(self, view: Any) -> int:
        return self.plan.send(view)

    def act(self) -> Generator[int, Any, None]:
        view = yield -1
        cue = object_in(view)
        if cue is None:
            yield LEFT
            view = yield LEFT
            while (cue := object_in(view)) is None:
                view = yield FORWARD
            yield LEFT
            view = yield LEFT
        while view[1, 1] != WALL:
            view = yield FORWARD
        view = yield LEFT
        if object_in(view) != cue:
            yield LEFT
            yield LEFT
        yield FORWARD


def seeded(split: str, seed: int = 0, **kwargs: Any) -> Any:
    env = make_env("memory", split=split, **kwargs)
    env.reset(seed=seed)
    return env


@pytest.mark.parametrize("split", SPLITS)
def test_remembering_wins_every_episode(split: str) -> None:
    env = seeded(split)
    for _ in range(60 if split == "train" else 25):
        obs, _ = env.reset()
        assert env.observation_space.contains(obs)
        assert obs.keys() == {"image"}
        policy, steps, ended = Remembers(), 0, False
        while not ended:
            action = policy(decode_tiles(obs["image"])[..., 0])
            obs, reward, ended, truncated, info = env.step(action)
            steps += 1
            assert not truncated
        assert info["is_success"]
        assert reward == pytest.approx(1 - 0.9 * steps / env.unwrapped.max_steps)


@pytest.mark.parametrize("split", SPLITS)
def test_hallways_have_the_stated_lengths(split: str) -> None:
    env = seeded(split)
    ends, episodes = [], 500 if split == "train" else 10
    for _ in range(episodes):
        env.reset()
        ends.append(env.unwrapped.success_pos[0] - 1)
    assert set(ends) == set(ENDS[split])
    expected = episodes / len(ENDS[split])
    assert all(abs(ends.count(end) - expected) < 4 * np.sqrt(expected) for end in ENDS[split])
    assert env.observation_space["image"].shape == (3, 3, 20)
    assert env.action_space.n == 3


def test_the_object_and_its_like_are_drawn_independently() -> None:
    env, episodes = seeded("train"), 800
    counts = np.zeros((2, 2))
    for _ in range(episodes):
        env.reset()
        level = env.unwrapped
        cue = level.grid.get(1, level.height // 2 - 1).type
        north = level.success_pos[1] < level.height // 2
        counts[int(cue == "key"), int(north)] += 1
    assert (np.abs(counts - episodes / 4) < 4 * np.sqrt(episodes * 3 / 16)).all()


def hallway(end: int, view: int = 3) -> HallwayEnv:
    """A level whose hallway ends in a certain column."""
    env = HallwayEnv(size=max(11, end + 3), random_length=end <= 8, agent_view_size=view)
    seed = 0
    env.reset(seed=seed)
    while env.success_pos[0] != end + 1:
        seed += 1
        env.reset(seed=seed)
    return env


class World:
    """One level as a Markov chain over where the agent is, which way it faces and, if it is shown, what it did last."""

    def __init__(self, env: HallwayEnv, cue: str, north: str, *, copies: bool) -> None:
        middle, end = env.height // 2, env.success_pos[0] - 1
        things: dict[str, Any] = {"key": Key, "ball": Ball}
        env.grid.set(1, middle - 1, things[cue]("green"))
        env.grid.set(end + 1, middle - 2, things[north]("green"))
        env.grid.set(end + 1, middle + 2, things["ball" if north == "key" else "key"]("green"))
        tops = (end + 1, middle - 1), (end + 1, middle + 1)
        env.success_pos, env.failure_pos = tops if cue == north else tops[::-1]
        starts: list[tuple[int, ...]] = [(x, middle, EAST, -1) for x in range(1, end + 1)]
        self.states = list(starts)
        self.shown: list[Hashable] = []
        self.steps: list[list[int | bool]] = []  # for each action the state it leads to, or how the episode ended
        for x, y, facing, last in self.states:  # grows meanwhile
            after: list[int | bool] = []
            for action in (LEFT, RIGHT, FORWARD):
                put(env, x, y, facing)
                _, reward, ended, _, _ = env.step(action)
                state = (*map(int, env.agent_pos), int(env.agent_dir), action if copies else -1)
                if not ended and state not in self.states:
                    self.states.append(state)
                after.append(float(reward) > 0 if ended else self.states.index(state))
            self.steps.append(after)
            self.shown.append((shown_to(env, x, y, facing), last))
        self.starts = range(len(starts))

    def success(self, policy: dict[Hashable, Any]) -> float:
        """How often a policy that knows nothing but what is shown wins, if it has all the time it wants."""
        stay, won = np.zeros((len(self.states),) * 2), np.zeros(len(self.states))
        for state, after in enumerate(self.steps):
            for chance, then in zip(policy[self.shown[state]], after, strict=True):
                if isinstance(then, bool):
                    won[state] += chance * then
                else:
                    stay[state, then] += chance
        return float(np.linalg.solve(np.eye(len(won)) - stay, won)[self.starts].mean())


def worlds(view: int, end: int, *, copies: bool = False) -> list[World]:
    """The four levels with a hallway that ends in a certain column."""
    env = hallway(end, view)
    return [World(env, cue, north, copies=copies) for cue in ("key", "ball") for north in ("key", "ball")]


def success(levels: list[World], policy: dict[Hashable, Any]) -> float:
    return float(np.mean([level.success(policy) for level in levels]))


def undecided(levels: list[World]) -> dict[Hashable, Any]:
    return {shown: np.full(3, 1 / 3) for level in levels for shown in level.shown}


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("end", [4, 7])
def test_every_policy_without_memory_wins_half(end: int, copies: bool) -> None:
    levels = worlds(3, end, copies=copies)
    rng = np.random.default_rng(end)
    for sharpness in (0.0, 1.0, 2.0):
        weights = {shown: rng.normal(size=3) for shown in undecided(levels)}
        policy = {shown: np.exp(sharpness * w) / np.exp(sharpness * w).sum() for shown, w in weights.items()}
        assert success(levels, policy) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("split", SPLITS)
def test_the_object_is_out_of_sight_beyond_the_room(split: str) -> None:
    for end in ENDS[split]:
        env = hallway(end)
        middle = env.height // 2
        tiles = [(1, middle)]
        for x, y in tiles:  # grows meanwhile
            beside = [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)]
            tiles += [tile for tile in beside if env.grid.get(*tile) is None and tile not in tiles]
        assert len(tiles) == 8 + (end - 3) + 3  # the room without the object, the hallway, the junction and its sides
        assert [tile for tile in tiles if tile[0] == 4] == [(4, middle)], "there is another way out of the room"
        views: dict[type[Any], list[bytes]] = {}
        thing: Any
        for thing in (Key, Ball):
            env.grid.set(1, middle - 1, thing("green"))
            views[thing] = []
            for x, y in sorted(tiles):
                if x >= 4:
                    views[thing] += [shown_to(env, x, y, facing) for facing in range(4)]
        assert views[Key] == views[Ball]


def improved(levels: list[World], sweeps: int) -> float:
    """Success of a policy without memory after a search: one observation after the other gets its best action."""
    policy = undecided(levels)
    best = success(levels, policy)
    for _ in range(sweeps):
        for shown in policy:
            before = policy[shown]
            for action in (LEFT, RIGHT, FORWARD):
                for sure in (0.9, 0.98):
                    kept, policy[shown] = policy[shown], np.where(np.arange(3) == action, sure, (1 - sure) / 2)
                    now = success(levels, policy)
                    if now > best + 1e-9:
                        best, before = now, policy[shown]
                    policy[shown] = kept
            policy[shown] = before
    return best


@pytest.mark.parametrize(("view", "end", "at_least", "at_most"), [(7, 4, 0.93, 1), (5, 4, 0.93, 1), (5, 5, 0.5, 0.5)])
def test_a_view_from_the_junction_to_the_object_needs_no_memory(
    view: int, end: int, at_least: float, at_most: float
) -> None:
    assert at_least - 1e-6 <= improved(worlds(view, end), sweeps=2) <= at_most + 1e-6


@pytest.mark.parametrize(("size", "env_id"), [(7, "MiniGrid-MemoryS7-v0"), (11, "MiniGrid-MemoryS11-v0")])
def test_minigrids_own_task_is_within_reach(size: int, env_id: str) -> None:
    theirs = gymnasium.make(env_id, disable_env_checker=True).unwrapped
    ours = HallwayEnv(size=size, agent_view_size=7, all_actions=True)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    rng = np.random.default_rng(0)
    for seed in range(5):
        assert str(ours.reset(seed=seed)) == str(theirs.reset(seed=seed))
        for action in rng.choice(7, size=300, p=[0.2, 0.2, 0.4, 0.05, 0.05, 0.05, 0.05]):
            one, other = ours.step(action), theirs.step(action)
            np.testing.assert_array_equal(one[0]["image"], other[0]["image"])
            assert one[1:4] == other[1:4]
            if one[2] or one[3]:
                break


def test_minigrids_ids_stay_as_they_are() -> None:
    env = make_env("MiniGrid-MemoryS7-v0", mission=False)
    assert env.observation_space["image"].shape == (7, 7, 20)  # type: ignore[index]
    assert env.action_space == gymnasium.spaces.Discrete(7)


def test_seed_decides_the_levels() -> None:
    def levels(seed: int) -> list[Any]:
        env = seeded("train", seed)
        drawn = []
        for _ in range(10):
            env.reset()
            drawn.append((env.unwrapped.grid.encode().tobytes(), *env.unwrapped.agent_pos))
        return drawn

    assert levels(1) == levels(1)
    assert levels(1) != levels(2)


def test_envpool_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'rimrl/Memory-v0'.*'dummy'.*'subproc'"):
        make_vec_env("memory", n_envs=2, backend="envpool")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": 5}, "size.*integer.*7.*5"),
        ({"size": 8}, "size.*odd.*8"),
        ({"agent_view_size": 1}, "agent_view_size.*integer.*3.*1"),
        ({"agent_view_size": 4}, "agent_view_size must be odd, got 4"),
        ({"random_length": "often"}, "random_length.*true.*false.*'often'"),
        ({"all_actions": 7}, "all_actions.*true.*false.*7"),
        ({"max_steps": 0}, "max_steps.*integer.*1.*0"),
    ],
)
def test_bad_arguments_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        HallwayEnv(**kwargs)
    assert re.search(message, str(error.value))


def test_unknown_action_is_refused() -> None:
    env = HallwayEnv()
    env.reset(seed=0)
    with pytest.raises(UsageError, match="action 3 is unknown; valid: 0 left, 1 right, 2 forward"):
        env.step(3)
