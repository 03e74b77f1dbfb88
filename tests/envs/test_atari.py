"""Atari games: both backends show and score the same, monitors keep the true score, agents get the clipped one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, is_vecenv_wrapped

import rimrl
from rimrl.envs.vector import Backend, make_env, make_vec_env, resolve
from rimrl.errors import UsageError

# Chance off: no no-ops at the start, no repeated actions.
PLAIN: dict[str, Any] = {"preset": "legacy", "noop_max": 0}
RAW: dict[str, Any] = {"terminal_on_life_loss": False, "clip_rewards": False}
both = pytest.mark.parametrize("backend", ["dummy", "native"])


def play(venv: VecEnv, steps: int, seed: int = 0) -> list[Any]:
    assert isinstance(venv.action_space, gymnasium.spaces.Discrete)
    rng = np.random.default_rng(seed)
    seen: list[Any] = [venv.reset()]
    for _ in range(steps):
        observation, rewards, dones, infos = venv.step(rng.integers(venv.action_space.n, size=venv.num_envs))
        for info in infos:
            info.get("episode", {}).pop("t", None)
        seen.append((observation, rewards, dones, infos))
    venv.close()
    return seen


@pytest.mark.parametrize(
    ("game", "kwargs", "steps"),
    [
        ("ALE/Breakout-v5", {}, 120),
        ("ALE/Breakout-v5", {"max_num_frames_per_episode": 203}, 60),  # the limit falls within a held action
        ("ALE/Breakout-v5", {"screen_size": 42, "frame_stack": 1}, 60),
        ("ALE/Pong-v5", {"frameskip": 3, "frame_stack": 2, "full_action_space": True}, 80),
        ("ALE/Seaquest-v5", {"terminal_on_life_loss": False, "clip_rewards": False}, 400),
    ],
)
def test_both_backends_play_the_same_game(game: str, kwargs: dict[str, Any], steps: int) -> None:
    dummy, native = (
        make_vec_env(game, n_envs=2, seed=3, backend=backend, **PLAIN, **kwargs) for backend in ("dummy", "native")
    )
    assert native.observation_space == dummy.observation_space
    assert native.action_space == dummy.action_space
    played, theirs = play(native, steps), play(dummy, steps)
    np.testing.assert_array_equal(played[0], theirs[0])
    ended = 0
    for ours, other in zip(played[1:], theirs[1:], strict=True):
        for mine, its in zip(ours[:3], other[:3], strict=True):
            np.testing.assert_array_equal(mine, its)
            assert mine.dtype == its.dtype
        for done, mine, its in zip(ours[2], ours[3], other[3], strict=True):
            ended += done
            keys = {"episode", "terminal_observation", "TimeLimit.truncated"}
            keys |= set() if "episode" in its else {"lives", "frame_number", "episode_frame_number"}
            shown, expected = ({key: info[key] for key in keys & info.keys()} for info in (mine, its))
            np.testing.assert_equal(shown, expected)
    assert ended or "Pong" in game


def test_both_backends_repeat_actions_alike() -> None:
    def first_seed() -> tuple[int, int]:
        """A seed and what ale-py's environment makes of it, where that is a seed of its vector, too."""
        for seed in range(100):
            derived = int(np.random.SeedSequence(seed).generate_state(2)[1])
            if derived < 2**31:
                return seed, derived
        raise AssertionError

    seed, derived = first_seed()
    kwargs: dict[str, Any] = {"noop_max": 0, "repeat_action_probability": 0.5}
    dummy = make_vec_env("ALE/Pong-v5", seed=seed, **kwargs)
    native = make_vec_env("ALE/Pong-v5", seed=derived, backend="native", **kwargs)
    sure = make_vec_env("ALE/Pong-v5", seed=seed, **PLAIN)
    screens = [[step[0] for step in play(venv, 60)[1:]] for venv in (dummy, native, sure)]
    np.testing.assert_array_equal(screens[0], screens[1])
    assert not np.array_equal(screens[0], screens[2])


@both
def test_observations_are_stacked_grey_frames(backend: Backend) -> None:
    venv = make_vec_env("ALE/Pong-v5", n_envs=2, seed=0, backend=backend)
    assert venv.observation_space == gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    before: Any = venv.reset()
    assert not before[:, :3].any()
    kept = before.copy()
    for _ in range(5):
        after: Any = venv.step(np.array([2, 3]))[0]
        np.testing.assert_array_equal(after[:, :3], before[:, 1:])
        np.testing.assert_array_equal(before, kept)  # an observation is the receiver's to keep
        before, kept = after, after.copy()
    venv.close()


