"""An LSTM core does what sb3-contrib's ``MlpLstmPolicy`` and ``RecurrentPPO`` do, number for number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.logger import configure
from torch import Tensor

import rimrl
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.agents.rollout import SequenceRolloutBuffer
from tests.sb3.helpers import (
    ACTION_SPACES,
    HIDDEN,
    Sharing,
    assert_close,
    contrib_policy_kwargs,
    copy_weights,
    core_name,
    gradients,
    learn_seeded,
    lstm_policy_kwargs,
    randomize,
    short_episodes,
    twins,
)

SHARINGS: tuple[Sharing, ...] = ("separate", "actor_only", "detached")
N_ENVS, N_STEPS = 3, 16
ROLLOUT = N_ENVS * N_STEPS

every_action_space = pytest.mark.parametrize("actions", ACTION_SPACES)
every_sharing = pytest.mark.parametrize("sharing", SHARINGS)


class Batch:
    """A padded minibatch of contrib's, with actions in the form that policies take."""

    def __init__(self, samples: Any, discrete: bool) -> None:
        self.observations: Tensor = samples.observations
        self.actions: Tensor = samples.actions.long().flatten() if discrete else samples.actions
        self.states: RNNStates = samples.lstm_states
        self.episode_starts: Tensor = samples.episode_starts
        self.mask: Tensor = samples.mask > 0.5

    @property
    def arguments(self) -> tuple[Tensor, Tensor, RNNStates, Tensor]:
        return self.observations, self.actions, self.states, self.episode_starts


def policy_of(model: ContribRecurrentPPO) -> RecurrentActorCriticPolicy:
    assert isinstance(model.policy, RecurrentActorCriticPolicy)
    return model.policy


def collected(contrib: ContribRecurrentPPO, monkeypatch: pytest.MonkeyPatch) -> RecurrentRolloutBuffer:
    """The second rollout of an untrained model: it begins in the middle of episodes, with states that are not zero."""
    monkeypatch.setattr(contrib, "train", lambda: None)
    learn_seeded(contrib, 2 * ROLLOUT)
    buffer = contrib.rollout_buffer
    assert isinstance(buffer, RecurrentRolloutBuffer)
    starts = buffer.episode_starts
    assert 0 < starts.sum() < starts.size / 2, "the experience must hold several episodes"
    assert not starts[0].all(), "some sequence must begin in the middle of an episode"
    assert np.abs(buffer.hidden_states_pi[0]).max() > 0
    return buffer


def without_shuffling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contrib then yields environment after environment, and cuts no sequence but where an episode starts."""
    monkeypatch.setattr(np.random, "randint", lambda *_: 0)


def evaluate_with_gradients(policy: RecurrentActorCriticPolicy, batch: Batch) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Values, log-probabilities and entropies of the real steps, and the gradient of a weighted sum of all of them."""
    values, log_prob, entropy = policy.evaluate_actions(*batch.arguments)
    assert entropy is not None
    outputs = [x.flatten()[batch.mask] for x in (values, log_prob, entropy)]
    weights = th.linspace(-1.0, 1.5, outputs[0].numel())
    policy.zero_grad()
    th.autograd.backward([((k + 1) * weights * x).mean() for k, x in enumerate(outputs)])
    return outputs, gradients(policy)


def assert_same_gradients(ours: dict[str, Tensor], contrib: dict[str, Tensor]) -> None:
    assert set(ours) == {core_name(name) for name in contrib}
    assert max(float(g.abs().max()) for g in contrib.values()) > 1e-3
    for name, expected in contrib.items():
        assert_close(ours[core_name(name)], expected, f"gradient of {name}")


