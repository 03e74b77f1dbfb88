"""Suites state what is held out, and hold it out."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from rimrl.envs.suites import SUITES, Split, get_suite
from rimrl.errors import UsageError


def kinds(split: Split) -> set[tuple[str, str]]:
    return {(t, c) for t in split.env_kwargs["distractor_types"] for c in split.env_kwargs["distractor_colors"]}


@pytest.mark.parametrize("name", SUITES)
def test_suite_trains_on_one_split(name: str) -> None:
    suite = get_suite(name)
    assert suite.name == name
    assert suite.train is suite.split("train")
    assert suite.held_out == tuple(split for split in suite.splits if split is not suite.train)
    assert len({split.name for split in suite.splits}) == len({split.env_id for split in suite.splits})


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


def test_split_is_read_only_and_can_be_pickled() -> None:
    split = get_suite("distractors").train
    with pytest.raises(TypeError):
        split.env_kwargs["size"] = 9  # type: ignore[index]
    assert pickle.loads(pickle.dumps(split)) == split


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"^unknown suite 'distractor'; did you mean 'distractors'\?$"):
        get_suite("distractor")
    with pytest.raises(UsageError, match="unknown split 'novel_shape' in suite 'distractors'; did you mean"):
        get_suite("distractors").split("novel_shape")


def test_listing_suites_loads_no_environment() -> None:
    code = (
        "import sys, rimrl.envs.suites, rimrl.envs.registration, rimrl.envs.vector\n"
        "print({'torch', 'minigrid', 'pygame', 'stable_baselines3'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