@both
def test_seeds_decide_and_environments_differ(backend: Backend) -> None:
    first, again, other = (
        play(make_vec_env("ALE/Pong-v5", n_envs=2, seed=seed, backend=backend), 30)[-1][0] for seed in (1, 1, 7)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


@both
def test_monitors_record_whole_games_and_true_scores(backend: Backend, tmp_path: Path) -> None:
    kwargs: dict[str, Any] = {"n_envs": 2, "seed": 0, "backend": backend, **PLAIN}
    game = "ALE/Seaquest-v5"  # pays 20 at a time
    truth = play(make_vec_env(game, **kwargs, **RAW), 500)
    venv = make_vec_env(game, monitor_dir=tmp_path, **kwargs)
    assert is_vecenv_wrapped(venv, VecMonitor)
    learned = play(venv, 500)

    scores, lengths, lives = np.zeros(2), np.zeros(2, dtype=int), np.array([3, 3])
    games, lost_lives = 0, 0
    for (_, score, over, _), (seen, reward, done, infos) in zip(truth[1:], learned[1:], strict=True):
        scores, lengths = scores + score, lengths + 1
        np.testing.assert_array_equal(reward, np.sign(score))
        for i, info in enumerate(infos):
            lost = not over[i] and info["lives"] < lives[i]
            assert done[i] == (over[i] or lost)
            assert ("episode" in info) == over[i]
            assert ("terminal_observation" in info) == done[i]
            assert not info["TimeLimit.truncated"]
            if lost:
                np.testing.assert_array_equal(info["terminal_observation"], seen[i])
                lost_lives += 1
            lives[i] = 3 if over[i] else info["lives"]
            if over[i]:
                assert (info["episode"]["r"], info["episode"]["l"]) == (scores[i], lengths[i])
                scores[i], lengths[i] = 0, 0
                games += 1
    assert games >= 2
    assert lost_lives >= 2 * games
    assert len((tmp_path / "monitor.csv").read_text().splitlines()) == 2 + games


@both
def test_evaluation_counts_whole_games(backend: Backend) -> None:
    class Random:
        def predict(self, observation: NDArray[Any], **_: Any) -> tuple[NDArray[Any], None]:
            return np.random.default_rng(0).integers(4, size=len(observation)), None

    kwargs: dict[str, Any] = {"preset": "legacy", "max_num_frames_per_episode": 2000}
    venv = make_vec_env("ALE/Breakout-v5", n_envs=2, seed=0, backend=backend, **kwargs)
    _, lengths = evaluate_policy(Random(), venv, n_eval_episodes=2, return_episode_rewards=True)  # type: ignore[arg-type]
    venv.close()
    assert isinstance(lengths, list)
    assert min(lengths) > 100  # a life of Breakout lasts about 30 steps


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"frameskip": 0}, r"frameskip.*integer.*1.*0"),
        ({"noop_max": -1}, r"noop_max.*integer.*0.*-1"),
        ({"frame_stack": 0}, r"frame_stack.*integer.*1.*0"),
        ({"screen_size": 0}, r"screen_size.*integer from 1 to 160.*0"),
        ({"screen_size": 161}, r"screen_size.*integer from 1 to 160.*161"),
        ({"screen_size": 42.0}, r"screen_size.*integer from 1 to 160.*42.0"),
        ({"repeat_action_probability": 2}, r"repeat_action_probability must be between 0 and 1, got 2"),
        ({"clip_rewards": "maybe"}, r"clip_rewards.*true.*false.*'maybe'"),
        ({"terminal_on_life_los": True}, r"'terminal_on_life_los'"),
        ({"noops": 3}, r"'noops'.*'noop_max'\?"),
        ({"preset": "machdo"}, r"'machdo'.*'machado'\?"),
        ({"preset": True}, r"unknown preset 'True'; valid: legacy, machado, small"),
        ({"presett": "legacy"}, r"'presett'.*'preset'\?"),
    ],
)
@both
def test_mistakes_are_named(backend: Backend, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_vec_env("ALE/Pong-v5", backend=backend, **kwargs)


def test_what_the_native_backend_cannot_do_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'native'.*ALE/\*-v5.*'CartPole-v1'.*'dummy'.*'subproc'"):
        make_vec_env("CartPole-v1", backend="native")
    with pytest.raises(UsageError, match=r"'ALE/Pongg-v5'.*'ALE/Pong-v5'\?"):
        make_vec_env("ALE/Pongg-v5", backend="native")
    flavours: dict[str, Any] = {"mode": 1, "difficulty": 1}
    for name, value in flavours.items():
        kwargs = {name: value}
        with pytest.raises(UsageError, match=f"^{name} .*backend 'native'.*use 'dummy' or 'subproc'$"):
            make_vec_env("ALE/Pong-v5", backend="native", **kwargs)


# The table of presets again, from Machado et al. (2018), ale-py's ids and the wrappers of Mnih et al. (2015).
PROTOCOLS: dict[str, dict[str, Any]] = {
    "machado": {"repeat_action_probability": 0.25, "terminal_on_life_loss": False, "noop_max": 0},
    "legacy": {"repeat_action_probability": 0.0, "terminal_on_life_loss": True, "noop_max": 30},
    "small": {"repeat_action_probability": 0.0, "terminal_on_life_loss": True, "noop_max": 30, "screen_size": 42},
}


@pytest.mark.parametrize("preset", PROTOCOLS)
@both
def test_a_preset_is_its_values(backend: Backend, preset: str) -> None:
    kwargs: dict[str, Any] = {"seed": 0, "backend": backend}
    named, spelled_out = (
        play(make_vec_env("ALE/Breakout-v5", **kwargs, **settings), 80)
        for settings in ({"preset": preset}, PROTOCOLS[preset])
    )
    np.testing.assert_equal(named, spelled_out)
    ends = sum(dones.sum() for _, _, dones, _ in named[1:])
    games = sum("episode" in info for _, _, _, infos in named[1:] for info in infos)
    assert (ends > games) == (preset != "machado")


def test_without_a_preset_games_are_those_of_the_ids() -> None:
    env_id, kwargs = resolve("ALE/Seaquest-v5")
    spec = gymnasium.spec(env_id).kwargs
    assert kwargs["preset"] == "machado"
    assert {key: kwargs[key] for key in spec if key != "game"} == {key: spec[key] for key in spec if key != "game"}


def test_arguments_change_single_values_of_a_preset() -> None:
    plain, changed = resolve("ALE/Pong-v5")[1], resolve("ALE/Pong-v5", noop_max=7, frame_stack=1)[1]
    assert changed == {**plain, "noop_max": 7, "frame_stack": 1}
    assert resolve("ALE/Pong-v5", preset="legacy", noop_max=7)[1]["repeat_action_probability"] == 0.0


@both
def test_a_single_frame_is_the_last_of_a_stack(backend: Backend) -> None:
    kwargs: dict[str, Any] = {"n_envs": 2, "seed": 0, "backend": backend, "preset": "legacy"}
    one, four = (play(make_vec_env("ALE/Breakout-v5", **kwargs, frame_stack=k), 60) for k in (1, 4))
    np.testing.assert_array_equal(one[0], four[0][:, 3:])
    for single, stack in zip(one[1:], four[1:], strict=True):
        np.testing.assert_array_equal(single[0], stack[0][:, 3:])
        for info, other in zip(single[3], stack[3], strict=True):
            if "terminal_observation" in info:
                np.testing.assert_array_equal(info["terminal_observation"], other["terminal_observation"][3:])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mode": 7}, r"7.*Pong.*modes: 0, 1"),
        ({"difficulty": 4}, r"difficulty 4.*difficulties: 0, 1, 2, 3"),
        ({"mode": 1, "difficulty": "hard"}, r"difficulty 'hard'.*difficulties: 0, 1, 2, 3"),
        ({"mode": True}, r"True.*Pong.*modes: 0, 1"),
    ],
)
def test_a_mode_that_the_game_lacks_is_refused(kwargs: dict[str, Any], message: str) -> None:
    for make in (make_env, make_vec_env):
        with pytest.raises(UsageError, match=message):
            make("ALE/Pong-v5", **kwargs)


