"""Simulators that step many environments at once, as one Stable-Baselines3 vector.

A `Simulator` advances all its environments in one call, usually in C++. `NativeVecEnv` gives it the meaning that
Stable-Baselines3's algorithms rely on: an environment that ends is reset within the same step, the observation it ended
with is ``info["terminal_observation"]``, and ``info["TimeLimit.truncated"]`` tells a time limit from an end.

Notation: B = number of environments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from rimrl.errors import invalid_value

# What the simulators count seeds with: a signed 32-bit integer, of which they take no negative one.
MAX_SEED = 2**31 - 1

Observation = NDArray[Any] | dict[str, NDArray[Any]]


@dataclass(slots=True)
class Transition:
    """One step of all environments; arrays are the receiver's to keep.

    Attributes:
        observation: What each environment shows now, [B, ...]: the first observation of the next episode where one
            ended.
        rewards: float32 [B].
        terminated: bool [B], ended by its own rules.
        truncated: bool [B], ended by a time limit and nothing else.
        final_observation: What each environment that ended showed last, [B, ...] or with only those rows, as `ended`
            says; None when none ended.
        ended: Row of `final_observation` of each environment that ended.
        infos: Further figures by name, [B] each.
        outcomes: Figures that are told of an episode's last step alone, by name, [B] each. Default none.
    """

    observation: Observation
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    final_observation: Observation | None
    ended: Mapping[int, int]
    infos: Mapping[str, NDArray[Any]]
    outcomes: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class Simulator(Protocol):
    """B environments that are stepped together.

    Attributes:
        num_envs: B.
        observation_space: Space of one environment's observations.
        action_space: Space of one environment's actions.
    """

    num_envs: int
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]

    def reset(self, seeds: Sequence[int] | None) -> Observation:
        """Begin an episode in every environment, with these seeds or, with None, as the last episode left chance."""
        ...

    def step(self, actions: NDArray[Any]) -> Transition:
        """Advance every environment and reset those that end."""
        ...

    def close(self) -> None:
        """Free what the simulator holds."""
        ...


class NativeVecEnv(VecEnv):
    """A `Simulator` as a Stable-Baselines3 vector.

    There is no Python object for each environment: attributes cannot be set, no methods called, and nothing is
    rendered.

    Args:
        simulator: Who steps the environments.

    """

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._actions: NDArray[Any] | None = None
        self._started = False
        super().__init__(simulator.num_envs, simulator.observation_space, simulator.action_space)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed environment i with `seed` + i at the next reset; None draws a seed from NumPy's global generator.

        Raises:
            UsageError: If one of them exceeds `MAX_SEED`; the simulators have no larger ones.
        """
        if seed is None:
            seed = int(np.random.randint(0, MAX_SEED - self.num_envs))
        last = seed + self.num_envs - 1
        if not 0 <= seed <= last <= MAX_SEED:
            raise invalid_value(
                "seed", f"from 0 to {MAX_SEED - self.num_envs + 1} for {self.num_envs} environments", seed
            )
        return super().seed(seed)

    def reset(self) -> VecEnvObs:
        """Begin an episode in every environment; the first time without a seed, one is drawn."""
        seeds = [seed for seed in self._seeds if seed is not None]
        if not seeds and not self._started:
            seeds = (np.random.SeedSequence().generate_state(self.num_envs) % (MAX_SEED + 1)).tolist()
        self._started = True
        self._reset_seeds()
        self._reset_options()
        return self._simulator.reset(seeds or None)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Advance every environment."""
        assert self._actions is not None, "step_async comes first"
        moved = self._simulator.step(self._actions)
        figures = {**moved.infos, "TimeLimit.truncated": moved.truncated}
        columns = [values.tolist() for values in figures.values()]
        infos: list[dict[str, Any]] = [dict(zip(figures, row, strict=True)) for row in zip(*columns, strict=True)]
        for env, row in moved.ended.items():
            infos[env].update({name: values[env].item() for name, values in moved.outcomes.items()})
            last = moved.final_observation
            infos[env]["terminal_observation"] = (
                {key: value[row] for key, value in last.items()} if isinstance(last, dict) else last[row]  # type: ignore[index]
            )
        return moved.observation, moved.rewards, moved.terminated | moved.truncated, infos

    def close(self) -> None:
        """Free the simulator."""
        self._simulator.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return `render_mode`, which is None; no environment has anything else to show."""
        if attr_name != "render_mode":
            raise AttributeError(f"a native backend has no object per environment and so no attribute {attr_name!r}")
        return [None for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: there is nothing to set."""
        raise AttributeError(f"a native backend has no object per environment to set {attr_name!r} of")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Refuse: there is nothing to call."""
        raise AttributeError(f"a native backend has no object per environment and so no method {method_name!r}")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """No environment is wrapped."""
        return [False for _ in self._get_indices(indices)]
