"""What makes the training loop fast must not change what it computes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

import rimrl
from rimrl.agents import precision
from rimrl.agents.categorical import FastCategorical
from rimrl.agents.episodes import find_truncations
from rimrl.agents.preparation import Preparation
from rimrl.agents.rollout import SequenceRolloutBuffer
from rimrl.errors import EnvironmentFaultError, UsageError
from tests.sb3.helpers import (
    OBSERVATION_SPACES,
    ShortEpisodes,
    assert_close,
    check_rollouts,
    randomize,
    short_episodes,
)

IMAGE = OBSERVATION_SPACES["image"]
needs_bf16 = pytest.mark.skipif(not precision.has_bf16(th.device("cpu")), reason="no bfloat16 on this processor")


def image_agent(**options: Any) -> rimrl.RecurrentPPO:
    """A small agent that plays images; weights that are not small, from a fixed seed."""
    kwargs = {"core": "lstm", "core_kwargs": {"hidden_size": 8}, "net_arch": []}
    env = short_episodes(3, observation_space=IMAGE)
    agent = rimrl.RecurrentPPO(
        "CnnPolicy", env, n_steps=8, batch_size=16, n_epochs=2, policy_kwargs=kwargs, seed=0, device="cpu", **options
    )
    randomize(agent.policy, scale=0.05)
    return agent


# -- distributions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 5])
def test_discrete_actions_are_drawn_and_weighed_as_torch_does(rows: int) -> None:
    logits = 3 * th.randn(rows, 4, generator=th.Generator().manual_seed(1))
    found = FastCategorical(4).proba_distribution(logits)
    expected = CategoricalDistribution(4).proba_distribution(logits)
    for seed in range(50):
        th.manual_seed(seed)
        drawn = found.sample()
        th.manual_seed(seed)
        th.testing.assert_close(drawn, expected.sample())
        th.testing.assert_close(found.log_prob(drawn), expected.log_prob(drawn))
    th.testing.assert_close(found.mode(), expected.mode())
    th.testing.assert_close(found.entropy(), expected.entropy())
    th.testing.assert_close(found.distribution.probs, expected.distribution.probs)


def test_gradients_of_discrete_actions() -> None:
    values = th.randn(6, 3, dtype=th.float64, generator=th.Generator().manual_seed(2))
    actions = th.tensor([0, 1, 2, 2, 0, 1])
    found, expected = (values.clone().requires_grad_() for _ in range(2))
    for logits, kind in ((found, FastCategorical(3)), (expected, CategoricalDistribution(3))):
        distribution = kind.proba_distribution(logits)
        entropy = distribution.entropy()
        assert entropy is not None
        (distribution.log_prob(actions).sum() + 2 * (entropy**2).sum()).backward()  # type: ignore[no-untyped-call]
    th.testing.assert_close(found.grad, expected.grad)


def test_an_impossible_action_does_not_spoil_the_entropy() -> None:
    distribution = FastCategorical(3).proba_distribution(th.tensor([[0.0, 0.0, -th.inf]]))
    assert distribution.entropy().item() == pytest.approx(np.log(2))


# -- observations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize_images", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", [*OBSERVATION_SPACES, "discrete", "channels_first", "small_integers"])
def test_observations_are_prepared_as_sb3_does(name: str, channels_last: bool, normalize_images: bool) -> None:
    space = {
        **OBSERVATION_SPACES,
        "discrete": spaces.Discrete(5),
        "channels_first": spaces.Box(0, 255, (3, 36, 40), np.uint8),
        "small_integers": spaces.Box(0, 10, (7, 7, 3), np.uint8),
    }[name]
    space.seed(3)
    batch = [space.sample() for _ in range(4)]
    obs = (
        {key: th.as_tensor(np.stack([o[key] for o in batch])) for key in batch[0]}
        if isinstance(space, spaces.Dict)
        else th.as_tensor(np.stack(batch))
    )
    prepare = Preparation(space, normalize_images)
    prepare.channels_last = channels_last
    before = {k: v.clone() for k, v in obs.items()} if isinstance(obs, dict) else obs.clone()
    th.testing.assert_close(prepare(obs), preprocess_obs(obs, space, normalize_images), rtol=0, atol=0)
    th.testing.assert_close(obs, before, rtol=0, atol=0)


@pytest.mark.parametrize("length", [2, 6])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2), (0, 2, 1, 3)])
def test_observations_keep_their_layout_in_memory(order: tuple[int, ...], length: int) -> None:
    """A transposed view, as of SB3's `VecTransposeImage`, is neither scrambled nor laid out anew."""
    shape = tuple(np.array([3, 5, 4, 2])[list(order)])
    buffer = SequenceRolloutBuffer(
        6, spaces.Box(0, 255, shape[1:], np.uint8), spaces.Discrete(2), "cpu", n_envs=3, sequence_length=length
    )
    rng = np.random.default_rng(0)
    seen = []
    nothing = th.zeros(3)
    policy = image_agent().policy
    for _ in range(6):
        obs = rng.integers(256, size=(3, 5, 4, 2), dtype=np.uint8).transpose(order)
        seen.append(obs)
        buffer.add(obs, np.zeros(3), np.zeros(3), np.zeros(3), nothing[:, None], nothing, policy.initial_states(3))
    np.testing.assert_array_equal(np.stack(seen), buffer.observations)
    packed = set()
    for batch in buffer.get(2 * length):
        assert isinstance(batch.observations, Tensor)
        flat = batch.observations.flatten(0, 1)
        assert flat[0].stride() == tuple(stride for stride in obs[0].strides)
        packed |= {frame.numpy().tobytes() for frame in flat}
    assert packed == {frame.tobytes() for frames in seen for frame in frames}


