r"""A comparison as a LaTeX table: what ``rimrl compare`` prints, for a paper to take in with ``\input``."""

from __future__ import annotations

from collections.abc import Sequence

from rimrl.reporting.comparison import Comparison
from rimrl.reporting.groups import Metric
from rimrl.reporting.results import printable
from rimrl.reporting.table import figure, table_rows

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    # After the end of a row these would be its options.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    **{letter: f"\\{letter}" for letter in "#$%&_{}"},
}
_INDENT = "    "


def latex_table(comparison: Comparison) -> str:
    """The table of ``rimrl compare`` as a ``tabular`` with the rules of booktabs.

    Args:
        comparison: What to write.

    Returns:
        A row for each split, for what is said over splits and for the number of runs; a column for each group, after
        one for random actions where they were played. 95 % intervals stand behind the values. Comments above the table
        name the package that it needs, and repeat what limits the numbers.
    """
    metric = comparison.metric
    notes = [f"{comparison.suite}: {metric.label}, interquartile mean over runs [95 % interval]"]
    if len(comparison.groups) > 1:
        notes.append(f"difference and probability of improvement: over {comparison.reference}")
    columns = [*(["random"] if comparison.random else []), *(escaped(group.label) for group in comparison.groups)]
    blocks = [[["split", *columns]], *table_rows(comparison, lambda value: _number(value, metric), "--")]
    lines = [
        r"% \usepackage{booktabs}",
        *(f"% {printable(note)}" for note in [*notes, *comparison.remarks]),
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        rf"{_INDENT}\toprule",
        f"\n{_INDENT}\\midrule\n".join("\n".join(map(_row, block)) for block in blocks if block),
        rf"{_INDENT}\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """A text as LaTeX prints it, whatever is in it; what cannot be printed becomes a space."""
    letters = "".join(_ESCAPED.get(letter, letter) for letter in printable(text))
    return letters.replace("--", "-{}-").replace("--", "-{}-")  # which would be one dash


def _row(row: Sequence[str]) -> str:
    return f"{_INDENT}{' & '.join([escaped(row[0]), *row[1:]])} \\\\"


def _number(value: float, metric: Metric) -> str:
    digits, _, exponent = figure(value, metric).partition("e")
    return rf"${digits} \times 10^{{{int(exponent)}}}$" if exponent else digits.replace("-", "$-$")
