"""EnvPool's MiniGrid is MiniGrid: the same spaces, the same rules on the same level, levels drawn alike."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from minigrid.core.constants import IDX_TO_COLOR, OBJECT_TO_IDX
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from rimrl.envs.minigrid import MiniGridObservation, decode_mission
from rimrl.envs.native import MAX_SEED
from rimrl.envs.vector import make_env, make_vec_env
from rimrl.errors import UsageError
from tests.envs.envpool_levels import (
    TENDENCY,
    Level,
    draw_envpool,
    draw_minigrid,
    furthest_apart,
    play_both,
    reachable,
)

envpool = pytest.importorskip("envpool")


def step_both(native: VecEnv, dummy: VecEnv, steps: int) -> int:
    """Play both vectors with the same actions and compare all they say; count the ends."""
    np.testing.assert_equal(native.reset(), dummy.reset())
    rng, ends = np.random.default_rng(0), 0
    for _ in range(steps):
        actions = rng.choice(7, size=native.num_envs, p=TENDENCY / TENDENCY.sum())
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
                assert ours["is_success"] is other["is_success"]
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
        ("MiniGrid-Empty-6x6-v0", {"tiles": "colors"}),
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
    assert step_both(native, dummy, 250) > 10


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


@pytest.mark.parametrize(
    "env_id",
    [
        "MiniGrid-DoorKey-5x5-v0",
        "MiniGrid-LavaGapS5-v0",
        "MiniGrid-LavaCrossingS9N1-v0",
        "MiniGrid-Fetch-5x5-N2-v0",
        "MiniGrid-GoToDoor-5x5-v0",
        "MiniGrid-GoToObject-6x6-N2-v0",
        "MiniGrid-PutNear-6x6-N2-v0",
        "MiniGrid-MemoryS7-v0",
        "MiniGrid-RedBlueDoors-6x6-v0",
        "MiniGrid-KeyCorridorS3R1-v0",
        "MiniGrid-UnlockPickup-v0",
        "MiniGrid-Unlock-v0",
        "BabyAI-GoToRedBallGrey-v0",
        "BabyAI-PutNextS5N2Carrying-v0",
        "BabyAI-OpenRedBlueDoorsDebug-v0",
        "BabyAI-PickupLoc-v0",
    ],
)
def test_rules_are_those_of_minigrid_on_the_same_level(env_id: str) -> None:
    _, ended, _ = play_both(envpool, env_id, rounds=2, limit=150)
    if env_id in ("MiniGrid-Fetch-5x5-N2-v0", "MiniGrid-GoToDoor-5x5-v0", "MiniGrid-MemoryS7-v0"):
        assert ended


# Levels and luck, as distributions


def random_episodes(venv: VecEnv, per_env: int) -> NDArray[np.float64]:
    """Return and length of as many whole episodes in every environment, [episodes, 2]."""
    rng = np.random.default_rng(1)
    recorded: list[list[tuple[float, int]]] = [[] for _ in range(venv.num_envs)]
    venv.reset()
    while min(map(len, recorded)) < per_env:
        infos = venv.step(rng.choice(7, size=venv.num_envs, p=TENDENCY / TENDENCY.sum()))[3]
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


@pytest.mark.parametrize("env_id", ["MiniGrid-DoorKey-6x6-v0", "MiniGrid-KeyCorridorS3R3-v0", "BabyAI-GoToLocal-v0"])
def test_levels_are_drawn_as_in_minigrid(env_id: str) -> None:
    """No mean of some hundred figures lies 5 standard errors from the other; of MultiRoom's, one does by over 10."""
    assert furthest_apart(draw_minigrid(env_id, 300), draw_envpool(envpool, env_id, 600))[0] < 5


