"""The table of ``rimrl compare``: one row a split, one column a run, the chance level first."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from rimrl.reporting.results import RunResults


def comparison_table(runs: list[RunResults]) -> Table:
    """Success rate and mean return of each run on each split, with the number of episodes."""
    suite = runs[0].evaluation["suite"]
    successes = any(result["success_rate"] is not None for run in runs for result in run.splits.values())
    figures = "success rate (mean return)" if successes else "mean return"
    table = Table(box=box.SIMPLE_HEAD, title=f"{suite}: {figures}", title_justify="left")
    table.add_column("split", overflow="fold")
    table.add_column("episodes", justify="right", overflow="fold")
    chance = next((run for run in runs if any("random_return_mean" in s for s in run.splits.values())), None)
    if chance is not None:
        table.add_column("random", justify="right", overflow="fold")
    for run in runs:
        table.add_column(run.label, justify="right", overflow="fold")

    for name in dict.fromkeys(split for run in runs for split in run.splits):
        results = [run.splits.get(name) for run in runs]
        known = [result for result in results if result is not None]
        episodes = sorted({result["episodes"] for result in known})
        label = f"{name} (held out)" if known[0]["held_out"] else name
        cells = [label, "/".join(map(str, episodes))]
        if chance is not None:
            cells.append(_cell(chance.splits.get(name), "random_"))
        table.add_row(*cells, *(_cell(result) for result in results))
    return table


def _cell(result: dict[str, Any] | None, prefix: str = "") -> str:
    if result is None or f"{prefix}return_mean" not in result:
        return "-"
    mean = f"{result[f'{prefix}return_mean']:.2f}"
    success = result[f"{prefix}success_rate"]
    return mean if success is None else f"{success:.2f} ({mean})"
