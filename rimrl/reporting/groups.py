"""Runs of one configuration over several seeds, as one group: the unit of which reports speak."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rimrl.errors import missing, quoted, unknown_name, wrong
from rimrl.reporting.results import RunResults
from rimrl.reporting.statistics import Estimate, Floats
from rimrl.runs.config import dotted

# What tells runs of one configuration apart without changing what they are runs of.
_NOT_COMPARED = frozenset(
    {
        "train.seed",
        "train.device",
        "train.num_threads",
        "train.checkpoint_freq",
        "train.resume_freq",
        "train.eval_splits",
        "train.test_sequences",
        "task.data",
        # What is tested, not what is learned; runs are compared on the splits that they share.
        "task.test_blanks",
        "task.test_lengths",
        "task.test_resolutions",
        "task.test_balls",
    }
)
# These only choose best_model.zip.
_OF_THE_BEST = frozenset({"train.eval_freq", "train.eval_episodes"})
_NAMED_AT_MOST = 3


@dataclass(frozen=True)
class Metric:
    """A figure that evaluations report.

    Attributes:
        name: Its name in ``evaluation.json``.
        label: How reports call it.
        higher_is_better: False for losses.
        low: The least it can be; None for no limit.
        high: The most it can be; None for no limit.
    """

    name: str
    label: str
    higher_is_better: bool = True
    low: float | None = None
    high: float | None = None

    @property
    def is_rate(self) -> bool:
        """Whether it lies between 0 and 1."""
        return (self.low, self.high) == (0.0, 1.0)

    def limit(self, estimate: Estimate) -> Estimate:
        """An estimate with bounds no further than the metric goes."""
        low = -math.inf if self.low is None else self.low
        return estimate.within(low, math.inf if self.high is None else self.high)

    def thresholds(self, scores: Sequence[Floats], number: int) -> Floats:
        """So many values from the least to the most that it can be; without a limit, that some scores are."""
        low = min(float(each.min()) for each in scores) if self.low is None else self.low
        high = max(float(each.max()) for each in scores) if self.high is None else self.high
        return np.linspace(low, high, number)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("success_rate", "success rate", low=0.0, high=1.0),
        Metric("return_mean", "mean return"),
        Metric("accuracy", "accuracy", low=0.0, high=1.0),
        Metric("cross_entropy", "cross entropy", higher_is_better=False, low=0.0),
        Metric("bits_per_symbol", "bits per symbol", higher_is_better=False, low=0.0),
        Metric("mse", "mean squared error", higher_is_better=False, low=0.0),
    )
}


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        label: Short name, different from that of every other group.
        runs: At least one.
    """

    label: str
    runs: tuple[RunResults, ...]

    def scores(self, splits: Sequence[str], metric: Metric) -> Floats:
        """One score for each run on each split.

        Args:
            splits: M names.
            metric: Which figure.

        Returns:
            [R, M].

        Raises:
            UsageError: If a run lacks a split, or the figure on it; names the run.
        """
        rows = []
        for run in self.runs:
            row = []
            for split in splits:
                if split not in run.splits:
                    raise wrong(
                        run.path, f"was not evaluated on {split!r}", f"run: rimrl evaluate {quoted(run.path)}", "state"
                    )
                figure = run.splits[split].get(metric.name)
                if figure is None:
                    raise missing(f"{metric.name} on {split!r}", run.path)
                row.append(float(figure))
            rows.append(row)
        return np.array(rows)


def group_runs(runs: Sequence[RunResults]) -> list[Group]:
    """Put runs of one configuration into one group, whatever their seed, device and threads.

    Args:
        runs: In any order.

    Returns:
        Groups in the order of their first runs, each with its runs in order of their seeds. A group is called by the
        last part of its configuration's name; where that is not enough, by what differs, too:
        ``rim (core.num_active=3)``. A run without ``config.yaml`` is a group of its own.
    """
    members: dict[tuple[Any, ...], list[RunResults]] = {}
    for run in runs:
        members.setdefault(_key(run), []).append(run)
    groups = [sorted(group, key=lambda run: -1 if run.seed is None else run.seed) for group in members.values()]
    labels = _labels([group[0] for group in groups])
    return [Group(label, tuple(group)) for label, group in zip(labels, groups, strict=True)]


