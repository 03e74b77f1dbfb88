"""PPO of torch-ac: environments in processes of their own, and one LSTM cell that is called step by step."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import nn

from benchmarks.tasks import ADAM_EPS, ENT_COEF, LEARNING_RATE, Task, single_env

# torch-ac asks for forked processes as it is imported, which fails if another library (TorchRL) has asked for others.
multiprocessing.set_start_method(None, force=True)

from torch_ac import PPOAlgo, RecurrentACModel  # noqa: E402


class Network(nn.Module, RecurrentACModel):  # type: ignore[misc]
    """An LSTM cell, and linear layers for actor and critic.

    Args:
        input_size: Width of an observation.
        hidden_size: Width of the LSTM.
        n_actions: Actions.
    """

    recurrent = True

    def __init__(self, input_size: int, hidden_size: int, n_actions: int) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(input_size, hidden_size)
        self.actor = nn.Linear(hidden_size, n_actions)
        self.critic = nn.Linear(hidden_size, 1)

    @property
    def memory_size(self) -> int:
        """Numbers of state: the hidden and the cell state."""
        return 2 * self.lstm.hidden_size

    def forward(self, obs: th.Tensor, memory: th.Tensor) -> tuple[th.distributions.Categorical, th.Tensor, th.Tensor]:
        """Distribution ``[B]``, value ``[B]`` and the next memory ``[B, 2 D]`` of observations ``[B, I]``."""
        hidden, cell = self.lstm(obs, memory.chunk(2, dim=1))
        distribution = th.distributions.Categorical(logits=self.actor(hidden))
        return distribution, self.critic(hidden).squeeze(1), th.cat([hidden, cell], dim=1)


class TorchAC:
    """An agent of torch-ac.

    Args:
        task: What it learns.
        recurrence: Steps through which the gradient flows back; None: those of a rollout. Before them stand the states
            of the rollout, which the update does not compute anew.
    """

    def __init__(self, task: Task, recurrence: int | None) -> None:
        envs = [single_env(task)() for _ in range(task.n_envs)]
        for index, env in enumerate(envs):
            env.reset(seed=1 + index)
        size = int(np.prod(envs[0].observation_space.shape or ()))
        self.network = Network(size, task.lstm_size, envs[0].action_space.n)  # type: ignore[attr-defined]
        others = set(multiprocessing.active_children())
        self._algo = PPOAlgo(
            envs,
            self.network,
            num_frames_per_proc=task.n_steps,
            lr=LEARNING_RATE,
            entropy_coef=ENT_COEF,
            recurrence=recurrence or task.n_steps,
            adam_eps=ADAM_EPS,
            epochs=task.n_epochs,
            batch_size=task.batch_size,
            preprocess_obss=as_tensor,
        )
        self._players = set(multiprocessing.active_children()) - others
        self.optimizer: th.optim.Optimizer = self._algo.optimizer

    def iterate(self) -> None:
        """One rollout and its update."""
        experiences, _ = self._algo.collect_experiences()
        self._algo.update_parameters(experiences)

    def close(self) -> None:
        """End the processes of the environments, which wait for commands otherwise."""
        self._algo.env.envs[0].close()
        for player in self._players:
            player.terminate()
            player.join()


def as_tensor(observations: Sequence[NDArray[Any]], device: th.device | None = None) -> th.Tensor:
    """Observations as one tensor of floats ``[B, I]``."""
    return th.as_tensor(np.stack(observations), dtype=th.float32, device=device)
