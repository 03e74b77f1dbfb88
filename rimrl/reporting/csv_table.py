"""A comparison as CSV: a row for each number, for R, pandas and spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from rimrl.reporting.comparison import Comparison, GroupSummary
from rimrl.reporting.results import printable
from rimrl.reporting.statistics import Estimate

COLUMNS = ("group", "measure", "split", "seed", "run", "value", "low", "high")
"""Columns of the file; a cell is empty where a number has no such thing."""


def csv_table(comparison: Comparison) -> str:
    """Every number of a comparison, with all its digits.

    Args:
        comparison: What to write.

    Returns:
        CSV of `COLUMNS`. ``measure`` is ``score`` for a single run on a split, ``random`` for random actions, else a
        name of the JSON file: ``interquartile_mean`` and ``difference`` on a split, ``held_out_interquartile_mean`` and
        so on over splits. ``low`` and ``high`` are the ends of its 95 % interval.
    """
    out = io.StringIO()
    rows = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    rows.writeheader()
    for split, value in comparison.random.items():
        rows.writerow({"group": "random", "measure": "random", "split": split, "value": repr(value)})
    for summary in comparison.summaries:
        rows.writerows(_of_runs(comparison, summary))
        rows.writerows(_of_group(summary))
    return out.getvalue()


def _of_runs(comparison: Comparison, summary: GroupSummary) -> Iterator[dict[str, object]]:
    scores = summary.group.scores(comparison.splits, comparison.metric).tolist()
    for run, row in zip(summary.group.runs, scores, strict=True):
        for split, score in zip(comparison.splits, row, strict=True):
            yield {
                "group": summary.group.label,
                "measure": "score",
                "split": split,
                "seed": "" if run.seed is None else run.seed,
                "run": printable(str(run.path)),
                "value": repr(score),
            }


def _of_group(summary: GroupSummary) -> Iterator[dict[str, object]]:
    estimates: list[tuple[str, str, Estimate | None]] = [
        *(("interquartile_mean", split, each) for split, each in summary.splits.items()),
        *((name, "", each) for name, each in summary.over_splits.items()),
        *(("difference", split, each) for split, each in summary.differences.items()),
        ("held_out_difference", "", summary.difference),
    ]
    for measure, split, estimate in estimates:
        if estimate is not None:
            numbers = {name: repr(float(number)) for name, number in estimate.to_json().items() if number is not None}
            yield {"group": summary.group.label, "measure": measure, "split": split, **numbers}
