"""Which column of ``progress.csv`` shows how a training went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rimrl.reporting.atari_runs import frames_per_step, game_of
from rimrl.reporting.groups import METRICS, Metric, common_splits
from rimrl.reporting.levels import Level, levels_of
from rimrl.reporting.results import RunResults
from rimrl.runs.kinds import AGENT, SEQUENCE


@dataclass(frozen=True)
class TrainingCurve:
    """What learning curves show.

    Attributes:
        column: Of ``progress.csv``.
        label: What it is.
        steps: What is counted along the curve.
        title: Of a picture.
        is_rate: Whether it lies between 0 and 1.
        in_frames: Whether frames of an Atari game are counted along the curve, not steps.
        levels: What it is read against.
    """

    column: str
    label: str
    steps: str
    title: str
    is_rate: bool
    in_frames: bool = False
    levels: tuple[Level, ...] = ()

    def per_step(self, run: RunResults) -> int:
        """How much is counted along the curve for each step of a run."""
        return (frames_per_step(run) or 1) if self.in_frames else 1


def training_curve(runs: Sequence[RunResults]) -> TrainingCurve:
    """The curve that fits some runs of one suite: success or return, else a task's metric or a loss."""
    known = [run for run in runs if run.progress]
    curves = [curve for run in runs[:1] for curve in _curves(run)] or [_RETURN]
    shown = next((curve for curve in curves if all(curve.column in run.progress for run in known)), curves[-1])
    return _of_game(shown, runs)


def split_curves(runs: Sequence[RunResults], splits: Sequence[str], metric: Metric) -> list[TrainingCurve]:
    """How runs did on some splits while they learned, where they were evaluated on them in training.

    Args:
        runs: Runs of one suite.
        splits: Their names.
        metric: Which figure.

    Returns:
        A curve for each split that some run holds in ``progress.csv``, as ``eval/METRIC_SPLIT``, titled by the split.
    """
    steps = training_curve(runs).steps
    return [
        _of_game(TrainingCurve(column, metric.label, steps, split, metric.is_rate), runs, [split])
        for split, column in ((split, f"eval/{metric.name}_{split}") for split in splits)
        if any(value is not None for run in runs for value in run.progress.get(column, ()))
    ]


def _of_game(shown: TrainingCurve, runs: Sequence[RunResults], splits: list[str] | None = None) -> TrainingCurve:
    """A curve over frames, with its levels if it is one of returns, where all runs play one Atari game.

    Args:
        shown: Any curve.
        runs: Runs of one suite.
        splits: What it was measured on; default: those that are trained on.
    """
    if game_of(runs) is None:
        return shown
    frames = {frames_per_step(run) for run in runs}
    if None not in frames:
        each = f" ({frames.pop()} per step)" if len(frames) == 1 else ""
        shown = replace(shown, steps=f"game frames{each}", in_frames=True)
    if shown.column != _RETURN.column and not shown.column.startswith("eval/return_mean_"):
        return shown
    return replace(shown, levels=levels_of(runs, common_splits(runs)[0] if splits is None else splits))


def _curves(run: RunResults) -> Iterator[TrainingCurve]:
    """What a run may be shown by, the most telling first."""
    if any(result.keys() & {"success_rate", "return_mean"} for result in run.splits.values()):
        yield replace(_RETURN, column="rollout/success_rate", label="success rate", is_rate=True)
        if _IMITATION.column in run.progress:  # nothing is played in such a training
            yield _IMITATION
        yield _RETURN
        return
    for name, result in run.splits.items():
        for metric in METRICS.values():
            if metric.name in result:
                column, label = f"eval/{metric.name}_{name}", f"{metric.label} on {name}"
                yield replace(_LOSS, column=column, label=label, is_rate=metric.is_rate)
    yield _LOSS


_RETURN = TrainingCurve("rollout/ep_rew_mean", "mean return", AGENT.steps, "Training (last 100 episodes)", False)
_IMITATION = TrainingCurve("validation/loss", "loss on held-out demonstrations", AGENT.steps, "Training", False)
_LOSS = TrainingCurve("train/loss", "training loss", SEQUENCE.steps, "Training", False)
