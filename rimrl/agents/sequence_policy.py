"""A policy on whole sequences, ``[T, B, ...]``: the interface that rimrl's algorithms call."""

from __future__ import annotations

from typing import NamedTuple

from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from rimrl.agents.masks import AnyMasks, masked
from rimrl.agents.policy_networks import PolicyNetworks
from rimrl.agents.positions import elements
from rimrl.agents.precision import autocasting
from rimrl.agents.rollout import map_parts
from rimrl.cores.base import CoreTrace, RecurrentCore, State


class SequenceEvaluation(NamedTuple):
    """What a policy says of a minibatch of whole sequences.

    Attributes:
        values: ``[T, B]``.
        log_prob: ``[T, B]``.
        entropy: ``[T, B]``, or None where the distribution has no closed form.
        trace: What the units of the actor's core did, on request.
        critic_trace: The same of the critic's core, if it has its own.
        states: Recurrent states after the last step, each ``[num_layers, B, hidden_size]``.
    """

    values: Tensor
    log_prob: Tensor
    entropy: Tensor | None
    trace: CoreTrace | None
    critic_trace: CoreTrace | None
    states: RNNStates


class _Latents(NamedTuple):
    """Outputs of the cores, ``[T, B, output_size]``, and what comes with them."""

    pi: Tensor
    vf: Tensor
    states: RNNStates
    trace: CoreTrace | None
    critic_trace: CoreTrace | None


class SequencePolicy(PolicyNetworks):
    """A policy that evaluates minibatches of whole sequences, which need no padding."""

    def evaluate_sequences(
        self,
        obs: PyTorchObs,
        actions: Tensor,
        states: RNNStates,
        episode_starts: Tensor,
        return_trace: bool = False,
        action_masks: Tensor | None = None,
    ) -> SequenceEvaluation:
        """Evaluate the actions of a minibatch of whole sequences, without padding.

        Args:
            obs: ``[T, B, *observation shape]``, or a dict of such.
            actions: ``[T, B]`` for discrete actions, else ``[T, B, action width]``.
            states: Recurrent states before the first step, each ``[num_layers, B, hidden_size]``.
            episode_starts: ``[T, B]``.
            return_trace: Also return what the units did.
            action_masks: ``[T, B, flags]``, true where an action was valid (`rimrl.agents.masks`); None for no masks.

        Returns:
            Values, log-probabilities and entropies, each ``[T, B]``, the states after the last step, and traces on
            request.
        """
        T, B = episode_starts.shape
        pi_features, vf_features = self._features(map_parts(lambda part: part.flatten(0, 1), obs))
        latents = self._run_cores(
            pi_features.view(T, B, -1), vf_features.view(T, B, -1), states, episode_starts, return_trace
        )
        flat_masks = None if action_masks is None else action_masks.flatten(0, 1)
        values, distribution = self._heads(latents.pi.flatten(0, 1), latents.vf.flatten(0, 1), flat_masks)
        log_prob = distribution.log_prob(actions.flatten(0, 1))
        entropy = distribution.entropy()
        return SequenceEvaluation(
            values.view(T, B),
            log_prob.view(T, B),
            None if entropy is None else entropy.view(T, B),
            latents.trace,
            latents.critic_trace,
            latents.states,
        )

    def extract_features(  # type: ignore[override]
        self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Prepare observations and extract their features.

        Args:
            obs: ``[B, *observation shape]``, or a dict of such.
            features_extractor: Which extractor; the policy's own by default.

        Returns:
            ``[B, features_dim]``; for separate extractors and none named, those of the actor and of the critic.
        """
        prepared = self._prepare(obs)
        if features_extractor is not None:
            return self._extract(prepared, features_extractor)
        if self.share_features_extractor:
            return self._extract(prepared, self.features_extractor)
        return self._extract(prepared, self.pi_features_extractor), self._extract(prepared, self.vf_features_extractor)

    def _extract(self, prepared: PyTorchObs, extractor: BaseFeaturesExtractor) -> Tensor:
        features: Tensor
        if self._autocast is None:
            features = extractor(prepared)
            return features
        with autocasting(self._autocast, self.device):
            features = extractor(prepared)
        return features.float()

    def _features(self, obs: PyTorchObs) -> tuple[Tensor, Tensor]:
        features = self.extract_features(obs)
        return (features, features) if isinstance(features, Tensor) else features

    def _run_cores(
        self,
        pi_features: Tensor,
        vf_features: Tensor,
        states: RNNStates,
        episode_starts: Tensor,
        return_trace: bool = False,
    ) -> _Latents:
        trace = critic_trace = None
        latent_pi, state_pi, trace = run_core(self.core, pi_features, states.pi, episode_starts, return_trace)
        if self.critic_core is not None:
            latent_vf, state_vf, critic_trace = run_core(
                self.critic_core, vf_features, states.vf, episode_starts, return_trace
            )
        elif self.critic is not None:
            latent_vf, state_vf = self.critic(vf_features), state_pi
        else:
            latent_vf, state_vf = latent_pi, state_pi
        return _Latents(latent_pi, latent_vf, RNNStates(state_pi, state_vf), trace, critic_trace)

    def _heads(
        self, latent_pi: Tensor, latent_vf: Tensor, action_masks: AnyMasks | None = None
    ) -> tuple[Tensor, Distribution]:
        return self._values(latent_vf), self._distribution(latent_pi, action_masks)

    def _values(self, latent: Tensor) -> Tensor:
        if self.critic_gradient != 1.0 and latent.requires_grad:
            # The same numbers, of whose gradient the given part goes back.
            latent = latent.detach().lerp(latent, self.critic_gradient) if self.critic_gradient else latent.detach()
        values: Tensor = self.value_net(self.mlp_extractor.forward_critic(latent))
        return values

    def _distribution(self, latent: Tensor, action_masks: AnyMasks | None = None) -> Distribution:
        before_head = self.mlp_extractor.forward_actor(latent)
        if action_masks is None:
            return self._get_action_dist_from_latent(before_head)
        logits = masked(self.action_net(before_head), action_masks, self.action_space)
        distribution: Distribution = self.action_dist.proba_distribution(logits)
        return distribution


def run_core(
    core: RecurrentCore,
    features: Tensor,
    state: tuple[Tensor, ...] | None,
    episode_starts: Tensor | None,
    return_trace: bool,
) -> tuple[Tensor, State, CoreTrace | None]:
    """Run a core over features ``[T, B, width]``, which may be sets of positions.

    Returns:
        Its outputs ``[T, B, output_size]``, its new state, and the trace on request.
    """
    trace = None
    features = elements(core, features)
    if return_trace:
        latent, new_state, trace = core(features, state, episode_starts, return_trace=True)
    else:
        latent, new_state = core(features, state, episode_starts)
    return latent, new_state, trace