def test_convolutions_give_the_same_features_in_either_layout() -> None:
    policy = image_agent().policy
    obs = th.randint(0, 256, (6, 3, 36, 36), dtype=th.uint8)
    with th.no_grad():
        found = policy.extract_features(obs)
        plain = policy.features_extractor.to(memory_format=th.contiguous_format)(obs.float() / 255)  # type: ignore[call-overload]
    assert isinstance(found, Tensor)
    assert found.abs().max() > 1e-3
    assert_close(found, plain, "features")


class OneArray(ShortEpisodes):
    """Writes every observation into the same array, as environments in C++ do."""

    def __init__(self) -> None:
        super().__init__(spaces.Discrete(3))
        self._array = np.zeros(3, np.float32)

    def _observe(self) -> Any:
        self._array[:] = super()._observe()
        return self._array


class SharedArrays(DummyVecEnv):
    """A vector that does not copy observations either."""

    def _obs_from_buf(self) -> Any:
        return next(iter(self.buf_obs.values()))


def test_what_the_policy_saw_is_stored_before_the_environment_overwrites_it() -> None:
    kwargs = {"core": "lstm", "core_kwargs": {"hidden_size": 8}}
    env = SharedArrays([OneArray, OneArray])
    agent = rimrl.RecurrentPPO("MlpPolicy", env, n_steps=16, batch_size=32, policy_kwargs=kwargs, device="cpu")
    check_rollouts(agent)


# -- the update ------------------------------------------------------------------------------------------------------


def curve(agent: rimrl.RecurrentPPO, updates: int) -> list[Tensor]:
    """All weights after each of the first updates."""
    weights = []
    env = agent.get_env()
    assert env is not None
    env.seed(5)
    th.manual_seed(5)
    np.random.seed(5)
    for _ in range(updates):
        agent.learn(agent.n_steps * agent.n_envs, reset_num_timesteps=False)
        weights.append(th.cat([p.detach().flatten() for p in agent.policy.parameters()]))
    return weights


