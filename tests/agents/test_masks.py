"""Masks of invalid actions: sb3-contrib's numbers, and no invalid action anywhere."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from sb3_contrib.common.maskable.distributions import make_masked_proba_distribution
from sb3_contrib.common.maskable.utils import is_masking_supported
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from torch import Tensor

import rimrl
from benchmarks.masks import compare
from rimrl.agents.masked_play import MaskableEvalCallback, MaskedPlayer
from rimrl.agents.masks import as_masks, flags_of, masked, sample_valid
from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm
from rimrl.agents.saved.exported import load_exported, write_exported
from rimrl.errors import UsageError
from tests.masked import ACTION_SPACES, AllValid, Forbidding, Unmasked, drawn_mask, is_valid
from tests.sb3.helpers import randomize

LSTM = {"core": "lstm", "core_kwargs": {"hidden_size": 8}, "net_arch": [7]}
ALGORITHMS: dict[str, Any] = {
    "ppo": partial(rimrl.RecurrentPPO, n_steps=32, batch_size=32, sequence_length=8, n_epochs=2),
    "a2c": partial(rimrl.RecurrentA2C, n_steps=16),
}
each_space = pytest.mark.parametrize("kind", ACTION_SPACES)


def vector(kind: str = "discrete", n_envs: int = 3, **options: Any) -> DummyVecEnv:
    return DummyVecEnv([partial(Forbidding, kind, **options)] * n_envs)


def make(env: VecEnv, name: str = "ppo", use_masking: bool = True, **options: Any) -> RecurrentOnPolicyAlgorithm:
    kwargs = {"seed": 0, "device": "cpu", "policy_kwargs": LSTM, "ent_coef": 0.01, **options}
    agent = ALGORITHMS[name]("MlpPolicy", env, use_masking=use_masking, **kwargs)
    assert isinstance(agent, RecurrentOnPolicyAlgorithm)
    return agent


def for_contrib(logits: Tensor, space: spaces.Space[Any]) -> Tensor:
    """Contrib's MultiBinary has a logit for each of 0 and 1, SB3's the difference alone."""
    return th.stack([th.zeros_like(logits), logits], -1).flatten(1) if isinstance(space, spaces.MultiBinary) else logits


def valid_actions(space: spaces.Space[Any], masks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.stack([sample_valid(space, mask) for mask in masks])


# -- numbers ----------------------------------------------------------------------------------------------------------


@each_space
def test_probabilities_entropies_and_modes_are_contribs(kind: str) -> None:
    """Of a whole sequence at once, against contrib's distribution over the logits of one step after the other."""
    T, B = 6, 4
    agent, space, rng = make(vector(kind, B)), ACTION_SPACES[kind], np.random.default_rng(0)
    policy = agent.policy
    randomize(policy, scale=1.0)
    masks = np.stack([[drawn_mask(space, rng) for _ in range(B)] for _ in range(T)])
    space.seed(0)
    actions = np.stack([valid_actions(space, each) for each in masks])
    obs = th.as_tensor(rng.normal(size=(T, B, masks.shape[-1] + 1)), dtype=th.float32)
    found = policy.evaluate_sequences(
        obs,
        th.as_tensor(actions, dtype=th.int64 if "discrete" in kind else th.float32),
        policy.initial_states(B),
        th.zeros(T, B, dtype=th.bool),
        action_masks=th.as_tensor(masks),
    )
    state = policy.core.initial_state(B)
    theirs = make_masked_proba_distribution(space)
    for t in range(T):
        latent, state = policy.core.step(obs[t], state)
        logits = for_contrib(policy.action_net(policy.mlp_extractor.policy_net(latent)), space)
        theirs.proba_distribution(logits)
        theirs.apply_masking(masks[t].astype(np.float32))
        from_zero = th.as_tensor(actions[t] - getattr(space, "start", 0))
        th.testing.assert_close(found.log_prob[t], theirs.log_prob(from_zero))
        assert found.entropy is not None
        th.testing.assert_close(found.entropy[t], theirs.entropy())
        if t == 0:
            modes, _ = agent.predict(obs[0].numpy(), deterministic=True, action_masks=masks[0])
            np.testing.assert_array_equal(modes - getattr(space, "start", 0), theirs.mode().numpy())


