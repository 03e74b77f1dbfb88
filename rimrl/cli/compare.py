"""``rimrl compare``: evaluated runs in one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from rimrl.cli.parser import Verbs
from rimrl.cli.tables import print_comparison, read_comparison
from rimrl.errors import UsageError


def add(verbs: Verbs) -> None:
    """Add the verb."""
    compare = verbs.add_parser(
        "compare",
        help="put evaluated runs in one table",
        description="Print one table of evaluated runs. Runs of one configuration that differ in their seed become one "
        "column, with 95 % intervals over seeds.",
    )
    compare.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="an evaluated run folder, or a folder that holds some"
    )
    compare.add_argument("--suite", metavar="NAME", help="the evaluations on this suite (default: each run's own)")
    compare.add_argument(
        "--reference", metavar="NAME", help="the column that the others are to be better than (default: the first)"
    )
    compare.add_argument("--plot", type=Path, metavar="FILE", help="also save learning curves and bars (.png, .svg)")
    compare.add_argument("--json", type=Path, metavar="FILE", help="also save every number")
    compare.set_defaults(verb=_compare)


def _compare(options: argparse.Namespace) -> int:
    from rimrl.files import check_writable, replacing_file

    for file in filter(None, (options.plot, options.json)):
        check_writable(file)
    if options.json is not None and options.json.suffix != ".json":
        raise UsageError(f"--json writes JSON; name a file that ends in .json, not {options.json}")
    comparison = read_comparison(options.runs, options.suite, options.reference)
    saved = []
    if options.plot is not None:
        from rimrl.reporting.group_plots import save_groups
        from rimrl.reporting.plots import check_suffix, save_comparison

        try:
            check_suffix(options.plot)
            with replacing_file(options.plot) as partial:
                if comparison.has_seeds:
                    save_groups(comparison, partial)
                else:
                    save_comparison(comparison.single_runs(), partial)
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"cannot save the picture {options.plot}: {error}") from None
        saved.append(f"picture: {options.plot}")
    if options.json is not None:
        comparison.save(options.json)
        saved.append(f"numbers: {options.json}")
    print_comparison(comparison)
    for line in saved:
        print(line)
    return 0
