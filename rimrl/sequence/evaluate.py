"""Test a trained model on every split of its task and write ``evaluation.json``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import Tensor
from tqdm import tqdm

from rimrl.errors import invalid_value, wrong
from rimrl.runs.device import check_device
from rimrl.runs.environment import run_reached
from rimrl.runs.evaluations import splits_of_same, to_json
from rimrl.runs.kinds import SEQUENCE
from rimrl.sequence.base import Batch, Scores, Task, TaskSplit
from rimrl.sequence.config import MOST_SEQUENCES
from rimrl.sequence.model import SequenceModel
from rimrl.sequence.run import SequenceRun, make_run_task

# As for agents: far from any seed that trainings have, though the streams differ anyway.
DEFAULT_SEED = 1_000_000
_ROWS = 64
_DIGITS = 6


def evaluate(
    run: SequenceRun,
    episodes: int | None = None,
    split: str | None = None,
    seed: int = DEFAULT_SEED,
    progress_bar: bool = True,
) -> dict[str, Any]:
    """Evaluate a run's model on the splits of its task.

    The model is in eval mode, and every sequence starts from its core's initial state.

    Args:
        run: A run that has been trained.
        episodes: Sequences of each split; default: the configuration's ``train.test_sequences``. A split that has
            fewer is tested whole.
        split: Only this split, which may be one that the task was not configured with, such as ``800_blanks``; default:
            all that it was configured with.
        seed: Seed of the sequences; the same for every split and run.
        progress_bar: Show progress on standard error.

    Returns:
        What was written to ``evaluation.json``. For each split ``held_out``, ``sequences``, the task's metric as a
        mean, with its standard deviation over sequences, and ``random_METRIC``, what a guess reaches; then every
        sequence.

    Raises:
        UsageError: For no sequences, an unknown split, a model that is missing or damaged, or one whose answers are not
            finite; nothing is written then.
    """
    config = run.config
    count = config.train.test_sequences if episodes is None else episodes
    if not 1 <= count <= MOST_SEQUENCES:
        raise invalid_value("episodes", f"from 1 to {MOST_SEQUENCES}", count)
    check_seed(seed)
    run.check_writable("evaluation.json")
    check_device(config.train.device)
    th.set_num_threads(config.train.num_threads)
    task = make_run_task(config)
    splits = task.splits if split is None else (task.split(split),)
    model = run.load_model(task)
    results = {}
    for current in tqdm(splits, desc=f"evaluate {run.path.name}", unit="split", disable=not progress_bar):
        results[current.name] = result = split_result(task, model, current, seed, count)
        if not math.isfinite(result[task.metric]):
            raise wrong(
                f"{run.path}: {task.metric} on {current.name}",
                "is not finite, as after training that diverged",
                "train anew with a smaller train.learning_rate",
                "not_finite",
            )
    facts: dict[str, Any] = {
        "kind": SEQUENCE.name,
        "suite": f"sequence/{config.task.name}",
        "config": config.name,
        "core": config.core.name,
        "model": run.model_file.name,
        SEQUENCE.reached: num_updates(run),
        "seed": seed,
    }
    if split is not None:
        results = splits_of_same(run.path / "evaluation.json", facts) | results
    facts["splits"] = results
    run.write("evaluation.json", to_json(facts))
    return facts


def check_seed(seed: int) -> None:
    """Refuse a seed that no stream has.

    Raises:
        UsageError: If it is negative or too large.
    """
    if not 0 <= seed < 2**32:
        raise invalid_value("seed", f"between 0 and {2**32 - 1}", seed)


def split_result(task: Task, model: SequenceModel, split: TaskSplit, seed: int, count: int) -> dict[str, Any]:
    """What ``evaluation.json`` says of one split."""
    scores = score(task, model, split, seed, count)
    metric, values = task.metric, scores.metric
    result: dict[str, Any] = {
        "held_out": split.held_out,
        SEQUENCE.trials: len(values),
        metric: float(values.mean()),
        f"{metric}_std": float(values.std(correction=0)),
    }
    if split.chance is not None:
        result[f"random_{metric}"] = split.chance
    result |= task.derived(result[metric])
    for name, each in scores.others.items():
        mean = each.mean(0)
        result[name] = _rounded(mean) if mean.dim() else float(mean)
    return result | {SEQUENCE.asked: dict(split.settings), f"sequence_{metric}": _rounded(values)}


def score(task: Task, model: SequenceModel, split: TaskSplit, seed: int, count: int) -> Scores:
    """Scores of sequences of a split, in float64.

    Args:
        task: Whose split.
        model: Is put into eval mode for the time being.
        split: Which one.
        seed: Of the sequences.
        count: How many, or all there are if there are fewer.

    Returns:
        One row a sequence.
    """
    available = task.num_sequences(split)
    count = count if available is None else min(count, available)
    with evaluating(model):
        parts = [task.scores(model, batch) for batch in _batches(task, split, seed, count, model)]
    others = {name: _joined([part.others[name] for part in parts]) for name in parts[0].others}
    return Scores(_joined([part.metric for part in parts]), others)


@contextmanager
def evaluating(model: SequenceModel) -> Iterator[None]:
    """Put a model into eval mode, without gradients, and back."""
    was_training = model.training
    model.eval()
    try:
        with th.no_grad():
            yield
    finally:
        model.train(was_training)


def _batches(task: Task, split: TaskSplit, seed: int, count: int, model: SequenceModel) -> Iterator[Batch]:
    device = next(model.parameters()).device
    for number, begin in enumerate(range(0, count, _ROWS)):
        # Always whole batches, so that the first sequences are the same however many there are.
        batch = task.evaluation_batch(split, seed, number, _ROWS)
        yield batch.first(count - begin).to(device)


def _joined(parts: list[Tensor]) -> Tensor:
    return th.cat([part.double().cpu() for part in parts])


def _rounded(values: Tensor) -> list[float]:
    return [round(value, _DIGITS) for value in values.tolist()]


def num_updates(run: SequenceRun) -> int:
    """How many updates a run has seen, as its folder says."""
    reached = run_reached(run.path, SEQUENCE)
    return run.config.train.num_updates if reached is None else reached
