"""What does an expert do? Trains one with Stable-Baselines3, or loads one, and records it for rimrl imitate.

python examples/demonstrations.py                   # PPO on Pendulum; needs: pip install 'rimrl[imitate]'
python examples/demonstrations.py --env HalfCheetah-v5 --data halfcheetah/expert-v0 --total-timesteps 1000000
python examples/demonstrations.py --env Hopper-v5 --data hopper/expert-v0 --algorithm SAC --expert sac.zip
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import minari
import stable_baselines3
from minari.data_collector import EpisodeBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

# PPO's settings of rl-baselines3-zoo (hyperparams/ppo.yml).
PENDULUM = dict(n_steps=1024, gamma=0.9, learning_rate=1e-3, use_sde=True, sde_sample_freq=4)
HALF_CHEETAH = dict(
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
    policy_kwargs=dict(
        log_std_init=-2, ortho_init=False, activation_fn=nn.ReLU, net_arch=dict(pi=[256, 256], vf=[256, 256])
    ),
)


class Recipe(NamedTuple):
    """How PPO learns an environment."""

    settings: dict[str, Any]
    n_envs: int = 4
    normalize: bool = False


RECIPES = {"Pendulum-v1": Recipe(PENDULUM), "HalfCheetah-v5": Recipe(HALF_CHEETAH, n_envs=1, normalize=True)}


class Normalized:
    """An expert that sees normalised observations, from those that the environment gives."""

    def __init__(self, expert: Any, statistics: VecNormalize) -> None:
        self.expert, self.statistics = expert, statistics

    def predict(self, observation: Any, deterministic: bool) -> Any:
        """Return SB3's pair of an action and a state."""
        return self.expert.predict(self.statistics.normalize_obs(observation), deterministic=deterministic)


def trained(algorithm: type[Any], env_id: str, total_timesteps: int) -> Any:
    """An expert that SB3 has trained."""
    recipe = RECIPES.get(env_id, Recipe({})) if algorithm is stable_baselines3.PPO else Recipe({})
    vector = make_vec_env(env_id, n_envs=recipe.n_envs, seed=0)
    if not recipe.normalize:
        return algorithm("MlpPolicy", vector, seed=0, device="cpu", **recipe.settings).learn(total_timesteps)
    statistics = VecNormalize(vector, gamma=recipe.settings["gamma"])
    expert = algorithm("MlpPolicy", statistics, seed=0, device="cpu", **recipe.settings).learn(total_timesteps)
    return Normalized(expert, statistics)


def episode(expert: Any, env: gymnasium.Env[Any, Any], number: int) -> EpisodeBuffer:
    """Play one, without exploration."""
    seen, steps = [env.reset(seed=number)[0]], list[Any]()
    while not (steps and any(steps[-1][2:])):
        action, _ = expert.predict(seen[-1], deterministic=True)
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
    parser.add_argument("--total-timesteps", type=int, default=100_000)
    parser.add_argument("--episodes", type=int, default=50)
    options = parser.parse_args(words)
    warnings.filterwarnings("ignore", module="minari")  # it misses who made the data set, and where
    algorithm, env = getattr(stable_baselines3, options.algorithm), gymnasium.make(options.env)
    if options.expert is None:
        expert = trained(algorithm, options.env, options.total_timesteps)
    else:
        expert = algorithm.load(options.expert, device="cpu")
    played = [episode(expert, env, number) for number in range(options.episodes)]
    print(f"mean return {sum(sum(each.rewards) for each in played) / len(played):.1f}")
    return minari.create_dataset_from_buffers(options.data, played, env=env, jpeg_encoding=False)


if __name__ == "__main__":
    main()
