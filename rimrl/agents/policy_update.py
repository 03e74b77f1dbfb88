"""What an update of any algorithm is made of, whether one process computes it or several."""

from __future__ import annotations

import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.agents.ranks import Ranks
from rimrl.agents.rollout import SequenceRolloutBuffer, SequenceSamples
from rimrl.agents.sequence_policy import SequenceEvaluation
from rimrl.agents.unit_activity import UnitActivity


class PolicyUpdateMixin(OnPolicyAlgorithm):
    """Gradient steps and figures of all ranks, for the `train` of an algorithm."""

    policy: RecurrentCorePolicy
    rollout_buffer: SequenceRolloutBuffer
    ranks: Ranks = Ranks()

    def _normalized(self, advantages: Tensor) -> Tensor:
        """Advantages of a minibatch by the mean and deviation over all ranks' minibatches."""
        return normalize(advantages, self.ranks.all_gather(advantages))

    def _evaluate(self, samples: SequenceSamples, return_trace: bool) -> SequenceEvaluation:
        """What the policy says of a minibatch."""
        seen_and_done, starts = (samples.observations, samples.actions, samples.states), samples.episode_starts
        return self.policy.evaluate_sequences(*seen_and_done, starts, return_trace, samples.action_masks)

    def _step(self, loss: Tensor) -> None:
        """A gradient step on the loss of all ranks' minibatches, which are equally large."""
        self.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.average_gradients(self.policy.parameters())
        th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()

    def _update_statistics(self) -> None:
        """Let the policy's mean and variance of observations take in the rollout, after learning from it."""
        statistics = self.policy.observation_statistics
        if statistics is not None:
            statistics.update(self.rollout_buffer.stored_observations, self.ranks.all_gather)

    def _shared_mean(self, value: float) -> float:
        """Mean over ranks of a figure."""
        return self.ranks.mean(th.tensor(value, dtype=th.float64)).item()

    def _log_update(self, figures: dict[str, float]) -> None:
        """Log figures of an update."""
        for name, figure in self._of_ranks(figures).items():
            self.logger.record(name, figure)

    def _log_policy(self, activity: UnitActivity) -> None:
        """Log how often the policy was updated, how widely it acts, and how often and evenly units were active."""
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())
        frequencies = self._of_ranks(activity.frequencies())
        # Of what all ranks did together: one rank's units may be used less evenly than those of all.
        for name, figure in (frequencies | activity.evenness(frequencies)).items():
            self.logger.record(name, figure)

    def _of_ranks(self, figures: dict[str, float]) -> dict[str, float]:
        """Figures that are means over equally large parts of the rollout, and so means of those of ranks."""
        if not figures:
            return figures
        means = self.ranks.mean(th.tensor(list(figures.values()), dtype=th.float64))
        return dict(zip(figures, means.tolist(), strict=True))

    def _explained_variance(self) -> float:
        """Share of the variance of returns that the values predict; see SB3."""
        predicted, returns = (
            self.ranks.all_gather(th.as_tensor(each.flatten())).numpy()
            for each in (self.rollout_buffer.values, self.rollout_buffer.returns)
        )
        return float(explained_variance(predicted, returns))


def entropy_loss(evaluation: SequenceEvaluation) -> Tensor:
    """Negative mean entropy, estimated from the samples where it has no closed form."""
    if evaluation.entropy is None:
        return th.mean(evaluation.log_prob)
    return -th.mean(evaluation.entropy)


def normalize(advantages: Tensor, over: Tensor) -> Tensor:
    """Zero mean and unit variance over a minibatch, of which these may be a part; a single step is left alone."""
    if over.numel() < 2:
        return advantages
    return (advantages - over.mean()) / (over.std() + 1e-8)
