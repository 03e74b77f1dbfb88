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
    report.set_defaults(verb=_report)


def _report(options: argparse.Namespace) -> int:
    from rimrl.experiments.pretrained import run_folder
    from rimrl.files import check_writable
    from rimrl.reporting.report import save_report
    from rimrl.reporting.verdict import ComparisonSummary

    check_writable(options.output)
    comparison = read_comparison([run_folder(word) for word in options.runs], options.suite)
    save_report(comparison, options.output)
    print_remarks(comparison)
    print(ComparisonSummary(comparison).verdict)
    print(f"report: {options.output}")
    return 0
