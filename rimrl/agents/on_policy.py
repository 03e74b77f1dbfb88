"""What recurrent PPO and A2C share: collecting rollouts, and logging what the units do."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from torch import Tensor

from rimrl.agents import loadable
from rimrl.agents.actions import in_space
from rimrl.agents.distributed import OtherRankError, Ranks
from rimrl.agents.extractor_checks import check_images
from rimrl.agents.moves import Moves, moves_of
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.agents.precision import Autocast, check_autocast, keeping_casts
from rimrl.agents.rollout import Obs, SequenceRolloutBuffer
from rimrl.agents.sequence_policy import SequenceEvaluation
from rimrl.cores.base import CoreTrace
from rimrl.errors import EnvironmentFaultError, UsageError
from rimrl.spaces import check_spaces
from rimrl.usage import collapse, worst_share


class _Cut(NamedTuple):
    """Environments that time cut off at one step of a rollout.

    Attributes:
        step: The step.
        envs: Their indices.
        observation: What they showed last, ``[len(envs), ...]`` or a dict of such.
        state: The critic's recurrent state after the step, each ``[num_layers, len(envs), hidden_size]``.
    """

    step: int
    envs: list[int]
    observation: Obs
    state: tuple[Tensor, Tensor]


class _Episode(NamedTuple):
    """An episode that ended in a rollout: at which step, what the monitor counted, whether it was a success."""

    step: int
    info: dict[str, Any] | None
    success: bool | None


class RecurrentOnPolicyAlgorithm(OnPolicyAlgorithm):
    """An on-policy algorithm over a `RecurrentCorePolicy`; mixed in before SB3's or contrib's own algorithm.

    Attributes:
        ranks: The processes that train this agent together, each with as many environments and the same options;
            None (default) for one process. To be set before `learn`.
        last_episodes: With several, what their monitors counted in the last rollout, in the order in which one process
            with all environments would have.
    """

    policy: RecurrentCorePolicy
    sequence_length: int | None
    autocast: Autocast | None = None
    # Whose moves the agent has followed, and how many; None before it has played.
    _seen_moves: tuple[Moves, int] | None = None
    # Of the calls of `learn` that this one continues; they are counted on in the log.
    iterations_before = 0
    ranks: Ranks | None = None
    last_episodes: Sequence[dict[str, Any]] = ()

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        # SB3 fails in many ways over spaces that it does not know, most of them before there is a policy. Environments
        # of gym, which it wraps, have spaces of another kind.
        given: Any = env
        if isinstance(given.observation_space, spaces.Space):
            check_spaces(env.observation_space, env.action_space, "the environment")
            check_images(env.observation_space)
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        self._checked_sequence_length()
        if not issubclass(self.policy_class, RecurrentCorePolicy):
            raise UsageError(
                f"{type(self).__name__} needs a RecurrentCorePolicy, got {self.policy_class.__name__}; "
                f"pass {self._policy_names()} or a subclass"
            )
        loadable.prepare(self)
        self.rollout_buffer_class = SequenceRolloutBuffer
        self.rollout_buffer_kwargs = {"sequence_length": self.sequence_length}
        OnPolicyAlgorithm._setup_model(self)
        loadable.check_policy(self)
        self.policy.use_autocast(self.autocast)
        with th.no_grad():
            self._last_states = self.policy.initial_states(self.n_envs)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        loadable.check_schedules(self)
        self._follow_settings()
        check_autocast(self.autocast, self.device)  # again: an agent may have been loaded on another machine
        if self.env is None:
            raise UsageError("the agent has no environment to learn in; pass one to `load`, or call `set_env`")
        moves = moves_of(self.env)
        if self._seen_moves is not None and self._seen_moves != (moves, moves.count):
            self._last_obs = None  # someone else has played: SB3 resets the environments then
        set_up = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        self._seen_moves = moves, moves.count
        return set_up

    def _follow_settings(self) -> None:
        """Let what was assigned since the agent was made reach what copied it, or refuse it.

        Raises:
            UsageError: Names what cannot be changed any more.
        """
        buffer = self.rollout_buffer
        assert isinstance(buffer, SequenceRolloutBuffer)
        copied = {"n_steps": buffer.buffer_size, "sequence_length": buffer.sequence_length}
        for name, made in copied.items():
            wanted = getattr(self, name)
            if wanted is not None and wanted != made:
                raise UsageError(f"{name} {wanted} was assigned to an agent made with {made}; make another one")
        loadable.prepare(self)
        buffer.gamma, buffer.gae_lambda = self.gamma, self.gae_lambda
        self.policy.use_autocast(self.autocast)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        assert self.env is not None
        moves = moves_of(self.env)
        before = moves.count
        begun = super()._init_callback(callback, progress_bar)
        if moves.count != before:  # it has played, as one that evaluates first does
            self._last_obs = self.env.reset()  # type: ignore[assignment]
            self._last_episode_starts = np.ones(self.env.num_envs, dtype=bool)
        return begun

    def describe_core(self) -> None:
        """Bring ``policy_kwargs``, which files are made from, up to date with the number of active units.

        Raises:
            UsageError: If the cores of actor and critic have different numbers.
        """
        in_use = self.policy.core_kwargs_in_use()
        if in_use is not self.policy.core_kwargs:
            self.policy_kwargs = {**self.policy_kwargs, "core_kwargs": in_use}

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save the agent to a ``.zip``; see SB3's `BaseAlgorithm.save`."""
        self.describe_core()
        super().save(path, exclude, include)

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log; see SB3's `OnPolicyAlgorithm`."""
        super().dump_logs(iteration + self.iterations_before)

    def _checked_sequence_length(self) -> int:
        length = self.n_steps if self.sequence_length is None else self.sequence_length
        if length < 1 or self.n_steps % length:
            raise UsageError(f"sequence_length {length} does not divide n_steps {self.n_steps}")
        return length

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            raise UsageError(f"unknown policy {policy_name!r}; pass {self._policy_names()} or a RecurrentCorePolicy")
        return super()._get_policy_from_name(policy_name)

    def _policy_names(self) -> str:
        return ", ".join(map(repr, self.policy_aliases))

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Play ``n_rollout_steps`` in every environment and fill the buffer.

        Local names are SB3's own, because callbacks read them.

        Returns:
            False if a callback asked to stop.
        """
        assert isinstance(rollout_buffer, SequenceRolloutBuffer)
        assert self._last_obs is not None, "No previous observation was provided"
        if self.ranks is None:
            going_on = self._play(env, callback, rollout_buffer, n_rollout_steps, None)
        else:
            going_on = self._play_together(self.ranks, env, callback, rollout_buffer, n_rollout_steps)
        if going_on:
            callback.on_rollout_end()
        return going_on

    def _play_together(
        self,
        ranks: Ranks,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: SequenceRolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """`_play` on every rank, whose episodes are put together; all go on, stop or fail.

        Raises:
            OtherRankError: If another one failed.
        """
        episodes: list[_Episode] = []
        failure: Exception | None = None
        going_on = False
        try:
            going_on = self._play(env, callback, rollout_buffer, n_rollout_steps, episodes)
        except Exception as error:
            failure = error
        if not going_on:
            ranks.call_off()
        outcomes = ranks.exchanged((going_on, failure is not None, episodes))
        ranks.in_step = any(failed for _, failed, _ in outcomes)
        if failure is not None:
            raise failure
        if ranks.in_step:
            raise OtherRankError("another process of this training failed")
        if not all(others for others, _, _ in outcomes):
            return False
        ended = sorted((episode for *_, each in outcomes for episode in each), key=lambda episode: episode.step)
        assert self.ep_info_buffer is not None
        assert self.ep_success_buffer is not None
        self.last_episodes = [episode.info for episode in ended if episode.info is not None]
        self.ep_info_buffer.extend(self.last_episodes)
        self.ep_success_buffer.extend(episode.success for episode in ended if episode.success is not None)
        return True

    def _play(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: SequenceRolloutBuffer,
        n_rollout_steps: int,
        episodes: list[_Episode] | None,
    ) -> bool:
        """Fill the buffer; episodes that end are counted, or noted in `episodes` where all ranks' will be.

        Returns:
            False if a callback or another rank asked to stop.
        """
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        states = self._last_states
        steps_at_once = env.num_envs * (1 if self.ranks is None else self.ranks.size)

        cuts: list[_Cut] = []

        with keeping_casts(self.autocast, self.device):
            for n_steps in range(n_rollout_steps):
                if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                    self.policy.reset_noise(env.num_envs)
                obs_tensor = rollout_buffer.observe(self._last_obs)  # type: ignore[arg-type]
                episode_starts = th.as_tensor(self._last_episode_starts, device=self.device)
                with _blaming(obs_tensor, range(env.num_envs)), th.no_grad():
                    actions_tensor, values, log_probs, next_states = self.policy(obs_tensor, states, episode_starts)
                actions = actions_tensor.cpu().numpy()
                clipped_actions = self._to_env_action(actions)
                new_obs, rewards, dones, infos = self._moved(env, clipped_actions)
                try:
                    self.num_timesteps += steps_at_once
                    callback.update_locals(locals())
                    if not callback.on_step() or (self.ranks is not None and self.ranks.called_off()):
                        return False
                    if episodes is None:
                        self._update_info_buffer(infos, dones)
                    else:
                        episodes += _ended(n_steps, infos, dones)

                    cuts += _cut_by_time(n_steps, dones, infos, next_states)
                    rollout_buffer.add(
                        None,
                        actions,
                        rewards,
                        self._last_episode_starts,  # type: ignore[arg-type]
                        values,
                        log_probs,
                        states,
                    )
                finally:
                    # However the rollout ends, the environments are here now.
                    self._last_obs = new_obs  # type: ignore[assignment]
                    self._last_episode_starts = dones
                    self._last_states = states = next_states

            if not np.isfinite(rollout_buffer.rewards).all():
                giver = int((~np.isfinite(rollout_buffer.rewards)).any(axis=0).argmax())
                raise EnvironmentFaultError(
                    f"environment {giver} gave a reward that is NaN, infinite or too large for float32"
                )
            self._bootstrap(rollout_buffer, cuts)
            with _blaming(new_obs, range(env.num_envs)):
                values = self._value_of(obs_as_tensor(new_obs, self.device), states.vf, dones)  # type: ignore[arg-type]
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        self._refuse_nan(rollout_buffer)
        callback.update_locals(locals())
        return True

    def _moved(self, env: VecEnv, actions: np.ndarray[Any, Any]) -> VecEnvStepReturn:
        """Step the environments.

        Raises:
            UsageError: If someone else has stepped or reset them since the last step.
        """
        moves, seen = self._followed(env)
        if moves.count != seen:
            self._last_obs = None
            raise UsageError(
                "the training environment was stepped or reset by something else during a rollout; give callbacks "
                "that play an environment of their own"
            )
        try:
            step = env.step(actions)
        except BaseException:
            self._last_obs = None  # some environments may have moved: the next `learn` begins new episodes
            raise
        self._seen_moves = moves, moves.count
        return step

    def _followed(self, env: VecEnv) -> tuple[Moves, int]:
        """The environments' counter, and where it stood when the agent saw them last."""
        if self._seen_moves is None:
            moves = moves_of(env)
            self._seen_moves = moves, moves.count
        return self._seen_moves

    def _refuse_nan(self, rollout_buffer: SequenceRolloutBuffer) -> None:
        """Stop where the policy has answered NaN: learning from it would spread it to every weight.

        Raises:
            UsageError: If so; says whether the environment or the policy is the source.
        """
        bad = ~(np.isfinite(rollout_buffer.values) & np.isfinite(rollout_buffer.log_probs))
        if not bad.any():
            if not np.isfinite(rollout_buffer.returns).all():
                _refuse_not_finite(self._last_obs, range(self.n_envs))
                raise UsageError("advantages are NaN or infinite; check the size of rewards")
            return
        first = int(bad.any(axis=1).argmax())
        seen = rollout_buffer.observations
        for step in range(first + 1):
            shown = {key: part[step] for key, part in seen.items()} if isinstance(seen, dict) else seen[step]
            _refuse_not_finite(shown, range(self.n_envs))
        raise UsageError(
            f"the policy answers NaN or infinity after {self._n_updates} updates; lower learning_rate or "
            "max_grad_norm, and check the size of rewards and observations"
        )

    def _to_env_action(self, actions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        space = self.action_space
        if isinstance(space, spaces.Box):
            squashed = self.policy.squash_output
            actions = self.policy.unscale_action(actions) if squashed else np.clip(actions, space.low, space.high)
        return in_space(actions, space)

    def _bootstrap(self, rollout_buffer: SequenceRolloutBuffer, cuts: list[_Cut]) -> None:
        """Add the discounted value of the last observation where an episode was cut by time, not by its end.

        See https://github.com/DLR-RM/stable-baselines3/issues/633. One call for the whole rollout: where episodes are
        short, a call for each would cost as much as acting.
        """
        if not cuts:
            return
        last = _joined(np.concatenate, [cut.observation for cut in cuts])
        if isinstance(last, dict):  # vectors drop what the space does not have, and keep it here
            assert isinstance(self.observation_space, spaces.Dict)
            last = {key: last[key] for key in self.observation_space.spaces}
        state = tuple(th.cat(parts, dim=1) for parts in zip(*(cut.state for cut in cuts), strict=True))
        steps = np.concatenate([np.full(len(cut.envs), cut.step) for cut in cuts])
        envs = np.concatenate([cut.envs for cut in cuts])
        obs, _ = self.policy.obs_to_tensor(last)
        with _blaming(last, envs):
            values = self._value_of(obs, state, np.zeros(len(envs)))
        if not bool(values.isfinite().all()):
            _refuse_not_finite(last, envs)
        rollout_buffer.rewards[steps, envs] += self.gamma * values.flatten().cpu().numpy()

    def _value_of(self, obs: PyTorchObs, state: tuple[Tensor, ...], episode_starts: np.ndarray[Any, Any]) -> Tensor:
        """Values ``[B, 1]`` of observations, given the critic's state before them."""
        starts = th.as_tensor(episode_starts, device=self.device)
        with th.no_grad():
            return self.policy.predict_values(obs, state, starts)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_last_states", "_seen_moves", "ranks", "last_episodes"]

    # -- what an update shares with other ranks -----------------------------------------------------------------------

    def _normalized(self, advantages: Tensor) -> Tensor:
        """Advantages of a minibatch by the mean and deviation over all ranks' minibatches."""
        return normalize(advantages, advantages if self.ranks is None else self._of_all(advantages))

    def _step(self, loss: Tensor) -> None:
        """A gradient step on the loss of all ranks' minibatches, which are equally large."""
        self.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.ranks is not None:
            self.ranks.average_gradients(self.policy.parameters())
        th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()

    def _update_statistics(self) -> None:
        """Let the policy's mean and variance of observations take in the rollout, after learning from it."""
        statistics = self.policy.observation_statistics
        if statistics is not None:
            observations = self.rollout_buffer.stored_observations  # type: ignore[attr-defined]
            statistics.update(observations, None if self.ranks is None else self._of_all)

    def _shared_mean(self, value: float) -> float:
        """Mean over ranks of a figure."""
        return value if self.ranks is None else self.ranks.mean(th.tensor(value, dtype=th.float64)).item()

    def _log_update(self, figures: dict[str, float]) -> None:
        """Log figures of an update."""
        for name, figure in self._of_ranks(figures).items():
            self.logger.record(name, figure)

    def _log_units(self, activity: UnitActivity) -> None:
        """Log how often each unit was active, and how evenly they were used."""
        frequencies = self._of_ranks(activity.frequencies())
        # Of what all ranks did together: one rank's units may be used less evenly than those of all.
        for name, figure in (frequencies | activity.evenness(frequencies)).items():
            self.logger.record(name, figure)

    def _of_ranks(self, figures: dict[str, float]) -> dict[str, float]:
        """Figures that are means over equally large parts of the rollout, and so means of those of ranks."""
        if self.ranks is None or not figures:
            return figures
        means = self.ranks.mean(th.tensor(list(figures.values()), dtype=th.float64))
        return dict(zip(figures, means.tolist(), strict=True))

    def _explained_variance(self) -> float:
        """Share of the variance of returns that the values predict; see SB3."""
        values, returns = self.rollout_buffer.values.flatten(), self.rollout_buffer.returns.flatten()
        if self.ranks is not None:
            values, returns = (self._of_all(th.as_tensor(x)).numpy() for x in (values, returns))
        return float(explained_variance(values, returns))

    def _of_all(self, x: Tensor) -> Tensor:
        assert self.ranks is not None
        return self.ranks.concatenated(x.detach().flatten())


def _cut_by_time(step: int, dones: np.ndarray[Any, Any], infos: list[dict[str, Any]], states: RNNStates) -> list[_Cut]:
    """What is needed to value the ends of episodes that were cut by time; at most one entry."""
    envs = [
        i
        for i in np.flatnonzero(dones).tolist()
        if infos[i].get("TimeLimit.truncated", False) and infos[i].get("terminal_observation") is not None
    ]
    if not envs:
        return []
    last = [infos[i]["terminal_observation"] for i in envs]
    return [_Cut(step, envs, _joined(np.stack, last), (states.vf[0][:, envs], states.vf[1][:, envs]))]


def _ended(step: int, infos: list[dict[str, Any]], dones: np.ndarray[Any, Any]) -> list[_Episode]:
    """Episodes that ended in a step, as SB3 counts them in ``_update_info_buffer``."""
    ended = []
    for info, done in zip(infos, dones, strict=True):
        counted, success = info.get("episode"), info.get("is_success") if done else None
        if counted is not None or success is not None:
            ended.append(_Episode(step, counted, success))
    return ended


def _refuse_not_finite(obs: Any, envs: Sequence[int] | np.ndarray[Any, Any]) -> None:
    """Say which environment showed what no network can read.

    Args:
        obs: Observations, ``[len(envs), ...]`` or a dict of such.
        envs: Whose they are.

    Raises:
        EnvironmentFaultError: If a number is NaN or infinite.
    """
    for key, part in obs.items() if isinstance(obs, dict) else [(None, obs)]:
        bad = ~th.as_tensor(part).reshape(len(envs), -1).isfinite().all(dim=1)
        if bool(bad.any()):
            where = "" if key is None else f" in {key!r}"
            shower = int(envs[int(bad.int().argmax())])
            raise EnvironmentFaultError(f"environment {shower} showed an observation{where} that is NaN or infinite")


@contextmanager
def _blaming(obs: Any, envs: Sequence[int] | np.ndarray[Any, Any]) -> Iterator[None]:
    """Where the policy refuses observations, see first whether an environment is to blame; as `_refuse_not_finite`."""
    try:
        yield
    except ValueError:
        _refuse_not_finite(obs, envs)
        raise


def _joined(join: Callable[[list[Any]], np.ndarray[Any, Any]], observations: list[Any]) -> Obs:
    """Observations, or each part of them, joined into a copy."""
    if isinstance(observations[0], dict):
        return {key: join([obs[key] for obs in observations]) for key in observations[0]}
    return join(observations)


class UnitActivity:
    """Means over one pass of the rollout how often each unit was active, and measures how evenly they were used.

    Args:
        units_per_layer: Of the policy's core; a critic's core of its own has as many.
    """

    def __init__(self, units_per_layer: Sequence[int]) -> None:
        self._layers = units_per_layer
        self._active: dict[str, list[Tensor]] = {}

    def add(self, evaluation: SequenceEvaluation) -> None:
        """Take in the traces of a minibatch."""
        self._add("units/", evaluation.trace)
        self._add("units/critic_", evaluation.critic_trace)

    def _add(self, prefix: str, trace: CoreTrace | None) -> None:
        if trace is not None and trace.active.shape[-1] > 1:
            self._active.setdefault(prefix, []).append(trace.active.float().mean(dim=(0, 1)))

    def frequencies(self) -> dict[str, float]:
        """Share of steps in which each unit was active, by the name it has in TensorBoard."""
        return {
            f"{prefix}active_{unit}": share
            for prefix, parts in self._active.items()
            for unit, share in enumerate(th.stack(parts).mean(dim=0).tolist())
        }

    def evenness(self, frequencies: Mapping[str, float]) -> dict[str, float]:
        """The measures of `rimrl.usage` for such frequencies, by the names they have in TensorBoard."""
        figures = {}
        for prefix in self._active:
            shares = [frequencies[f"{prefix}active_{unit}"] for unit in range(sum(self._layers))]
            figures[f"{prefix}collapse"] = collapse(shares, self._layers)
            figures[f"{prefix}worst_share"] = worst_share(shares, self._layers)
        return figures


def entropy_loss(evaluation: SequenceEvaluation) -> Tensor:
    """Negative mean entropy, estimated from the samples where it has no closed form."""
    if evaluation.entropy is None:
        return th.mean(evaluation.log_prob)
    return -th.mean(evaluation.entropy)


def normalize(advantages: Tensor, over: Tensor) -> Tensor:
    """Zero mean and unit variance over a minibatch, of which these may be a part; a single step is left alone."""
    if over.numel() < 2:
        return advantages
    return (advantages - over.mean()) / (over.std() + 1e-8)
