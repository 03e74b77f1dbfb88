"""What ``rimrl compare`` finds out: every number of it, for tables, pictures and files to show."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rimrl.errors import missing
from rimrl.reporting.atari_runs import published_scores
from rimrl.reporting.comparability import check_comparable, remarks
from rimrl.reporting.groups import Group, Metric, common_metric, common_splits, find_group, random_scores
from rimrl.reporting.results import RunResults
from rimrl.reporting.statistics import (
    Estimate,
    Floats,
    difference,
    generalisation_gap,
    interquartile_mean,
    interval,
    mean,
    median,
    optimality_gap,
    probability_of_improvement,
)


@dataclass(frozen=True)
class GroupSummary:
    """What is known of one group.

    Attributes:
        group: The runs.
        splits: Interquartile mean over runs on each split.
        held_out: Interquartile mean over runs and held-out splits; None where nothing is held out.
        held_out_mean: Mean over the same; None likewise.
        held_out_median: Median over held-out splits of the mean over runs; None likewise.
        optimality_gap: How far held-out scores fall short of the best possible; None where the metric has no best.
        gap: Generalisation gap: how much worse runs are on held-out splits than on the training split; None where
            either is missing.
        improvement: Probability that a run beats one of the reference on held-out splits, or on all where none is held
            out; None for the reference itself.
        differences: How much higher its interquartile mean is than the reference's, on each split; of the reference
            itself none.
        difference: The same on held-out splits together, or on all where none is held out; None for the reference.
        human_normalized: Mean over runs of the human-normalised score on the training split, 0 at random actions and 1
            at a human, both as published; None where it is no Atari game with such scores.
    """

    group: Group
    splits: dict[str, Estimate]
    held_out: Estimate | None = None
    held_out_mean: Estimate | None = None
    held_out_median: Estimate | None = None
    optimality_gap: Estimate | None = None
    gap: Estimate | None = None
    improvement: Estimate | None = None
    differences: dict[str, Estimate] = field(default_factory=dict)
    difference: Estimate | None = None
    human_normalized: Estimate | None = None

    @property
    def over_splits(self) -> dict[str, Estimate | None]:
        """What is known beside single splits, by its name in files, but for the difference."""
        return {
            "held_out_interquartile_mean": self.held_out,
            "held_out_mean": self.held_out_mean,
            "held_out_median": self.held_out_median,
            "optimality_gap": self.optimality_gap,
            "generalisation_gap": self.gap,
            "probability_of_improvement": self.improvement,
            "human_normalized_score": self.human_normalized,
        }


@dataclass(frozen=True)
class Comparison:
    """Groups of runs that were evaluated alike.

    Attributes:
        suite: What they were evaluated on.
        metric: Which figure.
        trained: Splits that are trained on, of those that every run was evaluated on.
        held_out: Splits that are not.
        reference: Label of the group that improvement is measured against.
        summaries: One for each group, in their order.
        remarks: What a reader should know before trusting the numbers, a sentence each.
    """

    suite: str
    metric: Metric
    trained: list[str]
    held_out: list[str]
    reference: str
    summaries: list[GroupSummary]
    remarks: list[str]

    @property
    def splits(self) -> list[str]:
        """All splits, those that are trained on first."""
        return [*self.trained, *self.held_out]

    @property
    def groups(self) -> list[Group]:
        """The groups themselves."""
        return [summary.group for summary in self.summaries]

    @property
    def has_seeds(self) -> bool:
        """Whether any group has more runs than one, so that there is anything to be said over runs."""
        return any(len(group.runs) > 1 for group in self.groups)

    @property
    def random(self) -> dict[str, float]:
        """What uniformly random actions reach, on the splits on which the first run that played at random says it."""
        played = random_scores([run for group in self.groups for run in group.runs], self.metric.name)
        found = {} if played is None else {name: played.splits[name] for name in self.splits}
        chance = {name: result.get(f"random_{self.metric.name}") for name, result in found.items()}
        return {name: float(value) for name, value in chance.items() if value is not None and math.isfinite(value)}

    def single_runs(self) -> list[RunResults]:
        """The first run of each group, called as its group."""
        return [replace(group.runs[0], label=group.label) for group in self.groups]

    def json_text(self) -> str:
        """`to_json` as the text of a file."""
        return json.dumps(self.to_json(), indent=2) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data; an interval that there is not is null."""
        return {
            "suite": self.suite,
            "metric": asdict(self.metric),
            "reference": self.reference,
            "trained": self.trained,
            "held_out": self.held_out,
            "intervals": "95 %, method t, whole runs resampled; improvement: Newcombe (docs/statistics.md)",
            "remarks": self.remarks,
            "random": self.random,
            "groups": {summary.group.label: self._group_to_json(summary) for summary in self.summaries},
        }

    def _group_to_json(self, summary: GroupSummary) -> dict[str, Any]:
        runs = summary.group.runs
        scores = summary.group.scores(self.splits, self.metric)
        return {
            "runs": [
                {
                    "path": str(run.path),
                    "seed": run.seed,
                    run.kind.reached: run.evaluation.get(run.kind.reached),
                    "scores": dict(zip(self.splits, row, strict=True)),
                }
                for run, row in zip(runs, scores.tolist(), strict=True)
            ],
            "splits": {name: estimate.to_json() for name, estimate in summary.splits.items()},
            **{name: estimate and estimate.to_json() for name, estimate in summary.over_splits.items()},
            "differences": {name: estimate.to_json() for name, estimate in summary.differences.items()},
            "held_out_difference": summary.difference and summary.difference.to_json(),
        }


