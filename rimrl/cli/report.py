"""``rimrl report``: one page about evaluated runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from rimrl.cli.parser import Verbs, add_run
from rimrl.cli.tables import print_remarks, read_comparison


def add(verbs: Verbs) -> None:
    """Add the verb."""
    report = verbs.add_parser(
        "report",
        help="write one page about evaluated runs",
        description="Write one self-contained HTML page about evaluated runs: what they say and how surely, learning "
        "curves, scores by split, what the units do, configurations, and the commands that repeat it. Runs that differ "
        "in their seed alone are one group.",
        examples=["rimrl report runs/rim runs/lstm --output report.html"],
    )
    add_run(report, "a run folder, a folder of run folders", several=True)
    report.add_argument(
        "--output", type=Path, default=Path("report.html"), metavar="FILE", help="the page (default report.html)"
    )
    report.add_argument("--suite", metavar="NAME", help="evaluations on another suite than the runs were trained on")
    report.add_argument(
        "--search",
        dest="searches",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="a folder of rimrl tune that a configuration comes from, to show how much was searched; may be repeated. "
        "Runs in such a folder, and those of a sweep of its best.yaml, need not be told",
    )
    report.set_defaults(verb=_report)


def _report(options: argparse.Namespace) -> int:
    from rimrl.experiments.pretrained import run_folder
    from rimrl.files import check_writable
    from rimrl.reporting.report import save_report
    from rimrl.reporting.searches import remarks, searched
    from rimrl.reporting.verdict import ComparisonSummary

    check_writable(options.output)
    comparison = read_comparison([run_folder(word) for word in options.runs], options.suite)
    found = searched([summary.group for summary in comparison.summaries], options.searches)
    comparison.remarks.extend(remarks(found))
    save_report(comparison, options.output, found)
    print_remarks(comparison)
    print(ComparisonSummary(comparison).verdict)
    for each in found:
        if each.search is not None:
            keys = ", ".join(each.search.space)
            print(f"searched for {each.group.label}: {each.search.effort}, of {keys}; trial {each.taken}")
    print(f"report: {options.output}")
    return 0