@each_space
def test_gradients_are_contribs(kind: str) -> None:
    space, rng = ACTION_SPACES[kind], np.random.default_rng(1)
    policy = make(vector(kind)).policy
    masks = np.stack([drawn_mask(space, rng) for _ in range(5)])
    width = policy.action_net(th.zeros(1, 7)).shape[1]
    logits = th.randn(5, width, generator=th.Generator().manual_seed(0))
    actions = valid_actions(space, masks)

    def gradient(distribution: Any, taken: Any, given: Tensor) -> Tensor:
        (distribution.log_prob(th.as_tensor(taken)) + 0.3 * distribution.entropy()).sum().backward()
        assert given.grad is not None
        return given.grad

    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    found = policy.action_dist.proba_distribution(masked(ours, masks, space))
    expected = make_masked_proba_distribution(space).proba_distribution(for_contrib(theirs, space))
    expected.apply_masking(masks)
    taken = actions if "discrete" in kind else actions.astype(np.float32)
    of_contrib = gradient(expected, actions - getattr(space, "start", 0), theirs)
    th.testing.assert_close(gradient(found, taken, ours), of_contrib)
    assert bool(of_contrib.ne(0).any())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_masks_that_allow_everything_change_nothing(name: str) -> None:
    learned = []
    for kind in (AllValid, Unmasked):
        agent = make(DummyVecEnv([kind] * 2), name, use_masking=kind is AllValid)
        agent.learn(192)
        learned.append(agent.policy.state_dict())
    for key, value in learned[0].items():
        assert th.equal(learned[1][key], value), key


# -- play -------------------------------------------------------------------------------------------------------------


@each_space
@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_invalid_action_is_taken(kind: str, name: str) -> None:
    """The environments break at the first one; logits are large, so that invalid actions would be the likeliest."""
    env = vector(kind, n_envs=16)
    options: dict[str, Any] = {"batch_size": 256} if name == "ppo" else {}
    agent = make(env, name, learning_rate=1e-3, **options)
    randomize(agent.policy, scale=3.0)
    agent.learn(1000)
    player = MaskedPlayer(agent, env)
    for deterministic in (True, False):
        evaluate_policy(player, env, 100, deterministic=deterministic, warn=False)
    assert sum(each.unwrapped.steps for each in env.envs) > 1000 + 2 * 100 * 3  # type: ignore[attr-defined]


@each_space
def test_minibatches_hold_the_masks_of_their_steps(kind: str) -> None:
    """Of shuffled sequences: actions are valid, and under the masks as likely as when they were taken."""
    agent, space = make(vector(kind)), ACTION_SPACES[kind]
    seen = 0

    def check() -> None:
        nonlocal seen
        agent.policy.set_training_mode(False)
        for batch in agent.rollout_buffer.get(16):
            assert batch.action_masks is not None
            assert isinstance(batch.observations, Tensor)
            assert th.equal(batch.observations[..., :-1].bool(), batch.action_masks)
            flat = zip(batch.actions.flatten(0, 1).numpy(), batch.action_masks.flatten(0, 1).numpy(), strict=True)
            assert all(is_valid(action, mask, space) for action, mask in flat)
            found = agent.policy.evaluate_sequences(
                *(batch.observations, batch.actions, batch.states, batch.episode_starts),
                action_masks=batch.action_masks,
            )
            th.testing.assert_close(found.log_prob, batch.old_log_prob, atol=2e-5, rtol=1e-4)
            seen += batch.old_log_prob.numel()

    agent.train = check  # type: ignore[method-assign]
    agent.learn(192)
    assert seen == 192


