"""Suites of Atari games, one for each game: other modes and difficulties, sticky actions, and screens that flicker.

A family of suites is named with a placeholder, ``modes/<Game>``; any game of ale-py takes its place. Listing the
families imports no environment; a suite of ``modes`` asks ale-py what the game has.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from rimrl.envs.atari_games import Game, find_game, flavours
from rimrl.envs.splits import EnvSplit, Suite, SuiteFamily
from rimrl.errors import wrong

STICKY_PROBABILITY = 0.25
# The p of Hausknecht and Stone (2015).
FLICKER = 0.5
OTHER_FLICKERS = (0.0, 0.25, 0.75, 0.9)
BURST = 8.0


def _modes_split(game: Game, name: str, what: str, **env_kwargs: int) -> EnvSplit:
    return EnvSplit(name, game.env_id, bool(env_kwargs), what, env_kwargs)


@cache
def _modes(game: Game) -> Suite:
    has = flavours(game)
    (mode, *other_modes), (difficulty, *other_difficulties) = has.modes, has.difficulties
    if not other_modes and not other_difficulties:
        raise wrong(game.name, "has one mode and one difficulty, so nothing to hold out", f"'sticky/{game.name}' has")
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


def _flicker_split(game: str, name: str, description: str, **changed: float) -> EnvSplit:
    env_kwargs: dict[str, Any] = {"preset": "legacy", "repeat_action_probability": 0.0, "flicker": FLICKER}
    return EnvSplit(name, f"ALE/{game}-v5", bool(changed), description, env_kwargs | changed)


def _flicker(game: str) -> Suite:
    return Suite(
        f"flicker/{game}",
        f"{game} on a screen that is blank in half of the frames; held-out screens flicker in other ways.",
        (
            _flicker_split(
                game, "train", f"A frame is blank with probability {FLICKER}, whatever came before; preset legacy."
            ),
            *(_flicker_split(game, f"p{round(100 * p)}", f"With probability {p}.", flicker=p) for p in OTHER_FLICKERS),
            _flicker_split(
                game, "bursts", f"As often, in runs of {BURST:g} blank frames in the mean.", flicker_burst=BURST
            ),
            _flicker_split(
                game,
                "sticky",
                f"As in training, with sticky actions: probability {STICKY_PROBABILITY}.",
                repeat_action_probability=STICKY_PROBABILITY,
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
    SuiteFamily(
        _flicker("<Game>"),
        "game",
        "Pong",
        lambda name: _flicker(find_game(name, where=f"suite 'flicker/{name}'").name),
    ),
)
