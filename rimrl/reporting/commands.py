"""The commands that repeat what a report shows, for a shell."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from rimrl.imports import module_in
from rimrl.reporting.results import RunResults

_AGAIN = Path("again")


def commands(runs: Sequence[RunResults], searches: Sequence[Path] = ()) -> list[str]:
    """What trains, evaluates, compares and reports some runs once more, in a folder of their own.

    Args:
        runs: Their configurations are read from their folders.
        searches: Folders of searches that the report names.

    Returns:
        One command a line.
    """
    common = os.path.commonpath([run.path.resolve().parent for run in runs])
    again = {run.path: _AGAIN / run.path.resolve().relative_to(common) for run in runs}
    lines = [_train(run, again[run.path]) for run in runs if run.config]
    evaluations: dict[tuple[str, ...], list[Path]] = {}
    for run in runs:
        evaluations.setdefault(_evaluation_options(run), []).append(again[run.path])
    lines += [_line("rimrl", "evaluate", *folders, *options) for options, folders in evaluations.items()]
    suite = _suite_options(runs[0])
    lines.append(_line("rimrl", "compare", *again.values(), *suite))
    found = [word for folder in dict.fromkeys(searches) for word in ("--search", folder)]
    lines.append(_line("rimrl", "report", *again.values(), *suite, *found, "--output", _AGAIN / "report.html"))
    return lines


def inspections(runs: Sequence[RunResults]) -> list[str]:
    """What records the units of some runs, for the next report to show."""
    return [_line("rimrl", "inspect", run.path, *_imports(run)) for run in runs]


def _train(run: RunResults, folder: Path) -> str:
    seed = () if run.seed is None else ("--seed", run.seed)
    return _line("rimrl", run.kind.verb, run.path / "config.yaml", *seed, "--run-dir", folder, *_imports(run))


def _imports(run: RunResults) -> tuple[str, ...]:
    """The modules that a run names; who repeats it names them, too."""
    names = [*run.config.get("imports", ())]
    for group, key in (("env", "id"), ("core", "name")):
        names += module_in(run.config.get(group, {}).get(key))
    return tuple(word for name in dict.fromkeys(names) for word in ("--import", str(name)))


def _evaluation_options(run: RunResults) -> tuple[str, ...]:
    facts = run.evaluation
    options = ["--episodes", str(max(map(run.trials, run.splits)))]
    for flag, key in (("--seed", "seed"), ("--n-envs", "n_envs")):
        if isinstance(facts.get(key), int):
            options += [flag, str(facts[key])]
    if facts.get("deterministic"):
        options.append("--deterministic")
    if facts.get("model") == "best_model.zip":
        options.append("--best")
    names = {name for result in run.splits.values() for name in result}
    if "return_mean" in names and "random_return_mean" not in names:
        options.append("--no-random")
    return (*options, *_suite_options(run), *_imports(run))


def _suite_options(run: RunResults) -> tuple[str, ...]:
    trained_on = run.config.get("env", {}).get("id")
    suite = run.evaluation["suite"]
    return () if trained_on in (None, suite) else ("--suite", str(suite))


def _line(*words: object) -> str:
    return shlex.join(str(word) for word in words)
