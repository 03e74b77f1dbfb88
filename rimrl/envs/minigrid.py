"""Observations of MiniGrid environments, made ready for a policy.

MiniGrid shows a tile as three small integers (object type, colour, state) and the mission as text. As they stand the
integers look like a dark 0-255 picture, and text is no array at all. `MiniGridObservation` turns tiles into one-hot
vectors, into rendered pixels or into one colour each, and the mission into a fixed number of token ids.

Notation: V = view size, C = one-hot channels, T = tile size in pixels, L = mission length in tokens.
"""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import lru_cache
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from minigrid.core.constants import COLOR_TO_IDX, COLORS, IDX_TO_COLOR, OBJECT_TO_IDX, STATE_TO_IDX
from minigrid.core.grid import Grid
from minigrid.core.world_object import WorldObj
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from rimrl.envs.checks import check_at_least
from rimrl.envs.minigrid_view import with_fast_view
from rimrl.errors import needs, unknown_name, wrong

TILES = ("one_hot", "rgb", "colors")

NUM_TYPES, NUM_COLORS, NUM_STATES = len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX)
NUM_CHANNELS = NUM_TYPES + NUM_COLORS + NUM_STATES

# The index of a word is its token id, so trained policies depend on this order: only ever append.
VOCABULARY: tuple[str, ...] = (
    "<pad>",
    # articles, conjunctions, punctuation
    *("a", "the", ",", "and", "then", "after", "you", "your"),
    # actions
    *("pick", "up", "go", "to", "get", "fetch", "put", "open", "unlock", "find", "reach", "use", "avoid", "traverse"),
    "must",
    # things
    *("ball", "box", "key", "door", "object", "goal", "lava", "square", "room", "rooms", "hallway", "opening", "maze"),
    # colours and other properties
    *("red", "green", "blue", "purple", "yellow", "grey", "matching"),
    # places
    *("next", "near", "on", "in", "of", "at", "from", "left", "right", "front", "behind", "end"),
)
_TOKEN_OF_WORD = {word: token for token, word in enumerate(VOCABULARY) if token}

# The longest missions of MiniGrid's own environments. BabyAI's sequence levels go up to 72.
DEFAULT_MISSION_LENGTH = 20


def code_of(kind: int, color: int, state: int) -> int:
    """Number a tile: one integer in [0, 198) for its type, colour and state."""
    return (kind * NUM_COLORS + color) * NUM_STATES + state


# The tile behind each code, and its one-hot vector: rows of [codes, 3] and [codes, C].
CELL_OF_CODE: NDArray[np.uint8] = np.array(
    [(kind, color, state) for kind in range(NUM_TYPES) for color in range(NUM_COLORS) for state in range(NUM_STATES)],
    dtype=np.uint8,
)
_ONE_HOT_OF_CODE: NDArray[np.uint8] = np.concatenate(
    [np.eye(size, dtype=np.uint8)[CELL_OF_CODE[:, i]] for i, size in enumerate((NUM_TYPES, NUM_COLORS, NUM_STATES))],
    axis=1,
)
_CODE_WEIGHTS = np.array([NUM_COLORS * NUM_STATES, NUM_STATES, 1], dtype=np.uint8)  # 197, the largest code, fits