def test_levels_drawn_otherwise_are_told_apart() -> None:
    env_id = "MiniGrid-MultiRoom-N2-S4-v0"
    assert furthest_apart(draw_minigrid(env_id, 300), draw_envpool(envpool, env_id, 600))[0] > 10


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("MiniGrid-DoorKey-5x5-v0", {}),
        ("MiniGrid-Fetch-5x5-N2-v0", {"max_steps": 30}),  # its own limit only has one walk about for longer
        ("BabyAI-GoToRedBallGrey-v0", {"max_steps": 30}),
        ("MiniGrid-LavaGapS6-v0", {}),
    ],
)
def test_episodes_are_distributed_as_in_minigrid(env_id: str, kwargs: dict[str, Any]) -> None:
    """Two-sample tests at the 0.1 % level, of a random walk; seeds are fixed, so that chance is the same every time.

    With 600 and 200 episodes, distribution functions that lie 0.16 apart somewhere fail.
    """
    native, theirs = (
        random_episodes(make_vec_env(env_id, n_envs=10, seed=0, backend=backend, **kwargs), per_env)  # type: ignore[arg-type]
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


def test_multiroom_is_refused_as_long_as_its_levels_cannot_be_solved() -> None:
    env_id = "MiniGrid-MultiRoom-N2-S4-v0"

    def solvable(levels: list[Level]) -> float:
        goal = OBJECT_TO_IDX["goal"]
        return float(
            np.mean(
                [goal in {level[0][place][0] for place in reachable(level[0][..., 0], level[1])} for level in levels]
            )
        )

    assert solvable(draw_minigrid(env_id, 50)) == 1
    assert 0.6 < solvable(draw_envpool(envpool, env_id, 400)) < 0.8
    with pytest.raises(UsageError, match=r"EnvPool's MiniGrid-MultiRoom-N2-S4-v0 is not MiniGrid's: .* walled"):
        make_vec_env(env_id, backend="envpool")


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        (
            "distractors",
            {},
            r"MiniGrid.*BabyAI.*'rimrl/Distractors-v0'.*'dummy'.*'subproc'",
        ),
        (
            "ALE/Pong-v5",
            {},
            r"MiniGrid.*BabyAI.*'ALE/Pong-v5'.*'dummy', 'subproc'.*'native'",
        ),
        ("BabyAI-Invented-v0", {}, r"EnvPool.*BabyAI-Invented-v0.*'dummy'.*'subproc'"),
        ("BabyAI-Unlock-v0", {}, r"MiniGrid's.*three things"),
        ("MiniGrid-ObstructedMaze-1Q-v1", {}, r"MiniGrid's.*boxes.*blue"),
        (
            "MiniGrid-Emty-5x5-v0",
            {},
            r"'MiniGrid-Emty-5x5-v0'.*'MiniGrid-Empty-5x5-v0'?",
        ),
        ("MiniGrid-Empty-5x5-v0", {"size": 6}, r"'size'.*'envpool'; .*tile_size"),
        ("MiniGrid-Empty-5x5-v0", {"tiles": "onehot"}, r"'onehot'.*'one_hot'"),
        ("MiniGrid-Empty-5x5-v0", {"max_steps": 0}, r"max_steps.*integer.*1.*0"),
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
    with pytest.raises(UsageError, match=f"seed .*0 to {MAX_SEED - 1}"):
        make_vec_env("MiniGrid-Empty-5x5-v0", n_envs=2, seed=MAX_SEED, backend="envpool")


def test_a_missing_envpool_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UsageError, match=r"^backend 'envpool'") as error:
        make_vec_env("MiniGrid-Empty-5x5-v0", backend="envpool")
    assert (error.value.kind, error.value.valid) == ("not_installed", "pip install 'rimrl[fast]'")
    assert "\n" not in str(error.value)


def test_no_game_is_prepared_in_two_ways() -> None:
    """What MiniGridObservation takes, the backend takes."""
    env: Any = make_env("MiniGrid-Empty-5x5-v0", tiles="rgb", tile_size=3, mission_length=30)
    assert isinstance(env, MiniGridObservation)
    venv = make_vec_env("MiniGrid-Empty-5x5-v0", backend="envpool", tiles="rgb", tile_size=3, mission_length=30)
    assert venv.observation_space == env.observation_space
