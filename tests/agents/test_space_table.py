"""Every kind of space works in learning, prediction, saving, loading and export, or no agent is made with it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv

import rimrl
from rimrl.agents.policies import CnnRecurrentCorePolicy, MultiInputRecurrentCorePolicy, RecurrentCorePolicy
from rimrl.agents.saved.exported import write_exported
from rimrl.errors import UsageError
from tests.sb3.helpers import SMALL_RIM, assert_close, check_rollouts, randomize
from tests.space_table import ACTIONS, OBSERVATIONS, WORKING_ACTIONS, WORKING_OBSERVATIONS, Witness, box, encoded

PLAIN_OBSERVATIONS, PLAIN_ACTIONS = box(3), spaces.Discrete(3)
POLICIES: dict[str, type[RecurrentCorePolicy]] = {
    "MlpPolicy": RecurrentCorePolicy,
    "CnnPolicy": CnnRecurrentCorePolicy,
    "MultiInputPolicy": MultiInputRecurrentCorePolicy,
}
N_ENVS = 2


def policy_for(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(space) else "MlpPolicy"


def make(
    observations: spaces.Space[Any], actions: spaces.Space[Any], **options: Any
) -> tuple[rimrl.RecurrentPPO, list[Witness]]:
    """An agent with weights of some size, and its environments."""
    envs = [Witness(observations, actions) for _ in range(N_ENVS)]
    agent = rimrl.RecurrentPPO(
        policy_for(observations),
        DummyVecEnv([lambda env=env: env for env in envs]),  # type: ignore[misc]
        n_steps=8,
        sequence_length=4,
        batch_size=8,
        n_epochs=1,
        policy_kwargs={
            "core": "lstm",
            "core_kwargs": {"hidden_size": 6},
            "net_arch": [5],
            **options.pop("policy_kwargs", {}),
        },
        seed=0,
        device="cpu",
        **options,
    )
    randomize(agent.policy, scale=0.3)
    return agent, envs


def batch(space: spaces.Space[Any], number: int) -> Any:
    """Observations of several environments, as a vector gives them."""
    return stacked(space, [space.sample() for _ in range(number)])


def stacked(space: spaces.Space[Any], drawn: list[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: np.stack([each[key] for each in drawn]) for key in space.spaces}
    return np.stack(drawn)


def answers(agent: Any, observations: list[Any]) -> list[Any]:
    """Actions and states of deterministic play."""
    state: Any = None
    found = []
    for observation in observations:
        action, state = agent.predict(observation, state, deterministic=True)
        found += [action, *state]
    return found


def assert_comes_back(agent: Any, folder: Path) -> None:
    """From a .zip and from an export: equal spaces, parts in the same order, the same actions and states."""
    vars(agent).pop("train", None)  # what `check_rollouts` put there
    agent.save(folder / "agent.zip")
    (folder / "export").mkdir()
    write_exported(agent, folder / "export")
    agent.observation_space.seed(3)
    seen = [batch(agent.observation_space, 3) for _ in range(4)]
    expected = answers(agent, seen)
    for path in (folder / "agent.zip", folder / "export"):
        loaded = rimrl.load(path, env=agent.get_env(), device="cpu")
        assert loaded.observation_space == agent.observation_space
        assert loaded.action_space == agent.action_space
        if isinstance(agent.observation_space, spaces.Dict):
            assert isinstance(loaded.observation_space, spaces.Dict)
            assert list(loaded.observation_space.spaces) == list(agent.observation_space.spaces)
        for known, found in zip(expected, answers(loaded, seen), strict=True):
            np.testing.assert_array_equal(found, known)
        loaded.learn(N_ENVS * loaded.n_steps)


def assert_in_space(agent: Any, observations: Any, actions: spaces.Space[Any]) -> None:
    """What `predict` answers to several environments and to one is in the action space."""
    for deterministic in (True, False):
        found, _ = agent.predict(observations, deterministic=deterministic)
        assert found.shape == (3, *(actions.shape or ()))
        assert found.dtype == actions.dtype
        for each in found:
            assert actions.contains(np.asarray(each) if isinstance(actions, spaces.Box) else each)
        one = {k: v[0] for k, v in observations.items()} if isinstance(observations, dict) else observations[0]
        alone, _ = agent.predict(one, deterministic=deterministic)
        assert actions.contains(alone)


# -- observations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKING_OBSERVATIONS)
def test_observations_work(name: str, tmp_path: Path) -> None:
    space = OBSERVATIONS[name].space
    agent, _ = make(space, PLAIN_ACTIONS)
    check_rollouts(agent, tol=1e-4)
    agent.learn(N_ENVS * agent.n_steps)
    randomize(agent.policy, scale=0.3)
    assert_in_space(agent, batch(agent.observation_space, 3), PLAIN_ACTIONS)
    assert_comes_back(agent, tmp_path)


@pytest.mark.parametrize("name", WORKING_OBSERVATIONS)
def test_observations_are_read_as_their_space_says(name: str) -> None:
    """Choices one-hot from their start, parts in the order of the Dict, numbers as they are."""
    agent, _ = make(OBSERVATIONS[name].space, PLAIN_ACTIONS)
    space = agent.observation_space
    if is_image_space(space) or (isinstance(space, spaces.Dict) and any(map(is_image_space, space.spaces.values()))):
        pytest.skip("convolutions read it")
    space.seed(1)
    drawn: list[Any] = [space.sample() for _ in range(5)]
    together = stacked(space, drawn)
    obs, _ = agent.policy.obs_to_tensor(together)
    features = agent.policy.extract_features(obs)
    assert isinstance(features, th.Tensor)
    expected = np.stack([encoded(space, each) for each in drawn]).astype(np.float32)
    np.testing.assert_array_equal(features.numpy(), expected)


@pytest.mark.parametrize("name", [name for name, row in OBSERVATIONS.items() if row.refusal is not None])
def test_observations_are_refused_before_there_is_an_agent(name: str) -> None:
    space, refusal = OBSERVATIONS[name]
    assert_refused(space, PLAIN_ACTIONS, refusal)


# -- actions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKING_ACTIONS)
def test_actions_work(name: str, tmp_path: Path) -> None:
    """The environment, which refuses every other action, gets those that were stored, in the space's own numbers."""
    space = ACTIONS[name].space
    agent, envs = make(PLAIN_OBSERVATIONS, space)
    check_rollouts(agent, rollouts=1)
    stored = agent.rollout_buffer.actions
    received = np.stack([np.stack(env.received) for env in envs], axis=1).reshape(stored.shape)
    if isinstance(space, spaces.Box):
        expected = np.clip(stored, space.low.reshape(-1).astype(float), space.high.reshape(-1).astype(float))
        rounded = expected if space.dtype.kind == "f" else np.rint(expected)
        np.testing.assert_allclose(received.astype(float), rounded, rtol=1e-3 if space.dtype == np.float16 else 1e-6)
    else:
        np.testing.assert_array_equal(received, stored)
    agent.learn(N_ENVS * agent.n_steps)
    randomize(agent.policy, scale=0.3)
    assert_in_space(agent, batch(PLAIN_OBSERVATIONS, 3), space)
    assert_comes_back(agent, tmp_path)


