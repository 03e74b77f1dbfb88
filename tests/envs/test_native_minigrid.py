"""EnvPool's MiniGrid is MiniGrid: the same spaces, the same rules on the same level, levels drawn alike."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT
from minigrid.core.grid import Grid
from minigrid.core.world_object import WorldObj
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from rimrl.envs.minigrid import MiniGridObservation, decode_mission
from rimrl.envs.native import MAX_SEED
from rimrl.envs.vector import make_env, make_vec_env
from rimrl.errors import UsageError

envpool = pytest.importorskip("envpool")

# Forward more often than anything else, so that a random walk gets somewhere.
TENDENCY = np.array([1.5, 1.5, 4, 1, 1, 1, 1]) / 11


def step_both(native: VecEnv, dummy: VecEnv, steps: int) -> int:
    """Play both vectors with the same actions and compare all they say; count the ends."""
    np.testing.assert_equal(native.reset(), dummy.reset())
    rng, ends = np.random.default_rng(0), 0
    for _ in range(steps):
        actions = rng.choice(7, size=native.num_envs, p=TENDENCY)
        (seen, rewards, dones, infos), theirs = native.step(actions), dummy.step(actions)
        np.testing.assert_equal(seen, theirs[0])
        np.testing.assert_allclose(rewards, theirs[1], atol=1e-6)
        np.testing.assert_array_equal(dones, theirs[2])
        for ours, other in zip(infos, theirs[3], strict=True):
            assert ours["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            assert ours.keys() == other.keys()
            if "episode" in other:
                np.testing.assert_equal(ours["terminal_observation"], other["terminal_observation"])
                assert ours["episode"]["l"] == other["episode"]["l"]
                assert ours["episode"]["r"] == pytest.approx(other["episode"]["r"], abs=1e-6)
                ends += 1
    native.close()
    dummy.close()
    return ends


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("MiniGrid-Empty-5x5-v0", {}),
        ("MiniGrid-Empty-5x5-v0", {"max_steps": 9}),
        ("MiniGrid-Empty-6x6-v0", {"tiles": "rgb", "tile_size": 4, "mission_length": 9}),
        ("MiniGrid-Empty-5x5-v0", {"mission": False}),
        ("MiniGrid-DistShift1-v0", {}),  # lava
    ],
)
def test_a_level_that_never_changes_plays_the_same(env_id: str, kwargs: dict[str, Any]) -> None:
    native, dummy = (
        make_vec_env(env_id, n_envs=5, seed=0, backend=backend, **kwargs) for backend in ("envpool", "dummy")
    )
    assert native.observation_space == dummy.observation_space
    assert native.action_space == dummy.action_space
    assert step_both(native, dummy, 400) > 10


@pytest.mark.parametrize("env_id", ["MiniGrid-KeyCorridorS3R3-v0", "BabyAI-PickupLoc-v0", "MiniGrid-PutNear-6x6-N2-v0"])
def test_spaces_and_dtypes_are_those_of_minigrid(env_id: str) -> None:
    native, dummy = make_vec_env(env_id, n_envs=2, backend="envpool"), make_vec_env(env_id, n_envs=2)
    assert native.observation_space == dummy.observation_space
    assert native.action_space == dummy.action_space
    seen, theirs = native.reset(), dummy.reset()
    assert isinstance(seen, dict)
    assert isinstance(theirs, dict)
    for key in theirs:
        assert (seen[key].dtype, seen[key].shape) == (theirs[key].dtype, theirs[key].shape)


def test_success_in_the_last_step_is_no_truncation() -> None:
    """EnvPool itself reports such a step as cut off."""
    venv = make_vec_env("MiniGrid-Empty-5x5-v0", seed=0, backend="envpool", max_steps=5)
    venv.reset()
    for action in (2, 2, 1, 2, 2):
        _, rewards, dones, infos = venv.step(np.array([action]))
    assert dones[0]
    assert rewards[0] == pytest.approx(0.1)
    assert not infos[0]["TimeLimit.truncated"]


def test_every_mission_is_read() -> None:
    venv = make_vec_env("MiniGrid-Fetch-8x8-N3-v0", n_envs=8, seed=0, backend="envpool")
    seen: Any = venv.reset()
    for _ in range(300):
        missions = {decode_mission(mission) for mission in seen["mission"]}
        for mission in missions:
            assert mission.split()[-2] in IDX_TO_COLOR.values()
            assert mission.split()[-1] in ("key", "ball")
        before, (seen, _, dones, infos) = seen, venv.step(np.full(8, 3))
        for i in range(8):
            last = infos[i]["terminal_observation"] if dones[i] else {key: value[i] for key, value in seen.items()}
            np.testing.assert_array_equal(last["mission"], before["mission"][i])


def test_seeds_decide_the_levels_and_the_trajectories() -> None:
    def screens(seed: int | None, n_envs: int = 3) -> list[Any]:
        venv = make_vec_env("MiniGrid-DoorKey-6x6-v0", n_envs=n_envs, seed=seed, backend="envpool", max_steps=9)
        return [venv.reset(), *(venv.step(np.full(n_envs, action))[0] for action in (0, 2, 1, 2) * 6)]

    np.testing.assert_equal(screens(4), screens(4))
    for other in (screens(9), screens(None)):
        with pytest.raises(AssertionError):
            np.testing.assert_equal(screens(4), other)
    # Environment i has the seed + i, whoever else there is.
    np.testing.assert_array_equal(screens(5, n_envs=1)[0]["image"][0], screens(4)[0]["image"][1])
    with pytest.raises(AssertionError):
        np.testing.assert_equal(screens(None), screens(None))


# The rules, on levels of EnvPool's that MiniGrid is given


def find(grid: Grid, kind: str, color: str | None = None) -> WorldObj:
    (found,) = [obj for obj in grid.grid if obj is not None and obj.type == kind and color in (None, obj.color)]
    return found


def fetch(env: Any, state: Any) -> None:
    env.targetType, env.targetColor = IDX_TO_OBJECT[state.target_type], IDX_TO_COLOR[state.target_color]


def go_to_door(env: Any, state: Any) -> None:
    env.target_pos, env.target_color = tuple(state.target_pos), IDX_TO_COLOR[state.target_color]


def put_near(env: Any, state: Any) -> None:
    env.move_type, env.moveColor = IDX_TO_OBJECT[state.move_type], IDX_TO_COLOR[state.move_color]
    env.move_pos, env.target_pos = tuple(state.move_pos), tuple(state.target_pos)
    env.target_type, env.target_color = IDX_TO_OBJECT[state.target_type], IDX_TO_COLOR[state.target_color]


def memory(env: Any, state: Any) -> None:
    env.success_pos, env.failure_pos = tuple(state.success_pos), tuple(state.failure_pos)


def doors(env: Any, _: Any) -> None:
    env.red_door, env.blue_door = find(env.grid, "door", "red"), find(env.grid, "door", "blue")


def the_ball(env: Any, _: Any) -> None:
    env.obj = find(env.grid, "ball")


def the_box(env: Any, _: Any) -> None:
    env.obj = find(env.grid, "box")


def the_door(env: Any, _: Any) -> None:
    env.door = find(env.grid, "door")


def nothing(_env: Any, _state: Any) -> None:
    """The goal is on the grid."""


def give_level(env: Any, state: Any, task: Callable[[Any, Any], None]) -> None:
    """Put MiniGrid where EnvPool is."""
    cells = np.array(state.grid).reshape(state.width, state.height, 3)
    inside = np.array(state.grid_contains).reshape(state.width, state.height, 3)
    env.grid = Grid(state.width, state.height)
    for x, y in np.ndindex(state.width, state.height):
        kind, color, status = cells[x, y].tolist()
        obj = WorldObj.decode(kind, color, status)
        if obj is not None:
            obj.color = IDX_TO_COLOR[color]
            obj.init_pos = obj.cur_pos = (x, y)
            if obj.type == "box" and inside[x, y].any():
                obj.contains = WorldObj.decode(*inside[x, y].tolist())  # type: ignore[assignment]
        env.grid.set(x, y, obj)
    assert not state.has_carrying
    env.agent_pos, env.agent_dir, env.carrying = tuple(state.agent_pos), state.agent_dir, None
    env.width, env.height, env.max_steps, env.mission = state.width, state.height, state.max_steps, state.mission
    task(env, state)


@pytest.mark.parametrize(
    ("env_id", "task", "solvable"),
    [
        ("MiniGrid-DoorKey-5x5-v0", nothing, False),
        ("MiniGrid-LavaGapS5-v0", nothing, True),
        ("MiniGrid-LavaCrossingS9N1-v0", nothing, False),
        ("MiniGrid-Fetch-5x5-N2-v0", fetch, True),
        ("MiniGrid-GoToDoor-5x5-v0", go_to_door, True),
        ("MiniGrid-PutNear-6x6-N2-v0", put_near, False),
        ("MiniGrid-MemoryS7-v0", memory, True),
        ("MiniGrid-RedBlueDoors-6x6-v0", doors, True),
        ("MiniGrid-KeyCorridorS3R1-v0", the_ball, False),
        ("MiniGrid-UnlockPickup-v0", the_box, False),
        ("MiniGrid-Unlock-v0", the_door, False),
    ],
)
def test_rules_are_those_of_minigrid_on_the_same_level(
    env_id: str, task: Callable[[Any, Any], None], solvable: bool
) -> None:
    num_envs, limit = 8, 250
    pool = envpool.make(env_id, env_type="gymnasium", num_envs=num_envs, seed=1)
    rng, solved, ended = np.random.default_rng(0), 0, 0
    for _round in range(3):
        shown, _ = pool.reset()
        envs: list[Any] = []
        for i, state in enumerate(pool.debug_states()):
            env: Any = gymnasium.make(env_id, disable_env_checker=True).unwrapped
            env.reset(seed=0)
            give_level(env, state, task)
            np.testing.assert_array_equal(env.gen_obs()["image"], shown["image"][i])
            envs.append(env)
        alive = np.ones(num_envs, dtype=bool)
        for _ in range(limit):
            actions = rng.choice(7, size=num_envs, p=TENDENCY)
            shown, rewards, terminated, truncated, _ = pool.step(actions)
            for i in np.flatnonzero(alive).tolist():
                seen, reward, *ends, _ = envs[i].step(actions[i])
                np.testing.assert_array_equal(seen["image"], shown["image"][i])
                assert seen["direction"] == shown["direction"][i]
                assert reward == pytest.approx(float(rewards[i]), abs=1e-6)
                assert any(ends) == (terminated[i] or truncated[i])
                assert truncated[i] == ends[1]
                alive[i] = not any(ends)
                ended += any(ends)
                solved += reward > 0
    assert solved or not solvable


# Levels and luck, as distributions


def random_episodes(venv: VecEnv, per_env: int) -> NDArray[np.float64]:
    """Return and length of as many whole episodes in every environment, [episodes, 2]."""
    rng = np.random.default_rng(1)
    recorded: list[list[tuple[float, int]]] = [[] for _ in range(venv.num_envs)]
    venv.reset()
    while min(map(len, recorded)) < per_env:
        infos = venv.step(rng.choice(7, size=venv.num_envs, p=TENDENCY))[3]
        for episodes, info in zip(recorded, infos, strict=True):
            if "episode" in info:
                episodes.append((info["episode"]["r"], info["episode"]["l"]))
    venv.close()
    return np.array([episode for episodes in recorded for episode in episodes[:per_env]])


def kolmogorov_smirnov(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Largest distance of the two distribution functions, in units in which 1.95 is exceeded once in 1000."""
    places = np.concatenate([first, second])
    shares = [np.searchsorted(np.sort(sample), places, "right") / len(sample) for sample in (first, second)]
    scale = np.sqrt(len(first) * len(second) / (len(first) + len(second)))
    return float(np.abs(shares[0] - shares[1]).max() * scale)


