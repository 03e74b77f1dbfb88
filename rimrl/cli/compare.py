"""``rimrl compare``: evaluated runs in one table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rimrl.cli.parser import Verbs, add_run
from rimrl.cli.tables import print_comparison, read_comparison
from rimrl.errors import invalid_value, needs, trying

if TYPE_CHECKING:
    from rimrl.reporting.comparison import Comparison

_FORMATS = ("pdf", "svg", "png")
# Of each option: how its file ends, what the file is, and how the line begins that says it was written.
_TABLES = {
    "json": (".json", "JSON", "numbers"),
    "csv": (".csv", "CSV", "rows"),
    "latex": (".tex", "a LaTeX table", "table"),
}


def add(verbs: Verbs) -> None:
    """Add the verb."""
    compare = verbs.add_parser(
        "compare",
        help="put evaluated runs in one table",
        description="Print one table of evaluated runs. Runs of one configuration that differ in their seed become one "
        "column, with 95 % intervals over seeds.",
        epilog="A column is called as the table without --label calls it: by the last part of its configuration's name "
        "('rim' for distractors/rim), and where several would be called so, by what differs, too: "
        "'rim (core.num_active=3)'. Wherever a column is to be named, one of its run folders will do as well, or a "
        "folder that holds runs of this column alone.",
        examples=[
            "rimrl compare runs/lstm runs/rim --plot comparison.png",
            "rimrl compare runs/lstm runs/rim --reference runs/lstm --csv table.csv",
        ],
    )
    add_run(compare, "an evaluated run folder, a folder that holds some", several=True)
    compare.add_argument("--suite", metavar="NAME", help="the evaluations on this suite (default: each run's own)")
    compare.add_argument(
        "--reference", metavar="NAME", help="the column that the others are to be better than (default: the first)"
    )
    compare.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="RUN_OR_GROUP=NAME",
        help="call a column NAME, in tables, files and pictures; may be given again for others",
    )
    compare.add_argument(
        "--order",
        metavar="A,B,C",
        help="columns that come first, by old or new name (default: as runs are named)",
    )
    compare.add_argument("--plot", type=Path, metavar="FILE", help="also save learning curves and bars (.png, .svg)")
    compare.add_argument("--json", type=Path, metavar="FILE", help="also save every number")
    compare.add_argument("--csv", type=Path, metavar="FILE", help="also save every number, one a row")
    compare.add_argument("--latex", type=Path, metavar="FILE", help="also save the table for LaTeX's booktabs (.tex)")
    compare.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="also save learning curves, final scores and the performance profile as figures of their own",
    )
    compare.add_argument("--format", choices=_FORMATS, help="of --figures (default pdf)")
    compare.set_defaults(verb=_compare)


def _compare(options: argparse.Namespace) -> int:
    from rimrl.experiments.pretrained import run_folder
    from rimrl.reporting.columns import check_label

    for word in options.label:
        check_label(word)
    _check_files(options)
    comparison = read_comparison(
        [run_folder(word) for word in options.runs],
        options.suite,
        options.reference,
        labels=options.label,
        order=options.order,
    )
    saved = []
    if options.plot is not None:
        _save_plot(comparison, options.plot)
        saved.append(f"picture: {options.plot}")
    if options.figures is not None:
        saved.append(f"figures: {', '.join(map(str, _save_figures(comparison, options)))}")
    saved += _save_tables(comparison, options)
    print_comparison(comparison)
    for line in saved:
        print(line)
    return 0


def _check_files(options: argparse.Namespace) -> None:
    """Refuse files that could not be written, before any run is read."""
    from rimrl.files import check_writable

    figures: list[Path] = []
    if options.figures is not None:
        from rimrl.reporting.figures import figure_names

        figures = [options.figures / name for name in figure_names(options.format or "pdf")]
    elif options.format is not None:
        raise needs("--format", "--figures DIR")
    tables = _table_files(options)
    for file in (*filter(None, (options.plot,)), *tables.values(), *figures):
        check_writable(file)
    for name, file in tables.items():
        suffix, content, _ = _TABLES[name]
        if file.suffix != suffix:
            raise invalid_value(f"--{name}", f"a file that ends in {suffix}, for {content}", str(file))
    if options.plot is not None:
        from rimrl.reporting.plots import check_suffix

        with trying("save the picture", options.plot, ValueError):
            check_suffix(options.plot)


def _table_files(options: argparse.Namespace) -> dict[str, Path]:
    return {name: getattr(options, name) for name in _TABLES if getattr(options, name) is not None}


def _save_plot(comparison: Comparison, file: Path) -> None:
    from rimrl.files import replacing_file
    from rimrl.reporting.group_plots import save_groups
    from rimrl.reporting.plots import save_comparison

    with trying("save the picture", file, ValueError), replacing_file(file) as partial:
        if comparison.has_seeds:
            save_groups(comparison, partial)
        else:
            save_comparison(comparison.single_runs(), partial)


def _save_figures(comparison: Comparison, options: argparse.Namespace) -> list[Path]:
    from rimrl.files import replacing
    from rimrl.reporting.figures import figure_names, save_figures

    picture_format = options.format or "pdf"
    with replacing(options.figures, figure_names(picture_format)) as partial:
        names = save_figures(comparison, partial, picture_format)
    return [options.figures / name for name in names]


def _save_tables(comparison: Comparison, options: argparse.Namespace) -> list[str]:
    """Write what holds numbers, all of it or nothing; a line for each file."""
    from rimrl.files import write_together
    from rimrl.reporting.comparison import Comparison
    from rimrl.reporting.csv_table import csv_table
    from rimrl.reporting.latex import latex_table

    texts = {"json": Comparison.json_text, "csv": csv_table, "latex": latex_table}
    files = _table_files(options)
    write_together({file: texts[name](comparison) for name, file in files.items()})
    return [f"{_TABLES[name][2]}: {file}" for name, file in files.items()]