def test_wrapped_environments_and_processes_of_their_own_give_the_same() -> None:
    assert not is_masking_supported(Hidden())

    def hidden() -> gymnasium.Env[Any, Any]:
        return gymnasium.wrappers.TimeLimit(ActionMasker(Hidden(), valid_of), 6)

    learned = []
    for env in (
        DummyVecEnv([hidden] * 2),
        SubprocVecEnv([hidden] * 2),
        DummyVecEnv([lambda: gymnasium.wrappers.TimeLimit(Forbidding(), 6)] * 2),
    ):
        agent = make(env)
        agent.learn(128)
        env.close()
        learned.append(agent.policy.state_dict())
    for key, value in learned[0].items():
        assert all(th.equal(each[key], value) for each in learned[1:]), key


class Hidden(gymnasium.Wrapper[Any, Any, Any, Any]):
    """`Forbidding` whose masks have another name."""

    def __init__(self) -> None:
        super().__init__(Forbidding())

    def get_wrapper_attr(self, name: str) -> Any:
        if name == "action_masks":
            raise AttributeError(name)
        return super().get_wrapper_attr(name)


def valid_of(env: gymnasium.Env[Any, Any]) -> Any:
    return env.unwrapped._mask  # type: ignore[attr-defined]


def test_one_observation_and_a_batch_are_masked_alike() -> None:
    agent, rng = make(vector("multi_discrete")), np.random.default_rng(2)
    randomize(agent.policy, scale=2.0)
    space = ACTION_SPACES["multi_discrete"]
    obs = rng.normal(size=(3, 10)).astype(np.float32)
    masks = np.stack([drawn_mask(space, rng) for _ in range(3)])
    together, _ = agent.predict(obs, deterministic=True, action_masks=masks)
    for each in range(3):
        alone, _ = agent.predict(obs[each], deterministic=True, action_masks=masks[each])
        np.testing.assert_array_equal(alone, together[each])
        alone, _ = agent.predict(obs[[each]], deterministic=True, action_masks=masks[[each]])
        np.testing.assert_array_equal(alone, together[[each]])


@each_space
def test_random_actions_are_all_the_valid_ones(kind: str) -> None:
    space, rng = ACTION_SPACES[kind], np.random.default_rng(3)
    mask = drawn_mask(space, rng)
    space.seed(0)
    drawn = {tuple(np.atleast_1d(sample_valid(space, mask)).tolist()) for _ in range(600)}
    parts = np.split(mask, np.cumsum(flags_of(space))[:-1])
    assert len(drawn) == int(np.prod([part.sum() for part in parts]))
    assert all(is_valid(np.array(action), mask, space) for action in drawn)


# -- evaluations during training --------------------------------------------------------------------------------------


def test_evaluations_during_training_are_masked() -> None:
    env, unseen = vector(), vector(n_envs=2)
    agent = make(env)
    randomize(agent.policy, scale=3.0)
    callback = MaskableEvalCallback(unseen, eval_freq=32, n_eval_episodes=4, deterministic=True, verbose=0, warn=False)
    agent.learn(192, callback=callback)
    assert sum(each.unwrapped.steps for each in unseen.envs) >= 8 * 3  # type: ignore[attr-defined]
    assert callback.model is agent
    with pytest.raises(UsageError, match="action_masks"):
        agent.learn(96, callback=EvalCallback(unseen, eval_freq=32, verbose=0, warn=False))
    with pytest.raises(UsageError, match=r"environment.*played"):
        agent.learn(96, callback=MaskableEvalCallback(DummyVecEnv([Unmasked]), eval_freq=32, verbose=0, warn=False))


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_files_keep_the_switch(name: str, tmp_path: Path) -> None:
    agent, obs = make(vector(), name), np.ones((1, 7), np.float32)
    agent.save(tmp_path / "agent.zip")
    write_exported(agent, tmp_path)
    mask = np.array([[0, 0, 0, 1, 0, 0]])
    for again in (
        rimrl.load(tmp_path / "agent.zip"),
        type(agent).load(tmp_path / "agent.zip"),
        load_exported(tmp_path),
    ):
        assert again.use_masking is True
        assert again.predict(obs, action_masks=mask)[0] == 3
        with pytest.raises(UsageError, match="pass action_masks"):
            again.predict(obs)
    with pytest.raises(UsageError, match=r"training environment"):
        rimrl.load(tmp_path / "agent.zip", env=DummyVecEnv([Unmasked]))
    plain = make(vector(), name, use_masking=False)
    plain.save(tmp_path / "plain.zip")
    assert rimrl.load(tmp_path / "plain.zip").use_masking is False


