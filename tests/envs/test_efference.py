"""Efference copies: what was done and got last, in every vector and for every kind of space; the rest stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rimrl.envs.efference import EfferenceCopies, VecEfferenceCopies
from rimrl.envs.vector import Backend, make_env, make_vec_env
from rimrl.errors import UsageError
from tests.sb3.helpers import OBSERVATION_SPACES, ShortEpisodes

ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3),
    "discrete from 5": spaces.Discrete(3, start=5),
    "multi_discrete": spaces.MultiDiscrete([2, 3, 2]),
    "multi_discrete from 1": spaces.MultiDiscrete([2, 3], start=[1, 1]),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(np.array([-2.0, 1.0], np.float32), np.array([3.0, 9.0], np.float32)),
    "matrix box": spaces.Box(-1.0, 1.0, (2, 2), np.float64),
}
OBSERVATIONS: dict[str, spaces.Space[Any]] = {**OBSERVATION_SPACES, "number": spaces.Discrete(5)}


def encoded(space: spaces.Space[Any], action: Any) -> NDArray[Any]:
    """Gymnasium's own flat form of an action."""
    if isinstance(space, spaces.MultiDiscrete):
        parts = [spaces.Discrete(int(n), start=int(start)) for n, start in zip(space.nvec, space.start, strict=True)]
        return np.concatenate([spaces.flatten(part, one) for part, one in zip(parts, action, strict=True)])
    return np.asarray(spaces.flatten(space, action))


def check_by_hand(plain: VecEnv, copying: VecEnv, actions: list[Any]) -> int:
    """Step both alike; the second must show what the first shows and what a loop here remembers. Returns the ends."""
    space = copying.observation_space
    assert isinstance(space, spaces.Dict)
    is_dict = isinstance(plain.observation_space, spaces.Dict)

    def compare(shown: Any, alone: Any, action: Any, reward: float) -> None:
        """One environment's observation against its parts."""
        parts = dict(alone) if is_dict else {"observation": alone}
        assert shown.keys() == {*parts, "previous_action", "previous_reward"} == space.spaces.keys()
        for key, part in parts.items():
            np.testing.assert_array_equal(shown[key], part)
            assert np.asarray(shown[key]).dtype == np.asarray(part).dtype
        nothing = np.zeros(space["previous_action"].shape or ())
        expected = nothing if action is None else encoded(plain.action_space, action)
        np.testing.assert_array_equal(shown["previous_action"], expected.astype(np.float32))
        np.testing.assert_array_equal(shown["previous_reward"], np.array([reward], np.float32))
        assert space["previous_action"].contains(shown["previous_action"])
        assert space["previous_reward"].contains(shown["previous_reward"])

    def row(batch: Any, i: int) -> Any:
        return {key: value[i] for key, value in batch.items()} if isinstance(batch, dict) else batch[i]

    shown, alone, ends = copying.reset(), plain.reset(), 0
    for i in range(plain.num_envs):
        compare(row(shown, i), row(alone, i), None, 0.0)
    kept: list[tuple[Any, Any]] = []
    for action in actions:
        (shown, rewards, dones, infos), theirs = copying.step(action), plain.step(action)
        alone = theirs[0]
        np.testing.assert_array_equal(rewards, theirs[1])
        np.testing.assert_array_equal(dones, theirs[2])
        for i in range(plain.num_envs):
            done = bool(dones[i])
            compare(row(shown, i), row(alone, i), None if done else action[i], 0.0 if done else rewards[i])
            assert infos[i].keys() == theirs[3][i].keys()
            if done:
                ends += 1
                last = theirs[3][i]["terminal_observation"]
                compare(infos[i]["terminal_observation"], last, action[i], rewards[i])
        assert isinstance(shown, dict)
        kept.append((shown, {key: value.copy() for key, value in shown.items()}))
    for given, copy in kept:  # an observation is the receiver's to keep
        np.testing.assert_equal(given, copy)
    plain.close()
    copying.close()
    return ends


