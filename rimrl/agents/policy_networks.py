"""The networks of a policy over a recurrent core: how they are built, and what is kept of how they were built."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Literal, Self, TypeAlias, cast, get_args

import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from rimrl.agents.categorical import adapt_distribution
from rimrl.agents.extractor_checks import check_extractor
from rimrl.agents.extractors import TwoColumnExtractor
from rimrl.agents.normalization import ObservationStatistics
from rimrl.agents.positions import core_for
from rimrl.agents.precision import Autocast, check_autocast
from rimrl.agents.preparation import Preparation
from rimrl.cores.base import RecurrentCore
from rimrl.cores.fixed import FixedOptions
from rimrl.cores.progressive import ProgressiveCore
from rimrl.errors import invalid_value, mismatch, needs
from rimrl.spaces import check_spaces

CoreSharing: TypeAlias = Literal["shared", "separate", "actor_only"]
Trunk: TypeAlias = Literal["learned", "frozen", "progressive"]


class PolicyNetworks(FixedOptions, RecurrentActorCriticPolicy):
    """Features extractors, cores and heads of a policy, without an interface to call them by.

    The arguments are those of `rimrl.agents.policies.RecurrentCorePolicy`.
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
        _check_options(core_sharing, share_features_extractor, critic_gradient, trunk)
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
            *(observation_space, action_space, lr_schedule, net_arch, activation_fn, ortho_init),
            *(use_sde, log_std_init, full_std, use_expln, squash_output),
            *(features_extractor_class, features_extractor_kwargs, share_features_extractor, normalize_images),
            *(optimizer_class, optimizer_kwargs),
        )
        self.action_dist = adapt_distribution(self.action_space, self.action_dist)
        self._built_active = self._active_units()
        self.observation_statistics = ObservationStatistics(observation_space) if normalize_observations else None
        self._prepare_observations()
        self._autocast: Autocast | None = None
        if trunk == "frozen":
            for module in self._frozen_modules():
                module.requires_grad_(False)
            self.train(self.training)

    def _prepare_observations(self) -> None:
        """Make what brings observations to the extractors, in the layout that these are fastest in."""
        self._prepare = Preparation(self.observation_space, self.normalize_images, self.observation_statistics)
        extractors = (
            [self.features_extractor]
            if self.share_features_extractor
            else [self.pi_features_extractor, self.vf_features_extractor]
        )
        if any(isinstance(module, nn.Conv2d) for extractor in extractors for module in extractor.modules()):
            # The layout in memory that convolutions are fastest in; shapes and saved files stay what they are.
            self._prepare.channels_last = True
            for extractor in extractors:
                extractor.to(memory_format=th.channels_last)  # type: ignore[call-overload]

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
            raise mismatch("num_active", "the same for the cores of actor and critic", active)
        return {**self.core_kwargs, "num_active": active[0]}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
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

    def train(self, mode: bool = True) -> Self:
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


def _check_options(
    core_sharing: CoreSharing, share_features_extractor: bool, critic_gradient: float, trunk: Trunk
) -> None:
    """Refuse options of a policy that are none, or that do not go together.

    Raises:
        UsageError: Says what would be valid.
    """
    if core_sharing not in get_args(CoreSharing):
        raise invalid_value("core_sharing", f"one of {', '.join(get_args(CoreSharing))}", core_sharing)
    if core_sharing == "shared" and not share_features_extractor:
        raise needs("share_features_extractor=False", 'core_sharing="separate" or "actor_only"', '"shared"')
    number: object = critic_gradient
    if isinstance(number, bool) or not isinstance(number, float | int) or not 0.0 <= number <= 1.0:
        raise invalid_value("critic_gradient", "a number from 0 to 1", critic_gradient)
    if critic_gradient != 1.0 and core_sharing != "shared":
        raise needs(
            f"critic_gradient {critic_gradient}", 'core_sharing="shared", where it reaches the core', repr(core_sharing)
        )
    if trunk not in get_args(Trunk):
        raise invalid_value("trunk", f"one of {', '.join(get_args(Trunk))}", trunk)
    if trunk == "progressive" and core_sharing == "actor_only":
        raise needs(
            'trunk="progressive"', 'core_sharing="shared" or "separate", for a core in the critic', '"actor_only"'
        )


def _tensors_in(distribution: object) -> Iterator[Tensor]:
    """Tensors that one of SB3's distributions holds, also in torch's distributions within it."""
    for value in vars(distribution).values():
        if isinstance(value, Tensor):
            yield value
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, Distribution | th.distributions.Distribution):
                yield from _tensors_in(part)