def test_the_loop_learns_what_a_plain_one_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contiguous convolutions, SB3's preparation and distribution, and Adam step by step give the same weights."""
    fast = image_agent()
    plain = image_agent()
    policy = plain.policy
    policy.features_extractor.to(memory_format=th.contiguous_format)  # type: ignore[call-overload]
    policy.action_dist = CategoricalDistribution(3)
    policy.optimizer = th.optim.Adam(policy.parameters(), lr=3e-4, eps=1e-5, foreach=False)
    monkeypatch.setattr(policy, "_prepare", lambda obs: preprocess_obs(obs, policy.observation_space))
    start = th.cat([p.detach().flatten() for p in policy.parameters()])
    for step, (found, expected) in enumerate(zip(curve(fast, 3), curve(plain, 3), strict=True)):
        assert (expected - start).abs().max() > 1e-4
        assert_close(found, expected, f"weights after update {step}", tol=2e-5)


def test_minibatches_of_whole_sequences_add_up_to_the_rollout() -> None:
    """Gradients of a sum over minibatches equal that of all at once, whatever the sequences are grouped in."""
    agent = image_agent()
    agent.learn(24)
    buffer, policy = agent.rollout_buffer, agent.policy
    totals = []
    for batch_size in (None, 16, 8):
        policy.zero_grad()
        for samples in buffer.get(batch_size):
            found = policy.evaluate_sequences(
                samples.observations, samples.actions, samples.states, samples.episode_starts
            )
            assert found.entropy is not None
            loss = (found.log_prob * samples.advantages + found.values**2 + found.entropy).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        totals.append(th.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]))
    assert totals[0].abs().max() > 1e-2
    for total in totals[1:]:
        assert_close(total, totals[0], "gradient", tol=1e-5)


# -- bfloat16 --------------------------------------------------------------------------------------------------------


@needs_bf16
def test_bf16_rounds_features_and_nothing_after_them() -> None:
    agent, exact = image_agent(autocast="bf16"), image_agent()
    obs = th.randint(0, 256, (4, 3, 36, 36), dtype=th.uint8)
    states, starts = agent.policy.initial_states(4), th.zeros(4)
    with th.no_grad():
        rounded, features = agent.policy.extract_features(obs), exact.policy.extract_features(obs)
        _, values, log_prob, after = agent.policy(obs, states, starts)
    assert isinstance(rounded, Tensor)
    assert isinstance(features, Tensor)
    error = float((rounded - features).abs().max() / features.abs().max())
    assert 1e-5 < error < 2e-2, "bfloat16 has 8 significant bits"
    assert th.equal(rounded, rounded.bfloat16().float())
    assert {x.dtype for x in (rounded, values, log_prob, *after.pi, *after.vf)} == {th.float32}
    assert not th.equal(after.pi[0], after.pi[0].bfloat16().float())


@needs_bf16
def test_bf16_learns_about_the_same_and_stores_what_it_saw() -> None:
    weights = curve(image_agent(autocast="bf16"), 2)[-1]
    exact = curve(image_agent(), 2)[-1]
    start = th.cat([p.detach().flatten() for p in image_agent().policy.parameters()])
    assert weights.dtype == th.float32
    assert 0 < (weights - exact).norm() < 0.3 * (exact - start).norm()


@needs_bf16
def test_a_bf16_agent_comes_back_as_one(tmp_path: Any) -> None:
    image_agent(autocast="bf16").save(tmp_path / "agent.zip")
    loaded = rimrl.load(tmp_path / "agent.zip", device="cpu")
    assert loaded.autocast == "bf16"
    assert loaded.policy._autocast == "bf16"


def test_autocast_is_refused_where_it_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"autocast.*None.*bf16.*'fp8'"):
        image_agent(autocast="fp8")
    agent = image_agent()
    monkeypatch.setattr(precision, "has_bf16", lambda _: False)
    with pytest.raises(UsageError, match=r"'bf16'.*bfloat16.*cpu"):
        image_agent(autocast="bf16")
    agent.autocast = "bf16"  # as one that was trained elsewhere
    with pytest.raises(UsageError, match=r"cpu lacks"):
        agent.learn(24)