@every_sharing
@every_action_space
def test_evaluate_actions_on_padded_minibatches(
    actions: str, sharing: Sharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    contrib, ours = twins(sharing, ACTION_SPACES[actions], N_ENVS)
    buffer = collected(contrib, monkeypatch)
    padded = mid_episode = 0
    for samples in buffer.get(batch_size=11):
        batch = Batch(samples, actions == "discrete")
        padded += int((~batch.mask).sum())
        mid_episode += int(batch.episode_starts.view(batch.states.pi[0].shape[1], -1)[:, 0].sum() == 0)
        expected, expected_gradients = evaluate_with_gradients(policy_of(contrib), batch)
        found, found_gradients = evaluate_with_gradients(ours.policy, batch)
        for name, a, b in zip(("values", "log_prob", "entropy"), found, expected, strict=True):
            assert_close(a, b, name)
        assert_same_gradients(found_gradients, expected_gradients)
    assert padded > 0


def test_padding_and_all_shapes_match_too(monkeypatch: pytest.MonkeyPatch) -> None:
    contrib, ours = twins("separate", ACTION_SPACES["discrete"], N_ENVS)
    for samples in collected(contrib, monkeypatch).get(batch_size=11):
        batch = Batch(samples, discrete=True)
        for a, b in zip(
            ours.policy.evaluate_actions(*batch.arguments),
            policy_of(contrib).evaluate_actions(*batch.arguments),
            strict=True,
        ):
            assert a is not None
            assert b is not None
            assert_close(a, b, "padded output")


@every_sharing
@every_action_space
@pytest.mark.parametrize("deterministic", [True, False])
def test_forward(actions: str, sharing: Sharing, deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    contrib, ours = twins(sharing, ACTION_SPACES[actions], N_ENVS)
    buffer = collected(contrib, monkeypatch)
    assert buffer.observations.shape[:2] == (N_STEPS, N_ENVS)
    states = _states_at(buffer, 0)
    for t in range(N_STEPS):
        obs, starts = th.as_tensor(buffer.observations[t]), th.as_tensor(buffer.episode_starts[t])
        critic_state = (states.vf[0], states.vf[1])
        th.manual_seed(t)
        expected = contrib.policy(obs, states, starts, deterministic)
        th.manual_seed(t)
        found = ours.policy(obs, states, starts, deterministic)
        for name, a, b in zip(("actions", "values", "log_prob"), found, expected, strict=False):
            assert_close(a, b, name)
        for a, b in zip((*found[3].pi, *found[3].vf), (*expected[3].pi, *expected[3].vf), strict=True):
            assert_close(a, b, "state")
        assert_close(
            ours.policy.predict_values(obs, critic_state, starts),
            policy_of(contrib).predict_values(obs, critic_state, starts),
            "predict_values",
        )
        states = expected[3]


@every_sharing
@every_action_space
def test_predict(actions: str, sharing: Sharing) -> None:
    contrib, ours = twins(sharing, ACTION_SPACES[actions], N_ENVS)
    rng = np.random.default_rng(0)
    found_state = expected_state = None
    for t in range(12):
        obs = rng.uniform(-1, 1, (N_ENVS, 3)).astype(np.float32)
        starts = rng.random(N_ENVS) < 0.3 if t % 3 else None
        expected, expected_state = contrib.policy.predict(obs, expected_state, starts, deterministic=True)
        found, found_state = ours.policy.predict(obs, found_state, starts, deterministic=True)
        assert_close(found, expected, "actions")
        assert found.dtype == expected.dtype
        assert found_state is not None
        assert expected_state is not None
        for a, b in zip(found_state, expected_state, strict=True):
            assert_close(a, b, "state")


def test_shared_core_acts_like_contribs_and_lets_the_values_teach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    space = ACTION_SPACES["discrete"]
    contrib = ContribRecurrentPPO(
        "MlpLstmPolicy",
        short_episodes(N_ENVS, space),
        n_steps=N_STEPS,
        policy_kwargs=contrib_policy_kwargs("shared"),
        device="cpu",
    )
    ours = rimrl.RecurrentPPO(
        "MlpPolicy", short_episodes(N_ENVS, space), policy_kwargs=lstm_policy_kwargs("shared"), device="cpu"
    )
    randomize(contrib.policy)
    copy_weights(contrib.policy, ours.policy)
    (samples,) = collected(contrib, monkeypatch).get()
    batch = Batch(samples, discrete=True)

    expected, found = (policy.evaluate_actions(*batch.arguments) for policy in (policy_of(contrib), ours.policy))
    for a, b in zip(found, expected, strict=True):
        assert a is not None
        assert b is not None
        assert_close(a, b, "output")
    th.autograd.backward(expected[1].mean())
    th.autograd.backward(found[1].mean())
    assert_same_gradients(gradients(ours.policy), gradients(contrib.policy))

    for policy in (policy_of(contrib), ours.policy):
        policy.zero_grad()
        th.autograd.backward(policy.evaluate_actions(*batch.arguments)[0].mean())
    assert not any(p.grad is not None and p.grad.any() for p in policy_of(contrib).lstm_actor.parameters())
    assert all(p.grad is not None and bool(p.grad.any()) for p in ours.policy.core.parameters())


# -- the path without padding -----------------------------------------------------------------------------------------


def _states_at(buffer: RecurrentRolloutBuffer, t: int) -> RNNStates:
    pi = (th.as_tensor(buffer.hidden_states_pi[t]), th.as_tensor(buffer.cell_states_pi[t]))
    vf = (th.as_tensor(buffer.hidden_states_vf[t]), th.as_tensor(buffer.cell_states_vf[t]))
    return RNNStates(pi, vf)


def replayed(buffer: RecurrentRolloutBuffer, ours: rimrl.RecurrentPPO, sequence_length: int) -> SequenceRolloutBuffer:
    """Contrib's experience, step by step, in our buffer."""
    copy = SequenceRolloutBuffer(
        N_STEPS, ours.observation_space, ours.action_space, "cpu", n_envs=N_ENVS, sequence_length=sequence_length
    )
    for t in range(N_STEPS):
        copy.add(
            buffer.observations[t],
            buffer.actions[t],
            buffer.rewards[t],
            buffer.episode_starts[t],
            th.as_tensor(buffer.values[t])[:, None],
            th.as_tensor(buffer.log_probs[t]),
            _states_at(buffer, t),
        )
    return copy


def time_major(per_sequence: Tensor, sequence_length: int) -> NDArray[Any]:
    """``[L, S]``, chunk after chunk of the rollout, as ``[n_steps, n_envs]``."""
    chunks = per_sequence.detach().numpy().reshape(sequence_length, -1, N_ENVS)
    return np.concatenate(list(chunks.swapaxes(0, 1)))


@every_sharing
@every_action_space
@pytest.mark.parametrize("sequence_length", [N_STEPS, 4, 1])
def test_sequences_without_padding_match_the_padded_minibatch(
    actions: str, sharing: Sharing, sequence_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    contrib, ours = twins(sharing, ACTION_SPACES[actions], N_ENVS)
    buffer = collected(contrib, monkeypatch)
    (sequences,) = replayed(buffer, ours, sequence_length).get()
    without_shuffling(monkeypatch)
    (samples,) = buffer.get()
    batch = Batch(samples, actions == "discrete")
    assert not batch.mask.all()
    expected = policy_of(contrib).evaluate_actions(*batch.arguments)
    found = ours.policy.evaluate_sequences(
        sequences.observations, sequences.actions, sequences.states, sequences.episode_starts
    )
    assert found.values.shape == (sequence_length, ROLLOUT // sequence_length)
    assert found.entropy is not None
    for name, a, b in zip(
        ("values", "log_prob", "entropy"), (found.values, found.log_prob, found.entropy), expected, strict=True
    ):
        assert b is not None
        by_environment = b.flatten()[batch.mask].view(N_ENVS, N_STEPS)
        assert_close(time_major(a, sequence_length), by_environment.t(), name)
    assert_close(time_major(found.values, sequence_length), buffer.values.reshape(N_ENVS, -1).T, "collected values")


@every_sharing
@every_action_space
@pytest.mark.parametrize("normalize_advantage", [True, False])
def test_one_update_moves_the_weights_as_contribs_does(
    actions: str, sharing: Sharing, normalize_advantage: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_same_training(
        1,
        monkeypatch,
        twins(
            sharing,
            ACTION_SPACES[actions],
            N_ENVS,
            batch_size=ROLLOUT,
            n_epochs=1,
            normalize_advantage=normalize_advantage,
            ent_coef=0.03,
        ),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"max_grad_norm": 100.0, "ent_coef": 0.1},
        {"clip_range": 0.02, "clip_range_vf": 0.05, "gamma": 0.9, "gae_lambda": 0.7},
        {"learning_rate": lambda progress: 1e-3 * progress, "clip_range": lambda progress: 0.1 + 0.2 * progress},
        {"target_kl": 1e-4, "learning_rate": 1e-3},
    ],
    ids=["entropy", "clipping", "schedules", "target_kl"],
)
def test_several_updates_stay_together(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = twins("separate", ACTION_SPACES["discrete"], N_ENVS, batch_size=ROLLOUT, n_epochs=3, **options)
    assert_same_training(3, monkeypatch, pair, tol=1e-5)


def assert_same_training(
    rollouts: int,
    monkeypatch: pytest.MonkeyPatch,
    pair: tuple[ContribRecurrentPPO, rimrl.RecurrentPPO],
    tol: float = 1e-6,
) -> None:
    """Both models play and learn on their own; experience, advantages, gradients, weights and log must agree."""
    contrib, ours = pair
    without_shuffling(monkeypatch)
    before = {name: value.clone() for name, value in contrib.policy.state_dict().items()}
    for model in pair:
        model.set_logger(configure(None, []))
        learn_seeded(model, rollouts * ROLLOUT)

    theirs, own = contrib.rollout_buffer, ours.rollout_buffer
    for name in (
        "observations",
        "actions",
        "rewards",
        "episode_starts",
        "values",
        "log_probs",
        "advantages",
        "returns",
    ):
        flat = getattr(theirs, name)  # contrib's minibatches left it [n_envs * n_steps, ...]
        expected = flat if name == "rewards" else flat.reshape(N_ENVS, N_STEPS, -1).swapaxes(0, 1)
        found = getattr(own, name)
        assert_close(found.reshape(expected.shape), expected, name, tol)

    assert_same_gradients_within(gradients(ours.policy), gradients(contrib.policy), 10 * tol if rollouts > 1 else tol)
    found_weights = ours.policy.state_dict()
    moved = 0.0
    for name, expected_weight in contrib.policy.state_dict().items():
        assert_close(found_weights[core_name(name)], expected_weight, name, tol)
        moved = max(moved, float((expected_weight - before[name]).abs().max()))
    assert moved > 1e-4

    expected_log, found_log = contrib.logger.name_to_value, ours.logger.name_to_value
    train_keys = {key for key in expected_log if key.startswith("train/")}
    assert len(train_keys) >= 8
    assert train_keys == {key for key in found_log if key.startswith("train/")}
    for key in train_keys:
        assert found_log[key] == pytest.approx(expected_log[key], abs=10 * tol, rel=10 * tol), key


def assert_same_gradients_within(ours: dict[str, Tensor], contrib: dict[str, Tensor], tol: float) -> None:
    for name, expected in contrib.items():
        assert_close(ours[core_name(name)], expected, f"gradient of {name}", tol)


def test_truncated_episodes_are_bootstrapped_with_the_value_of_their_last_observation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reward of a step where time ran out, against contrib's and against the value worked out by hand."""
    contrib, ours = twins("separate", ACTION_SPACES["discrete"], N_ENVS, batch_size=ROLLOUT)
    raw: list[NDArray[Any]] = []
    cuts = 0
    for model in (contrib, ours):
        monkeypatch.setattr(model, "train", lambda: None)
        env = model.get_env()
        assert env is not None
        step = env.step_wait

        def spy(step: Any = step, keep: bool = model is ours) -> Any:
            nonlocal cuts
            obs, rewards, dones, infos = step()
            if keep:
                raw.append(rewards.copy())
                cuts += sum(info.get("TimeLimit.truncated", False) for info in infos)
            return obs, rewards, dones, infos

        monkeypatch.setattr(env, "step_wait", spy)
        learn_seeded(model, ROLLOUT)
    assert cuts > 2
    assert_close(ours.rollout_buffer.rewards, contrib.rollout_buffer.rewards, "rewards")
    added = np.abs(ours.rollout_buffer.rewards - np.stack(raw)) > 1e-6
    assert added.sum() == cuts
    assert_close(ours.rollout_buffer.returns, contrib.rollout_buffer.returns, "returns")
    assert_close(ours.rollout_buffer.advantages, contrib.rollout_buffer.advantages, "advantages")


def test_parameters_and_state_shapes_are_contribs() -> None:
    contrib, ours = twins("separate", ACTION_SPACES["discrete"])
    assert isinstance(ours.policy, RecurrentCorePolicy)
    expected = {core_name(name): tuple(p.shape) for name, p in contrib.policy.named_parameters()}
    assert {name: tuple(p.shape) for name, p in ours.policy.named_parameters()} == expected
    assert ours.policy.lstm_hidden_state_shape == contrib.policy.lstm_hidden_state_shape == (1, 1, HIDDEN)
