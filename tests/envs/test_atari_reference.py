"""Whole games beside Stable-Baselines3's own Atari wrappers, stickiness off: same rewards, same ends, same pictures.

SB3 takes the maximum of two frames before it turns them grey, ale-py and rimrl after; where two moving things of
different colours meet, a few pixels differ for that. SB3's wrappers around a game that is grey already show that
nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import ale_py
import cv2
import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.atari_wrappers import ClipRewardEnv, EpisodicLifeEnv, MaxAndSkipEnv, WarpFrame
from stable_baselines3.common.monitor import Monitor

from rimrl.envs.vector import Backend, make_vec_env

gymnasium.register_envs(ale_py)

BACKENDS: tuple[Backend, ...] = ("dummy", "native")
DIFFERING_PIXELS = 200
"""Of 84 * 84 = 7056; most were seen in Freeway, 154, whose cars are of many colours."""

Player = Callable[[np.random.Generator, int], int]


def anything(rng: np.random.Generator, actions: int) -> int:
    return int(rng.integers(actions))


def mostly_up(rng: np.random.Generator, actions: int) -> int:
    """Crosses the road of Freeway now and then, as random actions never do."""
    return 1 if rng.random() < 0.8 else int(rng.integers(actions))


class Game(NamedTuple):
    """What is played how, and what that game must have held for the comparison to mean something."""

    env_id: str
    player: Player
    steps: int
    lives: int
    score: float


GAMES = (
    Game("ALE/Breakout-v5", anything, 100, 5, 2.0),
    Game("ALE/Pong-v5", anything, 700, 0, -19.0),
    Game("ALE/Freeway-v5", mostly_up, 2048, 0, 10.0),
    Game("ALE/Seaquest-v5", anything, 300, 4, 40.0),
)


def reference(env_id: str, obs_type: str) -> gymnasium.Env[Any, Any]:
    """What SB3's ``make_atari_env`` makes, without chance at the start and the pressing of FIRE.

    The monitor is inside, as there: its episodes are whole games with true scores.
    """
    env: Any = gymnasium.make(env_id, frameskip=1, repeat_action_probability=0.0, obs_type=obs_type)
    env = ClipRewardEnv(EpisodicLifeEnv(MaxAndSkipEnv(Monitor(env), skip=4)))
    return WarpFrame(env, width=84, height=84) if obs_type == "rgb" else env


def warped(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What `WarpFrame` does to a frame that is grey already."""
    return np.asarray(cv2.resize(grey, (84, 84), interpolation=cv2.INTER_AREA), dtype=np.uint8)


@pytest.mark.parametrize("game", GAMES, ids=lambda game: game.env_id)
def test_whole_games_are_those_of_sb3s_wrappers(game: Game) -> None:
    sb3, grey_first = reference(game.env_id, "rgb"), reference(game.env_id, "grayscale")
    ours = [
        make_vec_env(game.env_id, backend=backend, preset="legacy", noop_max=0, frame_stack=1, seed=0)
        for backend in BACKENDS
    ]
    differing = 0

    def compare(screens: list[Any], frame: NDArray[np.uint8], grey: NDArray[np.uint8]) -> None:
        nonlocal differing
        for screen in screens:
            np.testing.assert_array_equal(screen[0], warped(grey))
        differing = max(differing, int(np.count_nonzero(screens[0][0] != frame[..., 0])))

    rng, actions = np.random.default_rng(1), sb3.action_space.n  # type: ignore[attr-defined]
    (frame, _), (grey, _) = sb3.reset(seed=0), grey_first.reset(seed=0)
    compare([venv.reset()[0] for venv in ours], frame, grey)  # type: ignore[index]
    steps, lives_lost, rewarded = 0, 0, 0
    while True:
        action = game.player(rng, actions)
        frame, reward, terminated, truncated, info = sb3.step(action)
        grey, *same, _ = grey_first.step(action)
        assert same == [reward, terminated, truncated]
        steps, rewarded, over = steps + 1, rewarded + (reward != 0), "episode" in info
        screens = []
        for venv in ours:
            seen, rewards, dones, (told,) = venv.step(np.array([action]))
            assert (rewards[0], bool(dones[0])) == (reward, terminated or truncated)
            assert told["TimeLimit.truncated"] == truncated
            assert ("terminal_observation" in told) == dones[0]
            assert ("episode" in told) == over
            screens.append(told.get("terminal_observation", seen[0]))  # type: ignore[index]
        if over:  # SB3's last picture is made of two steps, since a game ends within one
            break
        compare(screens, frame, grey)
        if terminated:
            lives_lost += 1
            for env in (sb3, grey_first):
                env.reset()  # the game goes on after one no-op
            for venv in ours:
                venv.step(np.array([0]))
    print(f"{game.env_id}: {steps} steps, score {info['episode']['r']:g}, at most {differing} of 7056 pixels differ")
    for venv in ours:
        venv.close()
    assert differing <= DIFFERING_PIXELS
    assert told["episode"]["r"] == info["episode"]["r"]
    assert told["episode"]["l"] == steps + lives_lost  # the no-ops, too
    assert steps >= game.steps
    assert lives_lost == max(game.lives - 1, 0)
    assert abs(info["episode"]["r"]) >= abs(game.score)
    assert rewarded >= 2
