"""``rimrl inspect``: play a trained agent and record what each unit of its core does at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.cores.base import CoreTrace
from rimrl.experiments.evaluate import DEFAULT_SEED
from rimrl.experiments.player import Outcome, Player, make_player
from rimrl.experiments.probing import Probe
from rimrl.experiments.run import Run
from rimrl.runs.recording import Recording, means_over_steps

DEFAULT_EPISODES = 50


def record(
    run: Run,
    episodes: int = DEFAULT_EPISODES,
    split: str = "train",
    deterministic: bool = False,
    seed: int = DEFAULT_SEED,
    best: bool = False,
    trust: bool = False,
    progress_bar: bool = True,
    num_active: int | list[int] | None = None,
    also: Sequence[str] = (),
) -> Recording:
    """Play whole episodes, one after the other, and record what the units of the actor's core do.

    Args:
        run: A run that has been trained, with any core; one without units reports a single unit, always active.
        episodes: How many.
        split: Which split of the run's suite.
        deterministic: Take the mode of the policy instead of a sample (default), as `evaluate`.
        seed: Seed of levels and actions.
        best: Inspect ``best_model.zip`` instead of ``model.zip``.
        trust: Run code that the file of the agent brings along (`rimrl.load`). Default False.
        progress_bar: Show progress on standard error.
        num_active: Let another number of units be active than in training. Default: as trained.
        also: What else is recorded, out of ``"states"``, ``"observations"`` and ``"values"``
            (`rimrl.runs.recording.Recording`). What the agent does stays the same. Default: nothing.

    Returns:
        The recording.

    Raises:
        UsageError: For no episodes, an unknown split, a model that is missing or damaged, or more to record than can
            be kept.
    """
    title = f"inspect {run.path.name}" if progress_bar else None
    with make_player(run, episodes, split, deterministic, seed, best, trust, num_active=num_active) as player:
        policy = player.agent.policy
        assert isinstance(policy, RecurrentCorePolicy)
        arrays, outcomes = _watch(player, Probe(policy, also), title)
    facts = {
        "kind": run.kind.name,
        "suite": run.config.env.id,
        "split": player.split.name,
        "held_out": player.split.held_out,
        "config": run.config.name,
        "core": run.config.core.name,
        "model": player.model_file.name,
        "num_timesteps": player.agent.num_timesteps,
        "deterministic": deterministic,
        "seed": seed,
        "steps": len(arrays["reward"]),
        "units": arrays["active"].shape[1],
        "units_per_layer": list(policy.core.units_per_layer),
        "action_names": player.action_names,
        "episodes": outcomes,
        **means_over_steps(arrays, policy.core.units_per_layer, player.action_names),
    }
    return Recording(facts, arrays)


def _watch(player: Player, probe: Probe, title: str | None) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
    """Play; every step's facts by name, one behind the other, and those of every episode."""
    rows: dict[str, list[Any]] = {}
    outcomes: list[dict[str, Any]] = []
    for step in player.steps(title):
        row = {
            "episode": step.episode,
            "step": step.number,
            "fresh": step.fresh,
            "action": step.action,
            "reward": step.reward,
            "event": step.event or "",
            **_of_one_step(step.trace),
            **probe.row(step),
        }
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
        if step.outcome is not None:
            outcomes.append(_facts_of(step.outcome, step.task))
    arrays = {name: np.stack(values) for name, values in rows.items()}
    if (arrays["event"] == "").all():
        del arrays["event"]
    return arrays, outcomes


def _of_one_step(trace: CoreTrace) -> dict[str, NDArray[Any]]:
    parts = {
        "active": trace.active,
        "input_attention": trace.input_attention,
        "communication_attention": trace.communication_attention,
    }
    return {name: part[0, 0].cpu().numpy() for name, part in parts.items() if part is not None}


def _facts_of(outcome: Outcome, task: str | None) -> dict[str, Any]:
    return {
        "length": outcome.length,
        "return": outcome.total,
        "success": outcome.success,
        "out_of_time": outcome.out_of_time,
        "task": task,
    }
