"""Settings of an algorithm: what a saved agent may hold, and so what one may be made with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

from rimrl.agents.saved.fields import integer, number, switch
from rimrl.agents.schedules import CosineSchedule, WarmupSchedule
from rimrl.errors import invalid_value, wrong

SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf")

_INTEGERS = ("n_steps", "batch_size", "n_epochs", "sequence_length", "seed", "verbose", "sde_sample_freq")
_COUNTERS = (
    *("n_envs", "num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_n_updates", "_episode_num"),
    "_stats_window_size",
)
_NUMBERS = ("gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm", "target_kl", "_current_progress_remaining")
_SWITCHES = ("use_sde", "normalize_advantage", "use_masking")
_WORDS = ("tensorboard_log", "autocast")
_MAY_BE_NONE = {"batch_size", "sequence_length", "seed", "target_kl", "clip_range_vf", "tensorboard_log", "autocast"}
_LARGEST_ROLLOUT = 2**36

_TINY = 5e-324
_RANGES = {
    "n_steps": (1, 2**32),
    "n_epochs": (1, 2**32),
    "gamma": (0.0, 1.0),
    "gae_lambda": (0.0, 1.0),
    "max_grad_norm": (_TINY, math.inf),
    "clip_range": (_TINY, math.inf),
    "clip_range_vf": (_TINY, math.inf),
    "target_kl": (_TINY, math.inf),
}

SETTINGS = (*_INTEGERS, *_COUNTERS, *_NUMBERS, *_SWITCHES, *SCHEDULES, *_WORDS)


def checked_setting(key: str, value: Any, place: str) -> Any:
    """A setting as an agent has it.

    Args:
        key: One of `SETTINGS`.
        value: A plain value; a schedule as `rimrl.agents.saved.inert.to_plain` gives it.
        place: Names it in errors.

    Raises:
        UsageError: If it does not fit.
    """
    if value is None and key in _MAY_BE_NONE:
        return None
    if key in _WORDS and not isinstance(value, str):
        raise invalid_value(place, "text", value)
    if key == "verbose" and isinstance(value, bool):
        value = int(value)
    found: Any = value
    if key in _INTEGERS:
        found = integer(value, place, -1, 2**32)
    elif key in _COUNTERS:
        found = integer(value, place, 0, 2**53)
    elif key in _SWITCHES:
        found = switch(value, place)
    elif key in SCHEDULES and isinstance(value, dict):
        found = _schedule(value, place)
    elif key in _NUMBERS or key in SCHEDULES:
        found = number(value, place)
    least, most = _RANGES.get(key, (-math.inf, math.inf))
    if isinstance(found, int | float) and not least <= found <= most:
        raise invalid_value(place, f"from {least} to {most}", found)
    return found


def _schedule(value: Mapping[str, Any], place: str) -> Callable[[float], float]:
    """A schedule from plain data."""
    kind = value.get("schedule")
    if kind == "linear":
        return LinearSchedule(*(number(value.get(end), place) for end in ("start", "end", "end_fraction")))
    if kind == "cosine":
        return CosineSchedule(number(value.get("start"), place))
    if kind != "warmup":
        raise invalid_value(place, "a number or a schedule", value)
    warmup, then = number(value.get("warmup"), place), value.get("then")
    if not 0 < warmup < 1:
        raise invalid_value(f"the warm-up of {place}", "between 0 and 1", warmup)
    if isinstance(then, dict) and then.get("schedule") == "warmup":
        raise wrong(place, "is a warm-up within another")
    return WarmupSchedule(
        warmup, _schedule(then, place) if isinstance(then, dict) else ConstantSchedule(number(then, place))
    )


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings with which a saved agent could not be loaded.

    Args:
        settings: Attributes of an algorithm; those that are no settings are passed over, and so are schedules.

    Raises:
        UsageError: Names the setting that does not fit.
    """
    for key in SETTINGS:
        if key in settings and not (key in SCHEDULES and callable(settings[key])):
            checked_setting(key, settings[key], key)


def check_rollout(space: spaces.Space[Any], n_steps: int, n_envs: int, where: str) -> None:
    """Refuse a rollout storage that no machine could hold.

    Args:
        space: Observation space.
        n_steps: Steps of each environment.
        n_envs: Number of environments.
        where: Who asks for it.

    Raises:
        UsageError: If it is larger than 64 GiB.
    """
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    width = sum(math.prod(part.shape or (1,)) * (part.dtype.itemsize if part.dtype else 8) for part in parts)
    steps = n_steps * max(1, n_envs)
    if steps * (width + 64) > _LARGEST_ROLLOUT:
        raise wrong(where, f"asks for rollouts of {steps} steps, more than {_LARGEST_ROLLOUT // 2**30} GiB")
