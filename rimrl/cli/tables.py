"""What several verbs print: runs that are compared, in tables, and what units did."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rimrl.errors import missing

if TYPE_CHECKING:
    from rich.console import Console

    from rimrl.reporting.comparison import Comparison

_WIDTH_OF_FILES = 200


def read_comparison(
    paths: list[Path],
    suite: str | None = None,
    reference: str | None = None,
    variant: str = "",
    labels: Sequence[str] = (),
    order: str | None = None,
) -> Comparison:
    """Read evaluated runs, on one suite, to put them side by side.

    Args:
        paths: Run folders, and folders that hold some.
        suite: Evaluated on which suite; None for each run's own.
        reference: The column that the others are compared with.
        variant: Suffix of an evaluation that is not as trained (`rimrl.runs.evaluations`); default: as trained.
        labels: Names of columns, as `rimrl.reporting.columns.arranged` takes them.
        order: Columns that come first, likewise.

    Raises:
        UsageError: If none has been evaluated, they do not compare, or there is no such column.
    """
    from rimrl.reporting.columns import arranged, find_column
    from rimrl.reporting.comparison import compare
    from rimrl.reporting.groups import group_runs
    from rimrl.reporting.results import find_runs, read_runs

    if suite is not None:
        from rimrl.experiments.played import suite_name
        from rimrl.experiments.suite_files import is_suite_file, read_suite

        suite = suite_name(read_suite(Path(suite)).suite if is_suite_file(suite) else suite)
    evaluated, others = find_runs(paths, suite, variant)
    if not evaluated:
        where = f" on {suite}" if suite else ""
        raise missing(f"run below {paths[0]} that was evaluated{where}", advice="run rimrl evaluate on them first")
    groups = group_runs(read_runs(evaluated, suite, variant))
    columns = arranged(groups, labels, order)
    against = None if reference is None else find_column(columns, groups, reference).label
    comparison = compare(columns, against)
    if others:
        listed = ", ".join(map(str, others))
        comparison.remarks.insert(0, f"left out, because they have not been evaluated: {listed}")
    return comparison


def print_comparison(comparison: Comparison) -> None:
    """Print what to know of a comparison, and its table."""
    from rimrl.reporting.table import comparison_table, group_table

    print_remarks(comparison)
    console().print(group_table(comparison) if comparison.has_seeds else comparison_table(comparison.single_runs()))


def print_inspection(run: Path, facts: dict[str, Any], without_units: str) -> None:
    """Print how often each unit was active, how evenly units were used, and how much that tells of what happens.

    Args:
        run: What was inspected.
        facts: Content of ``inspection.json``.
        without_units: What pictures show where there are no units.
    """
    from rimrl.reporting.inspection import format_evenness, format_mutual_information, percent
    from rimrl.runs.kinds import kind_of_facts

    kind = kind_of_facts(facts)
    print(f"inspected {run} on {facts['split']}: {len(facts[kind.trials])} {kind.trial}s, {facts['steps']} steps")
    if facts["units"] == 1:
        print(f"core {facts['core']!r} has no units to show: the picture shows {without_units}")
        return
    shares = facts["active_frequency"][0]["units"]
    print("active:", ", ".join(f"unit {n} {percent(share)}" for n, share in enumerate(shares)))
    print(f"used: {format_evenness(facts)} (0: all units alike)")
    print("mutual information of units with:", format_mutual_information(facts))


def print_remarks(comparison: Comparison) -> None:
    """Print what a reader should know before trusting the numbers, to standard error."""
    for remark in comparison.remarks:
        print(f"note: {remark}", file=sys.stderr)


def console() -> Console:
    """Where tables go: as wide as the terminal, or wide enough for a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES, markup=False, emoji=False)
