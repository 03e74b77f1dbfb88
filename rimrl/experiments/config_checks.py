"""Values of a configuration that do not go with each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rimrl.envs.splits import Suite
from rimrl.errors import conflict, needs, wrong
from rimrl.experiments.played import splits_to_play
from rimrl.experiments.policy_classes import check_policy_names

_Group = Mapping[str, Any]


def check_together(groups: Mapping[str, _Group], played: str | Suite) -> None:
    """Refuse values that do not go with each other, each of which is valid.

    Args:
        groups: Values by group and key.
        played: What ``env.id`` names.

    Raises:
        UsageError: Names both keys.
    """
    _check_env(groups["env"], played)
    _check_policy(groups["agent"])
    train = groups["train"]
    for key in ("stop_reward", "stop_after_evals"):
        if train[key] is not None and not train["eval_freq"]:
            raise needs(f"train.{key}", "evaluations on the way", "train.eval_freq 0")
    if train["stop_min_evals"] and train["stop_after_evals"] is None:
        raise needs("train.stop_min_evals", "train.stop_after_evals, which it puts off")


def _check_env(env: _Group, played: str | Suite) -> None:
    if env["backend"] in ("native", "envpool"):
        for key, none in (("env_wrapper", []), ("frame_stack", 1)):
            if env[key] != none:
                raise conflict(
                    f"env.{key}", f"backend {env['backend']!r}, which steps all at once", "use 'dummy' or 'subproc'"
                )
    if env["frame_stack"] > 1 and any(split.env_id.startswith("ALE/") for split in splits_to_play(played, None)):
        raise conflict("env.frame_stack", "ALE games, which stack frames themselves", "give env.kwargs.frame_stack")


def _check_policy(agent: _Group) -> None:
    check_policy_names({f"agent.{key}": value for key, value in agent.items()})
    if agent["features_extractor_class"] is None:
        if agent["features_extractor_kwargs"]:
            raise needs("agent.features_extractor_kwargs", "agent.features_extractor_class, whose they are")
    elif agent["features_dim"] is not None or agent["spatial"]:
        key = "spatial" if agent["spatial"] else "features_dim"
        raise conflict(f"agent.{key}", "agent.features_extractor_class", "give agent.features_extractor_kwargs instead")
    if agent["sde_sample_freq"] != -1 and not agent["use_sde"]:
        raise needs("agent.sde_sample_freq", "agent.use_sde true")
    if agent["optimizer_kwargs"] and agent["optimizer_class"] is None and agent.get("use_rms_prop"):
        raise needs("agent.optimizer_kwargs", "agent.optimizer_class where agent.use_rms_prop is true")
    if "lr" in agent["optimizer_kwargs"]:
        raise wrong("agent.optimizer_kwargs.lr", "is agent.learning_rate", "give that", "conflict")
