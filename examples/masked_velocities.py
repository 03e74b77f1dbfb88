"""Does memory help in continuous control when velocities are hidden? A GRU beside a policy without memory.

python examples/masked_velocities.py                                        # Pendulum
python examples/masked_velocities.py --env rimrl/HalfCheetahNoVelocity-v0   # needs: pip install 'gymnasium[mujoco]'
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy

import rimrl
from rimrl.envs.vector import make_vec_env


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Train both, and return what each reaches on average."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="rimrl/PendulumNoVelocity-v0")
    parser.add_argument("--total-timesteps", type=int, default=200_000)
    parser.add_argument("--episodes", type=int, default=20)
    options = parser.parse_args(words)
    returns = {}
    for core in ("gru", "feedforward"):
        model = rimrl.RecurrentPPO(
            "MlpPolicy",
            make_vec_env(options.env, n_envs=8, seed=0),
            n_steps=128,
            batch_size=256,
            learning_rate=1e-3,
            gamma=0.95,
            policy_kwargs=dict(core=core, core_kwargs=dict(hidden_size=64)),
            seed=0,
        )
        model.learn(options.total_timesteps)
        env = make_vec_env(options.env, n_envs=4, seed=1000)
        mean, _ = evaluate_policy(model, env, n_eval_episodes=options.episodes)
        returns[core] = float(np.mean(mean))
        print(f"{core}: mean return {returns[core]:.1f}")
    return returns


if __name__ == "__main__":
    main()
