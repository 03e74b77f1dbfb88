"""PPO of TorchRL, of its collector, `LSTMModule`, `GAE` and `ClipPPOLoss`."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch as th
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import Compose, GymWrapper, InitTracker, TransformedEnv
from torchrl.envs.transforms import DTypeCastTransform
from torchrl.modules import LSTMModule, ProbabilisticActor, set_recurrent_mode
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from benchmarks.tasks import ADAM_EPS, ENT_COEF, LEARNING_RATE, Task, single_env


class TorchRL:
    """An agent of TorchRL.

    Args:
        task: What it learns.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        vector = gymnasium.vector.SyncVectorEnv(
            [single_env(task)] * task.n_envs, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP
        )
        env: Any = TransformedEnv(
            GymWrapper(vector, categorical_action_encoding=True),
            Compose(InitTracker(), DTypeCastTransform(th.uint8, th.float32, in_keys=["observation"])),
        )
        env.set_seed(1)
        lstm = LSTMModule(
            input_size=env.observation_spec["observation"].shape[-1],
            hidden_size=task.lstm_size,
            in_key="observation",
            out_key="features",
        )
        env.append_transform(lstm.make_tensordict_primer())
        n_actions = env.action_spec.space.n
        actor = TensorDictModule(nn.Linear(task.lstm_size, n_actions), in_keys=["features"], out_keys=["logits"])
        critic = TensorDictModule(nn.Linear(task.lstm_size, 1), in_keys=["features"], out_keys=["state_value"])
        policy = ProbabilisticActor(
            TensorDictSequential(lstm, actor),
            in_keys=["logits"],
            spec=env.action_spec_unbatched,
            distribution_class=th.distributions.Categorical,
            return_log_prob=True,
        )
        value = TensorDictSequential(lstm, critic)
        self.network: nn.Module = nn.ModuleList([lstm, actor, critic])
        self._advantage = GAE(gamma=0.99, lmbda=0.95, value_network=value, shifted=True)
        self._loss = ClipPPOLoss(
            policy,
            value,
            clip_epsilon=0.2,
            entropy_coeff=ENT_COEF,
            critic_coeff=0.5,
            loss_critic_type="l2",
            normalize_advantage=True,
        )
        self.optimizer: th.optim.Optimizer = th.optim.Adam(self._loss.parameters(), lr=LEARNING_RATE, eps=ADAM_EPS)
        self._collector = Collector(env, policy, frames_per_batch=task.steps, total_frames=-1)
        self._batches = iter(self._collector)

    def iterate(self) -> None:
        """One rollout and its update."""
        task = self._task
        data = next(self._batches)  # [n_envs, n_steps]
        sequences = task.batch_size // task.n_steps
        with th.no_grad(), set_recurrent_mode(True):
            self._advantage(data)
        for _ in range(task.n_epochs):
            for rows in th.randperm(task.n_envs).view(-1, sequences):
                with set_recurrent_mode(True):
                    losses = self._loss(data[rows])
                loss = losses["loss_objective"] + losses["loss_entropy"] + losses["loss_critic"]
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self._loss.parameters(), 0.5)
                self.optimizer.step()

    def close(self) -> None:
        """Close the environments."""
        self._collector.shutdown()
