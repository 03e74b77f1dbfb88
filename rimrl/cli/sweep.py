"""``rimrl sweep``: train over seeds, cores, environments or any key."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rimrl.cli.codes import INTERRUPTED
from rimrl.cli.parser import Verbs, config_among, flags
from rimrl.errors import RunFailedError, UsageError, quoted

if TYPE_CHECKING:
    from rimrl.experiments.sweep import Sweep
    from rimrl.experiments.sweep_workers import Workers


def add(verbs: Verbs) -> None:
    """Add the verb."""
    sweep = verbs.add_parser(
        "sweep",
        help="train over seeds, cores, environments or any key",
        usage="rimrl sweep [-h] CONFIG [--seeds 0..4] [--over KEY=VALUE,VALUE]... [options]",
        description="Train one run for every seed and every combination of values, several at a time, here or on a Ray "
        "cluster. CONFIG is that of rimrl train, or the folder of a sweep. The same command goes on with what was "
        "interrupted or failed.",
        epilog="Every other key of the configuration is an override for all runs, such as --env.n_envs 8.",
        allow_abbrev=False,
    )
    sweep.add_argument("--seeds", metavar="SEEDS", help="such as 0..4, or 0,1,5 (default: the configuration's)")
    sweep.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="KEY=VALUE,VALUE",
        help="values of a key: core=rim,lstm, env=memory,multiroom, agent.learning_rate=1e-3,5e-4; may be repeated",
    )
    sweep.add_argument("--total-timesteps", metavar="N", help="environment steps of each run")
    sweep.add_argument("--run-dir", type=Path, metavar="DIR", help="the folder to work in; default runs/sweeps/CONFIG")
    sweep.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: cores / train.num_threads)")
    sweep.add_argument("--ray", metavar="ADDRESS", help="on Ray: auto, local, HOST:6379 or ray://HOST:10001")
    sweep.add_argument("--gpus", type=float, metavar="X", help="GPUs that Ray keeps for each run, such as 0.25")
    sweep.add_argument("--retries", type=int, default=2, metavar="N", help="for a run that broke (default 2)")
    sweep.add_argument("--evaluate", action="store_true", help="evaluate each run on its suite's splits, too")
    sweep.add_argument("--episodes", type=int, metavar="N", help="per split, with --evaluate (default 100)")
    sweep.add_argument("--plan", action="store_true", help="list the runs and how far they are, and stop")
    sweep.add_argument("--cell", type=int, metavar="N", help="only run N of the plan, in this process: for job arrays")
    sweep.add_argument("--quiet", action="store_true", help="no progress on standard error")
    sweep.set_defaults(verb=_sweep, seed=None, takes_overrides=True)


def _sweep(options: argparse.Namespace) -> int:
    from rimrl.experiments.sweep import Sweep, default_folder, episodes_before
    from rimrl.experiments.sweep_config import ask, folder_of
    from rimrl.runs.settings import split_overrides

    _check_sweep(options)
    given, overrides = config_among(options.overrides)
    if given is None:
        raise UsageError("the following arguments are required: CONFIG; see rimrl sweep --help")
    asked = ask(given, options.seeds, options.over, split_overrides([*overrides, *flags(options)]))
    folder = options.run_dir or folder_of(given) or default_folder(asked.config)
    episodes = (options.episodes or 100) if options.evaluate else None
    if episodes is None and folder_of(given) is not None:
        episodes = episodes_before(folder)
    sweep = Sweep(asked, folder, episodes, check=options.cell is None, progress_bar=not options.quiet)
    if options.plan:
        for cell in sweep.cells:
            steps = cell.config.train.total_timesteps
            print(f"{cell.number:>4}  {sweep.state(cell):<11} {steps:>9} steps  {folder / cell.name}")
        return 0
    if options.cell is not None:
        return _sweep_cell(sweep, options.cell, not options.quiet)
    if not sweep.run(_workers(sweep, options), options.retries, not options.quiet):
        left = len(sweep.waiting)
        print(
            f"rimrl: interrupted; {left} of {len(sweep.cells)} cells are left, the same command goes on",
            file=sys.stderr,
        )
        return INTERRUPTED
    print(f"finished {len(sweep.cells)} of {len(sweep.cells)} cells: {folder}")
    if episodes is None:
        print(f"next: rimrl sweep {quoted(folder)} --evaluate")
    else:
        suites = dict.fromkeys(cell.config.env.id for cell in sweep.cells)
        for suite in suites:
            print(f"next: rimrl compare {quoted(folder)}" + (f" --suite {suite}" if len(suites) > 1 else ""))
    return 0


def _check_sweep(options: argparse.Namespace) -> None:
    for name, least in (("jobs", 1), ("retries", 0), ("episodes", 1), ("gpus", 0)):
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise UsageError(f"--{name} must be at least {least}, got {value}")
    if options.episodes is not None and not options.evaluate:
        raise UsageError("--episodes goes with --evaluate; see rimrl sweep --help")
    if options.gpus is not None and options.ray is None:
        raise UsageError("--gpus goes with --ray; see rimrl sweep --help")
    if options.cell is not None and (options.ray is not None or options.jobs is not None):
        raise UsageError("--cell trains in this process; leave out --ray and --jobs")


def _workers(sweep: Sweep, options: argparse.Namespace) -> Workers:
    if options.ray is not None:
        from rimrl.experiments.sweep_ray import RayWorkers

        return RayWorkers(sweep.folder, options.ray, options.jobs, options.gpus, sweep.episodes)
    from rimrl.experiments.sweep_workers import LocalWorkers, cores

    threads = max(cell.config.train.num_threads for cell in sweep.cells)
    return LocalWorkers(sweep.folder, options.jobs or max(1, cores() // threads), sweep.episodes)


def _sweep_cell(sweep: Sweep, number: int, progress_bar: bool) -> int:
    outcome = sweep.run_one(number, progress_bar)
    name = sweep.folder / sweep.cells[number].name
    if outcome.end == "refused":
        raise UsageError(f"{name}: {outcome.message}")
    if outcome.end == "failed":
        raise RunFailedError(f"{name}: {outcome.message}")
    if outcome.end == "interrupted":
        print(f"rimrl: interrupted; the same command goes on with {name}", file=sys.stderr)
        return INTERRUPTED
    print(f"finished: {name}")
    return 0
