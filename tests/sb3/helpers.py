"""Small environments, sb3-contrib twins with the same weights, and comparisons."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO as ContribRecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

import rimrl
from rimrl.agents.policies import RecurrentCorePolicy

Sharing = Literal["separate", "actor_only", "detached"]

HIDDEN = 8
NET_ARCH = {"pi": [7], "vf": [6]}
SMALL_RIM: dict[str, Any] = {"num_units": 4, "num_active": 2, "unit_size": 5}

ACTION_SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
}

OBSERVATION_SPACES: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "dict": spaces.Dict(
        {
            "place": spaces.Box(-1.0, 1.0, (3,), np.float32),
            "tile": spaces.Box(0, 255, (4,), np.uint8),
            "kind": spaces.Discrete(4),
        }
    ),
}


class ShortEpisodes(gymnasium.Env[Any, Any]):
    """Random observations, episodes of 2 to 7 steps, every other one cut by time instead of ended.

    The reward depends on the observation, the action and the time, so that no two steps are alike.
    """

    def __init__(self, action_space: spaces.Space[Any], observation_space: spaces.Space[Any] | None = None) -> None:
        # A space draws from a generator of its own: no two environments may share one.
        self.observation_space = deepcopy(observation_space or OBSERVATION_SPACES["vector"])
        self.action_space = action_space
        self._episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self._episodes += 1
        self._left = int(self.np_random.integers(2, 8))
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._left -= 1
        over = self._left == 0
        cut = self._episodes % 2 == 0
        reward = float(np.mean(action)) + 0.1 * self._left + float(self.np_random.normal())
        return self._observe(), reward, over and not cut, over and cut, {}

    def _observe(self) -> Any:
        return self.observation_space.sample()


def short_episodes(
    n_envs: int, action_space: spaces.Space[Any] | None = None, observation_space: spaces.Space[Any] | None = None
) -> DummyVecEnv:
    """A vector of `ShortEpisodes`; discrete actions and vector observations unless told otherwise."""
    chosen = action_space or ACTION_SPACES["discrete"]
    return DummyVecEnv([lambda: ShortEpisodes(chosen, observation_space)] * n_envs)


def contrib_policy_kwargs(sharing: Sharing | Literal["shared"]) -> dict[str, Any]:
    """Contrib's options for the architecture that `rim_policy_kwargs` describes."""
    return {
        "net_arch": NET_ARCH,
        "lstm_hidden_size": HIDDEN,
        "shared_lstm": sharing in ("shared", "detached"),
        "enable_critic_lstm": sharing == "separate",
    }


def lstm_policy_kwargs(sharing: str) -> dict[str, Any]:
    """Options for an LSTM policy; the same architecture as `contrib_policy_kwargs`.

    ``"detached"`` is contrib's ``shared_lstm=True``, whose critic sends no gradient into the LSTM.
    """
    options = {"net_arch": NET_ARCH, "core": "lstm", "core_kwargs": {"hidden_size": HIDDEN}, "core_sharing": sharing}
    return options | ({"core_sharing": "shared", "critic_gradient": 0.0} if sharing == "detached" else {})


def randomize(module: nn.Module, seed: int = 0, scale: float = 0.4) -> None:
    """Replace all weights, so that nothing is small or symmetric by initialisation."""
    generator = th.Generator().manual_seed(seed)
    with th.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * th.randn(parameter.shape, generator=generator))


def core_name(contrib_name: str) -> str:
    """The name in a rimrl LSTM policy of a parameter of contrib's."""
    for lstm in ("lstm_actor.", "lstm_critic."):
        if contrib_name.startswith(lstm):
            return contrib_name.replace(lstm, f"{lstm}rnn.")
    return contrib_name


def copy_weights(source: nn.Module, target: RecurrentCorePolicy) -> None:
    """Give a rimrl LSTM policy the weights of contrib's; every parameter must find its twin."""
    target.load_state_dict({core_name(name): value for name, value in source.state_dict().items()}, strict=True)


def twins(
    sharing: Sharing, action_space: spaces.Space[Any], n_envs: int = 3, **options: Any
) -> tuple[ContribRecurrentPPO, rimrl.RecurrentPPO]:
    """Contrib's `RecurrentPPO` and ours with equal weights, on equal environments of their own."""
    options = {"n_steps": 16, "seed": 0, "device": "cpu", **options}
    contrib = ContribRecurrentPPO(
        "MlpLstmPolicy",
        short_episodes(n_envs, action_space),
        policy_kwargs=contrib_policy_kwargs(sharing),
        **options,
    )
    ours = rimrl.RecurrentPPO(
        "MlpPolicy", short_episodes(n_envs, action_space), policy_kwargs=lstm_policy_kwargs(sharing), **options
    )
    randomize(contrib.policy)
    copy_weights(contrib.policy, ours.policy)
    return contrib, ours


def learn_seeded(model: Any, total_timesteps: int, seed: int = 5) -> None:
    """Learn from a known state of the environments and of torch's generator."""
    model.get_env().seed(seed)
    th.manual_seed(seed)
    model.learn(total_timesteps)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Gradients by parameter name; zero where there is none."""
    return {n: th.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


def assert_close(actual: Tensor | NDArray[Any], expected: Tensor | NDArray[Any], what: str, tol: float = 1e-6) -> None:
    """Largest difference within `tol`, relative to the largest expected entry where that is above 1."""
    a, b = np.asarray(th.as_tensor(actual).detach()), np.asarray(th.as_tensor(expected).detach())
    assert a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}"
    error = float(np.abs(a.astype(np.float64) - b).max(initial=0.0))
    scale = max(1.0, float(np.abs(b).max(initial=0.0)))
    assert error <= tol * scale, f"{what}: differs by {error:.3g} (largest entry {scale:.3g})"


def check_rollouts(model: Any, rollouts: int = 2, tol: float = 2e-5) -> None:
    """Collect; before any update, evaluating the stored rollout must give the values and log-probabilities it holds.

    This fails if anything that the policy saw, did or remembered was stored otherwise than it was.
    """
    checked = 0

    def compare() -> None:
        nonlocal checked
        buffer = model.rollout_buffer
        model.policy.set_training_mode(False)
        for batch in buffer.get(buffer.sequence_length):
            with th.no_grad():
                found = model.policy.evaluate_sequences(
                    batch.observations, batch.actions, batch.states, batch.episode_starts
                )
            assert_close(found.values, batch.old_values, "values", tol)
            assert_close(found.log_prob, batch.old_log_prob, "log_prob", tol)
            checked += batch.old_values.numel()

    train, model.train = model.train, compare
    steps = model.n_steps * model.n_envs
    model.learn(rollouts * steps)
    model.train = train
    assert checked == rollouts * steps
