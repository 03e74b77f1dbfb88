"""Suites of Atari games, one for each game: other modes and difficulties, and sticky actions.

A family of suites is named with a placeholder, ``modes/<Game>``; any game of ale-py takes its place. Listing the
families imports no environment; a suite of ``modes`` asks ale-py what the game has.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from rimrl.envs.atari_games import Game, find_game, flavours
from rimrl.envs.splits import EnvSplit, Suite, SuiteFamily
from rimrl.errors import UsageError

STICKY_PROBABILITY = 0.25


def _modes_split(game: Game, name: str, what: str, **env_kwargs: int) -> EnvSplit:
    return EnvSplit(name, game.env_id, bool(env_kwargs), what, env_kwargs)


@cache
def _modes(game: Game) -> Suite:
    has = flavours(game)
    (mode, *other_modes), (difficulty, *other_difficulties) = has.modes, has.difficulties
    if not other_modes and not other_difficulties:
        raise UsageError(
            f"{game.name} has one mode and one difficulty, so nothing to hold out; 'sticky/{game.name}' has"
        )
    return Suite(
        f"modes/{game.name}",
        f"{game.name} in the mode and difficulty it starts with; held-out splits change one of them.",
        (
            _modes_split(game, "train", f"Mode {mode}, difficulty {difficulty}: those that the game starts with."),
            *(
                _modes_split(game, f"difficulty_{other}", f"Difficulty {other}, mode {mode}.", difficulty=other)
                for other in other_difficulties
            ),
            *(
                _modes_split(game, f"mode_{other}", f"Mode {other}, difficulty {difficulty}.", mode=other)
                for other in other_modes
            ),
        ),
    )


def _sticky_split(game: str, name: str, probability: float, description: str) -> EnvSplit:
    env_kwargs: dict[str, Any] = {"preset": "legacy", "repeat_action_probability": probability}
    return EnvSplit(name, f"ALE/{game}-v5", probability > 0, description, env_kwargs)


def _sticky(game: str) -> Suite:
    return Suite(
        f"sticky/{game}",
        f"{game} as the papers trained on it, without sticky actions; tested with them (Machado et al., 2018).",
        (
            _sticky_split(game, "train", 0.0, "Every action is taken; preset legacy."),
            _sticky_split(
                game,
                "sticky",
                STICKY_PROBABILITY,
                f"In every frame, with probability {STICKY_PROBABILITY}, the action before is taken again.",
            ),
        ),
    )


_ANY_GAME = Game("<Game>", "")

FAMILIES = (
    SuiteFamily(
        Suite(
            "modes/<Game>",
            "An Atari game in the mode and difficulty it starts with; held-out splits change one of them.",
            (
                _modes_split(_ANY_GAME, "train", "The mode and difficulty that the game starts with."),
                _modes_split(
                    _ANY_GAME, "difficulty_<N>", "Each other difficulty, in the mode of training.", difficulty=1
                ),
                _modes_split(_ANY_GAME, "mode_<N>", "Each other mode, at the difficulty of training.", mode=1),
            ),
        ),
        "game",
        "Pong",
        lambda name: _modes(find_game(name, where=f"suite 'modes/{name}'")),
    ),
    SuiteFamily(
        _sticky("<Game>"),
        "game",
        "Pong",
        lambda name: _sticky(find_game(name, where=f"suite 'sticky/{name}'").name),
    ),
)
