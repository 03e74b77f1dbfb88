"""One HTML page about several runs: what they were, what came out, how sure that is, and how to repeat it.

The page needs nothing but itself: its style, charts and pictures are inside, it runs no script, and it asks the browser
to refuse any address outside. Templates escape every text that comes from a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from rimrl import __version__
from rimrl.files import check_writable, write_text
from rimrl.reading import read_text
from rimrl.reporting import activity
from rimrl.reporting.charts import SQUARE
from rimrl.reporting.commands import commands, inspections
from rimrl.reporting.comparison import Comparison
from rimrl.reporting.curves import training_curve
from rimrl.reporting.groups import Group, settings, written
from rimrl.reporting.levels import described
from rimrl.reporting.report_charts import gap_chart, held_out_curves, learning_curves, profile_chart, split_charts
from rimrl.reporting.results import RunResults
from rimrl.reporting.searches import STATES, Searched
from rimrl.reporting.statistics import Estimate
from rimrl.reporting.verdict import ComparisonSummary, number, shortened
from rimrl.runs.environment import run_facts


def save_report(comparison: Comparison, file: Path, searches: Sequence[Searched] = ()) -> None:
    """Write the page.

    Args:
        comparison: Of one group of runs or more.
        file: Where to; a file that is there is replaced when the new one is complete.
        searches: Where the groups' configurations come from (`rimrl.reporting.searches.searched`). Default: not known.

    Raises:
        UsageError: If the file cannot be written.
    """
    check_writable(file)
    write_text(file, page(comparison, searches))


def page(comparison: Comparison, searches: Sequence[Searched] = ()) -> str:
    """The page as text.

    Args:
        comparison: As for `save_report`.
        searches: As for `save_report`.
    """
    findings = ComparisonSummary(comparison)
    groups = comparison.groups
    runs = [run for group in groups for run in group.runs]
    strips = [(group.label, _strips_of_training(group)) for group in groups]
    inspected = [
        strip for group in groups for run in group.runs for strip in activity.of_inspections(run, _name(run, group))
    ]
    environment = Environment(
        loader=PackageLoader("rimrl.reporting"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"number": number, "shortened": shortened}
    return environment.get_template("report.html").render(
        version=__version__,
        square=SQUARE,
        findings=findings,
        comparison=comparison,
        guess=runs[0].kind.guess,
        groups=groups,
        runs=runs,
        summary=_summary(groups),
        curves=learning_curves(groups),
        held_out_curves=held_out_curves(comparison),
        levels=described(training_curve(runs).levels),
        table=_table(findings),
        splits=split_charts(findings),
        gap=gap_chart(comparison),
        profile=profile_chart(findings),
        trained=strips,
        inspected=inspected,
        measured=any(strip.measures for shown in (inspected, *(each for _, each in strips)) for strip in shown),
        inspect_commands=inspections(
            [group.runs[0] for group, (_, shown) in zip(groups, strips, strict=True) if shown]
        ),
        differences=_differences(groups),
        configurations=[(group, _configuration(group.runs[0])) for group in groups],
        machines=_machines(runs),
        searches=searches,
        states=STATES,
        commands=commands(runs, [each.search.folder for each in searches if each.search is not None]),
    )


def _summary(groups: Sequence[Group]) -> str:
    """How much was done, in one line."""
    runs = [run for group in groups for run in group.runs]
    kind = runs[0].kind
    steps = [run.evaluation[kind.reached] for run in runs if kind.reached in run.evaluation]
    trials = [run.trials(split) for run in runs for split in run.splits]
    parts = [_plural(len(groups), "configuration"), _plural(len(runs), "run")]
    if steps:
        parts.append(f"{_range(steps)} training {kind.step}s each")
    return ", ".join([*parts, f"{_range(trials)} {kind.trial}s per split"])


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _name(run: RunResults, group: Group) -> str:
    return f"{group.label}, seed {run.seed}" if run.seed is not None else f"{group.label}, {run.path.name}"


# -- tables ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of the table of scores.

    Attributes:
        name: Split, or what was taken together.
        kind: ``"trained on"``, ``"held out"`` or empty.
        chance: What random actions reach.
        cells: One a group.
        runs: The scores of each group's runs; empty for what was taken together.
    """

    name: str
    kind: str
    chance: float | None
    cells: list[Estimate]
    runs: list[list[float]]


def _table(findings: ComparisonSummary) -> list[Row]:
    comparison = findings.comparison
    summaries, metric = comparison.summaries, comparison.metric
    rows = []
    for name in comparison.splits:
        kind = "held out" if name in comparison.held_out else "trained on"
        scores = [summary.group.scores([name], metric)[:, 0].tolist() for summary in summaries]
        cells = [summary.splits[name] for summary in summaries]
        rows.append(Row(name, kind, findings.chance(name), cells, scores))
    if len(comparison.held_out) > 1:
        together = [findings.overall(summary) for summary in summaries]
        rows.append(Row(f"all {len(comparison.held_out)} held-out splits", "", None, together, []))
    gaps = [summary.gap for summary in summaries if summary.gap is not None]
    if gaps:
        rows.append(Row("generalisation gap", "", None, gaps, []))
    return rows


@dataclass(frozen=True)
class Difference:
    """A key of the configuration that groups differ in.

    Attributes:
        key: Dotted.
        values: One a group.
        shared: Whether every group has the key; the options of a core are often its own.
    """

    key: str
    values: list[str]
    shared: bool


def _differences(groups: Sequence[Group]) -> list[Difference]:
    configured = [settings(group.runs[0]) for group in groups]
    keys = dict.fromkeys(key for each in configured for key in each if key != "name")
    return [
        Difference(
            key,
            [written(each[key]) if key in each else "–" for each in configured],
            all(key in each for each in configured),
        )
        for key in keys
        if len({repr(each.get(key, written)) for each in configured}) > 1
    ]


def _configuration(run: RunResults) -> str | None:
    file = run.path / "config.yaml"
    return read_text(file, follow=False) if file.is_file() else None


def _machines(runs: Sequence[RunResults]) -> list[tuple[str, str]]:
    """Versions, commit and machine: one value where all runs agree, otherwise each value with how many runs had it."""
    facts = [_facts(run) for run in runs]
    keys = dict.fromkeys(key for each in facts for key in each)
    rows = []
    for key in keys:
        values = Counter(each.get(key, "not recorded") for each in facts)
        several = len(values) > 1
        rows.append(
            (key, "; ".join(f"{value} ({_plural(n, 'run')})" if several else value for value, n in values.items()))
        )
    return rows


def _facts(run: RunResults) -> dict[str, str]:
    facts = run_facts(run.path)
    listed = {"python": facts.get("python"), **facts.get("versions", {})}
    listed |= {name: facts.get(name) for name in ("commit", "system", "processor", "cpu_count", "status")}
    return {str(name).replace("_", " "): str(value) for name, value in listed.items() if value is not None}


# -- units -------------------------------------------------------------------------------------------------------------


def _strips_of_training(group: Group) -> list[activity.Strip]:
    strips = [activity.over_training(run, _name(run, group)) for run in group.runs]
    return [strip for strip in strips if strip is not None]
