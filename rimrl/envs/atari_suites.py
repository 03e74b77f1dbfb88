"""Suites of Atari games, one for each game: other modes and difficulties, sticky actions, and screens that flicker.

A family of suites is named with a placeholder, ``modes/<Game>``; any game of ale-py takes its place. Listing the
families imports no environment; a suite of ``modes`` asks ale-py what the game has.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from rimrl.envs.atari_games import Game, find_game, flavours
from rimrl.envs.splits import EnvSplit, Suite, SuiteFamily
from rimrl.errors import wrong

STICKY_PROBABILITY = 0.25
# The p of Hausknecht and Stone (2015).
FLICKER = 0.5
OTHER_FLICKERS = (0.0, 0.25, 0.75, 0.9)
BURST = 8.0


@cache
def _modes(game: Game) -> Suite:
    has = flavours(game)
    (mode, *other_modes), (difficulty, *other_difficulties) = has.modes, has.difficulties
    if not other_modes and not other_difficulties:
        raise wrong(game.name, "has one mode and one difficulty, so nothing to hold out", f"'sticky/{game.name}' has")
    what = f"Mode {mode}, difficulty {difficulty}: those that the game starts with."
    train = EnvSplit("train", game.env_id, False, what)
    return Suite(
        f"modes/{game.name}",
        f"{game.name} in the mode and difficulty it starts with; held-out splits change one of them.",
        (
            train,
            *(
                train.varied(f"difficulty_{other}", f"Difficulty {other}, mode {mode}.", difficulty=other)
                for other in other_difficulties
            ),
            *(
                train.varied(f"mode_{other}", f"Mode {other}, difficulty {difficulty}.", mode=other)
                for other in other_modes
            ),
        ),
    )


def _outline_of_modes() -> Suite:
    train = EnvSplit("train", _ANY_GAME.env_id, False, "The mode and difficulty that the game starts with.")
    return Suite(
        f"modes/{_ANY_GAME.name}",
        "An Atari game in the mode and difficulty it starts with; held-out splits change one of them.",
        (
            train,
            train.varied("difficulty_<N>", "Each other difficulty, in the mode of training.", difficulty=1),
            train.varied("mode_<N>", "Each other mode, at the difficulty of training.", mode=1),
        ),
    )


def _sticky(game: Game) -> Suite:
    kwargs = {"preset": "legacy", "repeat_action_probability": 0.0}
    train = EnvSplit("train", game.env_id, False, "Every action is taken; preset legacy.", kwargs)
    what = f"In every frame, with probability {STICKY_PROBABILITY}, the action before is taken again."
    return Suite(
        f"sticky/{game.name}",
        f"{game.name} as the papers trained on it, without sticky actions; tested with them (Machado et al., 2018).",
        (train, train.varied("sticky", what, repeat_action_probability=STICKY_PROBABILITY)),
    )


def _flicker(game: Game) -> Suite:
    kwargs = {"preset": "legacy", "repeat_action_probability": 0.0, "flicker": FLICKER}
    what = f"A frame is blank with probability {FLICKER}, whatever came before; preset legacy."
    train = EnvSplit("train", game.env_id, False, what, kwargs)
    return Suite(
        f"flicker/{game.name}",
        f"{game.name} on a screen that is blank in half of the frames; held-out screens flicker in other ways.",
        (
            train,
            *(train.varied(f"p{round(100 * p)}", f"With probability {p}.", flicker=p) for p in OTHER_FLICKERS),
            train.varied("bursts", f"As often, in runs of {BURST:g} blank frames in the mean.", flicker_burst=BURST),
            train.varied(
                "sticky",
                f"As in training, with sticky actions: probability {STICKY_PROBABILITY}.",
                repeat_action_probability=STICKY_PROBABILITY,
            ),
        ),
    )


def _family(outline: Suite, make: Callable[[Game], Suite]) -> SuiteFamily:
    name = outline.name.partition("/")[0]
    return SuiteFamily(
        outline, "game", "Pong", lambda member: make(find_game(member, where=f"suite '{name}/{member}'"))
    )


_ANY_GAME = Game("<Game>", "")

FAMILIES = (
    _family(_outline_of_modes(), _modes),
    _family(_sticky(_ANY_GAME), _sticky),
    _family(_flicker(_ANY_GAME), _flicker),
)