@pytest.mark.parametrize("name", [name for name, row in ACTIONS.items() if row.refusal is not None])
def test_actions_are_refused_before_there_is_an_agent(name: str) -> None:
    space, refusal = ACTIONS[name]
    assert_refused(PLAIN_OBSERVATIONS, space, refusal)


def assert_refused(observations: spaces.Space[Any], actions: spaces.Space[Any], refusal: str | None) -> None:
    assert refusal is not None
    with pytest.raises(UsageError) as caught:
        rimrl.RecurrentPPO(policy_for(observations), Witness(observations, actions), device="cpu")
    message = str(caught.value)
    assert refusal in message
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize("name", ["Discrete from 5", "Discrete from -2", "Discrete of int8"])
def test_every_choice_reaches_the_environment(name: str) -> None:
    space = ACTIONS[name].space
    assert isinstance(space, spaces.Discrete)
    agent, envs = make(PLAIN_OBSERVATIONS, space)
    agent.learn(8 * N_ENVS * agent.n_steps)
    received = {int(action) for env in envs for action in env.received}
    assert received == set(range(int(space.start), int(space.start) + int(space.n)))


def test_a_choice_has_the_probability_of_its_place() -> None:
    """Logit i is that of action start + i; of several choices each has its own start."""
    for space in (spaces.Discrete(4, start=-2), spaces.MultiDiscrete([2, 3], start=[4, -1])):
        agent, _ = make(PLAIN_OBSERVATIONS, space)
        policy = agent.policy
        obs, states, starts = th.randn(6, 3), policy.initial_states(6), th.ones(6)
        distribution, _ = policy.get_distribution(obs, states.pi, starts)
        with th.no_grad():
            latent, _ = policy.core(obs[None], states.pi, starts[None])
            logits = policy.action_net(policy.mlp_extractor.forward_actor(latent[0])).numpy().astype(float)
        actions = np.stack([np.atleast_1d(space.sample()) for _ in range(6)])
        first = np.atleast_1d(np.asarray(space.start))
        counts = np.atleast_1d(space.n if isinstance(space, spaces.Discrete) else space.nvec)
        expected = np.zeros(6)
        for i, (each, count) in enumerate(zip(first, counts, strict=True)):
            own = logits[:, sum(counts[:i]) : sum(counts[: i + 1])]
            assert own.shape[1] == count
            shares = np.exp(own) / np.exp(own).sum(axis=1, keepdims=True)
            expected += np.log(shares[np.arange(6), actions[:, i] - each])
        given = th.as_tensor(actions if isinstance(space, spaces.MultiDiscrete) else actions[:, 0])
        assert_close(distribution.log_prob(given), expected.astype(np.float32), "log_prob", 1e-5)


