"""Suites state what is held out, and hold it out."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.minigrid_env import MiniGridEnv

from rimrl.envs.splits import EnvSplit
from rimrl.envs.suites import SUITES, get_suite
from rimrl.envs.vector import make_env
from rimrl.errors import UsageError


def kinds(split: EnvSplit) -> set[tuple[str, str]]:
    return {(t, c) for t in split.env_kwargs["distractor_types"] for c in split.env_kwargs["distractor_colors"]}


@pytest.mark.parametrize("name", SUITES)
def test_suite_trains_on_one_split(name: str) -> None:
    suite = get_suite(name)
    assert suite.name == name
    assert suite.train is suite.split("train")
    assert suite.held_out == tuple(split for split in suite.splits if split is not suite.train)
    assert len({split.name for split in suite.splits}) == len({split.env_id for split in suite.splits})
    assert suite.held_out


def test_distractors_differ_in_the_stated_respect_alone() -> None:
    suite = get_suite("distractors")
    train = suite.train.env_kwargs
    differences = {
        "novel_shapes": {"distractor_types"},
        "novel_colors": {"distractor_colors"},
        "more_objects": {"num_distractors"},
        "all_novel": {"distractor_types", "distractor_colors", "num_distractors"},
    }
    assert {split.name for split in suite.held_out} == set(differences)
    for name, keys in differences.items():
        kwargs = suite.split(name).env_kwargs
        assert {key for key in train if kwargs[key] != train[key]} == keys
        assert kwargs["num_distractors"] == train["num_distractors"] * (2 if "num_distractors" in keys else 1)


@pytest.mark.parametrize("name", ["novel_shapes", "novel_colors", "all_novel"])
def test_novel_distractors_are_never_seen_in_training(name: str) -> None:
    suite = get_suite("distractors")
    assert not kinds(suite.train) & kinds(suite.split(name))


def level(suite: str, split: str, seed: int) -> MiniGridEnv:
    """A level of a split, just begun."""
    env = make_env(suite, split=split)
    env.reset(seed=seed)
    assert isinstance(env.unwrapped, MiniGridEnv)
    return env.unwrapped


def count(env: MiniGridEnv, *kinds: str) -> int:
    """How many things of these kinds a level holds."""
    return int(np.isin(env.grid.encode()[..., 0], [OBJECT_TO_IDX[kind] for kind in kinds]).sum())


@pytest.mark.parametrize(("split", "rooms", "side"), [("train", 2, 4), ("n4_s5", 4, 5), ("n6", 6, 10)])
def test_mazes_have_the_stated_rooms(split: str, rooms: int, side: int) -> None:
    for seed in range(10):
        env = level("multiroom", split, seed)
        assert len(env.rooms) == rooms  # type: ignore[attr-defined]
        assert max(max(room.size) for room in env.rooms) <= side  # type: ignore[attr-defined]
        assert (count(env, "door"), count(env, "goal")) == (rooms - 1, 1)
        assert env.max_steps == 20 * rooms


@pytest.mark.parametrize(("split", "objects"), [("train", 2), *((f"n{n}", n) for n in range(3, 8))])
def test_rooms_hold_the_stated_objects(split: str, objects: int) -> None:
    assert {count(level("goto-local", split, seed), "ball", "box", "key") for seed in range(5)} == {objects}


@pytest.mark.parametrize(("split", "distractors"), [("train", 0), ("distractors", 3)])
def test_the_locked_room_is_strewn_with_distractors(split: str, distractors: int) -> None:
    for seed in range(5):
        env = level("unlock", split, seed)
        assert count(env, "ball", "box", "key") == 1 + distractors
        assert 2 in env.grid.encode()[..., 2][env.grid.encode()[..., 0] == OBJECT_TO_IDX["door"]], "no door is locked"


@pytest.mark.parametrize("suite", ["multiroom", "memory", "goto-local", "layouts"])
def test_success_is_a_reward(suite: str) -> None:
    env = make_env(suite)
    env.action_space.seed(0)
    outcomes = set()
    for episode in range(40):
        env.reset(seed=episode)
        ended = False
        while not ended:
            _, reward, terminated, truncated, info = env.step(env.action_space.sample())
            ended = terminated or truncated
            assert ("is_success" in info) == ended
        assert info["is_success"] == (float(reward) > 0)
        outcomes.add(info["is_success"])
        if len(outcomes) == 2:
            break


def test_split_is_read_only_and_can_be_pickled() -> None:
    split = get_suite("distractors").train
    with pytest.raises(TypeError):
        split.env_kwargs["size"] = 9  # type: ignore[index]
    assert pickle.loads(pickle.dumps(split)) == split


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'distractor'.*'distractors'\?$"):
        get_suite("distractor")
    with pytest.raises(UsageError, match=r"'novel_shape'.*'distractors'"):
        get_suite("distractors").split("novel_shape")


def test_listing_suites_loads_no_environment() -> None:
    code = (
        "import sys, rimrl.envs.suites, rimrl.envs.registration, rimrl.envs.vector\n"
        "print({'torch', 'minigrid', 'pygame', 'stable_baselines3'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
