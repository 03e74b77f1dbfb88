"""Distributions over choices, in the numbers of their action space: SB3's own count from 0 whatever the space says."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from torch import Tensor
from torch.distributions import Categorical


class FastCategorical(CategoricalDistribution):
    """A choice among ``action_dim`` actions.

    Torch's `Categorical` checks its arguments and `torch.multinomial` checks its own, each of which waits for the
    device and takes longer than the work; whoever collects rollouts must therefore look for NaN now and then. From
    the same state of torch's generator the draws are those of `torch.multinomial`.

    Args:
        action_dim: Number of actions.
        start: The first of them. Default 0.
    """

    _log_probs: Tensor

    def __init__(self, action_dim: int, start: int = 0) -> None:
        super().__init__(action_dim)
        self.start = start

    def proba_distribution(self, action_logits: Tensor) -> FastCategorical:
        """Set the logits, ``[B, action_dim]``."""
        self._log_probs = action_logits.log_softmax(dim=-1)
        return self

    @property
    def distribution(self) -> Categorical:
        """Torch's form of it, made when asked for; it counts from 0."""
        return Categorical(logits=self._log_probs)

    @distribution.setter
    def distribution(self, value: object) -> None:
        """SB3's constructor sets None."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probabilities ``[B]`` of actions ``[B]``."""
        return self._log_probs.gather(-1, self._from_zero(actions).unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Entropies ``[B]``."""
        finite = self._log_probs.clamp(min=th.finfo(self._log_probs.dtype).min)  # 0 * -inf is not 0
        return -(self._log_probs.exp() * finite).sum(dim=-1)

    def sample(self) -> Tensor:
        """Actions ``[B]``: the largest of ``p / q`` with q exponential, as `torch.multinomial` draws one sample."""
        probs = self._log_probs.exp()
        return self._from_start((probs / th.empty_like(probs).exponential_(1.0)).argmax(dim=-1))

    def mode(self) -> Tensor:
        """The likeliest actions ``[B]``."""
        return self._from_start(self._log_probs.argmax(dim=-1))

    def _from_start(self, choices: Tensor) -> Tensor:
        return choices + self.start if self.start else choices

    def _from_zero(self, actions: Tensor) -> Tensor:
        return actions.long() - self.start if self.start else actions.long()


class OffsetMultiCategorical(MultiCategoricalDistribution):
    """SB3's `MultiCategoricalDistribution` for choices that do not count from 0.

    Args:
        action_dims: Number of actions of each choice.
        start: The first action of each choice, ``[number of choices]``.
    """

    def __init__(self, action_dims: list[int], start: NDArray[Any]) -> None:
        super().__init__(action_dims)
        self.start = th.as_tensor(start.astype("int64"))

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probabilities ``[B]`` of actions ``[B, number of choices]``."""
        return super().log_prob(actions.long() - self.start.to(actions.device))

    def sample(self) -> Tensor:
        """Actions ``[B, number of choices]``."""
        choices = super().sample()
        return choices + self.start.to(choices.device)

    def mode(self) -> Tensor:
        """The likeliest actions ``[B, number of choices]``."""
        choices = super().mode()
        return choices + self.start.to(choices.device)


def adapt_distribution(space: spaces.Space[Any], distribution: Distribution) -> Distribution:
    """SB3's distribution over an action space, or ours where the numbers or the speed of SB3's are others."""
    if type(distribution) is CategoricalDistribution:
        assert isinstance(space, spaces.Discrete)
        return FastCategorical(distribution.action_dim, int(space.start))
    if type(distribution) is MultiCategoricalDistribution:
        assert isinstance(space, spaces.MultiDiscrete)
        dims = space.nvec.tolist()
        return OffsetMultiCategorical(dims, space.start) if space.start.any() else distribution
    return distribution
