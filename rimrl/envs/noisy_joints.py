"""Continuous control whose joints are seen through noise, as by imprecise sensors.

The RIM paper (Goyal et al., ICLR 2021, App. E.1) trains on clean demonstrations and tests with noise in the joints.

Notes:
    The paper's agents see rendered images, and we do not know how large its noise is and where exactly it enters. Here
    agents see the state, and noise is added to what they see of the joints; motion and rewards stay exact.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rimrl.envs.checks import is_number
from rimrl.envs.hidden_velocity import TASKS, make_task
from rimrl.envs.perturbed_suites import noisy_id
from rimrl.errors import invalid_value

# A MuJoCo walker shows height and pitch of its torso, then the angles of its joints; the speeds begin with three of the
# torso.
_TORSO_POSITIONS, _TORSO_SPEEDS = 2, 3


class NoisyJoints(gymnasium.ObservationWrapper[NDArray[Any], Any, NDArray[Any]]):
    """Add independent Gaussian noise to the angle and the speed of every joint, in every observation.

    Observations keep the shape, dtype and bounds of the environment, to which they are clipped. Of Pendulum, which
    shows cosine and sine, the angle itself is perturbed. The torso of a walker is seen as it is. Without noise nothing
    changes. Noise has a generator of its own, so that initial states of a seed are those without noise.

    Args:
        env: Environment of one of `rimrl.envs.hidden_velocity.TASKS`.
        task: Which.
        noise: Standard deviation, in rad for angles and rad/s for speeds; at least 0.

    Raises:
        UsageError: For another noise.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], task: str, noise: float) -> None:
        if not is_number(noise) or not 0 <= noise < math.inf:
            raise invalid_value("noise", "a number of at least 0", noise)
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, spaces.Box)
        self._box = space
        self._noise = float(noise)
        self._is_pendulum = task == "Pendulum"
        positions = TASKS[task].positions
        self._joints = np.r_[_TORSO_POSITIONS:positions, positions + _TORSO_SPEEDS : space.shape[0]]
        self._generator = np.random.default_rng()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin an episode; a seed decides the noise, too."""
        if seed is not None:
            self._generator = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
        return super().reset(seed=seed, options=options)

    def observation(self, observation: NDArray[Any]) -> NDArray[Any]:
        """Add noise: ``[D]`` -> ``[D]``."""
        if not self._noise:
            return observation
        seen = np.array(observation, dtype=np.float64)
        if self._is_pendulum:
            cos, sin, speed = seen
            of_angle, of_speed = self._generator.normal(scale=self._noise, size=2)
            angle = np.arctan2(sin, cos) + of_angle
            seen = np.array([np.cos(angle), np.sin(angle), speed + of_speed])
        else:
            seen[self._joints] += self._generator.normal(scale=self._noise, size=len(self._joints))
        return np.clip(seen, self._box.low, self._box.high).astype(self._box.dtype)


def make_noisy_joints(task: str, noise: float = 0.0, render_mode: str | None = None, **kwargs: Any) -> NoisyJoints:
    """Make one of `rimrl.envs.hidden_velocity.TASKS` with noise, without a time limit, which its registered id adds.

    Args:
        task: Its name.
        noise: Standard deviation; see `NoisyJoints`. Default 0: none.
        render_mode: As the environment's.
        **kwargs: Further arguments of the environment.

    Raises:
        UsageError: For another noise, or if it needs MuJoCo, which is not installed.
    """
    return NoisyJoints(make_task(task, noisy_id(task), render_mode, **kwargs), task, noise)
