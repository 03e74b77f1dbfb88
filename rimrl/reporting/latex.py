r"""A comparison as a LaTeX table: what ``rimrl compare`` prints, for a paper to take in with ``\input``."""

from __future__ import annotations

from collections.abc import Sequence

from rimrl.reporting.comparison import Comparison
from rimrl.reporting.groups import Metric
from rimrl.reporting.results import printable
from rimrl.reporting.statistics import Estimate
from rimrl.reporting.table import figure, rows_over_splits

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
_NONE = "--"
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
    metric, random = comparison.metric, comparison.random
    summaries = comparison.summaries
    notes = [f"{comparison.suite}: {metric.label}, interquartile mean over runs [95 % interval]"]
    if len(summaries) > 1:
        notes.append(f"difference and probability of improvement: over {comparison.reference}")
    blocks = [
        [_row("split", [*(["random"] if random else []), *(escaped(each.group.label) for each in summaries)])],
        [
            _row(
                escaped(f"{name} (held out)" if name in comparison.held_out else name),
                [
                    *([_number(random[name], metric) if name in random else _NONE] if random else []),
                    *(_estimate(each.splits[name], metric) for each in summaries),
                ],
            )
            for name in comparison.splits
        ],
        [
            _row(label, [*([""] if random else []), *(_estimate(each, metric) for each in estimates)])
            for label, estimates in rows_over_splits(comparison)
        ],
        [_row("runs", [*([""] if random else []), *(str(len(each.group.runs)) for each in summaries)])],
    ]
    lines = [
        r"% \usepackage{booktabs}",
        *(f"% {printable(note)}" for note in [*notes, *comparison.remarks]),
        rf"\begin{{tabular}}{{l{'r' * (len(summaries) + bool(random))}}}",
        rf"{_INDENT}\toprule",
        f"\n{_INDENT}\\midrule\n".join("\n".join(block) for block in blocks if block),
        rf"{_INDENT}\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """A text as LaTeX prints it, whatever is in it; what cannot be printed becomes a space."""
    letters = "".join(_ESCAPED.get(letter, letter) for letter in printable(text))
    return letters.replace("--", "-{}-").replace("--", "-{}-")  # which would be one dash


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{_INDENT}{' & '.join([name, *cells])} \\\\"


def _estimate(estimate: Estimate | None, metric: Metric) -> str:
    if estimate is None:
        return _NONE
    value = _number(estimate.value, metric)
    if not estimate.has_interval:
        return value
    return f"{value} [{_number(estimate.low, metric)}, {_number(estimate.high, metric)}]"


def _number(value: float, metric: Metric) -> str:
    digits, _, exponent = figure(value, metric).partition("e")
    return rf"${digits} \times 10^{{{int(exponent)}}}$" if exponent else digits.replace("-", "$-$")
