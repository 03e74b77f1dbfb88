"""``rimrl inspect`` for a sequence task: record what each unit does at every step, and what frames a model predicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

from rimrl.cores.base import CoreTrace
from rimrl.errors import invalid_value
from rimrl.runs.device import check_device
from rimrl.runs.kinds import SEQUENCE
from rimrl.runs.recording import Recording, means_over_steps
from rimrl.sequence.balls import BouncingBalls, nats_a_frame
from rimrl.sequence.base import StepAnnotations, Task, TaskSplit
from rimrl.sequence.evaluate import DEFAULT_SEED, check_seed, evaluating, num_updates
from rimrl.sequence.model import SequenceModel
from rimrl.sequence.run import SequenceRun, make_run_task

ROLLOUTS = "rollouts.npz"
DEFAULT_SEQUENCES = 50
_MOST = 1000
_MOST_STEPS = 1_000_000  # of all sequences, which run side by side: a step of a wide core takes some kB
_FILMED = 4


@dataclass(frozen=True)
class Inspected:
    """What was recorded.

    Attributes:
        recording: The steps, in the form of an agent's.
        rollouts: For frames: ``shown`` ``[warm_up, b, S, S]``, ``truth`` and ``predicted`` ``[rollout, b, S, S]`` of a
            few sequences, 0 to 255, and ``cross_entropy`` ``[rollout]``, nats a frame, mean over all sequences.
    """

    recording: Recording
    rollouts: dict[str, NDArray[Any]] | None

    def save(self, folder: Path) -> None:
        """Write the files into a folder."""
        self.recording.save(folder)
        if self.rollouts is not None:
            np.savez_compressed(folder / ROLLOUTS, **self.rollouts)  # type: ignore[arg-type]


def find_split(run: SequenceRun, name: str | None) -> TaskSplit:
    """The split of that name, configured or not; by default the first that is, which is like training.

    Raises:
        UsageError: If there is none.
    """
    task = make_run_task(run.config)
    return task.splits[0] if name is None else task.split(name)


def record(
    run: SequenceRun, split: TaskSplit, sequences: int = DEFAULT_SEQUENCES, seed: int = DEFAULT_SEED
) -> Inspected:
    """Run a trained model over sequences and record what the units of its core do.

    Args:
        run: A run that has been trained.
        split: One of its task's.
        sequences: How many.
        seed: Seed of the sequences.

    Raises:
        UsageError: For no or too many sequences, sequences that have too many steps together, or a model that is
            missing or damaged.
    """
    if not 1 <= sequences <= _MOST:
        raise invalid_value("episodes", f"from 1 to {_MOST}", sequences)
    check_seed(seed)
    config = run.config
    check_device(config.train.device)
    th.set_num_threads(config.train.num_threads)
    task = make_run_task(config)
    length = len(task.evaluation_batch(split, seed, 0, 1).inputs)
    if sequences * length > _MOST_STEPS:
        raise invalid_value("--episodes", f"at most {_MOST_STEPS // length}, {_MOST_STEPS} steps together", sequences)
    model = run.load_model(task)
    batch = task.evaluation_batch(split, seed, 0, sequences).to(next(model.parameters()).device)
    with evaluating(model):
        hidden, _, trace = model(batch.inputs, return_trace=True)
        annotations = task.annotate_steps(batch, hidden, model)
        scores = task.scores(model, batch).metric.tolist()
    arrays = _steps(trace, annotations)
    names = list(annotations.input_names) if annotations.input_names else None
    layers = model.core.units_per_layer
    facts = {
        "kind": SEQUENCE.name,
        "suite": f"sequence/{task.name}",
        "split": split.name,
        "held_out": split.held_out,
        "config": config.name,
        "core": config.core.name,
        "model": run.model_file.name,
        SEQUENCE.reached: num_updates(run),
        "seed": seed,
        "steps": len(arrays["reward"]),
        "units": arrays["active"].shape[1],
        "units_per_layer": list(layers),
        "action_names": names,
        "titles": list(annotations.row_titles),
        SEQUENCE.trials: _trials(task, length, scores, annotations),
        **means_over_steps(
            arrays, layers, names, annotations.phase_names, "a sequence", ("answer right", "answer wrong")
        ),
    }
    rollouts = _rollouts(task, model, split, seed, sequences) if isinstance(task, BouncingBalls) else None
    return Inspected(Recording(facts, arrays), rollouts)


def _trials(task: Task, length: int, scores: list[float], annotations: StepAnnotations) -> list[dict[str, Any]]:
    """What each sequence came to, as `rimrl.runs.recording` has it."""
    successes = [None] * len(scores) if annotations.successes is None else annotations.successes.tolist()
    return [
        {
            "length": length,
            "return": score,
            "success": success,
            "out_of_time": False,
            "task": None,
            "measure": task.metric.replace("_", " "),
        }
        for score, success in zip(scores, successes, strict=True)
    ]


def _steps(trace: CoreTrace, annotations: StepAnnotations) -> dict[str, NDArray[Any]]:
    """Arrays of a recording: the steps of all sequences, one sequence after the other."""
    T, B = annotations.outcomes.shape
    parts = {
        "active": trace.active,
        "input_attention": trace.input_attention,
        "communication_attention": trace.communication_attention,
        "action": annotations.inputs if annotations.input_names else th.zeros(T, B, 0),
        "reward": annotations.outcomes,
    }
    arrays: dict[str, NDArray[Any]] = {
        name: part.transpose(0, 1).flatten(0, 1).cpu().numpy() for name, part in parts.items() if part is not None
    }
    steps = np.tile(np.arange(T), B)
    arrays |= {"episode": np.repeat(np.arange(B), T), "step": steps, "fresh": steps == 0}
    if annotations.phases is not None:
        arrays["phase"] = np.tile(annotations.phases.cpu().numpy(), B)
    return arrays


def _rollouts(
    task: BouncingBalls, model: SequenceModel, split: TaskSplit, seed: int, sequences: int
) -> dict[str, NDArray[Any]]:
    batch = task.evaluation_batch(split, seed, 0, sequences).to(next(model.parameters()).device)
    with evaluating(model):
        logits, truth = task.roll_out(model, batch).logits, task.truth(batch)
        nats = nats_a_frame(logits, truth).mean(1)
    filmed = {"shown": batch.inputs[: task.warm_up], "truth": truth, "predicted": logits.sigmoid()}
    arrays = {name: as_bytes(part[:, :_FILMED]) for name, part in filmed.items()}
    return arrays | {"cross_entropy": nats.cpu().numpy()}


def as_bytes(frames: th.Tensor) -> NDArray[np.uint8]:
    """Frames of 0 to 1 as 0 to 255."""
    return (frames * 255.0).round().to(th.uint8).cpu().numpy()
