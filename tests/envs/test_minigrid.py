"""Prepared MiniGrid observations say exactly what MiniGrid's own say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import gymnasium
import minigrid  # noqa: F401 (registers its environments)
import numpy as np
import pytest
from minigrid.core.constants import COLORS, IDX_TO_COLOR, IDX_TO_OBJECT
from minigrid.wrappers import RGBImgPartialObsWrapper
from stable_baselines3.common.preprocessing import is_image_space

from rimrl.envs.minigrid import (
    CELL_OF_CODE,
    VOCABULARY,
    MiniGridObservation,
    code_of,
    color_tiles,
    decode_mission,
    decode_tiles,
    encode_mission,
    encode_tiles,
)
from rimrl.errors import UsageError

# Between them: doors in all states, carried objects, occlusion, lava, goals, every colour.
IDS = (
    "rimrl/ObjectPicking-v0",
    "MiniGrid-MultiRoom-N2-S4-v0",
    "MiniGrid-KeyCorridorS3R3-v0",
    "MiniGrid-DoorKey-6x6-v0",
    "MiniGrid-LavaGapS5-v0",
    "MiniGrid-Fetch-6x6-N2-v0",
    "BabyAI-PickupLoc-v0",
)
# Written down a second time: the brightest channel of each thing, of doors by state, and what is pale.
BRIGHTNESS = {
    **{"unseen": 0, "empty": 24, "floor": 45, "wall": 66, "lava": 87, "key": 129, "goal": 171, "box": 192},
    **{"agent": 234, "ball": 255},
}
DOORS = {0: 108, 1: 150, 2: 213}
PALE = ("door", "box")
every_id = pytest.mark.parametrize("env_id", IDS)


def raw(env_id: str) -> gymnasium.Env[Any, Any]:
    return gymnasium.make(env_id, disable_env_checker=True)


def walk(env: gymnasium.Env[Any, Any], steps: int = 120) -> Iterator[dict[str, Any]]:
    """Observations of a random walk that is the same for every wrapper of the same environment."""
    rng = np.random.default_rng(0)
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    yield env.reset(seed=1)[0]
    for _ in range(steps):
        obs, _, terminated, truncated, _ = env.step(rng.integers(env.action_space.n))
        yield obs
        if terminated or truncated:
            yield env.reset()[0]


@every_id
def test_one_hot_tiles_decode_to_minigrids_encoding(env_id: str) -> None:
    prepared = MiniGridObservation(raw(env_id))
    for ours, theirs in zip(walk(prepared), walk(raw(env_id)), strict=True):
        assert prepared.observation_space.contains(ours)
        np.testing.assert_array_equal(decode_tiles(ours["image"]), theirs["image"])
        assert (ours["image"].sum(axis=-1) == 3).all()
        assert decode_mission(ours["mission"]) == theirs["mission"]


@every_id
@pytest.mark.parametrize("tile_size", [5, 8])
def test_rgb_tiles_are_minigrids_pixels(env_id: str, tile_size: int) -> None:
    prepared = MiniGridObservation(raw(env_id), tiles="rgb", tile_size=tile_size)
    reference = RGBImgPartialObsWrapper(raw(env_id), tile_size=tile_size)  # type: ignore[no-untyped-call]
    for ours, theirs in zip(walk(prepared, 60), walk(reference, 60), strict=True):
        assert prepared.observation_space.contains(ours)
        np.testing.assert_array_equal(ours["image"], theirs["image"])


@every_id
def test_a_tiles_colour_is_its_things_and_tells_all_that_minigrid_shows(env_id: str) -> None:
    meanings: dict[tuple[int, ...], tuple[int, ...]] = {}
    prepared = MiniGridObservation(raw(env_id), tiles="colors")
    assert prepared.observation_space["image"] == gymnasium.spaces.Box(0, 255, (7, 7, 3), np.uint8)  # type: ignore[index]
    for ours, theirs in zip(walk(prepared), walk(raw(env_id)), strict=True):
        assert prepared.observation_space.contains(ours)
        for row, column in np.ndindex(7, 7):
            cell = tuple(theirs["image"][column, row].tolist())
            pixel = ours["image"][row, column]
            kind = IDX_TO_OBJECT[cell[0]]
            brightness = DOORS[cell[2]] if kind == "door" else BRIGHTNESS[kind]
            hue = np.ones(3) if kind == "empty" else COLORS[IDX_TO_COLOR[cell[1]]] / COLORS[IDX_TO_COLOR[cell[1]]].max()
            hue = (hue + 1) / 2 if kind in PALE else hue
            np.testing.assert_allclose(pixel, brightness * hue, atol=0.5)
            assert meanings.setdefault(tuple(pixel.tolist()), cell) == cell
    assert len(meanings) > 3


def test_no_two_tiles_share_a_colour() -> None:
    """States other than a door's, and the colours of what is unseen or empty, are not part of a tile's look."""
    colors = color_tiles(CELL_OF_CODE.reshape(18, 11, 3)).swapaxes(0, 1).reshape(-1, 3)
    looks: dict[tuple[int, ...], tuple[int, ...]] = {}
    for (kind, color, state), pixel in zip(CELL_OF_CODE.tolist(), colors.tolist(), strict=True):
        look = (kind, *(() if kind < 2 else (color,)), *((state,) if kind == 4 else ()))
        assert looks.setdefault(look, tuple(pixel)) == tuple(pixel)
    pixels = np.array(list(looks.values()))
    apart = np.abs(pixels[:, None] - pixels).max(axis=-1) + 1000 * np.eye(len(pixels), dtype=int)
    assert apart.min() == 21


def test_every_tile_has_its_own_code_and_one_hot() -> None:
    assert [code_of(*cell) for cell in CELL_OF_CODE.tolist()] == list(range(11 * 6 * 3))
    one_hot = encode_tiles(CELL_OF_CODE.reshape(18, 11, 3))
    kind, color, state = (np.eye(n, dtype=np.uint8)[CELL_OF_CODE[:, i]] for i, n in enumerate((11, 6, 3)))
    np.testing.assert_array_equal(one_hot.reshape(-1, 20), np.hstack([kind, color, state]))


def test_stable_baselines3_takes_only_pixels_for_a_picture() -> None:
    for tiles, picture in (("one_hot", False), ("rgb", True), ("colors", True)):
        env = MiniGridObservation(raw("rimrl/ObjectPicking-v0"), tiles=tiles)
        assert isinstance(env.observation_space, gymnasium.spaces.Dict)
        assert is_image_space(env.observation_space["image"]) is picture


def test_mission_can_be_left_out() -> None:
    env = MiniGridObservation(raw("rimrl/ObjectPicking-v0"), mission=False)
    assert set(env.reset(seed=0)[0]) == {"image"} == set(env.observation_space)  # type: ignore[call-overload]


def test_vocabulary_holds_every_mission_of_minigrid_and_babyai() -> None:
    ids = [env_id for env_id in gymnasium.registry if env_id.startswith(("MiniGrid-", "BabyAI-"))]
    assert len(ids) > 100
    for env_id in ids:
        if "WFC" in env_id:  # needs packages of its own; its mission is MultiRoom's
            continue
        env = raw(env_id)
        for seed in range(2):
            mission = env.reset(seed=seed)[0]["mission"]
            assert decode_mission(encode_mission(mission, length=72)) == mission


def test_vocabulary_keeps_its_order() -> None:
    # Trained policies depend on the ids: new words go to the end.
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert [VOCABULARY.index(word) for word in ("<pad>", "pick", "ball", "red", "end")] == [0, 9, 24, 37, 55]


def test_mission_is_padded_at_the_end() -> None:
    tokens = encode_mission("Pick up the RED ball", length=8)
    assert tokens.dtype == np.int64
    assert [VOCABULARY[token] for token in tokens] == ["pick", "up", "the", "red", "ball"] + ["<pad>"] * 3


@pytest.mark.parametrize(
    ("mission", "message"),
    [
        ("pick up the rad ball", r"'rad'.*'pick up the rad ball'.*'red'\?"),
        ("go to the ball", "'go to the ball'.*4.*mission_length=3"),
    ],
)
def test_unreadable_missions_are_refused(mission: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        encode_mission(mission, length=3)
    assert re.search(message, str(error.value))


def test_levels_that_babyai_throws_away_leave_no_word_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    babyai = gymnasium.make("BabyAI-GoToLocalS8N7-v0")
    babyai.reset(seed=48)
    assert capsys.readouterr().out.startswith("Sampling rejected")
    MiniGridObservation(babyai).reset(seed=48)
    assert capsys.readouterr().out == ""


def test_observations_can_be_changed_without_changing_the_next() -> None:
    env = MiniGridObservation(raw("rimrl/ObjectPicking-v0"))
    first = env.reset(seed=0)[0]
    kept = {key: value.copy() for key, value in first.items()}
    for value in first.values():
        value[:] = 0
    again = env.reset(seed=0)[0]
    assert all(np.array_equal(again[key], kept[key]) for key in kept)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tiles": "pixels"}, "unknown tiles 'pixels'; valid: colors, one_hot, rgb"),
        ({"tile_size": 0}, "tile_size.*integer.*1.*0"),
        ({"mission_length": 0}, "mission_length.*integer.*1.*0"),
    ],
)
def test_bad_arguments_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        MiniGridObservation(raw("rimrl/ObjectPicking-v0"), **kwargs)
    assert re.search(message, str(error.value))


@pytest.mark.parametrize("kwargs", [{"tiles": "colors"}, {"tiles": "rgb", "tile_size": 1}])
def test_pictures_too_small_to_have_an_upside_are_refused(kwargs: dict[str, Any]) -> None:
    env = gymnasium.make("rimrl/ObjectPicking-v0", agent_view_size=3, disable_env_checker=True)
    with pytest.raises(UsageError, match=r"makes 3x3 pixels") as error:
        MiniGridObservation(env, **kwargs)
    assert "\n" not in str(error.value)


def test_other_environments_are_refused() -> None:
    with pytest.raises(UsageError, match="shows MiniGrid tiles"):
        MiniGridObservation(gymnasium.make("CartPole-v1"))
