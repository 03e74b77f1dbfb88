"""Does an agent with a RIM learn an environment of mine? A cue is shown, and asked for three steps later.

python examples/own_environment.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from rimrl import RecurrentPPO


class Cue(gymnasium.Env[np.ndarray[Any, Any], np.int64]):
    """The last action earns 1 if it is the cue of the first step. Without memory: 0.5 on average."""

    observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        """Draw a cue and show it."""
        super().reset(seed=seed)
        self.cue, self.time = int(self.np_random.integers(2)), 0
        return np.eye(3, dtype=np.float32)[self.cue], {}

    def step(self, action: np.int64) -> tuple[np.ndarray[Any, Any], float, bool, bool, dict[str, Any]]:
        """Show nothing more of the cue."""
        self.time += 1
        done = self.time == 4
        return np.eye(3, dtype=np.float32)[2], float(done and action == self.cue), done, False, {}


def main(words: Sequence[str] | None = None) -> float:
    """Train, play 100 episodes, and return their mean reward."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total-timesteps", type=int, default=20_000)
    options = parser.parse_args(words)
    policy_kwargs = dict(core="rim", core_kwargs=dict(num_units=4, num_active=2, unit_size=16))
    model = RecurrentPPO(
        "MlpPolicy", make_vec_env(Cue, 8), n_steps=32, learning_rate=3e-3, seed=0, policy_kwargs=policy_kwargs
    )
    model.learn(options.total_timesteps)
    reward, _ = evaluate_policy(model, make_vec_env(Cue, 4, seed=1000), n_eval_episodes=100)
    print(f"mean reward {reward:.2f}; a guess gets 0.5, memory 1")
    return float(np.mean(reward))


if __name__ == "__main__":
    main()
