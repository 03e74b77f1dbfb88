"""Environments and agents that a configuration describes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv

from rimrl.agents.config import AgentConfig
from rimrl.agents.extractors import EfferenceExtractor, MiniGridExtractor, NatureMap, has_copies, without_copies
from rimrl.agents.load import load
from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm
from rimrl.agents.registry import algorithm_class
from rimrl.agents.schedules import scheduled
from rimrl.agents.transfer import initialize_from
from rimrl.envs.frame_stack import FrameStack
from rimrl.envs.reward_scale import VecNormalizedRewards
from rimrl.envs.suites import is_own
from rimrl.envs.vector import Wrap, check_splits, make_vec_env
from rimrl.errors import UsageError, conflict, needs, wrong
from rimrl.experiments.config import EnvConfig, ExperimentConfig
from rimrl.experiments.named_classes import check_arguments, named_class
from rimrl.experiments.played import refusing_what_breaks, splits_to_play
from rimrl.experiments.policy_classes import policy_class
from rimrl.spaces import check_spaces, describe_space

_MOST_TOKENS = 2**16


def make_train_env(config: ExperimentConfig, monitor_dir: Path | None = None, append_monitor: bool = False) -> VecEnv:
    """The training split of a configuration, vectorised and seeded; episodes go to ``monitor_dir/monitor.csv``."""
    env = config.env
    _check_eval_splits(config)
    with refusing_what_breaks(env.id, env.kwargs):
        arguments = env_arguments(env)
        if is_own(config.played):
            check_splits(config.played, arguments["wrappers"], **env.kwargs)
        venv = make_vec_env(
            config.played,
            n_envs=env.n_envs,
            seed=config.train.seed,
            backend=env.backend,
            monitor_dir=monitor_dir,
            append_monitor=append_monitor,
            replayable=True,
            **arguments,
        )
        # Outermost: efference copies show the environment's own rewards, as they do in evaluations.
        return VecNormalizedRewards(venv, config.agent.gamma) if config.agent.normalize_rewards else venv


def _check_eval_splits(config: ExperimentConfig) -> None:
    """Refuse splits to be evaluated in training that there are not."""
    asked = config.train.eval_splits
    for split in asked:
        try:
            splits_to_play(config.played, split)
        except UsageError as error:
            raise error.within("train.eval_splits: ") from None
        if asked.count(split) > 1:
            raise wrong("train.eval_splits", f"names {split!r} twice")


def env_arguments(env: EnvConfig) -> dict[str, Any]:
    """What `make_vec_env` is given for every split of a configuration.

    Raises:
        UsageError: For a wrapper that is none, or that nobody asked for (`rimrl.imports`).
    """
    where = "env.env_wrapper"
    wrappers: list[Wrap] = []
    for entry in env.env_wrapper:
        for name, arguments in entry.items():
            wrapper: Callable[..., gymnasium.Env[Any, Any]] = named_class(name, gymnasium.Wrapper, where)
            check_arguments(wrapper, arguments, where, None)
            wrappers.append(partial(wrapper, **arguments))
    if env.frame_stack > 1:
        wrappers.append(partial(FrameStack, n_stack=env.frame_stack))
    return {"efference_copies": env.efference_copies, "wrappers": wrappers, **env.kwargs}


def make_agent(config: ExperimentConfig, env: VecEnv) -> RecurrentOnPolicyAlgorithm:
    """The agent of a configuration, untrained."""
    settings = config.agent
    check_spaces(env.observation_space, env.action_space, config.env.id)
    tile_pixels = config.env.kwargs.get("tile_size") if config.env.kwargs.get("tiles") == "rgb" else None
    policy, policy_kwargs = _policy_for(env.observation_space, settings, tile_pixels)
    rate = scheduled(settings.learning_rate, settings.learning_rate_schedule, settings.learning_rate_warmup)
    common: dict[str, Any] = {
        "policy": policy,
        "env": env,
        "learning_rate": rate,
        "n_steps": settings.n_steps,
        "sequence_length": settings.sequence_length,
        "gamma": settings.gamma,
        "gae_lambda": settings.gae_lambda,
        "ent_coef": settings.ent_coef,
        "vf_coef": settings.vf_coef,
        "max_grad_norm": settings.max_grad_norm,
        "normalize_advantage": settings.normalize_advantage,
        "policy_kwargs": {
            **policy_kwargs,
            "net_arch": {"pi": settings.net_arch, "vf": settings.net_arch},
            "core": config.core.name,
            "core_kwargs": config.core.options,
            "core_sharing": settings.core_sharing,
            **({"critic_gradient": settings.critic_gradient} if settings.critic_gradient != 1.0 else {}),
            "trunk": settings.trunk,
            **({"normalize_observations": True} if settings.normalize_observations else {}),
            **_further_options(settings),
        },
        "seed": config.train.seed,
        "device": config.train.device,
        "autocast": settings.autocast,
        **({"use_masking": True} if settings.use_masking else {}),
        **_exploration(settings, env.action_space),
    }
    agent = algorithm_class(settings.algorithm)(**common, **_own_arguments(settings))
    if settings.init_from is not None:
        initialize_from(agent.policy, load(settings.init_from, device=agent.device).policy, settings.init_from)
    return agent


def check_fits(config: ExperimentConfig) -> None:
    """Make the environment and the agent of a configuration, and throw them away.

    Raises:
        UsageError: If its values do not fit together.
    """
    with closing(make_train_env(config)) as env:
        make_agent(config, env)


def _own_arguments(settings: AgentConfig) -> dict[str, Any]:
    """The algorithm's own options, schedules put in the place of the numbers that they change."""
    arguments = settings.arguments()
    for schedule, name in settings.schedules().items():
        how, value = getattr(settings, schedule), arguments[name]
        if value is not None:
            arguments[name] = scheduled(value, how)
        elif how != "constant":
            raise needs(f"agent.{schedule} {how!r}", f"a value of agent.{name}", "null")
    return arguments


