"""Discrete actions: SB3's `CategoricalDistribution` with the same draws, without waiting for the device."""

from __future__ import annotations

import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution
from torch import Tensor
from torch.distributions import Categorical


class QuickCategorical(CategoricalDistribution):
    """A choice among ``action_dim`` actions.

    Torch's `Categorical` checks its arguments and `torch.multinomial` checks its own, each of which waits for the
    device and takes longer than the work; whoever collects rollouts must therefore look for NaN now and then. From
    the same state of torch's generator the draws are those of `torch.multinomial`.
    """

    _log_probs: Tensor

    def proba_distribution(self, action_logits: Tensor) -> QuickCategorical:
        """Set the logits, ``[B, action_dim]``."""
        self._log_probs = action_logits.log_softmax(dim=-1)
        return self

    @property
    def distribution(self) -> Categorical:
        """Torch's form of it, made when asked for."""
        return Categorical(logits=self._log_probs)

    @distribution.setter
    def distribution(self, value: object) -> None:
        """SB3's constructor sets None."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probabilities ``[B]`` of actions ``[B]``."""
        return self._log_probs.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Entropies ``[B]``."""
        finite = self._log_probs.clamp(min=th.finfo(self._log_probs.dtype).min)  # 0 * -inf is not 0
        return -(self._log_probs.exp() * finite).sum(dim=-1)

    def sample(self) -> Tensor:
        """Actions ``[B]``: the largest of ``p / q`` with q exponential, as `torch.multinomial` draws one sample."""
        probs = self._log_probs.exp()
        return (probs / th.empty_like(probs).exponential_(1.0)).argmax(dim=-1)

    def mode(self) -> Tensor:
        """The likeliest actions ``[B]``."""
        return self._log_probs.argmax(dim=-1)
