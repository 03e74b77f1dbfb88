"""Recurrent PPO without padding."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch as th
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule
from torch import Tensor

from rimrl.agents.config import AT_MOST_1E30, COUNTABLE, POSITIVE, AgentConfig, option, schedule_of
from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.agents.policy_update import entropy_loss
from rimrl.agents.precision import Autocast, check_autocast
from rimrl.agents.ranks import Ranks, share_evenly
from rimrl.agents.rollout import SequenceSamples
from rimrl.agents.sequence_policy import SequenceEvaluation
from rimrl.agents.unit_activity import UnitActivity
from rimrl.errors import invalid_value, wrong


@dataclass(frozen=True)
class PPOConfig(AgentConfig):
    """Proximal policy optimisation.

    Attributes:
        batch_size: Steps per minibatch, a multiple of the sequence length.
        n_epochs: Passes over each rollout.
        clip_range: Clipping of the policy ratio, at the start; ``lin_0.2`` as for the learning rate.
        clip_range_schedule: ``"constant"``, or ``"linear"`` or ``"cosine"`` to fall to zero at the end of training.
        clip_range_vf: Clipping of the value function; null for none.
        clip_range_vf_schedule: As `clip_range_schedule`.
        target_kl: Stop an update early when the policy moved this far; null for no limit.
    """

    batch_size: int = option(512, POSITIVE, COUNTABLE)
    n_epochs: int = option(4, POSITIVE, COUNTABLE)
    clip_range: float = option(0.2, POSITIVE, AT_MOST_1E30)
    clip_range_schedule: Literal["constant", "linear", "cosine"] = schedule_of("clip_range")
    clip_range_vf: float | None = option(None, POSITIVE, AT_MOST_1E30)
    clip_range_vf_schedule: Literal["constant", "linear", "cosine"] = schedule_of("clip_range_vf")
    target_kl: float | None = option(None, POSITIVE)

    def share(self, ranks: Ranks, n_envs: int) -> Self:
        """As `AgentConfig.share`: minibatches are divided, unless one is the whole rollout."""
        if self.batch_size >= self.n_steps * n_envs:
            return self
        batch_size = share_evenly(self.batch_size, ranks.size, "agent.batch_size")
        length = self.sequence_length or self.n_steps
        if batch_size % length:
            least = ranks.size * length
            fitting = max(1, round(self.batch_size / least)) * least
            raise wrong(
                "agent.batch_size",
                f"{self.batch_size} is not whole sequences of {length} steps for each of {ranks.size} processes",
                f"use --agent.batch_size {fitting} or a shorter sequence_length",
            )
        return replace(self, batch_size=batch_size)


class RecurrentPPO(RecurrentOnPolicyAlgorithm, ContribRecurrentPPO):
    """Proximal Policy Optimization over a recurrent core.

    sb3-contrib's `RecurrentPPO` with the same arguments and another storage and update: minibatches are whole
    sequences, nothing is padded, and every step counts once. What it saves loads with
    ``sb3_contrib.RecurrentPPO.load``.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a `RecurrentCorePolicy` subclass.
        env: Environment, vectorised or not, or its id.
        learning_rate: A number or a function of the remaining progress, 1 to 0.
        n_steps: Steps per environment and rollout.
        batch_size: Steps per minibatch, a multiple of ``sequence_length``; None for one minibatch.
        n_epochs: Passes over each rollout.
        gamma: Discount factor.
        gae_lambda: Bias-variance trade-off of the advantage estimate.
        clip_range: Clipping of the policy ratio, a number or a function of the remaining progress.
        clip_range_vf: Clipping of the value function; None for none.
        normalize_advantage: Normalise advantages over each minibatch.
        ent_coef: Weight of the entropy bonus.
        vf_coef: Weight of the value loss.
        max_grad_norm: Gradients are scaled down to this global norm.
        use_sde: Generalised state-dependent exploration.
        sde_sample_freq: Steps between samples of its noise; -1 for once a rollout.
        target_kl: Stop the epochs of an update when the policy has moved 1.5 times as far; None for no limit.
        stats_window_size: Episodes over which the logged means run.
        tensorboard_log: Folder for TensorBoard; None for none.
        policy_kwargs: Arguments of the policy, such as ``dict(core="rim", core_kwargs=dict(num_units=6))``.
        verbose: 0, 1 or 2.
        seed: Seed of everything random.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        sequence_length: Length of the sequences that gradients flow through; must divide ``n_steps``. Default: the
            whole rollout.
        autocast: ``"bf16"`` lets the features extractor compute in bfloat16, on processors and GPUs that have it;
            parameters, memory, heads and losses stay float32. Default None: float32 throughout.
        use_masking: Act and learn under masks of invalid actions, which every environment offers as ``action_masks()``
            (`rimrl.agents.masks`). Default False.

    Raises:
        UsageError: If the device has no bfloat16, the lengths do not divide, or the policy has no recurrent core.
    """

    clip_range: Schedule
    clip_range_vf: Schedule | None

    def __init__(
        self,
        policy: str | type[RecurrentCorePolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 128,
        batch_size: int | None = 128,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        sequence_length: int | None = None,
        autocast: Autocast | None = None,
        use_masking: bool = False,
        _init_setup_model: bool = True,
    ) -> None:
        if isinstance(clip_range_vf, float | int) and clip_range_vf <= 0:
            raise invalid_value("clip_range_vf", "positive or None", clip_range_vf)
        self._keep_options(sequence_length, autocast, use_masking)
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=dict(policy_kwargs or {}),
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )
        check_autocast(autocast, self.device)

    def _setup_model(self) -> None:
        self._check_batch_size()
        RecurrentOnPolicyAlgorithm._setup_model(self)
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)

    def _check_batch_size(self) -> None:
        length = self._checked_sequence_length()
        if self.batch_size is not None and (self.batch_size < 1 or self.batch_size % length):
            raise wrong(
                "batch_size",
                f"{self.batch_size} is not a multiple of the sequence length {length}",
                f"use batch_size={max(1, round(self.batch_size / length)) * length} or a shorter sequence_length",
            )

    def _follow_settings(self) -> None:
        self._check_batch_size()
        super()._follow_settings()

    def train(self) -> None:
        """Update the policy on the rollout that was just collected."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        progress = self._current_progress_remaining
        clip_range = self.clip_range(progress)
        clip_range_vf = None if self.clip_range_vf is None else self.clip_range_vf(progress)

        metrics: defaultdict[str, list[Tensor]] = defaultdict(list)
        activity = UnitActivity(self.policy.core.units_per_layer)
        kl_too_large = False
        for epoch in range(self.n_epochs):
            metrics["approx_kl"].clear()
            for samples in self.rollout_buffer.get(self.batch_size):
                evaluation = self._evaluate(samples, return_trace=epoch == 0)
                activity.add(evaluation)
                loss, parts = self._loss(samples, evaluation, clip_range, clip_range_vf)
                for name, value in parts.items():
                    metrics[name].append(value.detach())
                if self.target_kl is not None and self._shared_mean(parts["approx_kl"].item()) > 1.5 * self.target_kl:
                    kl_too_large = True
                    break
                self._step(loss)
            self._n_updates += 1
            if kl_too_large:
                if self.verbose >= 1:
                    print(f"Early stopping at step {epoch} due to reaching max kl")
                break

        self._update_statistics()
        figures = {f"train/{name}": th.stack(values).mean().item() for name, values in metrics.items()}
        self._log_update(figures | {"train/loss": loss.item()})
        self.logger.record("train/explained_variance", self._explained_variance())
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)
        self._log_policy(activity)

    def _loss(
        self,
        samples: SequenceSamples,
        evaluation: SequenceEvaluation,
        clip_range: float,
        clip_range_vf: float | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped surrogate (Schulman et al., 2017, Eq. 9) and its parts, under SB3's log names."""
        advantages = self._normalized(samples.advantages) if self.normalize_advantage else samples.advantages
        log_ratio = evaluation.log_prob - samples.old_log_prob
        ratio = log_ratio.exp()
        policy_loss = -th.min(advantages * ratio, advantages * ratio.clamp(1 - clip_range, 1 + clip_range)).mean()

        values = evaluation.values
        if clip_range_vf is not None:
            values = samples.old_values + (values - samples.old_values).clamp(-clip_range_vf, clip_range_vf)
        value_loss = th.mean((samples.returns - values) ** 2)
        negative_entropy = entropy_loss(evaluation)
        loss = policy_loss + self.ent_coef * negative_entropy + self.vf_coef * value_loss
        with th.no_grad():
            approx_kl = (log_ratio.exp() - 1 - log_ratio).mean()  # http://joschu.net/blog/kl-approx.html
            clip_fraction = ((ratio - 1).abs() > clip_range).float().mean()
        return loss, {
            "policy_gradient_loss": policy_loss,
            "value_loss": value_loss,
            "entropy_loss": negative_entropy,
            "approx_kl": approx_kl,
            "clip_fraction": clip_fraction,
        }