def find_group(groups: Sequence[Group], label: str) -> Group:
    """The group that is called `label`.

    Raises:
        UsageError: If there is none; names the nearest.
    """
    for group in groups:
        if group.label == label:
            return group
    raise unknown_name("group", label, [group.label for group in groups])


def common_metric(runs: Sequence[RunResults]) -> Metric:
    """The first of `METRICS` that every run reports on every split.

    Raises:
        UsageError: If there is none.
    """
    results = [result for run in runs for result in run.splits.values()]
    for metric in METRICS.values():
        if all(result.get(metric.name) is not None for result in results):
            return metric
    raise missing("figure that the runs have in common", advice=f"known: {', '.join(METRICS)}")


def common_splits(runs: Sequence[RunResults]) -> tuple[list[str], list[str]]:
    """Splits that every run was evaluated on.

    Returns:
        Names of those that some run was trained on and of those that every run holds out, in the order of the first
        run.
    """
    names = [name for name in runs[0].splits if all(name in run.splits for run in runs)]
    held_out = [name for name in names if all(run.splits[name]["held_out"] for run in runs)]
    return [name for name in names if name not in held_out], held_out


def random_scores(runs: Sequence[RunResults], metric: str = "return_mean") -> RunResults | None:
    """The first run whose evaluation also played at random."""
    return next((run for run in runs if any(f"random_{metric}" in split for split in run.splits.values())), None)


def _key(run: RunResults) -> tuple[Any, ...]:
    if not run.config:
        return ("", str(run.path.resolve()))
    # An option that is off is the same as one that the version a run was trained with did not have yet.
    chosen = {key: value for key, value in settings(run).items() if value is not None and value is not False}
    return tuple(sorted((key, repr(value)) for key, value in chosen.items()))


def settings(run: RunResults) -> dict[str, Any]:
    """What a run's configuration says, by dotted keys, without what does not matter here."""
    left_out = set(_NOT_COMPARED)
    if run.evaluation.get("model") != "best_model.zip":
        left_out |= _OF_THE_BEST
    return {key: _without_seed(key, value) for key, value in dotted(run.config) if key not in left_out}


def _without_seed(key: str, value: Any) -> Any:
    """A run of a transfer starts from the source of its own seed, ``…/seed_N``; that does not tell groups apart."""
    if key == "agent.init_from" and isinstance(value, str) and re.fullmatch(r"seed_\d+", Path(value).name):
        return str(Path(value).parent)
    return value


def _labels(runs: Sequence[RunResults]) -> list[str]:
    labels = [run.label for run in runs]
    for label in dict.fromkeys(labels):
        same = [i for i, other in enumerate(labels) if other == label]
        if len(same) > 1:
            for i, remark in zip(same, _differences([runs[i] for i in same]), strict=True):
                labels[i] = f"{label} ({remark})"
    return labels


def _differences(runs: Sequence[RunResults]) -> list[str]:
    """For each run what tells it from the others, in as few keys as will do."""
    if not all(run.config for run in runs):
        return [str(run.path) for run in runs]
    configured = [settings(run) for run in runs]
    keys = [
        key
        for key in dict.fromkeys(key for each in configured for key in each)
        if len({repr(each.get(key)) for each in configured}) > 1
    ]
    # Options that only some cores have say less than the core's name.
    keys.sort(key=lambda key: sum(key not in each for each in configured))
    for number in range(1, _NAMED_AT_MOST + 1):
        remarks = [
            ", ".join(f"{key}={written(each[key]) if key in each else '-'}" for key in keys[:number])
            for each in configured
        ]
        if len(set(remarks)) == len(runs):
            return remarks
    return [str(run.path) for run in runs]


def written(value: object) -> str:
    """A value of a configuration in words."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
