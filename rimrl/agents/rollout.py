"""Rollout storage for recurrent policies: time-major, without padding, one recurrent state a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

Obs = NDArray[Any] | dict[str, NDArray[Any]]
TensorObs = Tensor | dict[str, Tensor]


def map_parts(function: Callable[[Any], Any], observations: Any) -> Any:
    """What a function makes of observations, or of each part of a dict of such."""
    if isinstance(observations, dict):
        return {key: function(part) for key, part in observations.items()}
    return function(observations)


class SequenceSamples(NamedTuple):
    """A minibatch of S whole sequences of L steps.

    Attributes:
        observations: ``[L, S, *observation shape]`` in the space's own dtype, or a dict of such.
        actions: ``[L, S]`` for discrete actions (int64), else ``[L, S, action width]``.
        old_values: ``[L, S]``.
        old_log_prob: ``[L, S]``.
        advantages: ``[L, S]``.
        returns: ``[L, S]``.
        states: Recurrent states before the first step, each ``[num_layers, S, hidden_size]``.
        episode_starts: ``[L, S]`` bool.
        action_masks: ``[L, S, flags]`` bool, true where an action was valid; None where there were no masks.
    """

    observations: Tensor | dict[str, Tensor]
    actions: Tensor
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    states: RNNStates
    episode_starts: Tensor
    action_masks: Tensor | None = None


class SequenceRolloutBuffer(RolloutBuffer):
    """SB3's `RolloutBuffer` for recurrent policies: a minibatch is a set of whole sequences of environments.

    The rollout of each environment is cut into sequences of equal length. The recurrent state is kept only where a
    sequence begins; resets in the middle of a sequence are left to the core. Advantages and returns are SB3's own.

    What the network reads lies on the network's device and is written there once, step by step: observations, values
    and log-probabilities. On the CPU ``observations``, ``values`` and ``log_probs`` are views of it; elsewhere they
    are copies, made when asked for and after the last step.

    Args:
        buffer_size: Steps per environment (``n_steps``).
        observation_space: Observation space, Dict included.
        action_space: Action space.
        device: Where minibatches go.
        gae_lambda: Bias-variance trade-off of the advantage estimate.
        gamma: Discount factor.
        n_envs: Number of environments.
        sequence_length: Length L of a sequence; must divide ``buffer_size``. Default: the whole rollout.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
        sequence_length: int | None = None,
    ) -> None:
        self.sequence_length = buffer_size if sequence_length is None else sequence_length
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    def reset(self) -> None:
        """Forget the last rollout; memory of its size is taken afresh, because minibatches may still view the old."""
        shape = (self.buffer_size, self.n_envs)
        self._stored_observations: TensorObs | None = None
        self._action_masks: Tensor | None = None
        self._sequences: SequenceSamples | None = None
        discrete = isinstance(self.action_space, spaces.Discrete)
        counts = isinstance(self.action_space, spaces.Discrete | spaces.MultiDiscrete)
        # Anything else is what a distribution over real numbers drew, whatever the dtype of the space.
        dtype = np.int64 if counts else np.float32
        self.actions = np.zeros(shape if discrete else (*shape, self.action_dim), dtype=dtype)
        self.rewards = np.zeros(shape, dtype=np.float32)
        self.returns = np.zeros(shape, dtype=np.float32)
        self.episode_starts = np.zeros(shape, dtype=np.float32)
        self._values = th.zeros(shape, device=self.device)
        self._log_probs = th.zeros(shape, device=self.device)
        self.values = self._values.cpu().numpy()
        self.log_probs = self._log_probs.cpu().numpy()
        self.advantages = np.zeros(shape, dtype=np.float32)
        self._states: list[RNNStates] = []
        self.pos = 0
        self.full = False

    def observe(self, obs: Obs) -> TensorObs:
        """Store what the policy is about to see, before the environments go on.

        Args:
            obs: ``[n_envs, ...]`` or a dict of such.

        Returns:
            The stored copy, on the device: what the policy should read.
        """
        if isinstance(obs, dict):
            assert isinstance(self.observation_space, spaces.Dict)
            rooms = {} if self._stored_observations is None else self._stored_observations
            assert isinstance(rooms, dict)
            for key, value in obs.items():
                rooms[key] = self._with_room(rooms.get(key), th.as_tensor(value), self.observation_space[key])
            self._stored_observations = rooms
            return {key: rooms[key][self.pos].copy_(th.as_tensor(value)) for key, value in obs.items()}
        assert not isinstance(self._stored_observations, dict)
        seen = th.as_tensor(obs)
        room = self._stored_observations = self._with_room(self._stored_observations, seen, self.observation_space)
        return room[self.pos].copy_(seen)

    def add(  # type: ignore[override]
        self,
        obs: Obs | None,
        action: NDArray[Any],
        reward: NDArray[Any],
        episode_start: NDArray[Any],
        value: Tensor,
        log_prob: Tensor,
        states: RNNStates,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> None:
        """Append one step of all environments.

        Args:
            obs: What the policy saw, ``[n_envs, ...]`` or a dict of such; None where `observe` has stored it.
            action: What it did.
            reward: What it got, ``[n_envs]``.
            episode_start: Whether ``obs`` began an episode, ``[n_envs]``.
            value: Its estimate, ``[n_envs, 1]``.
            log_prob: Log-probability of the action, ``[n_envs]``.
            states: The recurrent states *before* this step; kept only where a sequence begins.
            action_masks: Which actions were valid, ``[n_envs, flags]``; None for all of them.
        """
        if obs is not None:
            self.observe(obs)
        t = self.pos
        if t % self.sequence_length == 0:
            self._states.append(states)
        self.actions[t] = np.reshape(action, self.actions.shape[1:])
        self.rewards[t] = reward
        self.episode_starts[t] = episode_start
        self._values[t] = value.flatten()
        self._log_probs[t] = log_prob
        if action_masks is not None:
            if self._action_masks is None:
                shape = (self.buffer_size, *action_masks.shape)
                self._action_masks = th.ones(shape, dtype=th.bool, device=self.device)
            self._action_masks[t] = self._on_device(action_masks)
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def compute_returns_and_advantage(self, last_values: Tensor, dones: NDArray[Any]) -> None:
        """Estimate returns and advantages; see SB3's `RolloutBuffer`.

        Args:
            last_values: Values after the last step, ``[n_envs, 1]``.
            dones: Whether the last step ended an episode, ``[n_envs]``.
        """
        if self.device.type != "cpu":
            self.values, self.log_probs = self._values.cpu().numpy(), self._log_probs.cpu().numpy()
        self._sequences = None
        super().compute_returns_and_advantage(last_values, dones)

    @property
    def observations(self) -> Obs:  # type: ignore[override]
        """``[n_steps, n_envs, ...]`` or a dict of such, in the space's dtype or one that holds what was seen."""
        found: Obs = map_parts(lambda part: part.cpu().numpy(), self.stored_observations)
        return found

    @property
    def stored_observations(self) -> TensorObs:
        """The same on the device."""
        assert self._stored_observations is not None, "the rollout is empty"
        return self._stored_observations

    def _with_room(self, room: Tensor | None, obs: Tensor, space: spaces.Space[Any]) -> Tensor:
        """The storage of one part of the observations, in a dtype that holds ``obs`` as well as all before it."""
        if room is None:
            return self._room_like(obs, _storage_dtype(_dtype_of(space, obs), obs.dtype))
        dtype = room.dtype if obs.dtype == room.dtype else _storage_dtype(room.dtype, obs.dtype)
        if dtype == room.dtype:
            return room
        wider = self._room_like(obs, dtype)
        wider[: self.pos] = room[: self.pos]
        return wider

    def _room_like(self, obs: Tensor, dtype: th.dtype) -> Tensor:
        """Room for all steps; on the CPU laid out in memory as the observation is, which makes every copy plain."""
        order = _memory_order(obs[0], offset=1) if self.device.type == "cpu" else list(range(1, obs.dim()))
        shape = (self.buffer_size, obs.shape[0], *(obs.shape[axis] for axis in order))
        room = th.empty(shape, dtype=dtype, device=self.device)
        return room.permute(0, 1, *(2 + order.index(axis) for axis in range(1, obs.dim())))

    @property
    def num_sequences(self) -> int:
        """How many sequences the rollout is cut into."""
        return self.buffer_size // self.sequence_length * self.n_envs

    @property
    def state_bytes(self) -> int:
        """Bytes of recurrent state that the rollout keeps."""
        tensors = {id(x): x for states in self._states for pair in states for x in pair}
        return sum(x.numel() * x.element_size() for x in tensors.values())

    def get(self, batch_size: int | None = None) -> Iterator[SequenceSamples]:  # type: ignore[override]
        """Minibatches in random order (numpy's global generator, as SB3's buffers).

        Args:
            batch_size: Steps per minibatch, a multiple of ``sequence_length``; None for everything at once.

        Yields:
            Minibatches; the last one is smaller when the sequences do not divide evenly.
        """
        assert self.full, "the rollout must be complete before it is sampled"
        if self._sequences is None:
            self._sequences = self._as_sequences()
        everything = self._sequences
        per_batch = self.num_sequences if batch_size is None else batch_size // self.sequence_length
        if per_batch >= self.num_sequences:
            yield everything
            return
        order = th.as_tensor(np.random.permutation(self.num_sequences), device=self.device)
        for chosen in th.split(order, per_batch):
            yield _select(everything, chosen)

    def _as_sequences(self) -> SequenceSamples:
        return SequenceSamples(
            map_parts(self._cut, self.stored_observations),
            self._cut(self._on_device(self.actions)),
            self._cut(self._values),
            self._cut(self._log_probs),
            self._cut(self._on_device(self.advantages)),
            self._cut(self._on_device(self.returns)),
            _concatenate(self._states),
            self._cut(self._on_device(self.episode_starts)).bool(),
            None if self._action_masks is None else self._cut(self._action_masks),
        )

    def _on_device(self, array: NDArray[Any]) -> Tensor:
        return th.as_tensor(array, device=self.device)

    def _cut(self, steps: Tensor) -> Tensor:
        """``[n_steps, n_envs, ...]`` as ``[L, S, ...]``; a view where one sequence spans the rollout."""
        if self.sequence_length == self.buffer_size:
            return steps
        order = _memory_order(steps[0, 0], offset=2)
        plain = steps.permute(0, 1, *order)
        chunks = plain.reshape(-1, self.sequence_length, *plain.shape[1:]).transpose(0, 1).flatten(1, 2)
        return chunks.permute(0, 1, *(2 + order.index(axis) for axis in range(2, steps.dim())))


def _concatenate(states: list[RNNStates]) -> RNNStates:
    """States of each chunk side by side, in the order in which `SequenceRolloutBuffer._cut` lays out sequences."""
    if len(states) == 1:
        return states[0]

    def joined(part: int, of: int) -> Tensor:
        return th.cat([state[part][of] for state in states], dim=1)

    return RNNStates((joined(0, 0), joined(0, 1)), (joined(1, 0), joined(1, 1)))


def _dtype_of(space: spaces.Space[Any], obs: Tensor) -> th.dtype:
    return obs.dtype if space.dtype is None else th.as_tensor(np.zeros(0, space.dtype)).dtype


@cache
def _storage_dtype(room: th.dtype, obs: th.dtype) -> th.dtype:
    """What holds both without loss for the network, which reads float32.

    A space does not bind its environment: `VecNormalize` makes floats of bytes, `SubprocVecEnv` passes on what a
    step returned, and the first observation may be of another dtype than the second.
    """
    both = np.result_type(*(th.zeros(0, dtype=dtype).numpy().dtype for dtype in (room, obs)))
    if both == np.float64 and room != th.float64:
        return th.float32
    return th.as_tensor(np.zeros(0, both)).dtype


def _memory_order(x: Tensor, offset: int = 0) -> list[int]:
    """Axes from the farthest apart in memory to the closest; `offset` is added to each."""
    strides = x.stride()
    return [offset + axis for axis in sorted(range(x.dim()), key=lambda axis: -strides[axis])]


def _select(samples: SequenceSamples, chosen: Tensor) -> SequenceSamples:
    def take(x: Tensor) -> Tensor:
        """Some sequences of ``[L, S, ...]``, laid out in memory as they were."""
        order = _memory_order(x[0, 0], offset=2)
        taken = x.permute(0, 1, *order).index_select(1, chosen)
        return taken.permute(0, 1, *(2 + order.index(axis) for axis in range(2, x.dim())))

    pi = (take(samples.states.pi[0]), take(samples.states.pi[1]))
    shared = samples.states.vf[0] is samples.states.pi[0]
    vf = pi if shared else (take(samples.states.vf[0]), take(samples.states.vf[1]))
    return SequenceSamples(
        map_parts(take, samples.observations),
        take(samples.actions),
        take(samples.old_values),
        take(samples.old_log_prob),
        take(samples.advantages),
        take(samples.returns),
        RNNStates(pi, vf),
        take(samples.episode_starts),
        None if samples.action_masks is None else take(samples.action_masks),
    )