@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("actions", ACTIONS)
def test_copies_are_what_a_loop_by_hand_remembers(actions: str, observations: str) -> None:
    def vector() -> DummyVecEnv:
        venv = DummyVecEnv([lambda: ShortEpisodes(ACTIONS[actions], OBSERVATIONS[observations])] * 3)
        venv.seed(4)
        return venv

    sampler = ACTIONS[actions]
    sampler.seed(1)
    played = [np.stack([sampler.sample() for _ in range(3)]) for _ in range(40)]
    assert check_by_hand(vector(), VecEfferenceCopies(vector()), played) > 10


@pytest.mark.parametrize(
    ("env_id", "backend", "kwargs", "choices", "steps"),
    [
        ("distractors", "dummy", {}, 4, 80),
        ("distractors", "subproc", {"tiles": "rgb"}, 4, 80),
        ("MiniGrid-Empty-5x5-v0", "envpool", {"max_steps": 9}, 3, 80),
        ("ALE/Breakout-v5", "native", {"preset": "legacy"}, 4, 80),
        ("ALE/Breakout-v5", "dummy", {"preset": "legacy"}, 4, 80),
        ("ALE/Breakout-v5", "native", {"preset": "machado", "clip_rewards": False}, 4, 220),  # games are longer
    ],
)
def test_every_backend_shows_them(
    env_id: str, backend: Backend, kwargs: dict[str, Any], choices: int, steps: int
) -> None:
    if backend == "envpool":
        pytest.importorskip("envpool")
    plain, copying = (
        make_vec_env(env_id, n_envs=2, seed=3, backend=backend, efference_copies=on, **kwargs) for on in (False, True)
    )
    rng = np.random.default_rng(0)
    ends = check_by_hand(plain, copying, [rng.integers(choices, size=2) for _ in range(steps)])
    assert ends > 0


def test_atari_copies_are_cut_at_a_lost_life_and_clipped() -> None:
    """River Raid pays 30 points and more: the copy is the sign that the agent learns from."""
    legacy: dict[str, Any] = {"preset": "legacy", "backend": "native"}
    venv = make_vec_env("ALE/Riverraid-v5", n_envs=4, seed=0, efference_copies=True, **legacy)
    venv.reset()
    rng, lost, rewarded = np.random.default_rng(0), 0, 0
    for _ in range(300):
        shown, _, dones, infos = venv.step(rng.integers(18, size=4))
        assert isinstance(shown, dict)
        for i in range(4):
            if dones[i] and "episode" not in infos[i]:
                lost += 1
                assert not shown["previous_action"][i].any()
                assert shown["previous_reward"][i] == 0
                assert infos[i]["terminal_observation"]["previous_action"].sum() == 1
            rewarded += shown["previous_reward"][i, 0] == 1
        assert set(np.unique(shown["previous_reward"])) <= {0.0, 1.0}
    assert lost > 0
    assert rewarded > 3


@pytest.mark.parametrize("actions", ACTIONS)
def test_a_vector_of_single_wrappers_is_the_wrapped_vector(actions: str) -> None:
    def single() -> ShortEpisodes:
        return ShortEpisodes(ACTIONS[actions], OBSERVATIONS["dict"])

    wrapped: VecEnv = VecEfferenceCopies(DummyVecEnv([single] * 3))
    singles: VecEnv = DummyVecEnv([lambda: EfferenceCopies(single())] * 3)
    assert wrapped.observation_space == singles.observation_space
    for venv in (wrapped, singles):
        venv.seed(2)
    np.testing.assert_equal(wrapped.reset(), singles.reset())
    sampler = ACTIONS[actions]
    sampler.seed(0)
    for _ in range(40):
        action = np.stack([sampler.sample() for _ in range(3)])
        np.testing.assert_equal(wrapped.step(action), singles.step(action))


