"""Behaviour cloning: a recurrent policy learns to do what demonstrations show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch as th
from numpy.typing import NDArray
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage, unwrap_vec_wrapper
from torch import Tensor

from rimrl.agents.config import BELOW_ONE, COUNTABLE, POSITIVE, AgentConfig, option
from rimrl.agents.demonstrations import Demonstrations, read_demonstrations
from rimrl.agents.episode_streams import EpisodeStreams
from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.agents.precision import Autocast, check_autocast
from rimrl.agents.ranks import Ranks
from rimrl.agents.rollout import Obs, TensorObs, map_parts
from rimrl.agents.unit_activity import UnitActivity
from rimrl.errors import NotFiniteError, conflict, missing, needs, wrong

# Which episodes are held out depends on nothing but their number: losses of all seeds are over the same ones.
_SPLIT_SEED = 0


@dataclass(frozen=True)
class BCConfig(AgentConfig):
    """Behaviour cloning. What belongs to rewards, values and exploration means nothing to it.

    Attributes:
        data: Demonstrations in the Minari format: a folder, or the id of a data set of this machine.
        validation_share: Share of the episodes that is not learned from, for ``validation/loss``; 0 for none.
        validation_freq: Updates between evaluations on these.
    """

    algorithm: str = "bc"
    learning_rate: float = 1e-3
    n_steps: int = 64
    data: str | None = None
    validation_share: float = option(0.1, BELOW_ONE)
    validation_freq: int = option(20, POSITIVE, COUNTABLE)

    def share(self, ranks: Ranks, n_envs: int) -> Self:
        """Refuse several processes, each of which would read all demonstrations.

        Raises:
            UsageError: Always.
        """
        raise wrong("agent.algorithm bc", "learns in one process", "train without torchrun", "conflict")


class _Batch(NamedTuple):
    """Demonstrated steps: observations ``[T, B, ...]``, actions ``[T, B, ...]``, episode starts ``[T, B]``."""

    observations: TensorObs
    actions: Tensor
    episode_starts: Tensor


class RecurrentBC(RecurrentOnPolicyAlgorithm):
    """Behaviour cloning with a recurrent policy: maximises the likelihood of demonstrated actions.

    The loss is the mean of ``-log pi(a_t | o_1, ..., o_t)`` over demonstrated steps. As many streams of whole episodes
    as there are environments run side by side (`rimrl.agents.episode_streams`). An update takes the next ``n_steps``
    of each; the recurrent state is carried from one update to the next, is reset where an episode begins, and gradients
    flow through the steps of an update (truncated backpropagation through time). Nothing is padded, and a demonstrated
    step counts as a step of training. The environments are only played to evaluate.

    The value function learns nothing. ``gamma``, ``gae_lambda``, ``ent_coef``, ``vf_coef`` and ``normalize_advantage``
    are kept for whoever goes on with another algorithm.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a `RecurrentCorePolicy` subclass.
        env: Environment that the demonstrations are of, vectorised or not, or its id.
        learning_rate: A number or a function of the remaining progress.
        n_steps: Steps of each stream between updates of the log; gradients flow through all of them.
        gamma: Not used.
        gae_lambda: Not used.
        ent_coef: Not used.
        vf_coef: Not used.
        max_grad_norm: Gradients are scaled down to this global norm.
        use_sde: Must be False.
        sde_sample_freq: Not used.
        normalize_advantage: Not used.
        stats_window_size: Not used.
        tensorboard_log: Folder for TensorBoard; None for none.
        policy_kwargs: Arguments of the policy, such as ``dict(core="rim", core_kwargs=dict(num_units=6))``. With
            ``normalize_observations``, mean and variance are those of the demonstrations that are learned from.
        verbose: 0, 1 or 2.
        seed: Seed of the weights and of the order of demonstrations; None for order 0.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        sequence_length: Steps of one gradient step; must divide ``n_steps``. Default: all of them.
        autocast: As for `rimrl.RecurrentPPO`.
        use_masking: Must be False: demonstrations hold no masks.
        data: Demonstrations (`rimrl.agents.demonstrations.read_demonstrations`). Needed to learn.
        validation_share: Share of the episodes that is not learned from, one at least; 0 for none.
        validation_freq: Updates between evaluations on these, logged as ``validation/loss``; the first and the last
            update have one, too.

    Raises:
        UsageError: If there are no demonstrations, they do not fit the environment, or one episode is to be learned
            from and held out. If the device has no bfloat16, ``sequence_length`` does not divide, or the policy has no
            recurrent core.
    """

    metrics: ClassVar[tuple[str, ...]] = ("train/loss", "validation/loss")
    _demonstrations: Demonstrations | None = None
    _streams: EpisodeStreams | None = None
    # Steps of training before the streams began.
    _begun = 0
    # Iteration whose row in the log waits for its update; None where nobody asked for one.
    _due: int | None = None

    def __init__(
        self,
        policy: str | type[RecurrentCorePolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 64,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        normalize_advantage: bool = True,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        sequence_length: int | None = None,
        autocast: Autocast | None = None,
        use_masking: bool = False,
        data: str | None = None,
        validation_share: float = 0.1,
        validation_freq: int = 20,
        _init_setup_model: bool = True,
    ) -> None:
        for name, asked in (("use_sde", use_sde), ("use_masking", use_masking)):
            if asked:
                raise conflict(name, "behaviour cloning, as demonstrations hold none", "leave it out")
        self._keep_options(sequence_length, autocast, use_masking)
        self.normalize_advantage = normalize_advantage
        self.data, self.validation_share, self.validation_freq = data, validation_share, validation_freq
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=dict(policy_kwargs or {}),
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )
        check_autocast(autocast, self.device)
        if _init_setup_model:
            self._read()
            self._measure()

    # -- demonstrations -----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Read the demonstrations, and hold some out."""
        if self.data is None:
            raise needs("behaviour cloning", "demonstrations", advice="name them: --data (agent.data, in Python data=)")
        assert self.env is not None
        transpose = unwrap_vec_wrapper(self.env, VecTransposeImage)
        shown = self.observation_space if transpose is None else transpose.venv.observation_space
        found = read_demonstrations(self.data, shown, self.action_space)
        if transpose is not None:
            seen = transpose.transpose_observations(found.observations)
            found = Demonstrations(seen, found.actions, found.lengths)
        total = len(found.lengths)
        held_out = max(1, round(total * self.validation_share)) if self.validation_share else 0
        if held_out == total:
            raise wrong(
                "validation_share",
                f"{self.validation_share} leaves none of {total} episodes to learn from",
                "record more, or set it to 0",
            )
        order = np.random.default_rng(_SPLIT_SEED).permutation(total)
        self._held_out, self._learned = np.sort(order[:held_out]), np.sort(order[held_out:])
        self._demonstrations = found

    def _measure(self) -> None:
        """Bring observations to the scale of the demonstrations."""
        statistics, demonstrations = self.policy.observation_statistics, self._demonstrations
        if statistics is None or demonstrations is None:
            return
        learned = np.repeat(np.isin(np.arange(len(demonstrations.lengths)), self._learned), demonstrations.lengths)
        statistics.update(self._tensors(demonstrations.observations, np.flatnonzero(learned)[:, None]), lambda own: own)

    def _batch(self, episodes: NDArray[np.int64], within: NDArray[np.int64]) -> _Batch:
        """Steps ``[T, B]`` of episodes on the device."""
        demonstrations = self._demonstrations
        assert demonstrations is not None
        index = demonstrations.first[episodes] + within
        actions = th.as_tensor(demonstrations.actions[index], device=self.device)
        starts = th.as_tensor(within == 0, device=self.device)
        return _Batch(self._tensors(demonstrations.observations, index), actions, starts)

    def _tensors(self, observations: Obs, index: NDArray[np.int64]) -> TensorObs:
        found: TensorObs = map_parts(lambda part: th.as_tensor(part[index], device=self.device), observations)
        return found

    # -- learning -----------------------------------------------------------------------------------------------------

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        was_loaded = self._demonstrations is None
        if was_loaded:
            self._read()
        set_up = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        if was_loaded or reset_num_timesteps:  # files do not hold what it remembered in the middle of episodes
            self._begun = self.num_timesteps
        return set_up

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Count the steps that the next update learns from; the environments are not played.

        Returns:
            False if a callback asked to stop. Nothing is learned from these steps then, and they do not count.
        """
        before = self.num_timesteps
        callback.on_rollout_start()
        for _ in range(n_rollout_steps):
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                self.num_timesteps = before
                return False
        callback.on_rollout_end()
        return True

    def train(self) -> None:
        """Learn from the next steps of every stream."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses: list[Tensor] = []
        activity = UnitActivity(self.policy.core.units_per_layer)
        for batch in self._next():
            evaluation = self.policy.evaluate_sequences(
                batch.observations, batch.actions, self._last_states, batch.episode_starts, return_trace=True
            )
            loss = -evaluation.log_prob.mean()
            if not bool(loss.isfinite()):
                line = f"the policy answers NaN or infinity after {self._n_updates} updates"
                raise NotFiniteError(f"{line}; lower learning_rate or max_grad_norm", key="policy")
            self._step(loss)
            self._last_states = _detached(evaluation.states)
            self._n_updates += 1
            losses.append(loss.detach())
            activity.add(evaluation)
        self._log_learning(th.stack(losses).mean().item(), activity)

    def _next(self) -> Iterator[_Batch]:
        """The steps that the last rollout counted, in pieces that gradients flow through."""
        position = (self.num_timesteps - self._begun) // self.n_envs - self.n_steps
        if self._streams is None or self._streams.position != position:
            assert self._demonstrations is not None
            self._streams = EpisodeStreams(self._demonstrations.lengths[self._learned], self.n_envs, self.seed or 0)
            self._streams.skip(position)
        length = self._checked_sequence_length()
        for _ in range(self.n_steps // length):
            episodes, within = self._streams.take(length)
            yield self._batch(self._learned[episodes], within)

    @th.no_grad()
    def validation_loss(self) -> float:
        """Mean negative log-likelihood of the demonstrated actions over all steps of the held-out episodes.

        Raises:
            UsageError: If there are none.
        """
        if self._demonstrations is None or not len(self._held_out):
            raise missing("demonstrations that were held out", advice="set validation_share")
        self.policy.set_training_mode(False)
        lengths = self._demonstrations.lengths
        total = 0.0
        for episodes in np.array_split(self._held_out, -(-len(self._held_out) // self.n_envs)):
            states = self.policy.initial_states(len(episodes))
            for begin in range(0, int(lengths[episodes].max()), self.n_steps):
                steps = np.arange(begin, min(begin + self.n_steps, int(lengths[episodes].max())))[:, None]
                batch = self._batch(episodes[None], np.minimum(steps, lengths[episodes] - 1))  # repeats the last step
                evaluation = self.policy.evaluate_sequences(
                    batch.observations, batch.actions, states, batch.episode_starts
                )
                there = th.as_tensor(steps < lengths[episodes], device=self.device)
                total -= evaluation.log_prob.double()[there].sum().item()
                states = evaluation.states
        return total / float(lengths[self._held_out].sum())

    # -- the log ------------------------------------------------------------------------------------------------------

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log after the update that follows; SB3 would write it before."""
        self._due = iteration

    def _log_learning(self, loss: float, activity: UnitActivity) -> None:
        figures = {"train/loss": loss}
        assert self._demonstrations is not None
        figures["train/epochs"] = self.num_timesteps / float(self._demonstrations.lengths[self._learned].sum())
        iteration = self.num_timesteps // (self.n_steps * self.n_envs)
        last = self.num_timesteps >= self._total_timesteps
        if len(self._held_out) and (iteration == 1 or iteration % self.validation_freq == 0 or last):
            figures["validation/loss"] = self.validation_loss()
        for name, figure in figures.items():
            self.logger.record(name, figure)
        self._log_policy(activity)
        if self._due is not None:
            super().dump_logs(self._due)
            self._due = None

    def _excluded_save_params(self) -> list[str]:
        own = ["_demonstrations", "_streams", "_begun", "_learned", "_held_out", "_due"]
        return [*super()._excluded_save_params(), *own]


def _detached(states: RNNStates) -> RNNStates:
    pi = tuple(part.detach() for part in states.pi)
    return RNNStates(pi, pi if states.vf is states.pi else tuple(part.detach() for part in states.vf))
