"""Actor-critic policies over any recurrent core, for rimrl's algorithms and for unmodified sb3-contrib."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    MlpExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from rimrl.agents.actions import in_space, stretched
from rimrl.agents.batches import (
    batch_size,
    check_sequences,
    check_state,
    check_step,
    to_batch,
    to_sequences,
    without_padding,
)
from rimrl.agents.categorical import in_numbers_of
from rimrl.agents.extractor_checks import check_extractor
from rimrl.agents.extractors import TwoColumnExtractor
from rimrl.agents.normalization import ObservationStatistics
from rimrl.agents.positions import core_for, elements
from rimrl.agents.precision import Autocast, autocasting, check_autocast
from rimrl.agents.preparation import Preparation
from rimrl.cores.base import CoreTrace, RecurrentCore, State
from rimrl.cores.fixed import FixedOptions
from rimrl.cores.progressive import ProgressiveCore
from rimrl.errors import UsageError
from rimrl.spaces import check_spaces

CoreSharing: TypeAlias = Literal["shared", "separate", "actor_only"]
Trunk: TypeAlias = Literal["learned", "frozen", "progressive"]


class SequenceEvaluation(NamedTuple):
    """What a policy says of a minibatch of whole sequences.

    Attributes:
        values: ``[T, B]``.
        log_prob: ``[T, B]``.
        entropy: ``[T, B]``, or None where the distribution has no closed form.
        trace: What the units of the actor's core did, on request.
        critic_trace: The same of the critic's core, if it has its own.
    """

    values: Tensor
    log_prob: Tensor
    entropy: Tensor | None
    trace: CoreTrace | None
    critic_trace: CoreTrace | None


class _Latents(NamedTuple):
    """Outputs of the cores, ``[T, B, output_size]``, and what comes with them."""

    pi: Tensor
    vf: Tensor
    states: RNNStates
    trace: CoreTrace | None
    critic_trace: CoreTrace | None


class RecurrentCorePolicy(FixedOptions, RecurrentActorCriticPolicy):
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
            `rimrl.agents.transfer.start_from` or a saved file fills it.
        normalize_observations: Bring vectors of real numbers to zero mean and unit variance, as SB3's `VecNormalize`
            (`rimrl.agents.normalization`). rimrl's algorithms learn both from what the agent sees. Default False.

    Raises:
        UsageError: For spaces that no agent learns with (`rimrl.spaces`) or the extractor does not read, an unknown
            core, option, sharing or trunk, a shared core over separate extractors, observations with nothing to
            normalise, a progressive trunk with ``core_sharing="actor_only"``, or a ``critic_gradient`` that is not from
            0 to 1 or has no shared core to flow into.
    """

    fixed = frozenset({"core_kwargs", "core_sharing", "critic_gradient", "trunk", "shared_lstm", "enable_critic_lstm"})

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        use_sde: bool = False,
        log_std_init: float = 0.0,
        full_std: bool = True,
        use_expln: bool = False,
        squash_output: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = True,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        core: str | type[RecurrentCore] = "rim",
        core_kwargs: dict[str, Any] | None = None,
        core_sharing: CoreSharing = "shared",
        critic_gradient: float = 1.0,
        trunk: Trunk = "learned",
        normalize_observations: bool = False,
    ) -> None:
        check_spaces(observation_space, action_space, "the environment")
        if core_sharing not in get_args(CoreSharing):
            raise UsageError(f"core_sharing must be one of {', '.join(get_args(CoreSharing))}, got {core_sharing!r}")
        if core_sharing == "shared" and not share_features_extractor:
            raise UsageError(
                'share_features_extractor=False needs core_sharing="separate" or "actor_only", got "shared"'
            )
        number: object = critic_gradient
        if isinstance(number, bool) or not isinstance(number, float | int) or not 0.0 <= number <= 1.0:
            raise UsageError(f"critic_gradient must be a number from 0 to 1, got {critic_gradient!r}")
        if critic_gradient != 1.0 and core_sharing != "shared":
            raise UsageError(
                f'critic_gradient {critic_gradient} needs core_sharing="shared": with {core_sharing!r} the critic has '
                "no gradient into the actor's core"
            )
        if trunk not in get_args(Trunk):
            raise UsageError(f"trunk must be one of {', '.join(get_args(Trunk))}, got {trunk!r}")
        if trunk == "progressive" and core_sharing == "actor_only":
            raise UsageError(
                'trunk="progressive" needs core_sharing="shared" or "separate": the critic of "actor_only" has no core '
                "for lateral connections to enter"
            )
        self._core_spec = core
        self.core_kwargs = core_kwargs or {}
        self.trunk = trunk
        self.core_sharing = core_sharing
        self.critic_gradient = float(critic_gradient)
        self.shared_lstm = core_sharing == "shared"
        self.enable_critic_lstm = core_sharing == "separate"
        if optimizer_class is th.optim.Adam and optimizer_kwargs is None:
            optimizer_kwargs = {"eps": 1e-5, "fused": True}
        # contrib's constructor would build an nn.LSTM; its parent calls _build_mlp_extractor, where the cores are made.
        ActorCriticPolicy.__init__(
            self,
            observation_space,
            action_space,
            lr_schedule,
            net_arch,
            activation_fn,
            ortho_init,
            use_sde,
            log_std_init,
            full_std,
            use_expln,
            squash_output,
            features_extractor_class,
            features_extractor_kwargs,
            share_features_extractor,
            normalize_images,
            optimizer_class,
            optimizer_kwargs,
        )
        self.action_dist = in_numbers_of(self.action_space, self.action_dist)
        self._built_active = self._active_units()
        self.observation_statistics = ObservationStatistics(observation_space) if normalize_observations else None
        self._prepare = Preparation(self.observation_space, self.normalize_images, self.observation_statistics)
        extractors = (
            [self.features_extractor]
            if share_features_extractor
            else [self.pi_features_extractor, self.vf_features_extractor]
        )
        if any(isinstance(module, nn.Conv2d) for extractor in extractors for module in extractor.modules()):
            # The layout in memory that convolutions are fastest in; shapes and saved files stay what they are.
            self._prepare.channels_last = True
            for extractor in extractors:
                extractor.to(memory_format=th.channels_last)  # type: ignore[call-overload]
        self._autocast: Autocast | None = None
        if trunk == "frozen":
            for module in self._frozen_modules():
                module.requires_grad_(False)
            self.train(self.training)

    def _active_units(self) -> list[Any]:
        """Numbers of active units of the actor's core and of the critic's own, where they select units."""
        cores = [core for core in (self.core, self.critic_core) if core is not None]
        return [getattr(core, "num_active", None) for core in cores]

    def core_kwargs_in_use(self) -> dict[str, Any]:
        """`core_kwargs` with the number of active units as it is now: what a file of this policy must say.

        Raises:
            UsageError: If it was set for one of two cores alone, which no file can say.
        """
        active = self._active_units()
        if active == self._built_active:
            return self.core_kwargs
        if any(each != active[0] for each in active):
            raise UsageError(
                f"the cores of actor and critic have num_active {active}; set the same for both to save them"
            )
        return {**self.core_kwargs, "num_active": active[0]}

    def __deepcopy__(self, memo: dict[int, Any]) -> RecurrentCorePolicy:
        """Copy the policy; its last distribution, which may still hang in the graph of a loss, is copied detached."""
        for tensor in _tensors_in(self.action_dist):
            if tensor.grad_fn is not None:
                memo[id(tensor)] = tensor.detach().clone()
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(deepcopy(self.__dict__, memo))  # type: ignore[no-untyped-call]
        return twin

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """Make an extractor; for a progressive trunk, one of two columns."""
        check_extractor(self.features_extractor_class, self.observation_space, self.features_extractor_kwargs)
        extractor = super().make_features_extractor()
        if self.trunk != "progressive":
            return extractor
        return TwoColumnExtractor(extractor, super().make_features_extractor())

    def _frozen_modules(self) -> list[nn.Module]:
        """What does not learn where the trunk is frozen."""
        return [
            module
            for name in ("features_extractor", "pi_features_extractor", "vf_features_extractor")
            if isinstance(module := getattr(self, name, None), nn.Module)
        ] + [core for core in (self.core, self.critic_core) if core is not None]

    def train(self, mode: bool = True) -> RecurrentCorePolicy:
        """Switch to training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.trunk == "frozen":
            for module in self._frozen_modules():
                module.eval()
        return self

    def _build_mlp_extractor(self) -> None:
        def column(extractor: BaseFeaturesExtractor) -> RecurrentCore:
            positions = getattr(extractor, "num_positions", 1)
            return core_for(self._core_spec, extractor.features_dim, positions, self.core_kwargs)

        def build() -> RecurrentCore:
            extractor = self.features_extractor
            if isinstance(extractor, TwoColumnExtractor):
                return ProgressiveCore(column(extractor.column), column(extractor.source))
            return column(extractor)

        # The names that contrib's algorithm, predict() and buffer look for.
        actor = build()
        self.lstm_actor = actor  # type: ignore[assignment]
        self.lstm_critic = build() if self.core_sharing == "separate" else None  # type: ignore[assignment]
        self.critic = nn.Linear(self.features_dim, actor.output_size) if self.core_sharing == "actor_only" else None
        self.lstm_output_dim = actor.output_size
        self.lstm_hidden_state_shape = (actor.num_layers, 1, actor.hidden_size)
        self.mlp_extractor = MlpExtractor(
            actor.output_size, net_arch=self.net_arch, activation_fn=self.activation_fn, device=self.device
        )

    @property
    def core(self) -> RecurrentCore:
        """The actor's core; the critic's too where it is shared."""
        return cast(RecurrentCore, self.lstm_actor)

    @property
    def critic_core(self) -> RecurrentCore | None:
        """The critic's own core, if ``core_sharing="separate"``."""
        return cast("RecurrentCore | None", self.lstm_critic)

    def initial_states(self, n_envs: int) -> RNNStates:
        """States before the first step of an episode, for actor and critic, each ``[num_layers, n_envs, hidden]``."""
        pi = self.core.initial_state(n_envs)
        return RNNStates(pi, pi if self.critic_core is None else self.critic_core.initial_state(n_envs))

    # -- whole sequences, [T, B, ...]: what rimrl's algorithms call ---------------------------------------------------

    def evaluate_sequences(
        self,
        obs: PyTorchObs,
        actions: Tensor,
        states: RNNStates,
        episode_starts: Tensor,
        return_trace: bool = False,
    ) -> SequenceEvaluation:
        """Evaluate the actions of a minibatch of whole sequences, without padding.

        Args:
            obs: ``[T, B, *observation shape]``, or a dict of such.
            actions: ``[T, B]`` for discrete actions, else ``[T, B, action width]``.
            states: Recurrent states before the first step, each ``[num_layers, B, hidden_size]``.
            episode_starts: ``[T, B]``.
            return_trace: Also return what the units did.

        Returns:
            Values, log-probabilities and entropies, each ``[T, B]``, and traces on request.
        """
        T, B = episode_starts.shape
        flat_obs = {k: v.flatten(0, 1) for k, v in obs.items()} if isinstance(obs, dict) else obs.flatten(0, 1)
        pi_features, vf_features = self._features(flat_obs)
        latents = self._run_cores(
            pi_features.view(T, B, -1), vf_features.view(T, B, -1), states, episode_starts, return_trace
        )
        values, distribution = self._heads(latents.pi.flatten(0, 1), latents.vf.flatten(0, 1))
        log_prob = distribution.log_prob(actions.flatten(0, 1))
        entropy = distribution.entropy()
        return SequenceEvaluation(
            values.view(T, B),
            log_prob.view(T, B),
            None if entropy is None else entropy.view(T, B),
            latents.trace,
            latents.critic_trace,
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

    def use_autocast(self, autocast: Autocast | None) -> None:
        """Choose the arithmetic of the features extractor; core and heads stay in float32.

        Args:
            autocast: ``"bf16"``, or None for float32.

        Raises:
            UsageError: If there is no such arithmetic.
        """
        check_autocast(autocast)
        self._autocast = autocast
        self._prepare.image_dtype = th.float32 if autocast is None else th.bfloat16

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
        latent_pi, state_pi, trace = _run(self.core, pi_features, states.pi, episode_starts, return_trace)
        if self.critic_core is not None:
            latent_vf, state_vf, critic_trace = _run(
                self.critic_core, vf_features, states.vf, episode_starts, return_trace
            )
        elif self.critic is not None:
            latent_vf, state_vf = self.critic(vf_features), state_pi
        else:
            latent_vf, state_vf = latent_pi, state_pi
        return _Latents(latent_pi, latent_vf, RNNStates(state_pi, state_vf), trace, critic_trace)

    def _heads(self, latent_pi: Tensor, latent_vf: Tensor) -> tuple[Tensor, Distribution]:
        return self._values(latent_vf), self._distribution(latent_pi)

    def _values(self, latent: Tensor) -> Tensor:
        if self.critic_gradient != 1.0 and latent.requires_grad:
            # The same numbers, of whose gradient the given part goes back.
            latent = latent.detach().lerp(latent, self.critic_gradient) if self.critic_gradient else latent.detach()
        values: Tensor = self.value_net(self.mlp_extractor.forward_critic(latent))
        return values

    def _distribution(self, latent: Tensor) -> Distribution:
        return self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(latent))

    # -- sb3-contrib's interface: flat batches of n_seq sequences, one after the other --------------------------------

    def forward(  # type: ignore[override]
        self, obs: PyTorchObs, lstm_states: RNNStates, episode_starts: Tensor, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates]:
        """Act: one step for every environment.

        Args:
            obs: ``[n_envs, *observation shape]``, or a dict of such.
            lstm_states: Recurrent states of actor and critic.
            episode_starts: ``[n_envs]``; where true, the state is reset before the step.
            deterministic: Take the mode instead of a sample.

        Returns:
            Actions, values ``[n_envs, 1]``, log-probabilities ``[n_envs]`` and the new states.

        Raises:
            UsageError: If observations, states and episode starts are not of the same number of environments.
        """
        for state in lstm_states:
            check_step(obs, state, episode_starts)
        n_seq = lstm_states.pi[0].shape[1]
        pi_features, vf_features = self._features(obs)
        latents = self._run_cores(
            to_sequences(pi_features, n_seq),
            to_sequences(vf_features, n_seq),
            lstm_states,
            to_sequences(episode_starts, n_seq),
        )
        values, distribution = self._heads(to_batch(latents.pi), to_batch(latents.vf))
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        assert self.action_space.shape is not None
        return actions.reshape((-1, *self.action_space.shape)), values, log_prob, latents.states

    def evaluate_actions(  # type: ignore[override]
        self, obs: PyTorchObs, actions: Tensor, lstm_states: RNNStates, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluate actions on contrib's padded batches; see `evaluate_sequences` for the form without padding.

        Returns:
            Values ``[batch, 1]``, log-probabilities ``[batch]`` and entropies ``[batch]`` or None.
        """
        obs, actions = without_padding(obs, self.observation_space), without_padding(actions, self.action_space)
        check_sequences(obs, lstm_states.pi, episode_starts)
        n_seq = lstm_states.pi[0].shape[1]
        pi_features, vf_features = self._features(obs)
        latents = self._run_cores(
            to_sequences(pi_features, n_seq),
            to_sequences(vf_features, n_seq),
            lstm_states,
            to_sequences(episode_starts, n_seq),
        )
        values, distribution = self._heads(to_batch(latents.pi), to_batch(latents.vf))
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(  # type: ignore[override]
        self, obs: PyTorchObs, lstm_states: tuple[Tensor, ...], episode_starts: Tensor
    ) -> tuple[Distribution, State]:
        """The action distribution and the actor's new state."""
        check_sequences(obs, lstm_states, episode_starts)
        n_seq = lstm_states[0].shape[1]
        features = self._extract(self._prepare(obs), self.pi_features_extractor)
        latent, state = self.core(
            elements(self.core, to_sequences(features, n_seq)), lstm_states, to_sequences(episode_starts, n_seq)
        )
        return self._distribution(to_batch(latent)), state

    def predict_values(  # type: ignore[override]
        self, obs: PyTorchObs, lstm_states: tuple[Tensor, ...], episode_starts: Tensor
    ) -> Tensor:
        """Values ``[batch, 1]``, given the critic's state (the actor's where the core is shared)."""
        check_sequences(obs, lstm_states, episode_starts)
        n_seq = lstm_states[0].shape[1]
        features = self._extract(self._prepare(obs), self.vf_features_extractor)
        if self.critic is not None:
            latent_vf = self.critic(features)
        else:
            core = self.core if self.critic_core is None else self.critic_core
            sequences = elements(core, to_sequences(features, n_seq))
            latent, _ = core(sequences, lstm_states, to_sequences(episode_starts, n_seq))
            latent_vf = to_batch(latent)
        return self._values(latent_vf)

    def predict(
        self,
        observation: np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]],
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], tuple[np.ndarray[Any, Any], ...] | None]:
        """Choose actions; see `stable_baselines3.common.base_class.BaseAlgorithm.predict`.

        Args:
            observation: One observation or a batch.
            state: What the previous call returned; None begins an episode.
            episode_start: ``[n_envs]``; where true, the state is reset first.
            deterministic: Take the mode instead of a sample.

        Returns:
            The actions, each of which the action space contains, and the state to pass to the next call.

        Raises:
            UsageError: If the state or the episode starts are of another number of environments.
        """
        if state is not None:
            check_state(state)
        else:
            # contrib would start from zeros, which is not where a core with a learned initial state starts.
            batch, _ = self.obs_to_tensor(observation)
            with th.no_grad():
                h, c = self.core.initial_state(batch_size(batch))
            state = (h.cpu().numpy(), c.cpu().numpy())
        actions, state = super().predict(observation, state, episode_start, deterministic)
        return in_space(actions, self.action_space), state

    def _predict(  # type: ignore[override]
        self,
        observation: PyTorchObs,
        lstm_states: tuple[Tensor, ...],
        episode_starts: Tensor,
        deterministic: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        starts = episode_starts.reshape(1) if episode_starts.dim() == 0 else episode_starts
        check_step(observation, lstm_states, starts)
        actions, state = super()._predict(observation, lstm_states, starts, deterministic)  # type: ignore[arg-type]
        return actions, state

    def unscale_action(self, scaled_action: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Stretch actions from -1 to 1 to the bounds of the action space; see SB3's `BasePolicy`."""
        assert isinstance(self.action_space, spaces.Box)
        return stretched(scaled_action, self.action_space)

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
            _, _, trace = _run(self.core, features.unsqueeze(0), states or None, starts[None], return_trace=True)
        assert trace is not None
        return trace

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # contrib leaves out its recurrent options, so that its policy.save()/load() forgets them.
        return super()._get_constructor_parameters() | {
            "share_features_extractor": self.share_features_extractor,
            "core": self._core_spec,
            "core_kwargs": self.core_kwargs_in_use(),
            "core_sharing": self.core_sharing,
            "critic_gradient": self.critic_gradient,
            "trunk": self.trunk,
            "normalize_observations": self.observation_statistics is not None,
        }


class CnnRecurrentCorePolicy(RecurrentCorePolicy):
    """`RecurrentCorePolicy` for images: `NatureCNN` before the core unless another extractor is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": NatureCNN, **kwargs})


class MultiInputRecurrentCorePolicy(RecurrentCorePolicy):
    """`RecurrentCorePolicy` for Dict observations: `CombinedExtractor` unless another extractor is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": CombinedExtractor, **kwargs})


def _run(
    core: RecurrentCore,
    features: Tensor,
    state: tuple[Tensor, ...] | None,
    episode_starts: Tensor | None,
    return_trace: bool,
) -> tuple[Tensor, State, CoreTrace | None]:
    trace = None
    features = elements(core, features)
    if return_trace:
        latent, new_state, trace = core(features, state, episode_starts, return_trace=True)
    else:
        latent, new_state = core(features, state, episode_starts)
    return latent, new_state, trace


def _tensors_in(distribution: object) -> Iterator[Tensor]:
    """Tensors that one of SB3's distributions holds, also in torch's distributions within it."""
    for value in vars(distribution).values():
        if isinstance(value, Tensor):
            yield value
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, Distribution | th.distributions.Distribution):
                yield from _tensors_in(part)
