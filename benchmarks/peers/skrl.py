"""PPO of skrl (``ppo_rnn``), with one model for actor and critic."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import gymnasium
import torch as th
from skrl.agents.torch.ppo import PPO_RNN
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from torch import nn

from benchmarks.tasks import ADAM_EPS, ENT_COEF, LEARNING_RATE, Task, single_env

State = tuple[th.Tensor, th.Tensor]


class Network(CategoricalMixin, DeterministicMixin, Model):  # type: ignore[misc]
    """An LSTM, and linear layers for actor and critic.

    The critic takes what the LSTM has put out for the actor, as skrl's shared models do.

    Args:
        observation_space: Of one environment.
        action_space: Of one environment.
        num_envs: Environments.
        sequence_length: Steps of a sequence in the update.
        hidden_size: Width of the LSTM.
    """

    def __init__(
        self, observation_space: Any, action_space: Any, num_envs: int, sequence_length: int, hidden_size: int
    ) -> None:
        Model.__init__(self, observation_space=observation_space, action_space=action_space, device="cpu")
        CategoricalMixin.__init__(self, role="policy")
        DeterministicMixin.__init__(self, role="value")
        self.num_envs = num_envs
        self.sequence_length = sequence_length
        self.lstm = nn.LSTM(self.num_observations, hidden_size, batch_first=True)
        self.actor = nn.Linear(hidden_size, self.num_actions)
        self.critic = nn.Linear(hidden_size, 1)
        self._shared: tuple[th.Tensor, State] | None = None

    def act(self, inputs: dict[str, Any], *, role: str = "") -> Any:
        """Actions or values, whichever `role` asks for."""
        mixin = CategoricalMixin if role == "policy" else DeterministicMixin
        return mixin.act(self, inputs, role=role)

    def get_specification(self) -> dict[str, Any]:
        """Sizes of the recurrent states."""
        size = (1, self.num_envs, self.lstm.hidden_size)
        return {"rnn": {"sequence_length": self.sequence_length, "sizes": [size, size]}}

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[th.Tensor, dict[str, Any]]:
        """Logits or values of all steps, and the state after them."""
        if role == "policy":
            self._shared = self._features(inputs)
            return self.actor(self._shared[0]), {"rnn": list(self._shared[1])}
        features, state = self._shared or self._features(inputs)
        self._shared = None
        return self.critic(features), {"rnn": list(state)}

    def _features(self, inputs: dict[str, Any]) -> tuple[th.Tensor, State]:
        observations, (hidden, cell) = inputs["observations"], inputs["rnn"]
        if not self.training:
            output, state = self.lstm(observations.unsqueeze(1), (hidden.contiguous(), cell.contiguous()))
            return output.squeeze(1), state
        sequences = observations.view(-1, self.sequence_length, self.num_observations)
        # Stored states are those of every step. A sequence starts from its first.
        hidden, cell = (
            state.view(1, -1, self.sequence_length, self.lstm.hidden_size)[:, :, 0].contiguous()
            for state in (hidden, cell)
        )
        ended = (inputs["terminated"] | inputs["truncated"]).view(-1, self.sequence_length)
        return self._in_pieces(sequences, (hidden, cell), ended)

    def _in_pieces(self, sequences: th.Tensor, state: State, ended: th.Tensor) -> tuple[th.Tensor, State]:
        """All sequences at once, from one step at which any episode ends to the next."""
        last = ended[:, :-1].any(dim=0).nonzero(as_tuple=True)[0] + 1
        bounds = [0, *last.tolist(), self.sequence_length]
        outputs = []
        for start, end in pairwise(bounds):
            output, state = self.lstm(sequences[:, start:end], state)
            alive = (~ended[:, end - 1])[None, :, None]
            state = (state[0] * alive, state[1] * alive)
            outputs.append(output)
        return th.cat(outputs, dim=1).flatten(end_dim=1), state


class Skrl:
    """An agent of skrl.

    Args:
        task: What it learns.
    """

    def __init__(self, task: Task) -> None:
        vector = gymnasium.vector.SyncVectorEnv(
            [single_env(task)] * task.n_envs, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP
        )
        self._env = wrap_env(vector, wrapper="gymnasium", verbose=False)
        spaces = {"observation_space": self._env.observation_space, "action_space": self._env.action_space}
        self.network = Network(**spaces, num_envs=task.n_envs, sequence_length=task.n_steps, hidden_size=task.lstm_size)
        self._n_steps = task.n_steps
        self._step = 0
        self._agent = PPO_RNN(
            models={"policy": self.network, "value": self.network},
            memory=RandomMemory(memory_size=task.n_steps, num_envs=task.n_envs, device="cpu"),
            **spaces,
            device="cpu",
            cfg={
                "rollouts": task.n_steps,
                "learning_epochs": task.n_epochs,
                "mini_batches": task.steps // task.batch_size,
                "learning_rate": LEARNING_RATE,
                "value_clip": 0.0,
                "value_loss_scale": 0.5,
                "entropy_loss_scale": ENT_COEF,
                "experiment": {"write_interval": 0, "checkpoint_interval": 0},
            },
        )
        self.optimizer: th.optim.Optimizer = self._agent.optimizer
        self.optimizer.param_groups[0]["eps"] = ADAM_EPS
        self._agent.init()
        self._agent.enable_training_mode(True)
        self._observations, _ = self._env.reset()

    def iterate(self) -> None:
        """One rollout and its update, in the order of skrl's sequential trainer."""
        for _ in range(self._n_steps):
            clock = {"timestep": self._step, "timesteps": 0}
            self._agent.pre_interaction(**clock)
            with th.no_grad():
                actions, _ = self._agent.act(self._observations, None, **clock)
                following, rewards, terminated, truncated, infos = self._env.step(actions)
                self._agent.record_transition(
                    observations=self._observations,
                    states=None,
                    actions=actions,
                    rewards=rewards,
                    next_observations=following,
                    next_states=None,
                    terminated=terminated,
                    truncated=truncated,
                    infos=infos,
                    **clock,
                )
            self._observations = following
            self._agent.post_interaction(**clock)
            self._step += 1

    def close(self) -> None:
        """Close the environments."""
        self._env.close()