@pytest.mark.parametrize(
    "env_id",
    ["MiniGrid-DoorKey-5x5-v0", "MiniGrid-Fetch-5x5-N2-v0", "BabyAI-GoToRedBallGrey-v0", "MiniGrid-LavaGapS6-v0"],
)
def test_episodes_are_distributed_as_in_minigrid(env_id: str) -> None:
    """Two-sample tests at the 0.1 % level, of a random walk; seeds are fixed, so that chance is the same every time."""
    native, theirs = (
        random_episodes(make_vec_env(env_id, n_envs=10, seed=0, backend=backend), per_env)  # type: ignore[arg-type]
        for backend, per_env in (("envpool", 60), ("dummy", 20))
    )
    for column in (0, 1):
        assert kolmogorov_smirnov(native[:, column], theirs[:, column]) < 1.95
    success = [float((episodes[:, 0] > 0).mean()) for episodes in (native, theirs)]
    pooled = float(np.concatenate([native, theirs])[:, 0].astype(bool).mean())
    error = np.sqrt(pooled * (1 - pooled) * (1 / len(native) + 1 / len(theirs)))
    assert abs(success[0] - success[1]) < 3.29 * error + 1e-12
    assert 0 < pooled < 1


# What is refused


def reachable(env_grid: NDArray[np.int64], start: tuple[int, int]) -> bool:
    """Tell whether the goal can be reached over [width, height] object types, doors being open."""
    seen, front = {start}, [start]
    while front:
        x, y = front.pop()
        if IDX_TO_OBJECT[int(env_grid[x, y])] == "goal":
            return True
        for place in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            if place not in seen and IDX_TO_OBJECT[int(env_grid[place])] != "wall":
                seen.add(place)
                front.append(place)
    return False


