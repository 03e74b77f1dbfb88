"""The latest frame in an observation is what an environment that stacks nothing shows."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage

from rimrl.envs.frame_stack import FrameStack
from rimrl.envs.screens import screen_of
from rimrl.envs.vector import make_vec_env
from tests.envs.shown import Shown

IMAGES = {
    "grey, channels last": (40, 36, 1),
    "grey, channels first": (1, 36, 40),
    "RGB, channels last": (40, 36, 3),
    "RGB, channels first": (3, 36, 40),
}


def shown(shape: tuple[int, ...]) -> Shown:
    return Shown(spaces.Box(0, 255, shape, np.uint8), 9)


def stacked(shape: tuple[int, ...], n_stack: int) -> FrameStack:
    return FrameStack(shown(shape), n_stack)


def stacked_planes(n_stack: int) -> FrameStackObservation[Any, Any, Any]:
    return FrameStackObservation(shown((40, 36)), n_stack)


def played(env: Any, steps: int = 5) -> list[Any]:
    """The first observations of a vector of one."""
    env.seed(3)
    first = env.reset()
    return [first, *(env.step(np.zeros(1, dtype=np.int64))[0] for _ in range(steps - 1))]


def latest(env: Any) -> list[NDArray[np.uint8]]:
    screen = screen_of(env)
    assert screen is not None
    return [screen.latest(observation) for observation in played(env)]


def pixels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image of either order as [H, W, 3]."""
    channels_last = np.moveaxis(image, 0, 2) if image.shape[0] in (1, 3) else image
    return np.broadcast_to(channels_last, (*channels_last.shape[:2], 3))


@pytest.mark.parametrize("n_stack", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", IMAGES)
def test_the_latest_frame_is_the_one_that_was_stacked_last(kind: str, n_stack: int) -> None:
    expected = [pixels(image[0]) for image in played(DummyVecEnv([partial(shown, IMAGES[kind])]))]
    env = DummyVecEnv([partial(stacked, IMAGES[kind], n_stack)])
    np.testing.assert_array_equal(latest(env), expected)
    if kind.endswith("last"):
        transposed = VecTransposeImage(DummyVecEnv([partial(stacked, IMAGES[kind], n_stack)]))
        np.testing.assert_array_equal(latest(transposed), expected)


@pytest.mark.parametrize("n_stack", [3, 4, 6])
def test_grey_planes_are_stacked_along_a_new_axis(n_stack: int) -> None:
    expected = [pixels(plane) for plane in played(DummyVecEnv([partial(shown, (40, 36))]))]
    np.testing.assert_array_equal(latest(DummyVecEnv([partial(stacked_planes, n_stack)])), expected)


@pytest.mark.parametrize("n_stack", [3, 4])
def test_a_game_with_three_frames_is_no_colour_picture(n_stack: int) -> None:
    game = partial(make_vec_env, "ALE/Breakout-v5", preset="legacy", screen_size=36, noop_max=0)
    alone, together = game(frame_stack=1), game(frame_stack=n_stack)
    expected = [pixels(image[0]) for image in played(alone)]
    np.testing.assert_array_equal(latest(together), expected)
    assert len(np.unique(expected)) > 2


@pytest.mark.parametrize(("channels", "expected"), [(4, [3, 3, 3]), (6, [3, 4, 5]), (2, [1, 1, 1])])
def test_channels_that_no_wrapper_explains(channels: int, expected: list[int]) -> None:
    env = DummyVecEnv([partial(shown, (40, 36, channels))])
    images = [image[0][:, :, expected] for image in played(env)]
    np.testing.assert_array_equal(latest(env), images)


@pytest.mark.parametrize("tiles", ["rgb", "colors"])
def test_the_image_among_other_parts(tiles: str) -> None:
    for copies in (False, True):
        env = make_vec_env("MiniGrid-Empty-5x5-v0", tiles=tiles, efference_copies=copies)
        expected = [observation["image"][0] for observation in played(env)]
        np.testing.assert_array_equal(latest(env), expected)


@pytest.mark.parametrize("env_id", ["MiniGrid-Empty-5x5-v0", "CartPole-v1"])
def test_tiles_and_numbers_are_no_image(env_id: str) -> None:
    assert screen_of(make_vec_env(env_id)) is None
