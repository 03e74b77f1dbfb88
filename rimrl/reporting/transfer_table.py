"""What a transfer found, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table


def score_table(result: Mapping[str, Any]) -> Table:
    """One line for each core, method, source and target; then their counts are in `count_table`.

    Args:
        result: What `rimrl.reporting.transfer.score_folder` returns.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("core", "method", "source", "target", "seeds"):
        table.add_column(column)
    for column in ("score, raw", "score above random"):
        table.add_column(column, justify="right")
    for score in result["scores"]:
        if not score["over_sources"]:
            names = (score["core"], score["method"], score["source"] or "-", score["target"])
            table.add_row(*names, str(len(score["seeds"])), _written(score["raw"]), _written(score["offset"]))
    return table


def count_table(result: Mapping[str, Any]) -> Table:
    """How many targets transfer was positive and negative on, areas averaged over sources (RIM paper, App. E.2).

    Args:
        result: What `rimrl.reporting.transfer.score_folder` returns.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("core", "method", "score"):
        table.add_column(column)
    for column in ("targets +", "surely", "targets -", "surely", "without score"):
        table.add_column(column, justify="right")
    for count in result["counts"]:
        if count["over"] == "targets":
            figures = ("positive", "surely_positive", "negative", "surely_negative", "without_score")
            kind = {"raw": "raw", "offset": "above random"}[count["kind"]]
            table.add_row(count["core"], count["method"], kind, *(str(count[figure]) for figure in figures))
    return table


def _written(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "-"
    if estimate["low"] is None:
        return f"{estimate['value']:.2f}"
    return f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"
