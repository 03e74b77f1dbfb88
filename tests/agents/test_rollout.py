"""The rollout storage: what goes in comes out once, at its place, cut into sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from torch import Tensor

import rimrl
from rimrl.agents.rollout import SequenceRolloutBuffer, SequenceSamples
from rimrl.errors import UsageError
from tests.sb3.helpers import SMALL_RIM, check_rollouts, short_episodes

N_STEPS, N_ENVS, LAYERS, HIDDEN = 12, 5, 2, 3
LENGTHS = (1, 3, 4, 12)

VECTOR = spaces.Box(-np.inf, np.inf, (2,), np.float32)
DISCRETE = spaces.Discrete(1_000)


def stamp(t: int, env: int) -> int:
    """A number that tells a step of the rollout from every other."""
    return t * N_ENVS + env


def stamps(t: int) -> NDArray[np.int64]:
    return np.array([stamp(t, env) for env in range(N_ENVS)])


def state_of(t: int, offset: float) -> Tensor:
    """``[layers, n_envs, hidden]``, the stamp of each step plus a hundredth of the layer and of the offset."""
    layers = th.arange(LAYERS)[:, None, None] / 100.0
    return (th.as_tensor(stamps(t))[None, :, None] + layers + offset / 10_000.0).expand(-1, -1, HIDDEN).clone().float()


def states_of(t: int) -> RNNStates:
    return RNNStates((state_of(t, 0), state_of(t, 1)), (state_of(t, 2), state_of(t, 3)))


def starts_of(t: int) -> NDArray[np.bool_]:
    return np.array([stamp(t, env) % 7 == 0 for env in range(N_ENVS)])


def filled(
    sequence_length: int | None = None,
    observation_space: spaces.Space[Any] = VECTOR,
    action_space: spaces.Space[Any] = DISCRETE,
) -> SequenceRolloutBuffer:
    """A rollout in which everything carries the stamp of its step."""
    buffer = SequenceRolloutBuffer(
        N_STEPS, observation_space, action_space, "cpu", n_envs=N_ENVS, sequence_length=sequence_length
    )
    for t in range(N_STEPS):
        mark = stamps(t)
        buffer.add(
            observed(observation_space, mark),
            mark if isinstance(action_space, spaces.Discrete) else np.stack([mark, -mark], axis=1),
            mark + 0.1,
            starts_of(t),
            th.as_tensor(mark[:, None] + 0.2),
            th.as_tensor(mark + 0.3),
            states_of(t),
        )
    buffer.advantages[:] = buffer.rewards + 0.3
    buffer.returns[:] = buffer.rewards + 0.4
    return buffer


def observed(space: spaces.Space[Any], mark: NDArray[np.int64]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: observed(part, mark) for key, part in space.items()}
    if isinstance(space, spaces.Discrete):
        return mark
    assert space.shape is not None
    return np.broadcast_to(mark.reshape(-1, *[1] * len(space.shape)), (N_ENVS, *space.shape)).astype(space.dtype)


def marks_of(samples: SequenceSamples) -> NDArray[np.int64]:
    """``[L, S]``, the stamps of the steps in a minibatch, read from the actions."""
    actions = samples.actions if samples.actions.dim() == 2 else samples.actions[..., 0]
    return actions.numpy().astype(np.int64)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("sequences_per_batch", [1, 2, 3, 1_000])
def test_an_epoch_holds_every_step_once_in_whole_sequences(length: int, sequences_per_batch: int) -> None:
    buffer = filled(length)
    batches = list(buffer.get(sequences_per_batch * length))
    seen = np.concatenate([marks_of(batch).ravel() for batch in batches])
    assert sorted(seen) == list(range(N_STEPS * N_ENVS))
    for batch in batches:
        marks = marks_of(batch)
        assert marks.shape[0] == length
        assert (np.diff(marks, axis=0) == N_ENVS).all(), "a sequence runs through one environment, step by step"
        assert (marks[0] // N_ENVS % length == 0).all(), "a sequence begins where the rollout is cut"

    total = N_STEPS // length * N_ENVS
    assert buffer.num_sequences == total
    full, rest = divmod(total, sequences_per_batch)
    assert [marks_of(batch).shape[1] for batch in batches] == [sequences_per_batch] * full + [rest] * (rest > 0)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("sequences_per_batch", [2, 1_000])
def test_everything_in_a_minibatch_belongs_to_the_same_step(length: int, sequences_per_batch: int) -> None:
    for batch in filled(length).get(sequences_per_batch * length):
        marks = marks_of(batch)
        assert isinstance(batch.observations, Tensor)
        assert batch.observations.shape == (*marks.shape, 2)
        np.testing.assert_array_equal(batch.observations[..., 0], marks)
        np.testing.assert_array_equal(batch.observations[..., 1], marks)
        for name, offset in (("old_values", 0.2), ("old_log_prob", 0.3), ("advantages", 0.4), ("returns", 0.5)):
            values: Tensor = getattr(batch, name)
            assert values.dtype == th.float32
            np.testing.assert_allclose(values, marks + offset, rtol=1e-6, err_msg=name)
        assert batch.episode_starts.dtype == th.bool
        np.testing.assert_array_equal(batch.episode_starts, marks % 7 == 0)

        first = th.as_tensor(marks[0])[None, :, None]
        layers = th.arange(LAYERS)[:, None, None] / 100.0
        for offset, state in enumerate((*batch.states.pi, *batch.states.vf)):
            expected = (first + layers + offset / 10_000.0).expand(-1, -1, HIDDEN).float()
            th.testing.assert_close(state, expected, rtol=1e-6, atol=1e-5)


def test_sequence_length_is_the_rollout_by_default() -> None:
    (batch,) = filled().get()
    assert batch.episode_starts.shape == (N_STEPS, N_ENVS)
    np.testing.assert_array_equal(marks_of(batch), np.arange(N_STEPS * N_ENVS).reshape(N_STEPS, N_ENVS))


def test_minibatches_are_shuffled_by_numpys_generator() -> None:
    buffer = filled(4)

    def epoch(seed: int) -> list[int]:
        np.random.seed(seed)
        return [int(m) for batch in buffer.get(8) for m in marks_of(batch)[0]]

    assert epoch(1) == epoch(1)
    assert len({tuple(epoch(seed)) for seed in range(5)}) > 1


def test_one_core_for_both_has_one_state_in_a_minibatch() -> None:
    buffer = SequenceRolloutBuffer(2, VECTOR, DISCRETE, "cpu", n_envs=N_ENVS)
    shared = (state_of(0, 0), state_of(0, 1))
    for t in range(2):
        mark = stamps(t)
        buffer.add(
            observed(VECTOR, mark),
            mark,
            mark,
            starts_of(t),
            th.zeros(N_ENVS, 1),
            th.zeros(N_ENVS),
            RNNStates(shared, shared),
        )
    for batch in buffer.get(4):
        assert batch.states.vf[0] is batch.states.pi[0]
        th.testing.assert_close(batch.states.pi[0][0, :, 0], th.as_tensor(marks_of(batch)[0]).float())


@pytest.mark.parametrize("length", LENGTHS)
def test_states_are_kept_only_where_sequences_begin(length: int) -> None:
    kept = filled(length)._states
    assert len(kept) == N_STEPS // length
    for chunk, state in enumerate(kept):
        th.testing.assert_close(state.pi[0], state_of(chunk * length, 0))


def test_reset_forgets_states_and_leaves_old_minibatches_alone() -> None:
    buffer = filled()
    (batch,) = buffer.get()
    before = marks_of(batch).copy()
    buffer.reset()
    assert buffer._states == []
    assert not buffer.full
    assert buffer.pos == 0
    buffer.actions[:] = 999
    np.testing.assert_array_equal(marks_of(batch), before)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_observations_keep_their_dtype(dtype: type[Any]) -> None:
    space = spaces.Box(0, 100, (2, 3), dtype)
    buffer = filled(4, space)
    assert isinstance(buffer.observations, np.ndarray)
    assert buffer.observations.dtype == dtype
    assert buffer.observations.nbytes == N_STEPS * N_ENVS * 6 * np.dtype(dtype).itemsize
    for batch in buffer.get(8):
        assert isinstance(batch.observations, Tensor)
        assert batch.observations.numpy().dtype == dtype
        np.testing.assert_array_equal(batch.observations[..., 1, 2], marks_of(batch))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8, np.int64])
def test_no_observation_is_cut_to_the_dtype_of_the_first(dtype: type[Any], nested: bool) -> None:
    """A reset that returns whole numbers, then floats, then more than a byte holds."""
    seen = [np.array([[1, 2]]), np.array([[0.25, 0.5]]), np.array([[3, 70_000]]), np.array([[4, 5]], dtype=np.uint8)]
    box = spaces.Box(0, 200, (2,), dtype)
    buffer = SequenceRolloutBuffer(len(seen), spaces.Dict({"x": box}) if nested else box, DISCRETE, "cpu", n_envs=1)
    for obs in seen:
        read = buffer.observe({"x": obs} if nested else obs)
        np.testing.assert_array_equal(read["x"] if isinstance(read, dict) else read, obs)
        zero = np.zeros(1)
        buffer.add(None, zero.astype(np.int64), zero, zero, th.zeros(1, 1), th.zeros(1), states_of(0))
    (batch,) = buffer.get()
    kept = batch.observations["x"] if isinstance(batch.observations, dict) else batch.observations
    np.testing.assert_array_equal(kept, np.stack(seen))


@pytest.mark.parametrize("length", LENGTHS)
def test_dict_observations(length: int) -> None:
    space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (2, 4, 4), np.uint8),
            "place": spaces.Box(-100, 100, (3,), np.float32),
            "kind": spaces.Discrete(100),
        }
    )
    for batch in filled(length, space).get(2 * length):
        marks = marks_of(batch)
        assert isinstance(batch.observations, dict)
        assert {key: value.dtype for key, value in batch.observations.items()} == {
            "image": th.uint8,
            "place": th.float32,
            "kind": th.int64,
        }
        assert batch.observations["image"].shape == (*marks.shape, 2, 4, 4)
        np.testing.assert_array_equal(batch.observations["image"][..., 1, 2, 3], marks)
        np.testing.assert_array_equal(batch.observations["place"][..., 2], marks)
        np.testing.assert_array_equal(batch.observations["kind"].reshape(marks.shape), marks)


@pytest.mark.parametrize(
    "action_space",
    [spaces.Box(-100, 100, (2,), np.float32), spaces.MultiDiscrete([100, 100])],
    ids=["box", "multi_discrete"],
)
def test_actions_of_several_parts(action_space: spaces.Space[Any]) -> None:
    for batch in filled(3, action_space=action_space).get(6):
        assert isinstance(batch.observations, Tensor)
        marks = batch.observations[..., 0].numpy()
        assert batch.actions.numpy().dtype == action_space.dtype
        np.testing.assert_array_equal(batch.actions, np.stack([marks, -marks], axis=-1))


def test_an_unfinished_rollout_is_not_sampled() -> None:
    buffer = SequenceRolloutBuffer(N_STEPS, VECTOR, DISCRETE, "cpu", n_envs=N_ENVS)
    with pytest.raises(AssertionError, match="complete"):
        next(buffer.get())


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.9, 0.8), (0.99, 1.0), (1.0, 0.0)])
def test_advantages_equal_the_sum_of_discounted_errors(gamma: float, gae_lambda: float) -> None:
    """A_t = sum_k (gamma lambda)^k delta_{t+k}, summed forwards to the end of the episode (Schulman et al., 2016)."""
    rng = np.random.default_rng(0)
    buffer = SequenceRolloutBuffer(
        N_STEPS, VECTOR, DISCRETE, "cpu", gae_lambda=gae_lambda, gamma=gamma, n_envs=N_ENVS, sequence_length=3
    )
    rewards = rng.normal(size=(N_STEPS, N_ENVS))
    values = rng.normal(size=(N_STEPS + 1, N_ENVS))
    starts = rng.random((N_STEPS + 1, N_ENVS)) < 0.25
    assert starts[1:].any()
    for t in range(N_STEPS):
        buffer.add(
            observed(VECTOR, stamps(t)),
            stamps(t),
            rewards[t],
            starts[t],
            th.as_tensor(values[t][:, None]),
            th.zeros(N_ENVS),
            states_of(t),
        )
    buffer.compute_returns_and_advantage(th.as_tensor(values[N_STEPS]).float(), starts[N_STEPS])

    for env in range(N_ENVS):
        for t in range(N_STEPS):
            advantage, weight = 0.0, 1.0
            for k in range(t, N_STEPS):
                next_value = 0.0 if starts[k + 1, env] else values[k + 1, env]
                advantage += weight * (rewards[k, env] + gamma * next_value - values[k, env])
                weight *= gamma * gae_lambda
                if starts[k + 1, env]:
                    break
            assert buffer.advantages[t, env] == pytest.approx(advantage, abs=1e-5)
            assert buffer.returns[t, env] == pytest.approx(advantage + values[t, env], abs=1e-5)


# -- lengths that do not fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 16, "sequence_length": 5}, "sequence_length 5"),
        ({"n_steps": 16, "sequence_length": 32, "batch_size": 32}, "sequence_length 32"),
        ({"n_steps": 16, "batch_size": 24}, "batch_size 24"),
        ({"n_steps": 16, "batch_size": 8}, "batch_size 8"),
        ({"n_steps": 16, "sequence_length": 8, "batch_size": 12}, "batch_size 12"),
    ],
)
def test_lengths_that_do_not_divide_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        rimrl.RecurrentPPO("MlpPolicy", short_episodes(2), policy_kwargs={"core_kwargs": SMALL_RIM}, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("batch_size", "length", "proposed"), [(24, 16, 32), (20, 8, 16), (3, 16, 16)])
def test_the_proposed_batch_size_is_accepted(batch_size: int, length: int, proposed: int) -> None:
    def build(size: int) -> rimrl.RecurrentPPO:
        return rimrl.RecurrentPPO(
            "MlpPolicy",
            short_episodes(2),
            n_steps=32,
            batch_size=size,
            sequence_length=length,
            policy_kwargs={"core_kwargs": SMALL_RIM},
        )

    with pytest.raises(UsageError, match=rf"batch_size={proposed} "):
        build(batch_size)
    assert build(proposed).batch_size == proposed


def test_a2c_refuses_a_sequence_length_that_does_not_divide() -> None:
    with pytest.raises(UsageError, match="sequence_length 3 does not divide n_steps 8") as caught:
        rimrl.RecurrentA2C(
            "MlpPolicy", short_episodes(2), n_steps=8, sequence_length=3, policy_kwargs={"core_kwargs": SMALL_RIM}
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch_size", [0, -16])
def test_a_batch_size_below_one_is_refused(batch_size: int) -> None:
    with pytest.raises(UsageError, match="batch_size"):
        rimrl.RecurrentPPO(
            "MlpPolicy",
            short_episodes(2),
            n_steps=16,
            batch_size=batch_size,
            policy_kwargs={"core_kwargs": SMALL_RIM},
        )


@pytest.mark.parametrize("length", [0, -4])
def test_a_sequence_length_below_one_is_refused(length: int) -> None:
    with pytest.raises(UsageError, match="sequence_length"):
        rimrl.RecurrentPPO(
            "MlpPolicy",
            short_episodes(2),
            n_steps=16,
            batch_size=16,
            sequence_length=length,
            policy_kwargs={"core_kwargs": SMALL_RIM},
        )


@pytest.mark.parametrize("sequence_length", [16, 4, 1])
@pytest.mark.parametrize("sharing", ["shared", "separate", "actor_only"])
def test_the_states_that_were_kept_reproduce_what_was_collected(sequence_length: int, sharing: str) -> None:
    """Before any update, evaluating the minibatches gives the values and log-probabilities of the rollout itself."""
    model = rimrl.RecurrentPPO(
        "MlpPolicy",
        short_episodes(3),
        n_steps=16,
        batch_size=16,
        sequence_length=sequence_length,
        policy_kwargs={"core_kwargs": {**SMALL_RIM, "learn_initial_state": True}, "core_sharing": sharing},
        seed=0,
        device="cpu",
    )
    check_rollouts(model, rollouts=3)
