"""Which column of ``progress.csv`` shows how a training went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rimrl.reporting.groups import METRICS, Metric
from rimrl.reporting.results import RunResults, is_diagnostic


@dataclass(frozen=True)
class TrainingCurve:
    """What learning curves show.

    Attributes:
        column: Of ``progress.csv``.
        label: What it is.
        steps: What is counted along the curve.
        title: Of a picture.
        is_rate: Whether it lies between 0 and 1.
    """

    column: str
    label: str
    steps: str
    title: str
    is_rate: bool


def training_curve(runs: Sequence[RunResults]) -> TrainingCurve:
    """The curve that fits some runs of one suite: success, else return; of a diagnostic its metric, else its loss."""
    known = [run for run in runs if run.progress]
    if runs and is_diagnostic(runs[0].evaluation["suite"]):
        for name, result in runs[0].splits.items():
            for metric in METRICS.values():
                column = f"eval/{metric.name}_{name}"
                if metric.name in result and known and all(column in run.progress for run in known):
                    is_rate = (metric.low, metric.high) == (0.0, 1.0)
                    return TrainingCurve(column, f"{metric.label} on {name}", "updates", "Training", is_rate)
        return TrainingCurve("train/loss", "training loss", "updates", "Training", False)
    title, steps = "Training (last 100 episodes)", "environment steps"
    if all("rollout/success_rate" in run.progress for run in known):
        return TrainingCurve("rollout/success_rate", "success rate", steps, title, True)
    return TrainingCurve("rollout/ep_rew_mean", "mean return", steps, title, False)


def split_curves(runs: Sequence[RunResults], splits: Sequence[str], metric: Metric) -> list[TrainingCurve]:
    """How runs did on some splits while they learned, where they were evaluated on them in training.

    Args:
        runs: Runs of one suite.
        splits: Their names.
        metric: Which figure.

    Returns:
        A curve for each split that some run holds in ``progress.csv``, as ``eval/METRIC_SPLIT``, titled by the split.
    """
    steps, is_rate = training_curve(runs).steps, (metric.low, metric.high) == (0.0, 1.0)
    return [
        TrainingCurve(column, metric.label, steps, split, is_rate)
        for split, column in ((split, f"eval/{metric.name}_{split}") for split in splits)
        if any(value is not None for run in runs for value in run.progress.get(column, ()))
    ]
