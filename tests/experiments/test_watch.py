"""What is shown is what the agent plays and what its units do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rimrl
from rimrl.errors import UsageError
from rimrl.experiments.evaluate import DEFAULT_SEED
from rimrl.experiments.inspect import record
from rimrl.experiments.run import Run
from rimrl.experiments.watch import showing
from rimrl.runs.scenes import Scene
from tests.commands import SMALL_PPO, succeed


def scenes(run: Run, episodes: int = 3, split: str = "train") -> list[Scene]:
    with showing(run, episodes, split, progress_bar=False) as show:
        return list(show.scenes)


def small_run(folder: Path, core: str, env: str, *options: str) -> Run:
    words = ("--env.id", env, "--core.name", core, "--core.hidden_size", "12", *options)
    succeed("train", "distractors/lstm", *SMALL_PPO, *words, "--total-timesteps", "64", "--run-dir", str(folder))
    return Run.open(folder)


def test_the_episodes_and_units_are_those_that_inspect_records(trained: Path) -> None:
    run = Run.open(trained)
    shown = scenes(run, split="all_novel")
    recording = record(run, 3, "all_novel", progress_bar=False)
    arrays, names = recording.arrays, recording.facts["action_names"]
    np.testing.assert_array_equal([scene.active for scene in shown], arrays["active"])
    assert all(scene.seen is None for scene in shown)  # tiles are no image
    assert [scene.action for scene in shown] == [names[action] for action in arrays["action"]]
    assert [scene.reward for scene in shown] == pytest.approx(arrays["reward"].tolist())
    assert [(scene.episode - 1, scene.step - 1) for scene in shown] == list(
        zip(arrays["episode"].tolist(), arrays["step"].tolist(), strict=True)
    )
    ends = [scene for scene in shown if scene.ending is not None]
    for scene, outcome in zip(ends, recording.facts["episodes"], strict=True):
        assert (scene.step, scene.task) == (outcome["length"], outcome["task"])
        assert scene.total == pytest.approx(outcome["return"])
        assert scene.ending == (
            "success" if outcome["success"] else "out of time" if outcome["out_of_time"] else "failed"
        )


def test_a_picture_is_the_game_before_the_action(trained: Path) -> None:
    shown = scenes(Run.open(trained), episodes=2)
    env = rimrl.make_env("distractors", render_mode="rgb_array")
    env.reset(seed=DEFAULT_SEED)
    names = list(env.unwrapped.actions.__members__)  # type: ignore[attr-defined]
    for scene in shown:
        np.testing.assert_array_equal(scene.picture, env.render())
        env.step(names.index(scene.action))
        if scene.ending is not None:
            env.reset()


@pytest.mark.parametrize("n_stack", ["1", "3"])
def test_a_flickering_screen_is_shown_as_the_agent_sees_it(tmp_path: Path, n_stack: str) -> None:
    """Its own size and greys, blank where the frame was blank, not normalised; the game is always there."""
    kwargs: dict[str, Any] = {"screen_size": 36, "max_num_frames_per_episode": 63, "frame_stack": int(n_stack)}
    words = [word for key, value in kwargs.items() for word in (f"--env.kwargs.{key}", str(value))]
    run = small_run(tmp_path / "run", "lstm", "flicker/Pong", *words, "--agent.normalize_observations", "true")
    shown = scenes(run, episodes=2)
    env = rimrl.make_env("flicker/Pong", **kwargs)
    observation, _ = env.reset(seed=DEFAULT_SEED)
    names = [meaning.lower() for meaning in env.unwrapped.get_action_meanings()]  # type: ignore[attr-defined]
    for scene in shown:
        assert scene.seen is not None
        np.testing.assert_array_equal(scene.seen, np.stack([observation[-1]] * 3, axis=-1))
        assert scene.picture.any()
        observation, *_ = env.step(names.index(scene.action))
        if scene.ending is not None:
            observation, _ = env.reset()
    blank = [not scene.seen.any() for scene in shown if scene.seen is not None]
    assert 0 < sum(blank) < len(shown)


def test_pixels_of_tiles_are_shown_as_the_agent_sees_them(tmp_path: Path) -> None:
    shown = scenes(small_run(tmp_path / "run", "lstm", "distractors", "--env.kwargs.tiles", "rgb"), episodes=1)
    env = rimrl.make_env("distractors", tiles="rgb")
    observation, _ = env.reset(seed=DEFAULT_SEED)
    names = list(env.unwrapped.actions.__members__)  # type: ignore[attr-defined]
    for scene in shown:
        np.testing.assert_array_equal(scene.seen, observation["image"])
        observation, *_ = env.step(names.index(scene.action))


def test_a_core_without_units_shows_the_game_alone(tmp_path: Path) -> None:
    shown = scenes(small_run(tmp_path / "run", "lstm", "CartPole-v1"), episodes=1)
    assert all(scene.active is None and scene.task is None and scene.seen is None for scene in shown)
    assert {scene.action for scene in shown} <= {"0", "1"}
    assert shown[-1].ending == "over"
    assert shown[-1].total == len(shown)


def test_continuous_actions_are_numbers(tmp_path: Path) -> None:
    shown = scenes(small_run(tmp_path / "run", "lstm", "Pendulum-v1"), episodes=1)
    assert all(float(scene.action) == pytest.approx(float(scene.action), abs=2) for scene in shown)
    assert shown[-1].ending == "out of time"


def test_an_atari_game_is_shown_whole_with_its_score_and_colours(tmp_path: Path) -> None:
    """Lives end episodes and rewards are clipped for learning only; a lost life still empties the memory."""
    options = ("--core.num_units", "3", "--core.num_active", "2", "--env.kwargs.preset", "legacy")
    run = small_run(tmp_path / "run", "rim", "ALE/Breakout-v5", *options)
    shown = scenes(run, episodes=1)
    assert shown[0].picture.shape == (210, 160, 3)
    assert len(np.unique(shown[5].picture.reshape(-1, 3), axis=0)) > 5  # colours, not the grey input
    assert [scene.ending is not None for scene in shown] == [False] * (len(shown) - 1) + [True]
    assert sum(scene.fresh for scene in shown) == 5  # Breakout has five lives
    env = rimrl.make_env("ALE/Breakout-v5", preset="legacy")
    env.reset(seed=DEFAULT_SEED)
    names = [meaning.lower() for meaning in env.unwrapped.get_action_meanings()]  # type: ignore[attr-defined]
    played = [env.step(names.index(scene.action)) for scene in shown]
    assert [scene.reward for scene in shown] == [reward for _, reward, *_ in played]
    assert [terminated for _, _, terminated, *_ in played] == [scene.ending is not None for scene in shown]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"episodes": 0}, "at least 1"),
        ({"split": "novel_shape"}, r"'novel_shapes'"),
        ({"best": True}, "best_model.zip"),
    ],
)
def test_bad_input_is_named(run: Path, options: dict[str, int], said: str) -> None:
    (run / "best_model.zip").unlink()
    with pytest.raises(UsageError, match=said), showing(Run.open(run), progress_bar=False, **options):  # type: ignore[arg-type]
        pytest.fail("nothing to show")


def test_an_environment_that_cannot_draw_itself_says_so(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", "lstm", "rimrl/RecallCue-v0")
    with pytest.raises(UsageError, match=r"rimrl/RecallCue-v0 draws no pictures"), showing(run, progress_bar=False):
        pytest.fail("nothing to show")