def test_contrib_loads_an_agent_with_masks(tmp_path: Path) -> None:
    agent, obs = make(vector()), np.ones((2, 7), np.float32)
    agent.save(tmp_path / "agent.zip")
    theirs = ContribRecurrentPPO.load(tmp_path / "agent.zip")
    np.testing.assert_array_equal(
        theirs.predict(obs, deterministic=True)[0], agent.policy.predict(obs, deterministic=True)[0]
    )


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_environments_without_masks_are_refused_before_the_work() -> None:
    with pytest.raises(UsageError, match=r"training environment"):
        make(DummyVecEnv([Unmasked]))
    with pytest.raises(UsageError, match="Discrete"):
        make(DummyVecEnv([partial(Forbidding, "box")]))
    agent = make(vector(n_envs=1))
    agent.set_env(DummyVecEnv([Unmasked]))
    with pytest.raises(UsageError, match=r"training environment"):
        agent.learn(32)
    assert agent.num_timesteps == 0
    with pytest.raises(UsageError, match=r"use_masking.*true.*false"):
        make(vector(), use_masking="yes")  # type: ignore[arg-type]


def test_a_mask_that_forbids_everything_names_the_environment_and_the_step() -> None:
    env = DummyVecEnv([Forbidding, partial(Forbidding, everything_at=5)])
    with pytest.raises(UsageError, match=r"10.*environment 1 forbids"):
        make(env).learn(64)
    env = DummyVecEnv([partial(Forbidding, "multi_discrete", everything_at=2)])
    with pytest.raises(UsageError, match=r"2.*environment 0 forbids.*0"):
        make(env).learn(64)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ([True] * 5, r"environment 0 must be 6 flags for Discrete\(6\), got \[5\]"),
        (True, r"environment 0 .*got \[\]"),
        (None, r"environment 0 .*got \[\]"),
        ([0.1, 0.2, 0.3, 0.1, 0.2, 0.1], r"true.*false"),
        (["yes"] * 6, r"true.*false"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: Any, said: str) -> None:
    class Wrong(Forbidding):
        def action_masks(self) -> Any:
            return mask

    with pytest.raises(UsageError, match=said):
        make(DummyVecEnv([Wrong])).learn(32)


def test_masks_of_other_observations_are_refused() -> None:
    space = ACTION_SPACES["multi_binary"]
    with pytest.raises(UsageError, match=r"8 flags.*3 observations.*\[2, 8\]"):
        as_masks(np.ones((2, 8)), space, 3)
    with pytest.raises(UsageError, match=r"8 flags.*2 observations.*\[\]"):
        as_masks(np.array(1), space, 2)
    with pytest.raises(UsageError, match=r"environment 0 .*got \[2, 4\]"):
        as_masks(np.ones((1, 2, 4)), space, 1)  # the other way round
    rows = [[1, 0], [0, 1], [1, 1], [1, 0]]
    np.testing.assert_array_equal(as_masks(rows, space, 1), [np.ravel(rows).astype(bool)])
    agent = make(vector())
    with pytest.raises(UsageError, match=r"\[3, 6\] for Discrete\(6\)"):
        agent.policy(th.zeros(3, 7), agent.policy.initial_states(3), th.zeros(3), action_masks=np.ones((2, 6), bool))


# -- what they bring --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_agent_with_masks_learns_at_least_twice_as_fast() -> None:
    """Nine of ten actions are invalid, and the right valid one has to be remembered."""
    found = compare(seeds=3, most=60_000)
    assert None not in found["steps"]["masks"]
    assert found["mean_ratio"]["value"] >= 2
