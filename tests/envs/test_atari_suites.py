"""Suites by game: what is held out is what ale-py has, and differs from training in one respect."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from ale_py import ALEInterface, roms

from rimrl.envs.atari_games import games
from rimrl.envs.suites import get_suite, is_suite, listed_suites
from rimrl.envs.vector import make_env, make_vec_env, resolve
from rimrl.errors import UsageError


def emulator(game: str) -> ALEInterface:
    (rom,) = (entry.rom for entry in games() if entry.name == game)
    path = roms.get_rom_path(rom)
    assert path is not None
    ale = ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(path)
    return ale


@pytest.mark.parametrize("game", ["Pong", "Freeway", "Centipede", "NameThisGame"])
def test_modes_hold_out_all_that_the_game_has(game: str) -> None:
    ale = emulator(game)
    suite = get_suite(f"modes/{game}")
    assert dict(suite.train.env_kwargs) == {}
    held_out = {split.name: dict(split.env_kwargs) for split in suite.held_out}
    assert held_out == {
        **{f"difficulty_{n}": {"difficulty": n} for n in ale.getAvailableDifficulties()[1:]},
        **{f"mode_{n}": {"mode": n} for n in ale.getAvailableModes()[1:]},
    }


def test_training_is_on_the_mode_and_difficulty_listed_first() -> None:
    """What `modes` holds out is all but the first, so the first must be what a game starts with."""
    for game in ("Breakout", "Centipede", "BattleZone", "YarsRevenge"):
        memories = []
        for explicit in (False, True):
            ale = emulator(game)
            if explicit:
                ale.setMode(ale.getAvailableModes()[0])
                ale.setDifficulty(ale.getAvailableDifficulties()[0])
            ale.reset_game()
            actions, rng = ale.getMinimalActionSet(), np.random.default_rng(0)
            played = []
            for _ in range(120):
                ale.act(actions[rng.integers(len(actions))])
                played.append(ale.getRAM())
            memories.append(played)
        np.testing.assert_array_equal(memories[0], memories[1])


def test_sticky_differs_in_sticky_actions_alone() -> None:
    suite = get_suite("sticky/Pong")
    (_, train), (_, held_out) = (resolve("sticky/Pong", split.name) for split in suite.splits)
    assert train["repeat_action_probability"] == 0
    assert held_out["repeat_action_probability"] == 0.25
    assert {key for key in train if train[key] != held_out[key]} == {"repeat_action_probability"}
    assert train["preset"] == "legacy"


def test_a_preset_does_not_make_training_sticky() -> None:
    for preset in ("machado", "legacy"):
        assert resolve("sticky/Pong", preset=preset)[1]["repeat_action_probability"] == 0


def test_sticky_actions_are_repeated_in_the_held_out_split_alone() -> None:
    def first_screens(split: str, seed: int) -> list[Any]:
        venv = make_vec_env("sticky/Pong", split=split, seed=seed, noop_max=0)
        venv.reset()
        rng = np.random.default_rng(0)
        return [venv.step(rng.integers(6, size=1))[0] for _ in range(40)]

    first, other = (first_screens("train", seed) for seed in (0, 1))
    np.testing.assert_array_equal(first, other)
    first, other = (first_screens("sticky", seed) for seed in (0, 1))
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("spelling", ["space_invaders", "spaceinvaders", "SpaceInvaders", "SPACE_INVADERS"])
def test_games_are_found_in_any_spelling(spelling: str) -> None:
    for family in ("modes", "sticky", "flicker"):
        suite = get_suite(f"{family}/{spelling}")
        assert suite.name == f"{family}/SpaceInvaders"
        assert {split.env_id for split in suite.splits} == {"ALE/SpaceInvaders-v5"}
        assert suite is get_suite(suite.name) or suite == get_suite(suite.name)


def test_a_held_out_mode_is_played() -> None:
    env: Any = make_env("modes/pong", "mode_1")
    assert env.unwrapped._game_mode == 1
    env = make_env("modes/pong", "difficulty_2")
    assert env.unwrapped._game_difficulty == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("modes/pongg", r"'pongg'.*'modes/pongg'.*'pong'\?"),
        ("sticky/SpaceInvader", r"'SpaceInvader'.*'SpaceInvaders'\?"),
        ("modes", r"'modes'.*'modes/Pong'"),
        ("modes/Assault", r"'sticky/Assault'"),
    ],
)
def test_mistakes_are_named(name: str, message: str) -> None:
    assert is_suite(name)
    for use in (get_suite, make_env, make_vec_env):
        with pytest.raises(UsageError, match=message):
            use(name)


def test_an_unknown_suite_or_split_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'mode_2'.*'modes/Pong'.*'mode_1'\?"):
        make_env("modes/pong", "mode_2")
    assert not is_suite("modez/pong")
    with pytest.raises(UsageError, match=r"'modes<Game>'.*'modes/<Game>'\?$"):
        get_suite("modes<Game>")


def test_families_are_listed_without_a_rom() -> None:
    code = (
        "import sys, rimrl.listings as l; l.listing('suites'); "
        "print({'ale_py', 'torch', 'stable_baselines3', 'minigrid'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
    outlines = [suite for suite in listed_suites() if suite.name.endswith("/<Game>")]
    assert [suite.name for suite in outlines] == ["modes/<Game>", "sticky/<Game>", "flicker/<Game>"]
    for outline in outlines:  # says of a game's suite what it holds
        pong = get_suite(outline.name.replace("<Game>", "Pong"))
        assert {split.name.split("_")[0] for split in pong.held_out} == {
            split.name.split("_")[0] for split in outline.held_out
        }
        assert (outline.train.name, outline.train.env_kwargs) == (pong.train.name, pong.train.env_kwargs)
