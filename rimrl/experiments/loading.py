"""The agent of a run, held against the configuration that stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch as th

from rimrl.agents.load import load
from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.cores.options import plain
from rimrl.cores.registry import CORES, core_options, with_legacy_options
from rimrl.errors import mismatch, needs
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.run import Run

_POLICY_OPTIONS: Mapping[str, object] = {
    "core_sharing": "shared",
    "trunk": "learned",
    "normalize_observations": False,
}
"""Settings of the agent that decide how its policy is built, with the policy's defaults.

With what an agent learned is noted by its run (`rimrl.runs.environment`), where it may change on the way.
"""


def load_agent(
    run: Run,
    best: bool = False,
    trust: bool = False,
    device: th.device | str | None = None,
    num_active: int | list[int] | None = None,
) -> RecurrentOnPolicyAlgorithm:
    """Load the agent of a run.

    Args:
        run: A run that has been trained.
        best: ``best_model.zip`` instead of ``model.zip``.
        trust: Run code that the file brings along (`rimrl.load`). Default False.
        device: Where it is to compute; default: as configured.
        num_active: Let another number of units be active than in training; default: as trained.

    Returns:
        The agent.

    Raises:
        UsageError: If the file is missing, damaged, or of an agent that the run's configuration does not describe, or
            if the core has no such number of active units.
    """
    file = run.agent_file(best)
    agent = load(file, device=run.config.train.device if device is None else device, trust=trust)
    _check_described(agent, file, run.config, run.path)
    if num_active is not None:
        _ablate(agent, num_active)
    return agent


def _ablate(agent: RecurrentOnPolicyAlgorithm, num_active: int | list[int]) -> None:
    """Let another number of units be active, in the critic's core, too."""
    policy = agent.policy
    assert isinstance(policy, RecurrentCorePolicy)
    for core in (policy.core, policy.critic_core):
        if core is None:
            continue
        try:
            core.num_active = num_active
        except AttributeError as error:
            raise needs("core.num_active", f"a core that selects units ({error})") from None


def core_settings(agent: RecurrentOnPolicyAlgorithm) -> dict[str, Any]:
    """Name and options of an agent's core, as its file says; the name alone of a core that is not registered."""
    kwargs = agent.policy_kwargs
    name = kwargs.get("core", "rim")
    if name not in CORES:
        return {"name": name if isinstance(name, str) else name.__name__}
    return {"name": name, **_complete(name, kwargs.get("core_kwargs") or {})}


def _complete(core: str, options: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {name: parameter.default for name, parameter in core_options(core).items()}
    complete = defaults | with_legacy_options(core, dict(options))
    return {name: list(value) if isinstance(value, tuple) else plain(value) for name, value in complete.items()}


def _check_described(agent: RecurrentOnPolicyAlgorithm, file: Path, config: ExperimentConfig, where: Path) -> None:
    """Refuse an agent that was trained otherwise than the configuration says: results would bear the wrong label."""
    core = core_settings(agent)
    if core["name"] in CORES:
        described = {"name": config.core.name, **_complete(config.core.name, config.core.options)}
        for name in dict.fromkeys([*core, *described]):
            _require_same(f"core.{name}", described.get(name), core.get(name), file, where)
    settings = asdict(config.agent)
    for name, default in _POLICY_OPTIONS.items():
        if name in settings:
            _require_same(f"agent.{name}", settings[name], agent.policy_kwargs.get(name, default), file, where)


def _require_same(key: str, described: object, found: object, file: Path, where: Path) -> None:
    if described != found:
        raise mismatch(
            f"{key} in {where}",
            f"{found!r}, as in the training of {file.name}",
            repr(described),
            "put that back" + (f", or play with --{key} {described}" if key == "core.num_active" else ""),
        )