def encode_tiles(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn MiniGrid's tile encoding into concatenated one-hots of object type (11), colour (6) and state (3).

    Args:
        image: uint8 [..., V, V, 3], as in MiniGrid's observations.

    Returns:
        uint8 [..., V, V, 20] of zeros and ones, exactly three ones in each tile.
    """
    return _ONE_HOT_OF_CODE[_codes(image)]


def _codes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Number every tile of uint8 [..., V, V, 3] as `code_of` does; [..., V, V]."""
    codes: NDArray[np.uint8] = image @ _CODE_WEIGHTS
    return codes


def decode_tiles(one_hot: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo `encode_tiles`.

    Args:
        one_hot: uint8 [..., 20].

    Returns:
        uint8 [..., 3].
    """
    parts = np.split(one_hot, [NUM_TYPES, NUM_TYPES + NUM_COLORS], axis=-1)
    return np.stack([part.argmax(axis=-1) for part in parts], axis=-1).astype(np.uint8)


# What a tile can be, from dark to bright, in equal steps; a thing that is not listed is black. What can be held is far
# apart, because it is what agents most often have to tell apart.
_BRIGHTNESS_ORDER = (
    *("empty", "floor", "wall", "lava", "open door", "key", "closed door", "goal", "box", "locked door", "agent"),
    "ball",
)
_PALE = {"open door", "closed door", "locked door", "box"}


def _color_of(kind: int, color: int, state: int) -> list[int]:
    """The colour of a tile in `color_tiles`, red, green and blue."""
    name = next(name for name, index in OBJECT_TO_IDX.items() if index == kind)
    if name == "door":
        name = f"{next(name for name, index in STATE_TO_IDX.items() if index == state)} door"
    if name not in _BRIGHTNESS_ORDER:
        return [0, 0, 0]
    brightness = 24 + 21 * _BRIGHTNESS_ORDER.index(name)
    grey = brightness / 2 if name in _PALE else 0.0
    hue = COLORS["grey" if name == "empty" else IDX_TO_COLOR[color]]
    return [round(grey + (brightness - grey) * int(channel) / int(hue.max())) for channel in hue]


_COLOR_OF_CODE: NDArray[np.uint8] = np.array([_color_of(*cell) for cell in CELL_OF_CODE.tolist()], dtype=np.uint8)


def color_tiles(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn MiniGrid's tile encoding into a picture of one pixel a tile.

    The hue is MiniGrid's colour of the thing. The brightest of the three channels says what the thing is: empty 24,
    floor 45, wall 66, lava 87, open door 108, key 129, closed door 150, goal 171, box 192, locked door 213, agent 234,
    ball 255. Doors and boxes are pale, half-way to a grey as bright as they are. What is not seen is black,
    what is empty grey.

    No two tiles share a colour; the nearest two are 21 of 255 apart in one channel. The mean over a rendered tile would
    be another choice, but it has a key and a box of the same colour 4 apart.

    Args:
        image: uint8 [..., V, V, 3], as in MiniGrid's observations, indexed [column, row].

    Returns:
        uint8 [..., V, V, 3], red, green and blue, indexed [row, column] as pictures are.
    """
    return _COLOR_OF_CODE[_codes(image).swapaxes(-1, -2)]


def encode_mission(mission: str, length: int = DEFAULT_MISSION_LENGTH) -> NDArray[np.int64]:
    """Turn a mission into token ids.

    Args:
        mission: Words of `VOCABULARY`, in any case, with commas.
        length: L, the number of ids to return.

    Returns:
        int64 [L], padded at the end with 0.

    Raises:
        UsageError: If a word is not in the vocabulary or the mission is longer than `length`.
    """
    return np.array(_tokens(mission, length), dtype=np.int64)


@lru_cache(maxsize=4096)
def _tokens(mission: str, length: int) -> tuple[int, ...]:
    words = re.findall(r"\w+|[^\w\s]", mission.lower())
    for word in words:
        if word not in _TOKEN_OF_WORD:
            raise unknown_name("word", word, _TOKEN_OF_WORD, where=f"mission {mission!r}")
    if len(words) > length:
        raise wrong(f"mission {mission!r}", f"has {len(words)} tokens", f"mission_length={length} is too short for it")
    return (*(_TOKEN_OF_WORD[word] for word in words), *(0,) * (length - len(words)))


def decode_mission(tokens: NDArray[np.int64]) -> str:
    """Turn token ids back into the mission they stand for.

    Args:
        tokens: Integers [L]; zeros are skipped.

    Returns:
        The mission in lower case.
    """
    return " ".join(VOCABULARY[token] for token in tokens if token).replace(" ,", ",")


class MiniGridObservation(gymnasium.ObservationWrapper[dict[str, Any], Any, Any], RecordConstructorArgs):
    """Give any MiniGrid or BabyAI environment observations that a policy can read.

    Observations become a dictionary:

    * ``image``: with ``tiles="one_hot"`` uint8 [V, V, 20] in {0, 1}, see `encode_tiles`; the space is
      ``Box(0, 1)``, so that Stable-Baselines3 does not take it for a picture and divide it by 255. With
      ``tiles="rgb"`` uint8 [V*T, V*T, 3], the pixels of MiniGrid's `RGBImgPartialObsWrapper`. With ``tiles="colors"``
      uint8 [V, V, 3], one colour a tile, see `color_tiles`: the RIM paper's RGB view of 7x7x3 (App. D.7.4), which does
      not say what the colours were. One-hot tiles are indexed [column, row] as in MiniGrid, pixels [row, column].
    * ``mission``: int64 [L], see `encode_mission`; left out with ``mission=False``.

    MiniGrid's ``direction`` is left out: the view is egocentric, and a compass is not part of the papers' set-up.

    ``info["is_success"]`` on the last step says whether the episode ended in a reward, unless the environment says it
    itself: MiniGrid and BabyAI reward nothing but a mission fulfilled.

    Args:
        env: An environment whose observations hold MiniGrid's partial view.
        tiles: ``"one_hot"``, ``"rgb"`` or ``"colors"``.
        mission: Whether observations hold the mission.
        tile_size: T, the side of a rendered tile in pixels; only ``"rgb"`` reads it.
        mission_length: L. The default, 20, holds the missions of MiniGrid's own environments; BabyAI's sequence
            levels need up to 72.

    Raises:
        UsageError: If `env` is no MiniGrid environment or an argument is out of range; later, if a mission holds an
            unknown word or is longer than `mission_length`.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        tiles: str = "one_hot",
        mission: bool = True,
        tile_size: int = 8,
        mission_length: int = DEFAULT_MISSION_LENGTH,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, tiles=tiles, mission=mission, tile_size=tile_size, mission_length=mission_length
        )
        super().__init__(env)
        if not shows_tiles(env):
            raise needs("MiniGridObservation", "an environment that shows MiniGrid tiles", str(env.unwrapped))
        assert isinstance(env.observation_space, spaces.Dict)
        width, height, _ = env.observation_space["image"].shape or ()
        with_fast_view(env)
        self._prepare = Preparation((width, height), tiles, mission, tile_size, mission_length)
        self.observation_space = self._prepare.space
        self.metadata = {**env.metadata, "info_keywords": ("is_success",)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode; see the class."""
        with redirect_stdout(io.StringIO()):  # BabyAI prints why it throws a level away
            return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[dict[str, Any], SupportsFloat, bool, bool, dict[str, Any]]:
        """Advance the environment; see the class."""
        observation, reward, terminated, truncated, info = super().step(action)
        if terminated or truncated:
            info.setdefault("is_success", float(reward) > 0)
        return observation, reward, terminated, truncated, info

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Prepare one observation; see the class."""
        prepared: dict[str, Any] = {"image": self._prepare.image(observation["image"])}
        if self._prepare.shows_mission:
            prepared["mission"] = self._prepare.mission(observation["mission"])
        return prepared


def prepared(make: Callable[..., gymnasium.Env[Any, Any]], **defaults: Any) -> Callable[..., MiniGridObservation]:
    """An entry point for gymnasium that makes environments with observations that a policy can read.

    Args:
        make: Makes the environment.
        **defaults: Arguments of `MiniGridObservation` that differ from its own defaults.

    Returns:
        A function of the arguments of `make` and those of `MiniGridObservation`, by name; its errors are theirs.
    """
    _, *own = inspect.signature(MiniGridObservation).parameters.values()
    own = [argument.replace(default=defaults.get(argument.name, argument.default)) for argument in own]

    def entry_point(**kwargs: Any) -> MiniGridObservation:
        preparation = {argument.name: kwargs.pop(argument.name, argument.default) for argument in own}
        return MiniGridObservation(make(**kwargs), **preparation)

    arguments = (*inspect.signature(make).parameters.values(), *own)
    entry_point.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [argument.replace(kind=argument.KEYWORD_ONLY) for argument in arguments]
    )
    return entry_point


class Preparation:
    """What `MiniGridObservation` does to observations, one or many at once.

    Args:
        view: Columns and rows of the view.
        tiles: As for `MiniGridObservation`, and so are the rest.
        mission: Whether observations hold the mission.
        tile_size: T.
        mission_length: L.

    Attributes:
        image: Prepares tiles: uint8 [..., V, V, 3] to uint8 [..., V, V, 20], [..., V*T, V*T, 3] or [..., V, V, 3].
        space: Space of one prepared observation.
        shows_mission: Whether observations hold the mission.

    Raises:
        UsageError: If an argument is out of range.
    """

    def __init__(
        self,
        view: tuple[int, int],
        tiles: str = "one_hot",
        mission: bool = True,
        tile_size: int = 8,
        mission_length: int = DEFAULT_MISSION_LENGTH,
    ) -> None:
        if tiles not in TILES:
            raise unknown_name("tiles", tiles, TILES)
        check_at_least("tile_size", tile_size, 1)
        check_at_least("mission_length", mission_length, 1)
        self._mission_length = mission_length
        self.shows_mission = mission

        width, height = view
        if tiles == "one_hot":
            self.image = encode_tiles
            image = spaces.Box(0, 1, (width, height, NUM_CHANNELS), np.uint8)
        else:
            pixels = tile_size if tiles == "rgb" else 1
            self.image = _TileAtlas(tile_size).draw if tiles == "rgb" else color_tiles
            if pixels * min(view) <= 3:
                raise wrong(
                    f"tiles={tiles!r}",
                    f"makes {pixels * height}x{pixels * width} pixels, too few",
                    "use 'one_hot', or a larger tile_size",
                )
            image = spaces.Box(0, 255, (height * pixels, width * pixels, 3), np.uint8)
        parts: dict[str, spaces.Space[Any]] = {"image": image}
        if mission:
            parts["mission"] = spaces.Box(0, len(VOCABULARY) - 1, (mission_length,), np.int64)
        self.space = spaces.Dict(parts)

    def mission(self, mission: str) -> NDArray[np.int64]:
        """Prepare a mission: int64 [L]; errors as for `encode_mission`."""
        return encode_mission(mission, self._mission_length)


def shows_tiles(env: gymnasium.Env[Any, Any]) -> bool:
    """Tell whether observations of `env` hold MiniGrid's tile encoding and a mission in text."""
    space = env.observation_space
    return (
        isinstance(env.unwrapped, MiniGridEnv)
        and isinstance(space, spaces.Dict)
        and isinstance(space.spaces.get("image"), spaces.Box)
        and (space["image"].shape or ())[-1:] == (3,)
        and "mission" in space.spaces
        and not isinstance(space["mission"], spaces.Box)
    )


class _TileAtlas:
    """Draws an encoded view from tiles that MiniGrid rendered once, since MiniGrid itself draws tile by tile."""

    def __init__(self, tile_size: int) -> None:
        codes = 2 * len(CELL_OF_CODE)  # the second half is the same tiles with the agent on top
        self._size = tile_size
        self._pixels = np.zeros((codes, tile_size, tile_size, 3), dtype=np.uint8)
        self._drawn = np.zeros(codes, dtype=bool)

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw uint8 [..., V, V, 3] tiles as uint8 [..., V*T, V*T, 3] pixels."""
        codes = _codes(image).swapaxes(-1, -2).astype(np.intp)  # [..., row, column]
        *batch, rows, columns = codes.shape
        codes[..., rows - 1, columns // 2] += len(CELL_OF_CODE)
        if not self._drawn[codes].all():
            for code in set(codes[~self._drawn[codes]].tolist()):
                self._pixels[code] = self._render(code)
                self._drawn[code] = True
        pixels = self._pixels[codes].swapaxes(-4, -3)  # [..., row, T, column, T, 3]
        return pixels.reshape(*batch, rows * self._size, columns * self._size, 3)

    def _render(self, code: int) -> NDArray[np.uint8]:
        with_agent, code = divmod(code, len(CELL_OF_CODE))
        kind, color, state = CELL_OF_CODE[code].tolist()
        tile = WorldObj.decode(kind, color, state)
        if tile is not None:
            tile.color = IDX_TO_COLOR[color]  # decode forgets the colour of goals
        seen = kind != OBJECT_TO_IDX["unseen"]
        pixels: NDArray[np.uint8] = Grid.render_tile(
            tile, agent_dir=3 if with_agent else None, highlight=seen, tile_size=self._size
        )
        return pixels