@pytest.mark.parametrize("name", ["distractors", "rimrl/Bandit-v0", "Pendulum-v1"])
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version.*")
@pytest.mark.filterwarnings("ignore:.*not having a wrapper.*")
@pytest.mark.filterwarnings("ignore:.*A Box observation space (minimum|maximum) value is.*infinity.*")
def test_a_single_environment_keeps_gymnasiums_contract_and_its_spec(name: str) -> None:
    env = make_env(name, efference_copies=True)
    check_env(env, skip_render_check=True)
    assert env.spec is not None
    again: gymnasium.Env[Any, Any] = gymnasium.make(env.spec)
    assert again.observation_space == env.observation_space
    np.testing.assert_equal(again.reset(seed=1)[0], env.reset(seed=1)[0])


def test_the_bandit_is_solved_by_the_copies_alone() -> None:
    """Repeat what paid, change what did not: no memory, and only the first pull is a guess."""
    env = make_env("rimrl/Bandit-v0", efference_copies=True, length=5)
    returns = []
    for episode in range(400):
        obs, _ = env.reset(seed=0 if episode == 0 else None)
        total, ended = 0.0, False
        while not ended:
            assert not obs["observation"].any()
            last = int(obs["previous_action"][1])
            action = last if obs["previous_reward"][0] > 0 else 1 - last
            obs, reward, ended, _, info = env.step(np.int64(action))
            total += float(reward)
        assert info["is_success"]
        returns.append(total)
    assert set(returns) == {4.0, 5.0}
    assert np.mean(returns) == pytest.approx(4.5, abs=4 * 0.5 / np.sqrt(400))


def test_without_copies_the_bandit_pays_half_whatever_the_plan() -> None:
    """Nothing is shown, so all that an agent can do is a plan made beforehand."""
    env = make_env("rimrl/Bandit-v0")
    env.reset(seed=0)
    for plan in ([0] * 10, [1] * 10, [0, 1] * 5, [0] * 9 + [1]):
        totals = []
        for _ in range(400):
            steps = [env.step(np.int64(action)) for action in plan]
            assert not any(step[0].any() for step in steps)
            totals.append(sum(float(step[1]) for step in steps))
            env.reset()
        assert np.mean(totals) == pytest.approx(5.0, abs=4 * 5.0 / np.sqrt(400))


class _Odd(ShortEpisodes):
    """Has whatever spaces it is given."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any] | None = None) -> None:
        super().__init__(action or spaces.Discrete(2), observation)


@pytest.mark.parametrize(
    ("space", "action", "named"),
    [
        (spaces.Dict({"previous_action": spaces.Discrete(2)}), None, ["'previous_action'", "efference_copies"]),
        (spaces.Dict({"previous_reward": spaces.Discrete(2)}), None, ["'previous_reward'", "efference_copies"]),
        (spaces.Tuple([spaces.Discrete(2)]), None, ["observation", "Tuple"]),
        (spaces.Discrete(2), spaces.Dict({"a": spaces.Discrete(2)}), ["action", "Dict"]),
    ],
)
def test_what_can_have_no_copies_is_refused_before_anything_is_written(
    space: spaces.Space[Any], action: spaces.Space[Any] | None, named: list[str], tmp_path: Path
) -> None:
    gymnasium.register("rimrl-test/Odd-v0", lambda **_: _Odd(space, action), disable_env_checker=True)
    try:
        with pytest.raises(UsageError) as single:
            make_env("rimrl-test/Odd-v0", efference_copies=True)
        with pytest.raises(UsageError) as vector:
            make_vec_env("rimrl-test/Odd-v0", efference_copies=True, monitor_dir=tmp_path)
    finally:
        del gymnasium.registry["rimrl-test/Odd-v0"]
    for message in (str(single.value), str(vector.value)):
        assert "\n" not in message
        assert all(words in message for words in named)
    assert not list(tmp_path.iterdir())
