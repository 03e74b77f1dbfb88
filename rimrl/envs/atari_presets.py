"""Named sets of Atari settings, so that a score can say what it was played under.

What Atari agents are scored on differs from paper to paper by a handful of settings, and scores under different ones
are not comparable. Every ``ALE/*-v5`` environment is played under one of the presets; arguments given beside it change
single values. The module imports no environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rimrl.errors import unknown_name

DEFAULT_PRESET = "machado"

# Mnih et al. (2015), and the PPO set-up of the RIM paper (App. D.8): NoFrameskip-v4 ids in DeepMind's wrappers.
_LEGACY: Mapping[str, Any] = MappingProxyType(
    {
        "repeat_action_probability": 0.0,
        "noop_max": 30,
        "terminal_on_life_loss": True,
        "clip_rewards": True,
        "frameskip": 4,
        "full_action_space": False,
        "max_num_frames_per_episode": 108_000,  # 30 minutes at 60 frames a second, in ale-py's ids and in the papers
    }
)

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Machado et al. (2018), Sec. 5, as ale-py's v5 ids have it: chance comes from sticky actions, not from no-ops;
        # an episode is a game. They play with all 18 actions, the ids with those that do something in the game.
        "machado": MappingProxyType(
            {**_LEGACY, "repeat_action_probability": 0.25, "noop_max": 0, "terminal_on_life_loss": False}
        ),
        "legacy": _LEGACY,
        # A cheap screen (Pathak et al., 2017). The game and its score are those of `legacy`; what is seen of it is not.
        "small": MappingProxyType({**_LEGACY, "screen_size": 42}),
    }
)
"""Values of each preset, under the names that `rimrl.envs.vector.make_vec_env` takes."""


def with_preset(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the values of a preset.

    Args:
        kwargs: Arguments of an ``ALE/*-v5`` environment; ``preset`` names the preset, `DEFAULT_PRESET` without it.

    Returns:
        The values of the preset with the other arguments over them, and the preset's name under ``preset``.

    Raises:
        UsageError: If there is no such preset; names the nearest.
    """
    name = kwargs.get("preset", DEFAULT_PRESET)
    if name not in PRESETS:
        raise unknown_name("preset", str(name), PRESETS)
    return {**PRESETS[name], **kwargs, "preset": name}
