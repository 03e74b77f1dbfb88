"""The tables of ``rimrl compare``: a row for each split; columns for chance and for each run, or group of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich import box
from rich.table import Table

from rimrl.reporting.comparison import Comparison
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
    for label in (*(["random"] if comparison.random else []), *(group.label for group in comparison.groups)):
        table.add_column(label, justify="right", overflow="fold")
    of_splits, over_splits, runs = table_rows(comparison, lambda value: figure(value, metric), "-")
    for row in of_splits:
        table.add_row(*row)
    table.add_section()
    for row in (*over_splits, *runs):
        table.add_row(*row)
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
    return table


def table_rows(comparison: Comparison, write: Callable[[float], str], nothing: str) -> tuple[list[list[str]], ...]:
    """The table of a comparison as texts: a column for what a row is, for random actions if known, for each group.

    Args:
        comparison: What to write.
        write: Writes a number.
        nothing: Stands for an estimate that there is not.

    Returns:
        Rows of single splits, of what is said over splits, and of the number of runs.
    """
    random, summaries = comparison.random, comparison.summaries

    def row(name: str, estimates: Iterable[Estimate | None], chance: str = "") -> list[str]:
        cells = [nothing if each is None else each.written(write) for each in estimates]
        return [name, *([chance] if random else []), *cells]

    of_splits = [
        row(
            f"{name} (held out)" if name in comparison.held_out else name,
            [summary.splits[name] for summary in summaries],
            write(random[name]) if name in random else nothing,
        )
        for name in comparison.splits
    ]
    over_splits = []
    if comparison.held_out:
        over_splits.append(row("held-out splits together", [summary.held_out for summary in summaries]))
        over_splits.append(row("mean of these", [summary.held_out_mean for summary in summaries]))
        if comparison.trained:
            over_splits.append(row("generalisation gap", [summary.gap for summary in summaries]))
    if len(summaries) > 1:
        over_splits.append(row("difference", [summary.difference for summary in summaries]))
        over_splits.append(row("probability of improvement", [summary.improvement for summary in summaries]))
    return of_splits, over_splits, [[*row("runs", []), *(str(len(group.runs)) for group in comparison.groups)]]


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
