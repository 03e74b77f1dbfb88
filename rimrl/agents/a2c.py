"""Recurrent A2C, which sb3-contrib does not have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from rimrl.agents.config import AT_MOST_1E30, POSITIVE_AND_FINITE, AgentConfig, option
from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.agents.policy_update import entropy_loss
from rimrl.agents.precision import Autocast, check_autocast
from rimrl.agents.unit_activity import UnitActivity


@dataclass(frozen=True)
class A2CConfig(AgentConfig):
    """Synchronous advantage actor-critic; defaults are Stable-Baselines3's.

    Attributes:
        use_rms_prop: RMSProp, as in the RIM paper (App. D.6), or Adam.
        rms_prop_eps: RMSProp's epsilon.
    """

    algorithm: str = "a2c"
    learning_rate: float = 7e-4
    n_steps: int = 5
    gae_lambda: float = 1.0
    normalize_advantage: bool = False
    use_rms_prop: bool = True
    rms_prop_eps: float = option(1e-5, POSITIVE_AND_FINITE, AT_MOST_1E30)


class RecurrentA2C(RecurrentOnPolicyAlgorithm, A2C):
    """Synchronous advantage actor-critic over a recurrent core, with RMSProp as in the RIM paper (App. D.6).

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a `RecurrentCorePolicy` subclass.
        env: Environment, vectorised or not, or its id.
        learning_rate: A number or a function of the remaining progress. Default 7e-4, the paper's.
        n_steps: Steps per environment between updates; gradients flow through all of them.
        gamma: Discount factor.
        gae_lambda: Bias-variance trade-off of the advantage estimate; 1 is the classic advantage.
        ent_coef: Weight of the entropy bonus.
        vf_coef: Weight of the value loss.
        max_grad_norm: Gradients are scaled down to this global norm.
        rms_prop_eps: RMSProp's epsilon.
        use_rms_prop: RMSProp (default) or Adam.
        use_sde: Generalised state-dependent exploration.
        sde_sample_freq: Steps between samples of its noise; -1 for once a rollout.
        normalize_advantage: Normalise advantages over the rollout.
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
        UsageError: If the device has no bfloat16, ``sequence_length`` does not divide, or the policy has no recurrent
            core.
    """

    def __init__(
        self,
        policy: str | type[RecurrentCorePolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        normalize_advantage: bool = False,
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
        self._keep_options(sequence_length, autocast, use_masking)
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            rms_prop_eps=rms_prop_eps,
            use_rms_prop=use_rms_prop,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            normalize_advantage=normalize_advantage,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=dict(policy_kwargs or {}),
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )
        check_autocast(autocast, self.device)

    def train(self) -> None:
        """Update the policy: one gradient step on the rollout that was just collected."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        (samples,) = self.rollout_buffer.get()
        evaluation = self._evaluate(samples, return_trace=True)
        advantages = self._normalized(samples.advantages) if self.normalize_advantage else samples.advantages
        policy_loss = -(advantages * evaluation.log_prob).mean()
        value_loss = th.nn.functional.mse_loss(samples.returns, evaluation.values)
        negative_entropy = entropy_loss(evaluation)
        loss = policy_loss + self.ent_coef * negative_entropy + self.vf_coef * value_loss

        self._step(loss)
        self._update_statistics()

        self._n_updates += 1
        self.logger.record("train/explained_variance", self._explained_variance())
        losses = {"entropy_loss": negative_entropy, "policy_loss": policy_loss, "value_loss": value_loss}
        self._log_update({f"train/{name}": loss.item() for name, loss in losses.items()})
        activity = UnitActivity(self.policy.core.units_per_layer)
        activity.add(evaluation)
        self._log_policy(activity)
