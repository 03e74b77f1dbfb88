"""What recurrent algorithms share beside rollouts and updates: set-up, settings, saving."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from rimrl.agents import loadable
from rimrl.agents.extractor_checks import check_images
from rimrl.agents.masks import check_offered, flags_of
from rimrl.agents.policies import CnnRecurrentCorePolicy, MultiInputRecurrentCorePolicy, RecurrentCorePolicy
from rimrl.agents.policy_update import PolicyUpdateMixin
from rimrl.agents.precision import Autocast, check_autocast
from rimrl.agents.registry import saved_as
from rimrl.agents.rollout import SequenceRolloutBuffer
from rimrl.agents.rollout_collection import RolloutCollectionMixin
from rimrl.agents.step_counter import step_counter_of
from rimrl.errors import invalid_value, missing, needs, wrong
from rimrl.spaces import check_spaces


class RecurrentOnPolicyAlgorithm(RolloutCollectionMixin, PolicyUpdateMixin):
    """An on-policy algorithm over a `RecurrentCorePolicy`; mixed in before SB3's or contrib's own algorithm.

    Attributes:
        ranks: The processes that train this agent together, each with as many environments and the same options.
            Default: one. To be set before `learn`.
        metrics: Names in the log that tell how well it learns.
        last_episodes: With several, what their monitors counted in the last rollout, in the order in which one process
            with all environments would have.
    """

    metrics: ClassVar[tuple[str, ...]] = ("rollout/ep_rew_mean",)
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": RecurrentCorePolicy,
        "CnnPolicy": CnnRecurrentCorePolicy,
        "MultiInputPolicy": MultiInputRecurrentCorePolicy,
    }
    sequence_length: int | None
    # What files name it by; sb3-contrib's algorithms take it along unread.
    algorithm: str
    # Of the calls of `learn` that this one continues; they are counted on in the log.
    iterations_before = 0

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        # SB3 fails in many ways over spaces that it does not know, most of them before there is a policy. Environments
        # of gym, which it wraps, have spaces of another kind.
        given: Any = env
        if isinstance(given.observation_space, spaces.Space):
            check_spaces(env.observation_space, env.action_space, "the environment")
            check_images(env.observation_space)
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _keep_options(self, sequence_length: int | None, autocast: Autocast | None, use_masking: bool) -> None:
        """Keep what Stable-Baselines3's constructors do not take."""
        self.sequence_length = sequence_length
        self.autocast = autocast
        self.use_masking = use_masking

    def _setup_model(self) -> None:
        self._checked_sequence_length()
        if not issubclass(self.policy_class, RecurrentCorePolicy):
            raise needs(
                type(self).__name__, f"{self._policy_names()} or a RecurrentCorePolicy", self.policy_class.__name__
            )
        loadable.prepare(self)
        self._check_masking()
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
            raise missing("environment for the agent to learn in", advice="pass one to `load`, or call `set_env`")
        self._check_masking()
        moves = step_counter_of(self.env)
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
                raise wrong(name, f"{wanted} was assigned to an agent made with {made}", "make another one", "state")
        loadable.prepare(self)
        buffer.gamma, buffer.gae_lambda = self.gamma, self.gae_lambda
        self.policy.use_autocast(self.autocast)

    def _check_masking(self) -> None:
        if self.use_masking:
            flags_of(self.action_space)
            if self.env is not None:
                check_offered(self.env)

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Choose actions.

        Args:
            observation: One observation or a batch.
            state: What the previous call returned; None begins an episode.
            episode_start: ``[n_envs]``; where true, the state is reset first.
            deterministic: Take the mode instead of a sample.
            action_masks: ``[n_envs, flags]``, true where an action is valid (`rimrl.agents.masks`), or ``[flags]`` for
                one observation. An agent with ``use_masking`` needs them.

        Returns:
            The actions, and the state to pass to the next call.

        Raises:
            UsageError: If masks are missing, do not fit or forbid every action, or the state or the episode starts are
                of another number of environments.
        """
        if self.use_masking and action_masks is None:
            raise needs(
                "this agent", "action_masks", advice="pass action_masks=env.action_masks(), or set use_masking = False"
            )
        return self.policy.predict(observation, state, episode_start, deterministic, action_masks)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        assert self.env is not None
        moves = step_counter_of(self.env)
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
        self.algorithm = saved_as(type(self))
        super().save(path, exclude, include)

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log; see SB3's `OnPolicyAlgorithm`."""
        super().dump_logs(iteration + self.iterations_before)

    def _checked_sequence_length(self) -> int:
        length = self.n_steps if self.sequence_length is None else self.sequence_length
        if length < 1 or self.n_steps % length:
            raise wrong("sequence_length", f"{length} does not divide n_steps {self.n_steps}")
        return length

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            raise invalid_value("policy", f"{self._policy_names()} or a RecurrentCorePolicy", policy_name)
        return super()._get_policy_from_name(policy_name)

    def _policy_names(self) -> str:
        return ", ".join(map(repr, self.policy_aliases))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_last_states", "_seen_moves", "ranks", "last_episodes"]