def _further_options(settings: AgentConfig) -> dict[str, Any]:
    """Arguments of the policy that differ from its defaults; files name no others."""
    options: dict[str, Any] = {}
    for key in ("activation_fn", "optimizer_class"):
        if (name := getattr(settings, key)) is not None:
            options[key] = policy_class(f"agent.{key}", name)
    if settings.optimizer_kwargs:
        options["optimizer_kwargs"] = dict(settings.optimizer_kwargs)
    if settings.optimizer_class is not None:
        check_arguments(
            options["optimizer_class"], {"lr": 0.0, **settings.optimizer_kwargs}, "agent.optimizer_kwargs", []
        )
    if not settings.ortho_init:
        options["ortho_init"] = False
    if settings.log_std_init:
        options["log_std_init"] = settings.log_std_init
    return options


def _exploration(settings: AgentConfig, space: spaces.Space[Any]) -> dict[str, Any]:
    """Arguments of the algorithm for state-dependent exploration."""
    if settings.use_sde and not isinstance(space, spaces.Box):
        raise needs("agent.use_sde", "continuous actions", describe_space(space), "leave it out")
    return {"use_sde": True, "sde_sample_freq": settings.sde_sample_freq} if settings.use_sde else {}


def _policy_for(space: spaces.Space[Any], settings: AgentConfig, tile_pixels: int | None) -> tuple[str, dict[str, Any]]:
    """The policy form and extractor that fit an observation space, or that the user chose."""
    if isinstance(space, spaces.Dict) and has_copies(space):
        _, inner = _policy_for(without_copies(space), settings, tile_pixels)
        kwargs: dict[str, Any] = {
            "extractor_class": inner.get("features_extractor_class"),
            "extractor_kwargs": inner.get("features_extractor_kwargs"),
        }
        return "MultiInputPolicy", {"features_extractor_class": EfferenceExtractor, "features_extractor_kwargs": kwargs}
    if settings.features_extractor_class is not None:
        cls = policy_class("agent.features_extractor_class", settings.features_extractor_class)
        kwargs = dict(settings.features_extractor_kwargs)
        check_arguments(cls, kwargs, "agent.features_extractor_kwargs", None)
        image = "CnnPolicy" if is_image_space(space) else "MlpPolicy"
        form = "MultiInputPolicy" if isinstance(space, spaces.Dict) else image
        return form, {"features_extractor_class": cls, "features_extractor_kwargs": kwargs}
    spatial = settings.spatial
    width = {} if settings.features_dim is None else {"features_dim": settings.features_dim}
    if spatial and width:
        raise conflict("agent.features_dim", "agent.spatial, where the map has the width")
    if isinstance(space, spaces.Dict) and _shows_tiles(space, tile_pixels):
        options = {**width, "positions": spatial}
        if tile_pixels is not None:
            options["tile_pixels"] = tile_pixels
        return "MultiInputPolicy", {"features_extractor_class": MiniGridExtractor, "features_extractor_kwargs": options}
    if is_image_space(space):
        if spatial:
            return "CnnPolicy", {"features_extractor_class": NatureMap}
        return "CnnPolicy", {"features_extractor_kwargs": width}
    if spatial:
        raise needs("agent.spatial", "an image to read positions of", "an environment that shows none")
    if width:
        raise needs("agent.features_dim", "images, of which it is the width", "an environment that shows none")
    return ("MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"), {}


def _shows_tiles(space: spaces.Dict, tile_pixels: int | None) -> bool:
    """Whether observations are tiles and perhaps a mission, as `rimrl.envs.minigrid` shows them."""
    image, mission = space.spaces.get("image"), space.spaces.get("mission")
    if not space.spaces.keys() <= {"image", "mission"} or not (mission is None or _holds_tokens(mission)):
        return False
    if not isinstance(image, spaces.Box) or len(image.shape) != 3:
        return False
    if not is_image_space(image):
        return True
    _, *sides = sorted(image.shape)  # without the channels, whether they come first or last
    return max(sides) < 24 or all(side % (tile_pixels or 8) == 0 for side in sides)


def _holds_tokens(space: spaces.Space[Any]) -> bool:
    """Whether a part is a sequence of token ids."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or space.dtype.kind not in "iu":
        return False
    return bool(space.low.min() >= 0) and bool(space.high.max() < _MOST_TOKENS)
