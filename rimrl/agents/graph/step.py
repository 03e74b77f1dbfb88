"""One step of a policy, tensors in and tensors out, and its graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeAlias

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from rimrl.agents.graph.drawing import draw
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.agents.positions import elements
from rimrl.errors import cannot, one_line, unknown_name

States: TypeAlias = tuple[Tensor, ...]
_KINDS = (
    CategoricalDistribution,
    MultiCategoricalDistribution,
    BernoulliDistribution,
    DiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
# Neither 0 nor 1, of which a graph would keep that they are.
_TRACED_ROWS = 2


class PolicyStep(nn.Module):
    """Observation, state and episode start to action, distribution, value and new state.

    Args:
        policy: The policy. The step has a copy of it on the CPU, in evaluation mode and float32 throughout, so that an
            extractor in bfloat16 is exact here.

    Attributes:
        policy: That copy.
        state_names: Names of the parts of the state: ``h`` and ``c``, then ``critic_h`` and ``critic_c`` for
            ``core_sharing="separate"``.
        state_shapes: Their shapes for one row, ``[num_layers, 1, hidden_size]``.

    Raises:
        UsageError: If actions are drawn from a distribution that has no form here; names it.
    """

    def __init__(self, policy: RecurrentCorePolicy) -> None:
        super().__init__()
        if not isinstance(policy.action_dist, _KINDS):
            raise unknown_name(
                "distribution in a graph", type(policy.action_dist).__name__, [kind.__name__ for kind in _KINDS]
            )
        self.policy = deepcopy(policy).to("cpu")
        self.policy.set_training_mode(False)
        self.policy.use_autocast(None)
        self.requires_grad_(False)
        cores = {"": self.policy.core, "critic_": self.policy.critic_core}
        parts = [(f"{who}{part}", core) for who, core in cores.items() if core is not None for part in "hc"]
        self.state_names = tuple(name for name, _ in parts)
        self.state_shapes = tuple((core.num_layers, 1, core.hidden_size) for _, core in parts)

    def forward(self, observation: PyTorchObs, state: States, episode_start: Tensor) -> dict[str, Tensor]:
        """Take one step.

        Args:
            observation: ``[B, *observation shape]`` in the dtype of the observation space, or a dict of such.
            state: As `state_names` says, each ``[num_layers, B, hidden_size]``.
            episode_start: ``[B]`` bool; where true, the state is reset before the step.

        Returns:
            ``action``: what ``predict(deterministic=True)`` chooses, ``[B, *action shape]`` in the dtype of the action
            space. ``logits``: log-probabilities of choices, one choice after the other, or the logits of bits; for
            continuous actions ``mean`` and ``std`` of the Gaussian, before a tanh and bounds. ``value``: ``[B]``.
            ``next_h``, ``next_c`` and so on: the new state.
        """
        policy = self.policy
        features = policy.extract_features(observation)
        pi_features, vf_features = (features, features) if isinstance(features, Tensor) else features
        starts = episode_start.unsqueeze(0)
        latent, after = policy.core(elements(policy.core, pi_features.unsqueeze(0)), (state[0], state[1]), starts)
        latent_pi = latent_vf = latent[0]
        if policy.critic_core is not None:
            sequence = elements(policy.critic_core, vf_features.unsqueeze(0))
            latent, of_critic = policy.critic_core(sequence, (state[2], state[3]), starts)
            latent_vf, after = latent[0], (*after, *of_critic)
        elif policy.critic is not None:
            latent_vf = policy.critic(vf_features)
        value = policy.value_net(policy.mlp_extractor.forward_critic(latent_vf)).squeeze(1)
        actor = self._actor(policy.mlp_extractor.forward_actor(latent_pi))
        return (
            actor
            | {"value": value}
            | {f"next_{name}": part for name, part in zip(self.state_names, after, strict=True)}
        )

    def _actor(self, latent: Tensor) -> dict[str, Tensor]:
        """Action and parameters of its distribution, from the last layer before it."""
        policy, kind, space = self.policy, self.policy.action_dist, self.policy.action_space
        given: Tensor = policy.action_net(latent)
        if isinstance(kind, CategoricalDistribution):
            logits = given.log_softmax(-1)
            return {"action": _counted(logits.argmax(-1), space), "logits": logits}
        if isinstance(kind, MultiCategoricalDistribution):
            each = [part.log_softmax(-1) for part in th.split(given, list(kind.action_dims), dim=-1)]
            return {
                "action": _counted(th.stack([part.argmax(-1) for part in each], -1), space),
                "logits": th.cat(each, -1),
            }
        if isinstance(kind, BernoulliDistribution):
            return {"action": given.sigmoid().round().to(_dtype(space)), "logits": given}
        if isinstance(kind, StateDependentNoiseDistribution):
            # SB3's own: its exploration noise, and of that the standard deviation.
            std = (latent.square() @ kind.get_std(policy.log_std).square() + kind.epsilon).sqrt()
        else:
            std = policy.log_std.exp().expand_as(given)
        assert isinstance(space, spaces.Box)
        action = unscale_actions(given.tanh(), space) if policy.squash_output else clip_actions(given, space)
        return {"action": action, "mean": given, "std": std}

    def inputs(self, rows: int, rng: np.random.Generator) -> tuple[PyTorchObs, States, Tensor]:
        """Random inputs of `forward` for the given number of rows, all at the start of an episode."""
        policy = self.policy
        drawn = draw(policy.observation_space, policy.observation_statistics, rows, rng)
        observation, _ = policy.obs_to_tensor(drawn)
        state = tuple(
            th.as_tensor(rng.standard_normal((layers, rows, size)), dtype=th.float32)
            for layers, _, size in self.state_shapes
        )
        return observation, state, th.ones(rows, dtype=th.bool)


def traced(step: PolicyStep) -> th.export.ExportedProgram:
    """The graph of a step, for any number of rows.

    Args:
        step: The step.

    Returns:
        The graph; ``traced(step).module()`` takes and returns what `PolicyStep.forward` does.

    Raises:
        UsageError: If the step cannot be traced, such as where it chooses by the values of a tensor: a graph would keep
            the choice.
    """
    inputs = step.inputs(_TRACED_ROWS, np.random.default_rng(0))
    observation, state, _ = inputs
    rows = th.export.Dim("batch", min=1)
    shapes: Any = (
        {key: {0: rows} for key in observation} if isinstance(observation, dict) else {0: rows},
        tuple({1: rows} for _ in state),
        {0: rows},
    )
    try:
        with quiet(), th.no_grad():
            return th.export.export(step, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever a core or extractor of the user's raises under tracing, too
        raise cannot(
            "trace",
            "the policy",
            one_line(error),
            "a step may neither choose by the values of a tensor nor leave torch's operations",
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's remarks on tracing from the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def clip_actions(mean: Tensor, space: spaces.Box) -> Tensor:
    """Actions ``[B, A]`` cut off at the bounds of their space, ``[B, *action shape]``; as SB3's ``predict``."""
    low, high = (th.as_tensor(bound.astype(np.float64)) for bound in (space.low, space.high))
    return _in_space(mean.double().view(-1, *space.shape).clamp(low, high), space)


def unscale_actions(squashed: Tensor, space: spaces.Box) -> Tensor:
    """Actions from -1 to 1 between the bounds of their space; as `rimrl.agents.actions.unscale_actions`."""
    dtype = th.float32 if space.dtype == np.float32 else th.float64
    low, high = (th.as_tensor(bound.astype(np.float64)).to(dtype) for bound in (space.low, space.high))
    wide = squashed.to(dtype).view(-1, *space.shape)
    return _in_space((low + 0.5 * (wide + 1.0) * (high - low)).clamp(low, high), space)


def _in_space(action: Tensor, space: spaces.Box) -> Tensor:
    return (action if space.dtype.kind == "f" else action.round()).to(_dtype(space))


def _counted(choices: Tensor, space: spaces.Space[Any]) -> Tensor:
    """Choices from 0 in the numbers and the dtype of their space."""
    assert isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    if np.any(space.start):
        choices = choices + th.as_tensor(np.asarray(space.start, dtype=np.int64))
    return choices.to(_dtype(space))


def _dtype(space: spaces.Space[Any]) -> th.dtype:
    dtype: th.dtype = getattr(th, str(space.dtype))
    return dtype
