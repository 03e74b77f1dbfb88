"""What recurrent PPO and A2C share: collecting rollouts, and logging what the units do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rimrl.agents.policies import RecurrentCorePolicy, SequenceEvaluation
from rimrl.agents.rollout import SequenceRolloutBuffer
from rimrl.cores.base import CoreTrace
from rimrl.errors import UsageError


class RecurrentOnPolicyAlgorithm(OnPolicyAlgorithm):
    """An on-policy algorithm over a `RecurrentCorePolicy`; mixed in before SB3's or contrib's own algorithm."""

    policy: RecurrentCorePolicy
    sequence_length: int | None

    def _setup_model(self) -> None:
        self._checked_sequence_length()
        if not issubclass(self.policy_class, RecurrentCorePolicy):
            raise UsageError(
                f"{type(self).__name__} needs a RecurrentCorePolicy, got {self.policy_class.__name__}; "
                f"pass {self._policy_names()} or a subclass"
            )
        self.rollout_buffer_class = SequenceRolloutBuffer
        self.rollout_buffer_kwargs = {"sequence_length": self.sequence_length}
        OnPolicyAlgorithm._setup_model(self)
        with th.no_grad():
            self._last_states = self.policy.initial_states(self.n_envs)

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
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        states = self._last_states

        for n_steps in range(n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            with th.no_grad():
                obs_tensor = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
                episode_starts = th.as_tensor(self._last_episode_starts, device=self.device)
                actions_tensor, values, log_probs, next_states = self.policy(obs_tensor, states, episode_starts)
            actions = actions_tensor.cpu().numpy()
            clipped_actions = self._to_env_action(actions)
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)

            self._bootstrap_truncated(rewards, dones, infos, next_states)
            rollout_buffer.add(
                self._last_obs,  # type: ignore[arg-type]
                actions,
                rewards,
                self._last_episode_starts,  # type: ignore[arg-type]
                values,
                log_probs,
                states,
            )
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = dones
            self._last_states = states = next_states

        with th.no_grad():
            values = self.policy.predict_values(
                obs_as_tensor(new_obs, self.device),  # type: ignore[arg-type]
                states.vf,
                th.as_tensor(dones, device=self.device),
            )
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _to_env_action(self, actions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        clipped: np.ndarray[Any, Any] = np.clip(actions, self.action_space.low, self.action_space.high)
        return clipped

    def _bootstrap_truncated(
        self,
        rewards: np.ndarray[Any, Any],
        dones: np.ndarray[Any, Any],
        infos: list[dict[str, Any]],
        states: RNNStates,
    ) -> None:
        """Add the discounted value of the last observation where an episode was cut by time, not by its end.

        See https://github.com/DLR-RM/stable-baselines3/issues/633.
        """
        cut = [
            i
            for i in np.flatnonzero(dones).tolist()
            if infos[i].get("TimeLimit.truncated", False) and infos[i].get("terminal_observation") is not None
        ]
        if not cut:
            return
        last = [infos[i]["terminal_observation"] for i in cut]
        stacked = {k: np.stack([o[k] for o in last]) for k in last[0]} if isinstance(last[0], dict) else np.stack(last)
        obs, _ = self.policy.obs_to_tensor(stacked)
        state = (states.vf[0][:, cut], states.vf[1][:, cut])
        with th.no_grad():
            values = self.policy.predict_values(obs, state, th.zeros(len(cut), device=self.device))
        rewards[cut] += self.gamma * values.flatten().cpu().numpy()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_last_states"]


class UnitActivity:
    """Means over one pass of the rollout how often each unit was active, and logs it."""

    def __init__(self) -> None:
        self._active: dict[str, list[Tensor]] = {}

    def add(self, evaluation: SequenceEvaluation) -> None:
        """Take in the traces of a minibatch."""
        self._add("units/active_", evaluation.trace)
        self._add("units/critic_active_", evaluation.critic_trace)

    def _add(self, prefix: str, trace: CoreTrace | None) -> None:
        if trace is not None and trace.active.shape[-1] > 1:
            self._active.setdefault(prefix, []).append(trace.active.float().mean(dim=(0, 1)))

    def frequencies(self) -> dict[str, float]:
        """Share of steps in which each unit was active, by the name it has in TensorBoard."""
        return {
            f"{prefix}{unit}": share
            for prefix, parts in self._active.items()
            for unit, share in enumerate(th.stack(parts).mean(dim=0).tolist())
        }


def entropy_loss(evaluation: SequenceEvaluation) -> Tensor:
    """Negative mean entropy, estimated from the samples where it has no closed form."""
    if evaluation.entropy is None:
        return th.mean(evaluation.log_prob)
    return -th.mean(evaluation.entropy)


def normalize(advantages: Tensor) -> Tensor:
    """Zero mean and unit variance over a minibatch; a single step is left alone."""
    if advantages.numel() < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
