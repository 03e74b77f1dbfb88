"""Which expert can others copy? Trains one on Half-Cheetah with SB3's PPO and the settings of rl-baselines3-zoo.

python examples/expert.py                           # 20 minutes; needs: pip install 'gymnasium[mujoco]'
python examples/expert.py --total-timesteps 100000  # a slower runner
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn


def main(words: Sequence[str] | None = None) -> PPO:
    """Return the expert; it is saved, and so are the statistics of its observations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total-timesteps", type=int, default=1_000_000)
    parser.add_argument("--output", default="expert", help="name of the new .zip and .pkl, without the ending")
    options = parser.parse_args(words)
    env = VecNormalize(make_vec_env("HalfCheetah-v5", seed=0), gamma=0.98)
    expert = PPO(
        "MlpPolicy",
        env,
        n_steps=512,
        batch_size=64,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.92,
        learning_rate=2.0633e-5,
        clip_range=0.1,
        ent_coef=0.000401762,
        vf_coef=0.58096,
        max_grad_norm=0.8,
        policy_kwargs=dict(log_std_init=-2, ortho_init=False, activation_fn=nn.ReLU, net_arch=[256, 256]),
        seed=0,
        device="cpu",
    )
    expert.learn(options.total_timesteps)
    expert.save(f"{options.output}.zip")
    env.save(f"{options.output}.pkl")
    return expert


if __name__ == "__main__":
    main()
