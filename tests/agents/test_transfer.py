"""Starting from a trained agent: which weights are taken, what stays frozen while others learn, what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

import rimrl
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.agents.transfer import initialize_from
from rimrl.errors import UsageError
from tests.sb3.helpers import short_episodes

SIX = spaces.Discrete(6)
THREE = spaces.Discrete(3)
TRUNK = ("features_extractor", "pi_features_extractor", "vf_features_extractor", "lstm_actor", "lstm_critic")


def agent(
    trunk: str = "learned",
    actions: spaces.Space[Any] = SIX,
    core: str = "rim",
    algorithm: Any = rimrl.RecurrentPPO,
    seed: int = 0,
    **policy: Any,
) -> Any:
    options = {"hidden_size": 12, "num_units": 3, "num_active": 2} if core == "rim" else {"hidden_size": 12}
    lengths = {"n_steps": 8, "batch_size": 8, "n_epochs": 2} if algorithm is rimrl.RecurrentPPO else {"n_steps": 8}
    kwargs = {"core": core, "core_kwargs": options, "trunk": trunk, "net_arch": [7], **policy}
    env = short_episodes(2, actions)
    return algorithm("MlpPolicy", env, learning_rate=0.01, policy_kwargs=kwargs, seed=seed, device="cpu", **lengths)


def copied(policy: RecurrentCorePolicy) -> dict[str, th.Tensor]:
    return {key: value.clone() for key, value in policy.state_dict().items()}


def test_fine_tuning_starts_from_the_same_policy_and_value() -> None:
    source, target = agent(seed=1), agent(seed=2)
    initialize_from(target.policy, source.policy)
    ours, theirs = copied(target.policy), copied(source.policy)
    assert ours.keys() == theirs.keys()
    assert all(th.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize("actions", [THREE, spaces.Box(-1.0, 1.0, (2,), np.float32)])
def test_another_action_space_gets_a_new_head_of_its_own_shape(actions: spaces.Space[Any]) -> None:
    source, target = agent(seed=1), agent(actions=actions, seed=2)
    head = target.policy.action_net.weight.clone()
    initialize_from(target.policy, source.policy)
    ours, theirs = copied(target.policy), copied(source.policy)
    assert ours["action_net.weight"].shape == (3 if actions is THREE else 2, 7)
    assert th.equal(ours["action_net.weight"], head)
    for key in theirs.keys() - {"action_net.weight", "action_net.bias"}:
        assert th.equal(ours[key], theirs[key]), key


@pytest.mark.parametrize("sharing", ["shared", "separate"])
@pytest.mark.parametrize("trunk", ["frozen", "progressive"])
def test_a_frozen_trunk_takes_features_and_cores_and_keeps_its_heads(trunk: str, sharing: str) -> None:
    source = agent(seed=1, core_sharing=sharing)
    target = agent(trunk, THREE, seed=2, core_sharing=sharing)
    before = copied(target.policy)
    initialize_from(target.policy, source.policy)
    after, given = copied(target.policy), copied(source.policy)
    inside = "source." if trunk == "progressive" else ""
    taken = set()
    for key, value in given.items():
        module, _, rest = key.partition(".")
        if module in TRUNK:
            taken.add(f"{module}.{inside}{rest}")
            assert th.equal(after[f"{module}.{inside}{rest}"], value), key
    assert taken
    assert all(th.equal(after[key], before[key]) for key in before.keys() - taken)


@pytest.mark.parametrize("algorithm", [rimrl.RecurrentPPO, rimrl.RecurrentA2C])
@pytest.mark.parametrize(
    ("trunk", "sharing"),
    [
        ("frozen", "shared"),
        ("frozen", "separate"),
        ("frozen", "actor_only"),
        ("progressive", "shared"),
        ("progressive", "separate"),
    ],
)
def test_what_is_frozen_never_changes_and_the_rest_learns(trunk: str, sharing: str, algorithm: Any) -> None:
    target = agent(trunk, algorithm=algorithm, core_sharing=sharing)
    initialize_from(target.policy, agent(seed=1, core_sharing=sharing).policy)
    before = copied(target.policy)
    target.learn(64)
    after = copied(target.policy)
    frozen = {
        key for key in before if key.split(".")[0] in TRUNK and (trunk == "frozen" or key.split(".")[1] == "source")
    }
    assert frozen
    assert all(th.equal(before[key], after[key]) for key in frozen)
    parameters = dict(target.policy.named_parameters())
    changed = {key for key in parameters.keys() - frozen if not th.equal(before[key], after[key])}
    assert {"action_net.weight", "value_net.weight"} <= changed
    if trunk == "progressive":
        assert {key for key in parameters if "adapt" in key} <= changed
        assert any(key.startswith("lstm_actor.column.") for key in changed)
    # The optimiser has never heard of frozen weights: no momentum can move them later.
    moved = {key for key, parameter in parameters.items() if target.policy.optimizer.state.get(parameter)}
    assert moved
    assert moved.isdisjoint(frozen)


def test_no_momentum_comes_from_the_source() -> None:
    source = agent(seed=1)
    source.learn(32)
    assert source.policy.optimizer.state
    target = agent(seed=2)
    initialize_from(target.policy, source.policy)
    assert not target.policy.optimizer.state


def test_a_progressive_agent_without_lateral_connections_acts_like_its_new_column() -> None:
    plain, progressive = agent(seed=1), agent("progressive", seed=2)
    state = progressive.policy.state_dict()
    for key, value in plain.policy.state_dict().items():
        module, _, rest = key.partition(".")
        state[f"{module}.column.{rest}" if module in TRUNK else key] = value
    for key in state:
        if key.endswith(".U.weight"):
            state[key] = th.zeros_like(state[key])
    progressive.policy.load_state_dict(state)
    observations = th.randn(6, 4, 3)
    episode_starts = th.zeros(6, 4)
    actions = th.randint(6, (6, 4))
    answers = [
        each.policy.evaluate_sequences(observations, actions, each.policy.initial_states(4), episode_starts)
        for each in (plain, progressive)
    ]
    assert th.equal(answers[0].values, answers[1].values)
    assert th.equal(answers[0].log_prob, answers[1].log_prob)


@pytest.mark.parametrize("trunk", ["frozen", "progressive"])
def test_it_saves_and_loads_with_its_frozen_part(trunk: str, tmp_path: Path) -> None:
    made = agent(trunk)
    made.learn(32)
    made.save(tmp_path / "model.zip")
    loaded = rimrl.load(tmp_path / "model.zip", env=made.env, device="cpu")
    ours, theirs = copied(loaded.policy), copied(made.policy)
    assert ours.keys() == theirs.keys()
    assert all(th.equal(value, theirs[key]) for key, value in ours.items())
    frozen = {key for key, p in made.policy.named_parameters() if not p.requires_grad}
    assert {key for key, p in loaded.policy.named_parameters() if not p.requires_grad} == frozen
    loaded.learn(32)
    assert all(th.equal(copied(loaded.policy)[key], theirs[key]) for key in frozen)
    observation, state, other = np.ones((2, 3), np.float32), None, None
    made.policy.load_state_dict(loaded.policy.state_dict())
    for _ in range(3):
        action, state = made.predict(observation, state, deterministic=True)
        again, other = loaded.predict(observation, other, deterministic=True)
        np.testing.assert_array_equal(action, again)
        assert state is not None
        assert other is not None
        np.testing.assert_array_equal(state[0], other[0])


def test_observations_that_do_not_fit() -> None:
    wide = spaces.Box(-1.0, 1.0, (9,), np.float32)
    source = rimrl.RecurrentPPO("MlpPolicy", short_episodes(1, SIX, wide), n_steps=8, batch_size=8)
    target = agent()
    before = copied(target.policy)
    with pytest.raises(UsageError, match=r"runs/a, float32 \[9\].* got float32 \[3\]"):
        initialize_from(target.policy, source.policy, "runs/a")
    assert all(th.equal(value, before[key]) for key, value in copied(target.policy).items())


@pytest.mark.parametrize("trunk", ["learned", "frozen", "progressive"])
def test_networks_that_do_not_fit(trunk: str) -> None:
    target = agent(trunk)
    before = copied(target.policy)
    with pytest.raises(UsageError, match=r"network.*source"):
        initialize_from(target.policy, agent(core="lstm").policy)
    assert all(th.equal(value, before[key]) for key, value in copied(target.policy).items())


def test_a_trunk_that_does_not_exist_or_does_not_fit() -> None:
    with pytest.raises(UsageError, match=r"trunk.*'ice'"):
        agent("ice")
    with pytest.raises(UsageError, match=r"progressive.* needs core_sharing"):
        agent("progressive", core_sharing="actor_only")
