"""Environments by name: arguments are checked, seeds decide everything, every episode is recorded once."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecEnv

import rimrl
from rimrl.envs.vector import make_env, make_vec_env
from rimrl.errors import UsageError


def trajectory(venv: VecEnv, steps: int = 40) -> list[Any]:
    rng = np.random.default_rng(0)
    seen: list[Any] = [venv.reset()]
    for _ in range(steps):
        obs, rewards, dones, _ = venv.step(rng.integers(4, size=venv.num_envs))
        seen.append((obs, rewards.astype(np.float32), dones))  # SubprocVecEnv keeps doubles until the rollout
    venv.close()
    return seen


def same(first: Any, second: Any) -> bool:
    try:
        np.testing.assert_equal(first, second)
    except AssertionError:
        return False
    return True


def rows(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    header, *lines = (folder / "monitor.csv").read_text().splitlines()
    return json.loads(header.removeprefix("#")), list(csv.DictReader(lines))


def test_public_name_is_the_same_function() -> None:
    assert rimrl.make_env is make_env


def test_suite_split_and_overrides_reach_the_environment() -> None:
    env: Any = make_env("distractors", "more_objects", size=9, tiles="rgb", tile_size=4, mission_length=6)
    assert (env.unwrapped.num_distractors, env.unwrapped.width) == (6, 9)
    obs, _ = env.reset(seed=0)
    assert obs["image"].shape == (28, 28, 3)
    assert obs["mission"].shape == (6,)


def test_minigrid_ids_come_prepared() -> None:
    env: Any = make_env("MiniGrid-MultiRoom-N2-S4-v0", maxRoomSize=5, mission_length=12)
    obs, _ = env.reset(seed=0)
    assert obs["image"].shape == (7, 7, 20)
    assert obs["mission"].shape == (12,)
    assert env.unwrapped.maxRoomSize == 5


@pytest.mark.parametrize(
    ("name", "split", "kwargs", "message"),
    [
        ("distracters", "train", {}, r"'distracters'.*'distractors'\?"),
        ("CartPol-v1", "train", {}, r"'CartPol-v1'.*'CartPole-v1'\?"),
        ("distracters", "novel_shapes", {}, r"'distracters'.*'distractors'\?"),
        (
            "distractors",
            "novel_shape",
            {},
            r"'novel_shape'.*'distractors'.*'novel_shapes'\?",
        ),
        (
            "CartPole-v1",
            "test",
            {},
            "'CartPole-v1'.*'test'",
        ),
        (
            "distractors",
            "train",
            {"num_distractor": 2},
            r"'num_distractor'.*'rimrl/Distractors-v0'.*'num_distractors'\?",
        ),
        (
            "distractors",
            "train",
            {"tile": "rgb"},
            r"'tile'.*'rimrl/Distractors-v0'.*'tiles'\?",
        ),
        (
            "rimrl/RecallCue-v0",
            "train",
            {"dealy": 2},
            r"'dealy'.*'rimrl/RecallCue-v0'.*'delay'\?",
        ),
        (
            "MiniGrid-Fetch-6x6-N2-v0",
            "train",
            {"agent_view": 5},
            r"'agent_view'.*'MiniGrid-Fetch-6x6-N2-v0'.*'agent_view_size'\?",
        ),
    ],
)
def test_mistakes_are_named(name: str, split: str, kwargs: dict[str, Any], message: str) -> None:
    for make in (make_env, make_vec_env):
        with pytest.raises(UsageError) as error:
            make(name, split, **kwargs)
        assert re.search(message, str(error.value))


def test_bad_vector_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match=r"n_envs.*integer.*1.*0"):
        make_vec_env("distractors", n_envs=0)
    with pytest.raises(UsageError, match=r"'subprocess'.*'subproc'\?"):
        make_vec_env("distractors", backend="subprocess")  # type: ignore[arg-type]


def test_environment_i_is_seeded_with_seed_plus_i() -> None:
    obs = make_vec_env("distractors", n_envs=3, seed=7).reset()
    assert isinstance(obs, dict)
    for i in range(3):
        alone, _ = make_env("distractors").reset(seed=7 + i)
        for key, value in alone.items():
            np.testing.assert_array_equal(obs[key][i], value)


def test_seed_decides_the_trajectories() -> None:
    first, again, other = (trajectory(make_vec_env("distractors", n_envs=2, seed=seed)) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("env_id", ["distractors", "MiniGrid-Fetch-5x5-N2-v0", "ALE/Breakout-v5"])
def test_processes_of_their_own_change_no_trajectory(env_id: str) -> None:
    dummy = trajectory(make_vec_env(env_id, n_envs=2, seed=1))
    subproc = trajectory(make_vec_env(env_id, n_envs=2, seed=1, backend="subproc"))
    assert same(dummy, subproc)


def test_monitor_file_holds_every_episode(tmp_path: Path) -> None:
    venv = make_vec_env("distractors", n_envs=3, seed=0, monitor_dir=tmp_path / "run")
    rng, episodes = np.random.default_rng(0), []
    venv.reset()
    for _ in range(200):
        _, rewards, dones, infos = venv.step(rng.integers(4, size=3))
        for i in np.flatnonzero(dones):
            assert infos[i]["episode"]["is_success"] == (rewards[i] > 0)
            episodes.append(infos[i]["episode"])
    venv.close()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["monitor.csv"]
    header, recorded = rows(tmp_path / "run")
    assert header["env_id"] == "rimrl/Distractors-v0"
    assert len(recorded) == len(episodes) > 5
    for row, episode in zip(recorded, episodes, strict=True):
        assert list(row) == ["r", "l", "t", "is_success"]
        assert float(row["r"]) == pytest.approx(episode["r"])
        assert int(row["l"]) == episode["l"]
        assert row["is_success"] == str(episode["is_success"])


def test_monitor_leaves_out_success_where_it_is_not_reported(tmp_path: Path) -> None:
    venv = make_vec_env("rimrl/CartPoleNoVelocity-v0", seed=0, monitor_dir=tmp_path)
    venv.reset()
    for _ in range(100):
        venv.step(np.array([0]))
    venv.close()
    assert all(list(row) == ["r", "l", "t"] for row in rows(tmp_path)[1])


@pytest.mark.parametrize("append", [False, True])
def test_monitor_file_is_continued_only_on_request(tmp_path: Path, append: bool) -> None:
    def record() -> tuple[dict[str, Any], list[dict[str, str]]]:
        venv = make_vec_env("rimrl/RecallCue-v0", seed=0, monitor_dir=tmp_path, append_monitor=append)
        venv.reset()
        for _ in range(18):
            venv.step(np.array([0]))
        venv.close()
        return rows(tmp_path)

    (first_header, first), (header, both) = record(), record()
    assert len(first) == 2
    if append:
        assert header == first_header
        assert both[:2] == first
        assert len(both) == 4
        assert [float(row["t"]) for row in both] == sorted(float(row["t"]) for row in both)
    else:
        assert header["t_start"] > first_header["t_start"]
        assert len(both) == 2