@pytest.mark.parametrize("name", ["Box of int8", "Box of uint8", "Box of bool", "Box of float64", "Box of one number"])
def test_squashed_actions_reach_both_bounds(name: str) -> None:
    """Bounds are not subtracted in the dtype of the space, where 127 - -128 is -1."""
    space = ACTIONS[name].space
    assert isinstance(space, spaces.Box)
    if name == "Box of int8":
        space = box(2, low=-128, high=127, dtype=np.int8)
    agent, envs = make(PLAIN_OBSERVATIONS, space, use_sde=True, policy_kwargs={"squash_output": True})
    low, high = space.low.astype(float), space.high.astype(float)
    for squashed, expected in ((-1.0, low), (0.0, (low + high) / 2.0), (1.0, high)):
        np.testing.assert_allclose(agent.policy.unscale_action(np.full((4, *space.shape), squashed))[0], expected)
    check_rollouts(agent, rollouts=1, tol=1e-4)
    stored = agent.rollout_buffer.actions
    received = np.stack([np.stack(env.received) for env in envs], axis=1).reshape(stored.shape).astype(float)
    stretched = low.reshape(-1) + (stored.astype(float) + 1.0) / 2.0 * (high - low).reshape(-1)
    np.testing.assert_allclose(received, stretched, atol=1e-5 if space.dtype.kind == "f" else 0.5 + 1e-4)


# -- policies in unmodified sb3-contrib -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["Discrete from 5", "MultiDiscrete from elsewhere", "Box of one number", "Dict of choices from elsewhere"]
)
def test_contrib_learns_with_the_policy(name: str) -> None:
    """Also where it sends on what the policy answers: a start is part of the answer."""
    observations = OBSERVATIONS[name].space
    actions = ACTIONS[name].space if name in ACTIONS else spaces.Discrete(2, start=3)
    envs = [Witness(observations, actions) for _ in range(N_ENVS)]
    agent = ContribRecurrentPPO(
        POLICIES[policy_for(observations)],
        DummyVecEnv([lambda env=env: env for env in envs]),  # type: ignore[misc]
        n_steps=16,
        batch_size=16,
        n_epochs=1,
        policy_kwargs={"core_kwargs": SMALL_RIM},
        device="cpu",
    )
    agent.learn(4 * N_ENVS * 16)
    received = np.stack([action for env in envs for action in env.received])
    if isinstance(actions, spaces.Discrete | spaces.MultiDiscrete):
        np.testing.assert_array_equal(received.min(axis=0), actions.start)
        assert (received.max(axis=0) > actions.start).all()


# -- policies that do not read what they are given --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "observations", "refusal"),
    [
        ("CnnPolicy", "Box", "needs images"),
        ("CnnPolicy", "Discrete", "needs images"),
        ("MultiInputPolicy", "Box", "needs Dict observations"),
        (RecurrentCorePolicy, "Dict", "use MultiInputPolicy"),
    ],
)
def test_a_policy_for_other_observations_is_refused(policy: Any, observations: str, refusal: str) -> None:
    with pytest.raises(UsageError, match=refusal):
        rimrl.RecurrentPPO(policy, Witness(OBSERVATIONS[observations].space, PLAIN_ACTIONS), device="cpu")


def test_small_images_are_read_flat() -> None:
    envs = DummyVecEnv([lambda: Witness(OBSERVATIONS["image of 7x7"].space, PLAIN_ACTIONS)])
    agent = rimrl.RecurrentPPO("MlpPolicy", envs, n_steps=8, batch_size=8, device="cpu")
    check_rollouts(agent)
    assert agent.policy.features_dim == 7 * 7 * 3


def test_spaces_are_refused_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_refused(PLAIN_OBSERVATIONS, spaces.Tuple([spaces.Discrete(2)]), "Tuple")
