"""The games of ale-py: their names, and the modes, difficulties and actions that each of them has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from rimrl.errors import unknown_name, wrong


@dataclass(frozen=True)
class Game:
    """One game.

    Attributes:
        name: As in its id, ``SpaceInvaders``.
        rom: As ale-py calls its file, ``space_invaders``.
    """

    name: str
    rom: str

    @property
    def env_id(self) -> str:
        """The gymnasium id."""
        return f"ALE/{self.name}-v5"


@dataclass(frozen=True)
class Flavours:
    """What a game's switches can be set to (Machado et al., 2018, Sec. 6); the first of each is how it starts.

    Attributes:
        modes: Numbers of its modes.
        difficulties: Numbers of its difficulties.
    """

    modes: tuple[int, ...]
    difficulties: tuple[int, ...]


@cache
def games() -> tuple[Game, ...]:
    """Every game that has an ``ALE/*-v5`` id."""
    import ale_py  # noqa: PLC0415 (listing suites imports no environment)
    import gymnasium  # noqa: PLC0415

    gymnasium.register_envs(ale_py)
    return tuple(
        Game(env_id.removeprefix("ALE/").removesuffix("-v5"), spec.kwargs["game"])
        for env_id, spec in gymnasium.registry.items()
        if env_id.startswith("ALE/") and env_id.endswith("-v5")
    )


def find_game(name: str, where: str = "") -> Game:
    """Return the game called `name`, in either spelling: ``SpaceInvaders``, ``space_invaders``, ``spaceinvaders``.

    Args:
        name: The game.
        where: Where the name was found, for the error.

    Raises:
        UsageError: If there is no such game; names the nearest.
    """
    wanted = _letters(name)
    for game in games():
        if _letters(game.name) == wanted:
            return game
    raise unknown_name("game", name, [game.rom if name.islower() else game.name for game in games()], where=where)


@cache
def flavours(game: Game) -> Flavours:
    """Modes and difficulties of a game, read from ale-py."""
    ale = _emulator(game)
    return Flavours(tuple(ale.getAvailableModes()), tuple(ale.getAvailableDifficulties()))


@cache
def actions_of(env_id: str, full_action_space: bool = False) -> tuple[str, ...] | None:
    """What the actions of a game are, in their order; None for what is no ``ALE/*-v5`` game.

    Args:
        env_id: A gymnasium id.
        full_action_space: All 18 actions instead of those that do something in the game.
    """
    game = next((game for game in games() if game.env_id == env_id), None) if env_id.startswith("ALE/") else None
    if game is None:
        return None
    ale = _emulator(game)
    return tuple(each.name for each in (ale.getLegalActionSet() if full_action_space else ale.getMinimalActionSet()))


def _emulator(game: Game) -> Any:
    """ale-py's emulator with a game in it."""
    from ale_py import ALEInterface, LoggerMode, roms  # noqa: PLC0415 (listing suites imports no environment)

    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale, path = ALEInterface(), roms.get_rom_path(game.rom)
    assert path is not None, "games with an id have a ROM"
    ale.loadROM(path)
    return ale


def check_flavour(game: Game, mode: int | None = None, difficulty: int | None = None) -> None:
    """Refuse a mode or difficulty that a game lacks; None is the one that it starts with.

    Raises:
        UsageError: With those that the game has.
    """
    has = flavours(game)
    for kind, plural, value, valid in (
        ("mode", "modes", mode, has.modes),
        ("difficulty", "difficulties", difficulty, has.difficulties),
    ):
        if value is not None and (isinstance(value, bool) or value not in valid):
            raise wrong(
                f"{kind} {value!r}", f"is none of {game.name}", f"its {plural}: {', '.join(map(str, valid))}", "name"
            )


def _letters(name: str) -> str:
    return name.lower().replace("_", "")