def test_modes_and_difficulties_reach_the_emulator() -> None:
    def memory(**kwargs: Any) -> NDArray[np.uint8]:
        env = make_env("ALE/Pong-v5", **PLAIN, **kwargs)
        env.reset(seed=0)
        seen = []
        for _ in range(60):
            env.step(3)
            seen.append(env.unwrapped.ale.getRAM())  # type: ignore[attr-defined]
        return np.array(seen)

    start = memory()
    np.testing.assert_array_equal(memory(mode=0, difficulty=0), start)
    others = [memory(mode=1), memory(difficulty=2), memory(mode=1, difficulty=2)]
    assert all(not np.array_equal(other, start) for other in others)
    assert not np.array_equal(others[0], others[2])


@both
def test_an_agent_learns_from_frames(backend: Backend) -> None:
    venv = make_vec_env("ALE/Pong-v5", n_envs=2, seed=0, backend=backend)
    model = rimrl.RecurrentPPO(
        "CnnPolicy",
        venv,
        n_steps=8,
        batch_size=16,
        n_epochs=1,
        policy_kwargs={"core": "lstm", "core_kwargs": {"hidden_size": 8}},
    )
    before = [weight.clone() for weight in model.policy.parameters()]
    model.learn(16)
    assert model.num_timesteps == 16
    assert any(not weight.equal(old) for weight, old in zip(model.policy.parameters(), before, strict=True))
    venv.close()
