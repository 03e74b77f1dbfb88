"""What ``rimrl sweep``, ``rimrl transfer`` and ``rimrl tune`` share: who works on their runs, and how that ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rimrl.cli.codes import INTERRUPTED
from rimrl.cli.parser import old_name
from rimrl.cli.tracking import add_tracking, tracking_of
from rimrl.errors import RunFailedError, UsageError, conflict, invalid_value, needs

if TYPE_CHECKING:
    from rimrl.studies.study import Study
    from rimrl.studies.workers import Workers


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """Say who works on the runs."""
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: cores / train.num_threads)")
    parser.add_argument("--ray", metavar="ADDRESS", help="on Ray: auto, local, HOST:6379 or ray://HOST:10001")
    parser.add_argument("--gpus", type=float, metavar="X", help="GPUs that Ray keeps for each run, such as 0.25")
    parser.add_argument("--retries", type=int, default=2, metavar="N", help="for a run that broke (default 2)")
    parser.add_argument("--plan", action="store_true", help="list the runs and how far they are, and stop")
    trial = parser.add_argument(
        "--trial", type=int, metavar="N", help="only run N of the plan, in this process: for job arrays"
    )
    old_name(parser, "--cell", trial)
    add_tracking(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def check_worker_options(options: argparse.Namespace, **others: int) -> None:
    """Refuse options that are too small or do not go together.

    Args:
        options: What was given.
        others: The least of options besides those of `add_worker_options`.

    Raises:
        UsageError: Names them.
    """
    for name, least in {"jobs": 1, "retries": 0, "gpus": 0, **others}.items():
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise invalid_value(f"--{name}", f"at least {least}", value)
    if options.gpus is not None and options.ray is None:
        raise needs("--gpus", "--ray", advice=f"see rimrl {options.name} --help")
    if options.trial is not None and (options.ray is not None or options.jobs is not None):
        raise conflict("--trial", "--ray and --jobs, as it trains in this process", "leave them out")


def _print_plan(study: Study[Any]) -> None:
    for number, (trial, far) in enumerate(zip(study.trials, study.progress().values(), strict=True)):
        steps = trial.config.train.total_timesteps
        print(f"{number:>4}  {far['state']:<11} {steps:>9} steps  {study.folder / trial.name}")


def run_study(study: Study[Any], options: argparse.Namespace, show: Callable[[bool], None]) -> int:
    """List the runs of a study, work on all of them, or on one, as was asked for.

    Args:
        study: The study.
        options: Those of `add_worker_options`.
        show: Prints what is known once all have been worked on; is told whether they are finished.

    Returns:
        The exit code; 0 only if what was asked for is finished.

    Raises:
        UsageError: For bad input.
        RunFailedError: If runs broke.
    """
    from rimrl.runs.tracked import prepare

    if options.plan:
        _print_plan(study)
        return 0
    prepare(tracking_of(options))
    if options.trial is not None:
        return _work_on_one(study, options.trial, not options.quiet)
    try:
        finished = study.run(_workers(study, options), options.retries, not options.quiet)
    except RunFailedError:
        show(False)
        raise
    if not finished:
        left = f"{len(study.waiting)} of {len(study.trials)} {study.noun}s are left"
        print(f"rimrl: interrupted; {left}, the same command goes on", file=sys.stderr)
    show(finished)
    return 0 if finished else INTERRUPTED


def _workers(study: Study[Any], options: argparse.Namespace) -> Workers[Any]:
    if options.ray is not None:
        from rimrl.studies.ray_workers import RayWorkers

        return RayWorkers(study.folder, options.jobs, options.ray, options.gpus)
    from rimrl.studies.workers import LocalWorkers, cores

    threads = max((trial.threads for trial in study.trials), default=1)
    return LocalWorkers(study.folder, options.jobs or max(1, cores() // threads))


def _work_on_one(study: Study[Any], number: int, progress_bar: bool) -> int:
    outcome = study.run_one(number, progress_bar)
    name = study.folder / study.trials[number].name
    if outcome.end == "refused":
        raise UsageError(f"{name}: {outcome.message}", key=str(name), found=outcome.message, kind="state")
    if outcome.end == "failed":
        raise RunFailedError(f"{name}: {outcome.message}")
    if outcome.end == "interrupted":
        print(f"rimrl: interrupted; the same command goes on with {name}", file=sys.stderr)
        return INTERRUPTED
    print(f"finished: {name}")
    return 0