def test_multiroom_is_refused_as_long_as_its_levels_cannot_be_solved() -> None:
    pool = envpool.make("MiniGrid-MultiRoom-N2-S4-v0", env_type="gymnasium", num_envs=200, seed=0)
    pool.reset()
    theirs = [
        reachable(np.array(state.grid).reshape(state.width, state.height, 3)[..., 0], tuple(state.agent_pos))
        for state in pool.debug_states()
    ]
    env: Any = make_env("MiniGrid-MultiRoom-N2-S4-v0")
    for seed in range(30):
        env.reset(seed=seed)
        assert reachable(env.unwrapped.grid.encode()[..., 0], tuple(env.unwrapped.agent_pos))
    assert 0.55 < np.mean(theirs) < 0.85
    with pytest.raises(
        UsageError, match=r"EnvPool's MiniGrid-MultiRoom-N2-S4-v0 is another game than MiniGrid's: .* walled"
    ):
        make_vec_env("MiniGrid-MultiRoom-N2-S4-v0", backend="envpool")


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        (
            "distractors",
            {},
            "plays MiniGrid and BabyAI ids; 'rimrl/Distractors-v0' is neither, use 'dummy' or 'subproc'",
        ),
        (
            "ALE/Pong-v5",
            {},
            "plays MiniGrid and BabyAI ids; 'ALE/Pong-v5' is neither, use 'dummy', 'subproc' or 'native'",
        ),
        ("BabyAI-Invented-v0", {}, "EnvPool does not have BabyAI-Invented-v0; use backend 'dummy' or 'subproc'"),
        ("MiniGrid-ObstructedMaze-1Q-v1", {}, "another game than MiniGrid's: the boxes that hide keys are blue"),
        (
            "MiniGrid-Emty-5x5-v0",
            {},
            "unknown environment 'MiniGrid-Emty-5x5-v0'; did you mean 'MiniGrid-Empty-5x5-v0'?",
        ),
        ("MiniGrid-Empty-5x5-v0", {"size": 6}, "unknown argument 'size' in backend 'envpool'; .*tile_size"),
        ("MiniGrid-Empty-5x5-v0", {"tiles": "onehot"}, "unknown tiles 'onehot'; did you mean 'one_hot'"),
        ("MiniGrid-Empty-5x5-v0", {"max_steps": 0}, "max_steps must be an integer of at least 1; got 0"),
    ],
)
def test_what_the_backend_cannot_do_is_refused(
    env_id: str, kwargs: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = dataclasses.replace(gymnasium.spec("BabyAI-GoToObj-v0"), id="BabyAI-Invented-v0")
    monkeypatch.setitem(gymnasium.registry, newer.id, newer)
    with pytest.raises(UsageError, match=message):
        make_vec_env(env_id, backend="envpool", **kwargs)


def test_a_seed_beyond_envpools_is_refused() -> None:
    with pytest.raises(UsageError, match=f"seeds of this backend go from 0 to {MAX_SEED}"):
        make_vec_env("MiniGrid-Empty-5x5-v0", n_envs=2, seed=MAX_SEED, backend="envpool")


def test_a_missing_envpool_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UsageError, match=r"backend 'envpool' needs EnvPool: pip install 'rimrl\[fast\]'") as error:
        make_vec_env("MiniGrid-Empty-5x5-v0", backend="envpool")
    assert "\n" not in str(error.value)


def test_no_game_is_prepared_in_two_ways() -> None:
    """What MiniGridObservation takes, the backend takes."""
    env: Any = make_env("MiniGrid-Empty-5x5-v0", tiles="rgb", tile_size=3, mission_length=30)
    assert isinstance(env, MiniGridObservation)
    venv = make_vec_env("MiniGrid-Empty-5x5-v0", backend="envpool", tiles="rgb", tile_size=3, mission_length=30)
    assert venv.observation_space == env.observation_space
