"""What does an expert do? Trains one with Stable-Baselines3, or loads one, and records it for rimrl imitate.

python examples/demonstrations.py                   # PPO on Pendulum; needs: pip install 'rimrl[imitate]'
python examples/demonstrations.py --help            # an expert of your own
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import minari
import numpy as np
import stable_baselines3
from minari.data_collector import EpisodeBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

PENDULUM = dict(n_steps=1024, gamma=0.9, learning_rate=1e-3, use_sde=True, sde_sample_freq=4)  # rl-baselines3-zoo's


def episode(expert: Any, see: Callable[[Any], Any], env: gymnasium.Env[Any, Any], number: int) -> EpisodeBuffer:
    """Play one, without exploration."""
    seen, steps = [env.reset(seed=number)[0]], list[Any]()
    while not (steps and any(steps[-1][2:])):
        action, _ = expert.predict(see(seen[-1]), deterministic=True)
        observation, *outcome, _ = env.step(action)  # reward, terminated, truncated
        seen.append(observation)
        steps.append((action, *outcome))
    return EpisodeBuffer(number, number, None, seen, *map(list, zip(*steps, strict=True)))


def main(words: Sequence[str] | None = None) -> minari.MinariDataset:
    """Return the data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--data", default="pendulum/expert-v0", help="id of the new data set")
    parser.add_argument("--algorithm", default="PPO", help="the expert's, a class of Stable-Baselines3")
    parser.add_argument("--expert", help=".zip of a trained one")
    parser.add_argument("--statistics", help=".pkl of its VecNormalize, if it sees normalised observations")
    parser.add_argument("--total-timesteps", type=int, default=100_000)
    parser.add_argument("--episodes", type=int, default=50)
    options = parser.parse_args(words)
    warnings.filterwarnings("ignore", module="minari")  # it misses who made the data set, and where
    algorithm, env = getattr(stable_baselines3, options.algorithm), gymnasium.make(options.env)
    vector = make_vec_env(options.env, n_envs=4, seed=0)
    if options.expert is None:
        settings = PENDULUM if (options.env, options.algorithm) == ("Pendulum-v1", "PPO") else {}
        expert = algorithm("MlpPolicy", vector, seed=0, device="cpu", **settings)
        expert.learn(options.total_timesteps)
    else:
        expert = algorithm.load(options.expert, device="cpu")
    see = VecNormalize.load(options.statistics, vector).normalize_obs if options.statistics else np.asarray
    played = [episode(expert, see, env, number) for number in range(options.episodes)]
    print(f"mean return {sum(sum(each.rewards) for each in played) / len(played):.1f}")
    return minari.create_dataset_from_buffers(options.data, played, env=env, jpeg_encoding=False)


if __name__ == "__main__":
    main()
