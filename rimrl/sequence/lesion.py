"""``rimrl sequence lesion``: mask one unit of a trained model and see what the others do (RIM paper, App. E.3).

dropping.json   what each masked unit does to the prediction and to the other units
dropping.npz    the frames of a sequence: true, predicted by the whole model, and without each unit
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import Tensor

from rimrl.cores.attention import UnitCommunication
from rimrl.errors import invalid_value, needs, wrong
from rimrl.runs.device import check_device
from rimrl.sequence.balls import BouncingBalls, nats_a_frame
from rimrl.sequence.evaluate import DEFAULT_SEED, evaluating
from rimrl.sequence.inspect import as_bytes
from rimrl.sequence.model import SequenceModel
from rimrl.sequence.rollouts import Rollout, roll_out
from rimrl.sequence.run import SequenceRun, make_run_task

FILES = ("dropping.json", "dropping.npz")
WARM_UP, STEPS, SEQUENCES, BLOCKS = 5, 25, 64, 6


@dataclass(frozen=True)
class LesionResult:
    """What became of a model without one of its units.

    Attributes:
        facts: Content of ``dropping.json``. ``cross_entropy``, nats a frame of the whole model; ``units``, for each
            masked unit ``cross_entropy``, its ``increase``, ``change_of_others`` (how far the states of the other units
            are from where they would have been, relative to their norm) and ``activity_changed`` (share of steps at
            which another unit is active and would not have been, or the reverse; None without units).
        arrays: ``shown`` ``[warm_up, S, S]``, ``truth`` and ``whole`` ``[steps, S, S]``, ``without`` ``[N, steps, S,
            S]``, 0 to 255, of the first sequence; ``change`` ``[N, N]``, of the unit in the column without the one in
            the row.
    """

    facts: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    def save(self, folder: Path) -> None:
        """Write `FILES` into a folder."""
        np.savez_compressed(folder / "dropping.npz", **self.arrays)  # type: ignore[arg-type]
        (folder / "dropping.json").write_text(json.dumps(self.facts, indent=2) + "\n", encoding="utf-8")


def lesion_units(run: SequenceRun, blocks: int = BLOCKS) -> LesionResult:
    """Roll a trained model out as it is, and without each of its units.

    It sees 5 frames and predicts 25, as in the paper, in 64 sequences of the first split.

    A unit is dropped by putting its part of the state to zero from the last frame shown on, before and after every
    step, so that nothing reads it; of a RIM, what it would say to others within a step is silenced, too. It may still
    win the competition and take the place of another one. Of a core without units, blocks of its state are dropped that
    are as large as units would be.

    Args:
        run: A trained run of bouncing balls.
        blocks: Blocks of a core without units.

    Raises:
        UsageError: If the run is of another task, its core has no parts that can be dropped, or its model is missing.
    """
    config = run.config
    check_device(config.train.device)
    if config.task.name != BouncingBalls.name:
        raise needs("lesion", "runs of 'balls'", f"{run.path}, a run of {config.task.name!r}")
    if blocks < 1:
        raise invalid_value("blocks", "at least 1", blocks)
    th.set_num_threads(config.train.num_threads)
    task = BouncingBalls(**{**config.task.options, "warm_up": WARM_UP, "rollout": STEPS})
    model = run.load_model(make_run_task(config))
    N = _parts(model, blocks)
    batch = task.evaluation_batch(task.splits[0], DEFAULT_SEED, 0, SEQUENCES).to(next(model.parameters()).device)
    shown, truth = batch.inputs[:WARM_UP], task.truth(batch)

    def rolled(of: SequenceModel, keep: Tensor | None) -> Rollout:
        return roll_out(of, shown, STEPS, task.feedback, keep)

    with evaluating(model):
        whole = rolled(model, None)
        without = [rolled(_silenced(model, unit), _keep(model, unit, N)) for unit in range(N)]
    intact = float(nats_a_frame(whole.logits, truth).mean())
    change = th.stack([_change(each, whole, N) for each in without])  # [N, N]
    units = [_facts_of(unit, each, whole, truth, intact, change[unit]) for unit, each in enumerate(without)]
    facts = {
        "config": config.name,
        "core": config.core.name,
        "seed": config.train.seed,
        "split": task.splits[0].name,
        "warm_up": WARM_UP,
        "steps": STEPS,
        "sequences": SEQUENCES,
        "parts": "units" if model.core.num_units > 1 else "blocks",
        "cross_entropy": intact,
        "units": units,
        "mean_increase": sum(unit["increase"] for unit in units) / N,
        "mean_change_of_others": sum(unit["change_of_others"] for unit in units) / N,
    }
    arrays = {
        "shown": as_bytes(shown[:, 0]),
        "truth": as_bytes(truth[:, 0]),
        "whole": as_bytes(whole.logits[:, 0].sigmoid()),
        "without": as_bytes(th.stack([each.logits[:, 0].sigmoid() for each in without])),
        "change": change.cpu().numpy(),
    }
    return LesionResult(facts, arrays)


def _parts(model: SequenceModel, blocks: int) -> int:
    """How many parts of the state can be dropped, all of one width and side by side."""
    core, name = model.core, type(model.core).__name__
    if core.num_layers > 1:
        raise needs("lesion", "a core with one layer", f"num_layers {core.num_layers}")
    of_units = core.num_units * getattr(core, "unit_size", core.hidden_size // core.num_units)
    if not of_units == core.hidden_size == core.output_size:
        raise needs("lesion", "units to mask", f"{name}, whose state holds more than what its units put out")
    communication = getattr(core, "communication", None)
    if isinstance(communication, UnitCommunication) and len(communication.query_key_value) < core.num_units:
        raise needs("lesion", "a unit to silence", f"{name}, whose units share the matrices that they communicate by")
    if core.num_units > 1:
        return core.num_units
    if blocks < 2:
        raise invalid_value("blocks", "at least 2, so that there are others", blocks)
    if core.hidden_size % blocks:
        raise wrong(
            "hidden_size", f"{core.hidden_size} does not divide into {blocks} blocks", "give others by --blocks"
        )
    return blocks


def _keep(model: SequenceModel, unit: int, parts: int) -> Tensor:
    keep = th.ones(parts, model.core.hidden_size // parts, device=next(model.parameters()).device)
    keep[unit] = 0.0
    return keep.flatten()


def _silenced(model: SequenceModel, unit: int) -> SequenceModel:
    """The model with a unit that says nothing within a step; the model itself where none does."""
    if not isinstance(getattr(model.core, "communication", None), UnitCommunication):
        return model
    other = copy.deepcopy(model)
    communication = other.core.communication
    assert isinstance(communication, UnitCommunication)
    with th.no_grad():
        communication.query_key_value[unit] = 0.0
    return other


def _change(without: Rollout, whole: Rollout, parts: int) -> Tensor:
    """How far each part's state is from where it would have been, relative to its norm there, ``[N]``."""
    ours, theirs = (each.hidden.view(*each.hidden.shape[:-1], parts, -1) for each in (without, whole))
    norms: Tensor = th.linalg.vector_norm(theirs, dim=-1).mean((0, 1))
    apart: Tensor = th.linalg.vector_norm(ours - theirs, dim=-1).mean((0, 1))
    return apart / norms.clamp(min=1e-12)


def _facts_of(
    unit: int, without: Rollout, whole: Rollout, truth: Tensor, intact: float, change: Tensor
) -> dict[str, Any]:
    others = [other for other in range(len(change)) if other != unit]
    nats = float(nats_a_frame(without.logits, truth).mean())
    has_units = whole.active.shape[-1] > 1
    changed = (without.active != whole.active)[..., others].float().mean() if has_units else None
    return {
        "unit": unit,
        "cross_entropy": nats,
        "increase": nats - intact,
        "change_of_others": float(change[others].mean()),
        "activity_changed": None if changed is None else float(changed),
    }
