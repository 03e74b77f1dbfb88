"""Whether scores of different runs mean the same, and what a reader should know where they do not quite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rimrl.errors import shorten, wrong
from rimrl.reporting.groups import Group, Metric
from rimrl.reporting.results import RunResults
from rimrl.reporting.statistics import is_certain

# With fewer runs intervals are so wide that they say little; Agarwal et al. (2021) draw theirs from 3 runs on.
FEW_RUNS = 3


def check_comparable(runs: Sequence[RunResults], splits: Sequence[str]) -> None:
    """Refuse to put scores beside each other that mean different things.

    Args:
        runs: At least one.
        splits: Those that every run was evaluated on.

    Raises:
        UsageError: If Atari presets differ, or some actions were sampled and others not; names two of the runs.
    """
    ways = {True: "likeliest actions", False: "sampled actions"}
    actions = [ways.get(run.evaluation.get("deterministic", False)) for run in runs]
    _refuse_different(runs, actions, "actions were chosen differently")
    for split in splits:
        presets = [run.asked(split).get("preset") for run in runs]
        _refuse_different(runs, presets, f"{split!r} was played under different Atari presets")


def _refuse_different(runs: Sequence[RunResults], values: Sequence[str | None], how: str) -> None:
    for run, value in zip(runs, values, strict=True):
        if value != values[0]:
            both = f"{runs[0].path}: {values[0]}, {run.path}: {value}"
            raise wrong("these runs", f"do not compare, {how} ({both})", "evaluate them again alike", "mismatch")


def remarks(groups: Sequence[Group], splits: Sequence[str], metric: Metric) -> Iterator[str]:
    """Say what differs between runs though it need not keep them from being compared.

    Args:
        groups: What is compared.
        splits: Those that every run was evaluated on.
        metric: Which figure is compared.

    Yields:
        A sentence each.
    """
    runs = [run for group in groups for run in group.runs]
    changed = runs[0].evaluation.get("changed_kwargs", {})
    if changed:
        listed = ", ".join(f"{name}={shorten(value)}" for name, value in changed.items())
        yield f"environments had other arguments than those of the suite and the run: {listed}"
    left_out = dict.fromkeys(name for run in runs for name in run.splits if name not in splits)
    if left_out:
        yield f"not every run was evaluated on {', '.join(left_out)}: left out"
    for name in splits:
        if len({run.splits[name]["held_out"] for run in runs}) > 1:
            yield f"{name} was trained on in some runs and held out in others: it counts as trained on"
    yield from _different_evaluations(groups)
    yield from _different_environments(groups, splits)
    trials = [[run.trials(name) for name in splits] for run in runs]
    if any(numbers != trials[0] for numbers in trials):
        said = {
            group.label: "/".join(dict.fromkeys(_number(run.trials(name)) for run in group.runs for name in splits))
            for group in groups
        }
        yield f"runs were evaluated on different numbers of {runs[0].kind.trial}s ({_listed(said)})"
    older = [group.label for group in groups if any(run.older for run in group.runs)]
    if older:
        names = ", ".join(older)
        yield f"runs of {names} are older than core.initialization: they started from xavier, then the only way"
    for group in groups:
        yield from _seeds_twice(group)
    if any(len(group.runs) > 1 for group in groups):
        for group in groups:
            if len(group.runs) < FEW_RUNS:
                number = "1 run" if len(group.runs) == 1 else f"{len(group.runs)} runs"
                yield f"{group.label} has {number}: too few for an interval that says much"
            if splits and is_certain(group.scores(splits, metric)):
                yield f"all runs of {group.label} scored the same: an interval without width is no certainty"


def _different_evaluations(groups: Sequence[Group]) -> Iterator[str]:
    kind = groups[0].runs[0].kind
    for key, words in (
        (kind.reached, f"runs were trained for different numbers of {kind.step}s"),
        ("seed", "runs were evaluated on different seeds"),
        ("model", "some runs were evaluated at their end, some at their best"),
    ):
        values = {
            group.label: "/".join(dict.fromkeys(_number(run.evaluation.get(key)) for run in group.runs))
            for group in groups
        }
        if len(set(values.values())) > 1 or any("/" in value for value in values.values()):
            yield f"{words} ({_listed(values)})"


def _different_environments(groups: Sequence[Group], splits: Sequence[str]) -> Iterator[str]:
    """The arguments of the environment that differ, once for all splits."""
    runs = [run for group in groups for run in group.runs]
    ids = {name: [run.splits[name].get("env_id") for run in runs] for name in splits}
    others = [name for name, found in ids.items() if len({each for each in found if isinstance(each, str)}) > 1]
    if others:
        yield f"{', '.join(others)} had different environments in some runs, so that scores there do not mean the same"
    different: dict[str, None] = {}
    for split in splits:
        arguments: list[dict[str, Any]] = [run.asked(split) for run in runs]
        for name in dict.fromkeys(name for each in arguments for name in each):
            if any(each.get(name) != arguments[0].get(name) for each in arguments):
                different[name] = None
    if different:
        yield f"runs were evaluated with different arguments of the {runs[0].kind.world} ({', '.join(different)})"


def _seeds_twice(group: Group) -> Iterator[str]:
    met: dict[int | None, RunResults] = {}
    for run in group.runs:
        if run.seed is not None and run.seed in met:
            yield f"{met[run.seed].path} and {run.path} have the same seed {run.seed}, and are counted as two runs"
        met[run.seed] = run


def _number(value: object) -> str:
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else str(value)


def _listed(values: dict[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())
