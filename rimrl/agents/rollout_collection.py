"""Collecting rollouts: the policy plays, and the buffer keeps what it saw, did and thought."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from torch import Tensor

from rimrl.agents.episodes import Episode, Truncation, ended_episodes, find_truncations, stack_truncations
from rimrl.agents.faults import blaming, refuse_bad_rewards, refuse_nan, refuse_not_finite
from rimrl.agents.masks import ask
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.agents.precision import Autocast, keeping_casts
from rimrl.agents.ranks import Ranks
from rimrl.agents.rollout import SequenceRolloutBuffer
from rimrl.agents.step_counter import StepCounter, step_counter_of
from rimrl.cores.unchanging import unchanging_weights
from rimrl.errors import wrong


class RolloutCollectionMixin(OnPolicyAlgorithm):
    """Plays rollouts with a recurrent policy, alone or as one of several ranks."""

    policy: RecurrentCorePolicy
    autocast: Autocast | None = None
    use_masking = False
    ranks: Ranks = Ranks()
    last_episodes: Sequence[dict[str, Any]] = ()
    _last_states: RNNStates
    # Whose moves the agent has followed, and how many; None before it has played.
    _seen_moves: tuple[StepCounter, int] | None = None

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Play ``n_rollout_steps`` in every environment and fill the buffer.

        Returns:
            False if a callback asked to stop, on any rank.

        Raises:
            OtherRankError: If another rank failed.
        """
        assert isinstance(rollout_buffer, SequenceRolloutBuffer)
        assert self._last_obs is not None, "No previous observation was provided"
        buffer = rollout_buffer
        played = self.ranks.gather_results(lambda: self._play(env, callback, buffer, n_rollout_steps))
        if not all(going_on for going_on, _ in played):
            return False
        self._count([episode for _, episodes in played for episode in episodes])
        callback.on_rollout_end()
        return True

    def _play(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: SequenceRolloutBuffer, n_rollout_steps: int
    ) -> tuple[bool, list[Episode]]:
        """Fill the buffer. Local names are SB3's own, because callbacks read them.

        Returns:
            False if a callback or another rank asked to stop, and the episodes that ended and are still to be counted.
        """
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        if self.use_sde:  # after a checkpoint may have been taken: whoever goes on from it draws the same noise
            self.policy.reset_noise(env.num_envs)
        states = self._last_states
        cuts: list[Truncation] = []
        episodes: list[Episode] = []

        with keeping_casts(self.autocast, self.device), unchanging_weights():
            for n_steps in range(n_rollout_steps):
                if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                    self.policy.reset_noise(env.num_envs)
                obs_tensor = rollout_buffer.observe(self._last_obs)  # type: ignore[arg-type]
                episode_starts = th.as_tensor(self._last_episode_starts, device=self.device)
                action_masks = ask(env, self.num_timesteps) if self.use_masking else None
                with blaming(obs_tensor, range(env.num_envs)), th.no_grad():
                    actions_tensor, values, log_probs, next_states = self.policy(
                        obs_tensor, states, episode_starts, action_masks=action_masks
                    )
                actions = actions_tensor.cpu().numpy()
                clipped_actions = self.policy.within_space(actions)
                new_obs, rewards, dones, infos = self._moved(env, clipped_actions)
                try:
                    self.num_timesteps += env.num_envs * self.ranks.size
                    callback.update_locals(locals())
                    if not callback.on_step() or self.ranks.stop_requested():
                        self.ranks.request_stop()
                        return False, []
                    episodes += self._count_own(n_steps, infos, dones)
                    cuts += find_truncations(n_steps, dones, infos, next_states)
                    rollout_buffer.add(
                        *(None, actions, rewards, self._last_episode_starts, values, log_probs, states),  # type: ignore[arg-type]
                        action_masks=action_masks,
                    )
                finally:
                    # However the rollout ends, the environments are here now.
                    self._last_obs = new_obs  # type: ignore[assignment]
                    self._last_episode_starts = dones
                    self._last_states = states = next_states
            refuse_bad_rewards(rollout_buffer)
            self._bootstrap(rollout_buffer, cuts)
            with blaming(new_obs, range(env.num_envs)):
                values = self._value_of(obs_as_tensor(new_obs, self.device), states.vf, dones)  # type: ignore[arg-type]
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        refuse_nan(rollout_buffer, self._last_obs, self.n_envs, self._n_updates)
        callback.update_locals(locals())
        return True, episodes

    def _count_own(self, step: int, infos: list[dict[str, Any]], dones: np.ndarray[Any, Any]) -> list[Episode]:
        """Count the episodes that ended in a step, as SB3 does.

        Returns:
            Those of one of several ranks, which are counted when all have come.
        """
        if self.ranks.size > 1:
            return ended_episodes(step, infos, dones)
        self._update_info_buffer(infos, dones)
        return []

    def _count(self, episodes: list[Episode]) -> None:
        """Count the episodes of all ranks, in the order in which one process with all environments would have."""
        assert self.ep_info_buffer is not None
        assert self.ep_success_buffer is not None
        ended = sorted(episodes, key=attrgetter("step"))
        self.last_episodes = [episode.info for episode in ended if episode.info is not None]
        self.ep_info_buffer.extend(self.last_episodes)
        self.ep_success_buffer.extend(episode.success for episode in ended if episode.success is not None)

    def _moved(self, env: VecEnv, actions: np.ndarray[Any, Any]) -> VecEnvStepReturn:
        """Step the environments.

        Raises:
            UsageError: If someone else has stepped or reset them since the last step.
        """
        moves, seen = self._followed(env)
        if moves.count != seen:
            self._last_obs = None
            raise wrong(
                "the training environment",
                "was stepped or reset by something else during a rollout",
                "give callbacks that play an environment of their own",
                "state",
            )
        try:
            step = env.step(actions)
        except BaseException:
            self._last_obs = None  # some environments may have moved: the next `learn` begins new episodes
            raise
        self._seen_moves = moves, moves.count
        return step

    def _followed(self, env: VecEnv) -> tuple[StepCounter, int]:
        """The environments' counter, and where it stood when the agent saw them last."""
        if self._seen_moves is None:
            moves = step_counter_of(env)
            self._seen_moves = moves, moves.count
        return self._seen_moves

    def _bootstrap(self, rollout_buffer: SequenceRolloutBuffer, cuts: list[Truncation]) -> None:
        """Add the discounted value of the last observation where an episode was cut by time, not by its end.

        See https://github.com/DLR-RM/stable-baselines3/issues/633. One call for the whole rollout: where episodes are
        short, a call for each would cost as much as acting.
        """
        if not cuts:
            return
        last, state, steps, envs = stack_truncations(cuts)
        if isinstance(last, dict):  # vectors drop what the space does not have, and keep it here
            assert isinstance(self.observation_space, spaces.Dict)
            last = {key: last[key] for key in self.observation_space.spaces}
        obs, _ = self.policy.obs_to_tensor(last)
        with blaming(last, envs):
            values = self._value_of(obs, state, np.zeros(len(envs)))
        if not bool(values.isfinite().all()):
            refuse_not_finite(last, envs)
        rollout_buffer.rewards[steps, envs] += self.gamma * values.flatten().cpu().numpy()

    def _value_of(self, obs: PyTorchObs, state: tuple[Tensor, ...], episode_starts: np.ndarray[Any, Any]) -> Tensor:
        """Values ``[B, 1]`` of observations, given the critic's state before them."""
        starts = th.as_tensor(episode_starts, device=self.device)
        with th.no_grad():
            return self.policy.predict_values(obs, state, starts)
