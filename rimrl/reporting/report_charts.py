"""What the charts of a report are drawn from."""

from __future__ import annotations

from collections.abc import Sequence

from rimrl.reporting.charts import Axis, BarChart, LineChart, Series, axis, bar_chart, in_thousands, line_chart
from rimrl.reporting.comparison import Comparison
from rimrl.reporting.curves import TrainingCurve, training_curve
from rimrl.reporting.group_plots import estimates, known_curves
from rimrl.reporting.group_plots import learning_curves as group_curves
from rimrl.reporting.groups import Group
from rimrl.reporting.levels import scale_of
from rimrl.reporting.statistics import performance_profile
from rimrl.reporting.verdict import ComparisonSummary, format_estimate

_THRESHOLDS = 101


def learning_curves(groups: Sequence[Group], shown_as: TrainingCurve | None = None) -> LineChart | None:
    """Training of every group: interquartile mean over its runs with intervals, and each run.

    Args:
        groups: Whose.
        shown_as: Which curve; default: how training went.
    """
    where = "in training" if shown_as is None else f"on {shown_as.title}"
    shown_as = shown_as or training_curve([run for group in groups for run in group.runs])
    name = f"{shown_as.label} {where}"
    series = [each for each in (_series(group, shown_as) for group in groups) if each is not None]
    if not series:
        return None
    x = axis([0.0, *(step for each in series for step in each.x)], shown_as.steps, in_thousands, tight=True)
    shown = [value for each in series for _, values in each.threads for value in values]
    shown += [estimate.value for each in series for estimate in each.estimates]
    if shown_as.levels:
        y = axis(scale_of(min(shown), max(shown), shown_as.levels), name, tight=True)
    else:
        y = axis([0.0, 1.0] if shown_as.is_rate else shown, name)
    ends = "; ".join(f"{each.label}: {format_estimate(each.estimates[-1])}" for each in series)
    described = f"Learning curves: {name} over {shown_as.steps}. At the end, {ends}."
    if shown_as.levels:
        described += f" To compare: {', '.join(level.text for level in shown_as.levels)}."
    return line_chart(series, x, y, described, shown_as.levels)


def held_out_curves(comparison: Comparison) -> list[tuple[str, LineChart]]:
    """The same on each held-out split that runs were evaluated on in training, with its name."""
    charts = [(curve.title, learning_curves(comparison.groups, curve)) for curve in known_curves(comparison)]
    return [(name, chart) for name, chart in charts if chart is not None]


def _series(group: Group, shown_as: TrainingCurve) -> Series | None:
    """One group's learning curve, from where all its runs have begun to where the first ends."""
    steps, values = group_curves(group, shown_as.column)
    if values.size == 0:
        return None
    steps = steps * shown_as.per_step(group.runs[0])
    threads = [(steps.tolist(), run.tolist()) for run in values] if len(values) > 1 else []
    return Series(group.label, steps.tolist(), estimates(values, shown_as), threads)


def split_charts(findings: ComparisonSummary) -> list[tuple[str, BarChart]]:
    """Bars of all groups for each split, each with whether it was trained on; one scale for all."""
    comparison = findings.comparison
    x = _score_axis(findings)
    return [
        (
            "held out" if name in comparison.held_out else "trained on",
            bar_chart(
                name,
                [group.label for group in comparison.groups],
                [summary.splits[name] for summary in comparison.summaries],
                [group.scores([name], comparison.metric)[:, 0].tolist() for group in comparison.groups],
                x,
                format_estimate,
                findings.chance(name),
            ),
        )
        for name in comparison.splits
    ]


def _score_axis(findings: ComparisonSummary) -> Axis:
    comparison, metric = findings.comparison, findings.comparison.metric
    if metric.low is not None and metric.high is not None:
        return axis([metric.low, metric.high], metric.label)
    values: list[float] = []
    for summary in comparison.summaries:
        values += summary.group.scores(comparison.splits, metric).ravel().tolist()
        values += [end for estimate in summary.splits.values() for end in (estimate.low, estimate.high)]
    values += [chance for chance in map(findings.chance, comparison.splits) if chance is not None]
    return axis(values, metric.label, zero=True)


def gap_chart(comparison: Comparison) -> BarChart | None:
    """How much worse each group does where it was not trained; None where that was not measured."""
    gaps = [summary.gap for summary in comparison.summaries if summary.gap is not None]
    if not gaps:
        return None
    metric = comparison.metric
    sign = 1.0 if metric.higher_is_better else -1.0
    runs = []
    for group in comparison.groups:
        trained = group.scores(comparison.trained, metric).mean(axis=1)
        held_out = group.scores(comparison.held_out, metric).mean(axis=1)
        runs.append((sign * (trained - held_out)).tolist())
    values = [value for each in runs for value in each]
    values += [end for gap in gaps for end in (gap.low, gap.high)]
    x = axis(values, f"difference in {metric.label}", zero=True)
    labels = [group.label for group in comparison.groups]
    return bar_chart("Trained split minus held-out splits", labels, gaps, runs, x, format_estimate)


def profile_chart(findings: ComparisonSummary) -> LineChart | None:
    """Share of runs and splits above every score."""
    groups, metric = findings.comparison.groups, findings.comparison.metric
    scores = [group.scores(findings.decisive, metric) for group in groups]
    thresholds = metric.thresholds(scores, _THRESHOLDS)
    if thresholds[-1] - thresholds[0] < 1e-9:
        return None
    series = [
        Series(group.label, thresholds.tolist(), performance_profile(each, thresholds))
        for group, each in zip(groups, scores, strict=True)
    ]
    x, y = axis(thresholds.tolist(), metric.label), axis([0.0, 1.0], "share of runs and splits above it")
    middle = thresholds[_THRESHOLDS // 2]
    at = "; ".join(f"{each.label}: {format_estimate(each.estimates[_THRESHOLDS // 2])}" for each in series)
    return line_chart(series, x, y, f"Performance profile. Share above {middle:g}: {at}.")