# -- memory and NaN --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "sequences"), [(None, 1), (4, 2)])
def test_the_rollout_keeps_one_state_a_sequence(length: int | None, sequences: int) -> None:
    agent = image_agent(sequence_length=length)
    agent.learn(24)
    h_and_c, envs, hidden, float32 = 2, 3, 8, 4
    assert agent.rollout_buffer.state_bytes == sequences * h_and_c * envs * hidden * float32


class BrokenAfter(ShortEpisodes):
    """Shows NaN from the 27th observation on: in the second rollout of 16 steps."""

    def __init__(self) -> None:
        super().__init__(spaces.Discrete(3))
        self._seen = 0

    def _observe(self) -> Any:
        self._seen += 1
        return super()._observe() * (np.nan if self._seen > 26 else 1)


@pytest.mark.parametrize("broken", ["environment", "weights"])
def test_nan_is_reported_and_not_learned_from(broken: str) -> None:
    make: type[gymnasium.Env[Any, Any]] = BrokenAfter
    env = DummyVecEnv([make]) if broken == "environment" else short_episodes(1)
    agent = rimrl.RecurrentPPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    agent.learn(16)
    if broken == "weights":
        with th.no_grad():
            agent.policy.value_net.bias.fill_(th.nan)
    before = [p.clone() for p in agent.policy.parameters()]
    with pytest.raises(UsageError, match=r"environment 0|after 1 up") as error:
        agent.learn(16, reset_num_timesteps=False)
    assert isinstance(error.value, EnvironmentFaultError) == (broken == "environment")
    th.testing.assert_close(before, list(agent.policy.parameters()), rtol=0, atol=0, equal_nan=True)


class Fine(ShortEpisodes):
    def __init__(self) -> None:
        super().__init__(spaces.Discrete(3))


class BrokenReward(ShortEpisodes):
    """A reward of NaN after a while."""

    def __init__(self) -> None:
        super().__init__(spaces.Discrete(3))
        self._taken = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        self._taken += 1
        return obs, reward if self._taken < 10 else np.nan, terminated, truncated, info


class BrokenAtTheEnd(ShortEpisodes):
    """One long episode, whose observation after step 16 is NaN: only its value is asked for."""

    def __init__(self) -> None:
        super().__init__(spaces.Discrete(3))
        self._taken = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, *_ = super().step(action)
        self._taken += 1
        return obs * (np.nan if self._taken == 16 else 1), reward, False, False, {}


class BrokenWhenCut(ShortEpisodes):
    """An episode cut by time after five steps, whose last observation is NaN."""

    def __init__(self) -> None:
        super().__init__(spaces.Discrete(3))
        self._taken = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, *_ = super().step(action)
        self._taken += 1
        cut = self._taken == 5
        return obs * (np.nan if cut else 1), reward, False, cut, {}


@pytest.mark.parametrize("broken", [BrokenReward, BrokenAtTheEnd, BrokenWhenCut])
def test_nan_in_what_is_learned_towards_is_reported(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the core does not look, as in a single step on a GPU."""
    monkeypatch.setattr("rimrl.cores.base.require_finite_output", lambda *_: None)
    agent = rimrl.RecurrentPPO("MlpPolicy", DummyVecEnv([Fine, broken]), n_steps=16, batch_size=16, device="cpu")
    before = [p.clone() for p in agent.policy.parameters()]
    with pytest.raises(EnvironmentFaultError, match="environment 1"):
        agent.learn(32)
    th.testing.assert_close(before, list(agent.policy.parameters()), rtol=0, atol=0)


def test_a_cut_keeps_what_the_environment_showed() -> None:
    """Terminal observations are copied at once, because an environment may write the next one into the same array."""
    last = np.ones(3, np.float32)
    info = {"TimeLimit.truncated": True, "terminal_observation": last}
    states = image_agent().policy.initial_states(1)
    (cut,) = find_truncations(0, np.array([True]), [info], states)
    last[:] = 7
    np.testing.assert_array_equal(cut.observation, np.ones((1, 3)))
