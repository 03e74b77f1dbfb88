"""The tables of ``rimrl compare``: a row for each split; columns for chance and for each run, or group of runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich import box
from rich.table import Table

from rimrl.reporting.comparison import Comparison, GroupSummary
from rimrl.reporting.groups import METRICS, Metric, common_metric, random_scores
from rimrl.reporting.results import RunResults
from rimrl.reporting.statistics import Estimate


def comparison_table(runs: list[RunResults]) -> Table:
    """Success rate and mean return of each run on each split, or a sequence task's metric, with how many trials."""
    results = [result for run in runs for result in run.splits.values()]
    metric = METRICS["return_mean"] if any("return_mean" in result for result in results) else common_metric(runs)
    successes = any(result.get("success_rate") is not None for result in results)
    figures = "success rate (mean return)" if successes else metric.label
    table = Table(box=box.SIMPLE_HEAD, title=f"{runs[0].evaluation['suite']}: {figures}", title_justify="left")
    table.add_column("split", overflow="fold")
    table.add_column(f"{runs[0].kind.trial}s", justify="right", overflow="fold")
    chance = random_scores(runs, metric.name)
    if chance is not None:
        table.add_column("random", justify="right", overflow="fold")
    for run in runs:
        table.add_column(run.label, justify="right", overflow="fold")

    for name in dict.fromkeys(split for run in runs for split in run.splits):
        known = [run for run in runs if name in run.splits]
        label = f"{name} (held out)" if known[0].splits[name]["held_out"] else name
        cells = [label, "/".join(map(str, sorted({run.trials(name) for run in known})))]
        if chance is not None:
            cells.append(_cell(chance.splits.get(name), metric, "random_"))
        table.add_row(*cells, *(_cell(run.splits.get(name), metric) for run in runs))
    return table


def group_table(comparison: Comparison) -> Table:
    """Interquartile means over runs with their intervals, by split and over held-out splits; then what follows."""
    metric = comparison.metric
    title = f"{comparison.suite}: {metric.label}, interquartile mean over runs [95 % interval]"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("split", overflow="fold")
    random = comparison.random
    if random:
        table.add_column("random", justify="right", overflow="fold")
    for summary in comparison.summaries:
        table.add_column(summary.group.label, justify="right", overflow="fold")

    def add(name: str, cells: list[str], chance: str = "", last: bool = False) -> None:
        table.add_row(name, *([chance] if random else []), *cells, end_section=last)

    for name in comparison.splits:
        chance = random.get(name)
        add(
            f"{name} (held out)" if name in comparison.held_out else name,
            [_estimate(summary.splits[name], metric) for summary in comparison.summaries],
            "-" if chance is None else figure(chance, metric),
            last=name == comparison.splits[-1],
        )
    notes = []
    if comparison.held_out and comparison.trained:
        notes.append("Generalisation gap: training split minus the mean of the held-out splits, a mean over runs.")
    if len(comparison.summaries) > 1:
        where = "on held-out splits " if comparison.held_out else ""
        notes.append(
            f"Difference: how much higher the interquartile mean is {where}than that of {comparison.reference}. "
            f"Improvement: how likely a run does better {where}than a run of {comparison.reference}."
        )
    if notes:
        table.caption, table.caption_justify = " ".join(notes), "left"
    for label, estimates in rows_over_splits(comparison):
        add(label, [_estimate(estimate, metric) for estimate in estimates])
    add("runs", [str(len(summary.group.runs)) for summary in comparison.summaries])
    return table


def rows_over_splits(comparison: Comparison) -> list[tuple[str, list[Estimate | None]]]:
    """The rows below those of single splits: what they are called, and one estimate a group."""
    rows: list[tuple[str, Callable[[GroupSummary], Estimate | None]]] = []
    if comparison.held_out:
        rows.append(("held-out splits together", lambda summary: summary.held_out))
        rows.append(("mean of these", lambda summary: summary.held_out_mean))
        if comparison.trained:
            rows.append(("generalisation gap", lambda summary: summary.gap))
    if len(comparison.summaries) > 1:
        rows.append(("difference", lambda summary: summary.difference))
        rows.append(("probability of improvement", lambda summary: summary.improvement))
    return [(label, [of(summary) for summary in comparison.summaries]) for label, of in rows]


def _estimate(estimate: Estimate | None, metric: Metric) -> str:
    if estimate is None:
        return "-"
    if not estimate.has_interval:
        return figure(estimate.value, metric)
    return f"{figure(estimate.value, metric)} [{figure(estimate.low, metric)}, {figure(estimate.high, metric)}]"


def figure(value: float, metric: Metric) -> str:
    """A value of a metric in as many digits as tell values apart."""
    if not metric.higher_is_better and abs(value) < 0.1:  # losses near zero are told apart by their first digits
        return f"{value:.2g}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.2f}"


def _cell(result: dict[str, Any] | None, metric: Metric, prefix: str = "") -> str:
    if result is None or f"{prefix}{metric.name}" not in result:
        return "-"
    value = result[f"{prefix}{metric.name}"]
    if value is None:
        return "-"
    mean = f"{value:.2f}" if metric.higher_is_better else figure(value, metric)
    success = result.get(f"{prefix}success_rate")
    return mean if success is None else f"{success:.2f} ({mean})"
