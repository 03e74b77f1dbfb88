"""``rimrl sweep``: train over seeds, cores, environments or any key."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rimrl.cli.parser import Verbs, config_among, flags
from rimrl.cli.studies import add_worker_options, check_worker_options, run_study
from rimrl.cli.tracking import tracking_of
from rimrl.errors import needs, quoted
from rimrl.imports import options as import_options

if TYPE_CHECKING:
    from rimrl.experiments.sweep import Sweep


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
        examples=[
            "rimrl sweep recall/rim --seeds 0..4 --over core=rim,lstm --run-dir runs/sweep",
            "rimrl sweep recall/rim --seeds 0,1 --over agent.learning_rate=1e-3,4e-3",
        ],
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
    sweep.add_argument("--evaluate", action="store_true", help="evaluate each run on its suite's splits, too")
    sweep.add_argument("--episodes", type=int, metavar="N", help="per split, with --evaluate (default 100)")
    add_worker_options(sweep)
    sweep.set_defaults(verb=_sweep, seed=None, takes_overrides=True)


def _sweep(options: argparse.Namespace) -> int:
    from rimrl.experiments.sweep import Sweep, episodes_before
    from rimrl.experiments.sweep_config import ask, default_folder, folder_of
    from rimrl.runs.settings import split_overrides

    check_worker_options(options, episodes=1)
    if options.episodes is not None and not options.evaluate:
        raise needs("--episodes", "--evaluate", advice="see rimrl sweep --help")
    given, overrides = config_among(options.overrides)
    if given is None:
        raise needs("rimrl sweep", "CONFIG", advice="see rimrl sweep --help")
    asked = ask(given, options.seeds, options.over, split_overrides([*overrides, *flags(options)]))
    folder = options.run_dir or folder_of(given) or default_folder(asked.config)
    episodes = (options.episodes or 100) if options.evaluate else None
    if episodes is None and folder_of(given) is not None:
        episodes = episodes_before(folder)
    check, tracking = options.trial is None, tracking_of(options)
    sweep = Sweep(asked, folder, episodes, check, progress_bar=not options.quiet, tracking=tracking)
    return run_study(sweep, options, lambda finished: _show(sweep) if finished else None)


def _show(sweep: Sweep) -> None:
    """Print what to do next with a sweep that is finished."""
    print(f"finished {len(sweep.trials)} of {len(sweep.trials)} trials: {sweep.folder}")
    if sweep.episodes is None:
        modules = dict.fromkeys(module for trial in sweep.trials for module in trial.config.modules)
        print(f"next: rimrl sweep {quoted(sweep.folder)} --evaluate{import_options(modules)}")
    else:
        suites = dict.fromkeys(trial.config.env.id for trial in sweep.trials)
        for suite in suites:
            print(f"next: rimrl compare {quoted(sweep.folder)}" + (f" --suite {suite}" if len(suites) > 1 else ""))
