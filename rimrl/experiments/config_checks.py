"""Values of a configuration that do not go with each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rimrl.envs.splits import Suite
from rimrl.errors import UsageError
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
            raise UsageError(f"train.{key} looks at evaluations on the way, and train.eval_freq 0 asks for none")
    if train["stop_min_evals"] and train["stop_after_evals"] is None:
        raise UsageError("train.stop_min_evals needs train.stop_after_evals, which it puts off")


def _check_env(env: _Group, played: str | Suite) -> None:
    if env["backend"] in ("native", "envpool"):
        for key, none in (("env_wrapper", []), ("frame_stack", 1)):
            if env[key] != none:
                raise UsageError(
                    f"env.{key} goes around every single environment, and backend {env['backend']!r} steps all of them "
                    "at once; use 'dummy' or 'subproc'"
                )
    if env["frame_stack"] > 1 and any(split.env_id.startswith("ALE/") for split in splits_to_play(played, None)):
        raise UsageError("ALE games stack frames themselves: give env.kwargs.frame_stack instead of env.frame_stack")


def _check_policy(agent: _Group) -> None:
    check_policy_names({f"agent.{key}": value for key, value in agent.items()})
    if agent["features_extractor_class"] is None:
        if agent["features_extractor_kwargs"]:
            raise UsageError("agent.features_extractor_kwargs needs agent.features_extractor_class, whose they are")
    elif agent["features_dim"] is not None or agent["spatial"]:
        key = "spatial" if agent["spatial"] else "features_dim"
        raise UsageError(
            f"agent.{key} is for the extractor that fits the observations; with agent.features_extractor_class give "
            "agent.features_extractor_kwargs instead"
        )
    if agent["sde_sample_freq"] != -1 and not agent["use_sde"]:
        raise UsageError("agent.sde_sample_freq needs agent.use_sde true")
    if agent["optimizer_kwargs"] and agent["optimizer_class"] is None and agent.get("use_rms_prop"):
        raise UsageError(
            "agent.optimizer_kwargs needs agent.optimizer_class where agent.use_rms_prop is true: RMSProp's are the "
            "algorithm's own"
        )
    if "lr" in agent["optimizer_kwargs"]:
        raise UsageError("agent.optimizer_kwargs.lr is agent.learning_rate; give that")
