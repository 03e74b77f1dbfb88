"""Keys that agents' configurations got after there were runs, and the values that say how those were trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ADDED_TO_AGENTS: Mapping[str, object] = {
    "agent.normalize_observations": False,
    "agent.critic_gradient": 1.0,
    "agent.use_masking": False,
    "agent.learning_rate_warmup": 0.0,
    "agent.clip_range_schedule": "constant",
    "agent.clip_range_vf_schedule": "constant",
    "agent.normalize_rewards": False,
    "agent.activation_fn": None,
    "agent.ortho_init": True,
    "agent.log_std_init": 0.0,
    "agent.use_sde": False,
    "agent.sde_sample_freq": -1,
    "agent.features_extractor_class": None,
    "agent.optimizer_class": None,
    "env.env_wrapper": [],
    "env.frame_stack": 1,
    "train.eval_splits": [],
    "train.callback": [],
    "train.stop_reward": None,
    "train.stop_after_evals": None,
    "train.stop_min_evals": 0,
}
"""By dotted key; without those of cores, which say so themselves."""


def with_added(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration with the keys that it is older than.

    Args:
        config: Groups of keys as the run's file has them; one without the group ``agent`` stays as it is.
    """
    groups = dict(config)
    if not isinstance(config.get("agent"), dict):
        return groups
    for key, value in ADDED_TO_AGENTS.items():
        group, name = key.split(".")
        held = groups.get(group)
        if not isinstance(held, dict):
            continue
        # A schedule belongs to an option that only some algorithms have.
        if not name.endswith("_schedule") or name.removesuffix("_schedule") in held:
            groups[group] = {name: value, **held}
    return groups
