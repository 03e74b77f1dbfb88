"""Actor-critic policies over any recurrent core, for rimrl's algorithms and for unmodified sb3-contrib.

`rimrl.agents.policy_networks` builds them, `rimrl.agents.sequence_policy` evaluates whole sequences. Here is contrib's
interface: flat batches of n_seq sequences, one behind the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from rimrl.agents.actions import cast_to_space, unscale_actions
from rimrl.agents.batches import (
    batch_size,
    check_sequences,
    check_state,
    check_step,
    to_batch,
    to_sequences,
    without_padding,
)
from rimrl.agents.masks import AnyMasks, as_masks
from rimrl.agents.positions import elements
from rimrl.agents.sequence_policy import SequencePolicy, run_core
from rimrl.cores.base import CoreTrace, RecurrentCore, State


class RecurrentCorePolicy(SequencePolicy):
    """Recurrent actor-critic policy whose memory is a `rimrl.cores.base.RecurrentCore`.

    Drop-in for sb3-contrib's ``MlpLstmPolicy``: pass it to ``sb3_contrib.RecurrentPPO`` or to `rimrl.RecurrentPPO` and
    `rimrl.RecurrentA2C` with ``policy_kwargs=dict(core="rim", core_kwargs=dict(num_units=6, num_active=4))``.

    Args:
        observation_space: Observation space.
        action_space: Action space.
        lr_schedule: Learning rate as a function of the remaining progress, 1 to 0.
        net_arch: Layers between the core and the heads; SB3's default ``dict(pi=[64, 64], vf=[64, 64])``, none for
            `NatureCNN`.
        activation_fn: Activation of those layers.
        ortho_init: Orthogonal initialisation of everything but the core.
        use_sde: Generalised state-dependent exploration.
        log_std_init: Initial log standard deviation of a Gaussian.
        full_std: gSDE: one standard deviation for each feature and action.
        use_expln: gSDE: ``expln`` instead of ``exp``.
        squash_output: gSDE: squash actions with tanh.
        features_extractor_class: What turns observations into the core's input.
        features_extractor_kwargs: Its arguments.
        share_features_extractor: One extractor for actor and critic.
        normalize_images: Divide images by 255.
        optimizer_class: Optimiser.
        optimizer_kwargs: Its arguments besides the learning rate. Default for Adam: ``eps=1e-5``, as SB3, and torch's
            fused form of it.
        core: Name of a registered core (``rimrl list cores``) or a `RecurrentCore` subclass. Default ``"rim"``.
        core_kwargs: Its options. Features that are a set of positions (an extractor with ``num_positions``) set the
            core's ``num_inputs`` themselves.
        core_sharing: ``"shared"`` (default; the papers' set-up): one core, and the gradients of both heads flow into
            it. ``"separate"``: the critic has its own core (contrib's ``enable_critic_lstm=True``). ``"actor_only"``:
            the critic has a linear layer and no memory (contrib's ``enable_critic_lstm=False``).
        critic_gradient: How much of the critic's gradient flows into a shared core and the features before it, from 1
            (default: all of it) to 0 (none, as contrib's ``shared_lstm=True``). Needs ``core_sharing="shared"``.
        trunk: Features extractor and core are ``"learned"`` (default) or ``"frozen"``, so that only what stands behind
            the core learns; ``"progressive"``: they are learned, and lateral connections bring in what a second, frozen
            column makes of the same observations (`rimrl.cores.progressive`). What is frozen is random until
            `rimrl.agents.transfer.initialize_from` or a saved file fills it.
        normalize_observations: Bring vectors of real numbers, and the pixels of images, to zero mean and unit variance,
            as SB3's `VecNormalize` (`rimrl.agents.normalization`). rimrl's algorithms learn both from what the agent
            sees. Default False.

    Raises:
        UsageError: For spaces that no agent learns with (`rimrl.spaces`) or the extractor does not read, an unknown
            core, option, sharing or trunk, a shared core over separate extractors, observations with nothing to
            normalise, a progressive trunk with ``core_sharing="actor_only"``, or a ``critic_gradient`` that is not from
            0 to 1 or has no shared core to flow into.
    """

    def forward(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        lstm_states: RNNStates,
        episode_starts: Tensor,
        deterministic: bool = False,
        action_masks: AnyMasks | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates]:
        """Act: one step for every environment.

        Args:
            obs: ``[n_envs, *observation shape]``, or a dict of such.
            lstm_states: Recurrent states of actor and critic.
            episode_starts: ``[n_envs]``; where true, the state is reset before the step.
            deterministic: Take the mode instead of a sample.
            action_masks: ``[n_envs, flags]``, true where an action is valid (`rimrl.agents.masks`); None for no masks.

        Returns:
            Actions, values ``[n_envs, 1]``, log-probabilities ``[n_envs]`` and the new states.

        Raises:
            UsageError: If observations, states, episode starts and masks are not of the same number of environments.
        """
        for state in lstm_states:
            check_step(obs, state, episode_starts)
        values, distribution, new_states = self._run_flat(obs, lstm_states, episode_starts, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        assert self.action_space.shape is not None
        return actions.reshape((-1, *self.action_space.shape)), values, log_prob, new_states

    def evaluate_actions(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        actions: Tensor,
        lstm_states: RNNStates,
        episode_starts: Tensor,
        action_masks: AnyMasks | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluate actions on contrib's padded batches; see `evaluate_sequences` for the form without padding.

        Masks are ``[batch, flags]``, true where an action was valid.

        Returns:
            Values ``[batch, 1]``, log-probabilities ``[batch]`` and entropies ``[batch]`` or None.
        """
        obs, actions = without_padding(obs, self.observation_space), without_padding(actions, self.action_space)
        check_sequences(obs, lstm_states.pi, episode_starts)
        values, distribution, _ = self._run_flat(obs, lstm_states, episode_starts, action_masks)
        return values, distribution.log_prob(actions), distribution.entropy()

    def _run_flat(
        self, obs: PyTorchObs, lstm_states: RNNStates, episode_starts: Tensor, action_masks: AnyMasks | None
    ) -> tuple[Tensor, Distribution, RNNStates]:
        n_seq = lstm_states.pi[0].shape[1]
        pi_features, vf_features = self._features(obs)
        latents = self._run_cores(
            to_sequences(pi_features, n_seq),
            to_sequences(vf_features, n_seq),
            lstm_states,
            to_sequences(episode_starts, n_seq),
        )
        return *self._heads(to_batch(latents.pi), to_batch(latents.vf), action_masks), latents.states

    def get_distribution(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        lstm_states: tuple[Tensor, ...],
        episode_starts: Tensor,
        action_masks: AnyMasks | None = None,
    ) -> tuple[Distribution, State]:
        """The action distribution, under masks ``[batch, flags]`` if there are any, and the actor's new state."""
        check_sequences(obs, lstm_states, episode_starts)
        features = self._extract(self._prepare(obs), self.pi_features_extractor)
        latent, state = _run_flat(self.core, features, lstm_states, episode_starts)
        return self._distribution(latent, action_masks), state

    def predict_values(  # type: ignore[override]
        self, obs: PyTorchObs, lstm_states: tuple[Tensor, ...], episode_starts: Tensor
    ) -> Tensor:
        """Values ``[batch, 1]``, given the critic's state (the actor's where the core is shared)."""
        check_sequences(obs, lstm_states, episode_starts)
        features = self._extract(self._prepare(obs), self.vf_features_extractor)
        if self.critic is not None:
            return self._values(self.critic(features))
        latent, _ = _run_flat(self.critic_core or self.core, features, lstm_states, episode_starts)
        return self._values(latent)

    def predict(
        self,
        observation: np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]],
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[Any] | None = None,
    ) -> tuple[np.ndarray[Any, Any], tuple[np.ndarray[Any, Any], ...] | None]:
        """Choose actions; see `stable_baselines3.common.base_class.BaseAlgorithm.predict`.

        Args:
            observation: One observation or a batch.
            state: What the previous call returned; None begins an episode.
            episode_start: ``[n_envs]``; where true, the state is reset first.
            deterministic: Take the mode instead of a sample.
            action_masks: ``[n_envs, flags]``, true where an action is valid (`rimrl.agents.masks`), or ``[flags]`` for
                one observation; None for no masks.

        Returns:
            The actions, each of which the action space contains, and the state to pass to the next call.

        Raises:
            UsageError: If the state, the episode starts or the masks are of another number of environments, or a mask
                forbids every action.
        """
        if state is not None:
            check_state(state)
        self.set_training_mode(False)
        batch, vectorized = self.obs_to_tensor(observation)
        n_envs = batch_size(batch)
        masks = None if action_masks is None else as_masks(action_masks, self.action_space, n_envs)
        with th.no_grad():
            # contrib would start from zeros, which is not where a core with a learned initial state starts.
            before = self.core.initial_state(n_envs) if state is None else tuple(map(self._copied, state))
            starts = self._copied(np.zeros(n_envs) if episode_start is None else episode_start)
            chosen, after = self._predict(batch, before, starts, deterministic, masks)
        assert self.action_space.shape is not None
        actions = self.within_space(chosen.cpu().numpy().reshape((-1, *self.action_space.shape)))
        return actions if vectorized else actions.squeeze(axis=0), tuple(part.cpu().numpy() for part in after)

    def _copied(self, part: NDArray[Any] | Tensor) -> Tensor:
        return th.as_tensor(part, dtype=th.float32, device=self.device).clone()

    def _predict(  # type: ignore[override]
        self,
        observation: PyTorchObs,
        lstm_states: tuple[Tensor, ...],
        episode_starts: Tensor,
        deterministic: bool = False,
        action_masks: AnyMasks | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        starts = episode_starts.reshape(1) if episode_starts.dim() == 0 else episode_starts
        check_step(observation, lstm_states, starts)
        distribution, state = self.get_distribution(observation, lstm_states, starts, action_masks)
        return distribution.get_actions(deterministic=deterministic), state

    def within_space(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Actions ``[B, *action shape]`` of a distribution as those that the action space contains."""
        space = self.action_space
        if isinstance(space, spaces.Box):
            actions = self.unscale_action(actions) if self.squash_output else np.clip(actions, space.low, space.high)
        return cast_to_space(actions, space)

    def unscale_action(self, scaled_action: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Stretch actions from -1 to 1 to the bounds of the action space; see SB3's `BasePolicy`."""
        assert isinstance(self.action_space, spaces.Box)
        return unscale_actions(scaled_action, self.action_space)

    def trace(
        self,
        observation: np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]],
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
    ) -> CoreTrace:
        """What the units of the actor's core do in the step that `predict` takes from the same arguments.

        Args:
            observation: One observation or a batch.
            state: The state that `predict` gets.
            episode_start: ``[n_envs]``.

        Returns:
            The trace of that one step, T = 1.

        Raises:
            UsageError: If the state or the episode starts are of another number of environments.
        """
        self.set_training_mode(False)
        obs, _ = self.obs_to_tensor(observation)
        states = () if state is None else tuple(th.as_tensor(s, device=self.device) for s in state)
        flags = np.zeros(batch_size(obs), dtype=bool) if episode_start is None else episode_start
        starts = th.as_tensor(flags, device=self.device)
        check_step(obs, states, starts)
        with th.no_grad():
            features = self._extract(self._prepare(obs), self.pi_features_extractor)
            _, _, trace = run_core(self.core, features.unsqueeze(0), states or None, starts[None], return_trace=True)
        assert trace is not None
        return trace


def _run_flat(
    core: RecurrentCore, features: Tensor, state: tuple[Tensor, ...], episode_starts: Tensor
) -> tuple[Tensor, State]:
    """Outputs of a core for a flat batch, and its new state."""
    n_seq = state[0].shape[1]
    latent, after = core(elements(core, to_sequences(features, n_seq)), state, to_sequences(episode_starts, n_seq))
    return to_batch(latent), after


class CnnRecurrentCorePolicy(RecurrentCorePolicy):
    """`RecurrentCorePolicy` for images: `NatureCNN` before the core unless another extractor is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": NatureCNN, **kwargs})


class MultiInputRecurrentCorePolicy(RecurrentCorePolicy):
    """`RecurrentCorePolicy` for Dict observations: `CombinedExtractor` unless another extractor is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": CombinedExtractor, **kwargs})