def compare(groups: Sequence[Group], reference: str | None = None, metric: Metric | None = None) -> Comparison:
    """Summarise groups that were evaluated alike.

    Args:
        groups: At least one, as `group_runs` makes them.
        reference: Label of the group that the others are measured against; default: the first.
        metric: Which figure; default: the first of `METRICS` that all report.

    Returns:
        The numbers, with remarks on what limits them.

    Raises:
        UsageError: If runs were evaluated under different presets, or some by their likeliest actions and some by
            sampled ones; if they share no split or no figure; if there is no such reference.
    """
    runs = [run for group in groups for run in group.runs]
    against = groups[0] if reference is None else find_group(groups, reference)
    trained, held_out = common_splits(runs)
    check_comparable(runs, [*trained, *held_out])
    if not trained and not held_out:
        raise missing("evaluated split that the runs share", advice="rimrl evaluate RUN --split NAME adds one to a run")
    metric = metric or common_metric(runs)
    return Comparison(
        suite=runs[0].evaluation["suite"],
        metric=metric,
        trained=trained,
        held_out=held_out,
        reference=against.label,
        summaries=[_summary(group, against, metric, trained, held_out) for group in groups],
        remarks=list(remarks(groups, [*trained, *held_out], metric)),
    )


def _summary(group: Group, reference: Group, metric: Metric, trained: list[str], held_out: list[str]) -> GroupSummary:
    def estimate(splits: list[str], aggregate: Callable[[Floats], Floats] = interquartile_mean) -> Estimate:
        return metric.limit(interval(group.scores(splits, metric), aggregate))

    def against_reference(splits: list[str]) -> Estimate:
        found = difference(group.scores(splits, metric), reference.scores(splits, metric))
        return _possible_difference(found, metric)

    summary = GroupSummary(group, {name: estimate([name]) for name in [*trained, *held_out]})
    sign = 1.0 if metric.higher_is_better else -1.0
    if held_out:
        summary = replace(
            summary,
            held_out=estimate(held_out),
            held_out_mean=estimate(held_out, mean),
            held_out_median=estimate(held_out, median),
        )
        scores = group.scores(held_out, metric)
        if metric.higher_is_better and metric.high is not None:
            summary = replace(summary, optimality_gap=interval(scores, optimality_gap).within(0.0, metric.high))
        if trained:
            gap = generalisation_gap(sign * group.scores(trained, metric).mean(axis=1), sign * scores)
            summary = replace(summary, gap=_possible_difference(gap, metric))
    published = published_scores(group.runs, trained) if trained and metric.name == "return_mean" else None
    if published is not None:
        normalized = interval(published.normalized(group.scores(trained, metric)), mean)
        summary = replace(summary, human_normalized=normalized)
    if group is not reference:
        compared = held_out or trained
        ours, theirs = (sign * each.scores(compared, metric) for each in (group, reference))
        summary = replace(
            summary,
            improvement=probability_of_improvement(ours, theirs),
            differences={name: against_reference([name]) for name in summary.splits},
            difference=against_reference(compared),
        )
    return summary


def _possible_difference(estimate: Estimate, metric: Metric) -> Estimate:
    """Bounds no further than two values of the metric can be apart."""
    if metric.low is None or metric.high is None:
        return estimate
    return estimate.within(metric.low - metric.high, metric.high - metric.low)
