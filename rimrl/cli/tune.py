"""``rimrl tune``: search for values of a configuration's keys."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rimrl.cli.parser import Verbs, config_among, flags
from rimrl.cli.studies import add_worker_options, check_worker_options, run_study
from rimrl.cli.tables import console
from rimrl.cli.tracking import tracking_of
from rimrl.errors import needs, quoted
from rimrl.imports import options as import_options

if TYPE_CHECKING:
    from rimrl.experiments.tune import Tune


def add(verbs: Verbs) -> None:
    """Add the verb."""
    tune = verbs.add_parser(
        "tune",
        help="search for values of a configuration's keys, with Optuna",
        usage="rimrl tune [-h] CONFIG [--trials N] [--space KEY=…]... [options]",
        description="Train trials, each with other values of the keys in the space, score them on the split that they "
        "are trained on, and write the best configuration. CONFIG is that of rimrl train, or the folder of a search. "
        "The same command goes on with what was interrupted or failed.",
        epilog="Every other key of the configuration is an override for all trials, such as --env.n_envs 8.",
        examples=[
            "rimrl tune distractors/rim --trials 20 --space agent.learning_rate=1e-4..1e-2,log --run-dir runs/tune"
        ],
        allow_abbrev=False,
    )
    tune.add_argument("--trials", type=int, metavar="N", help="how many (default 20); more are added to those there")
    tune.add_argument(
        "--space",
        action="append",
        default=[],
        metavar="KEY=…",
        help="values of a key: core.num_active=2..5, agent.learning_rate=1e-4..1e-2,log, core.input_key_size=32,64; "
        "may be repeated (default: what comes with rimrl for the core and the algorithm)",
    )
    tune.add_argument("--sampler", metavar="NAME", help="tpe (default) or random")
    tune.add_argument("--sampler-seed", type=int, metavar="N", help="what the values are drawn with (default 0)")
    tune.add_argument("--no-pruning", action="store_true", help="train every trial to its end")
    tune.add_argument("--seeds", metavar="SEEDS", help="of each trial, such as 0..2 (default: the configuration's)")
    tune.add_argument("--episodes", type=int, metavar="N", help="that score each training (default 100)")
    tune.add_argument("--total-timesteps", metavar="N", help="environment steps of each training")
    tune.add_argument("--run-dir", type=Path, metavar="DIR", help="the folder to work in; default runs/tune/CONFIG")
    add_worker_options(tune)
    tune.set_defaults(verb=_tune, seed=None, takes_overrides=True)


def _tune(options: argparse.Namespace) -> int:
    from rimrl.experiments.sweep_config import default_folder, folder_of
    from rimrl.experiments.tune import Tune
    from rimrl.experiments.tune_config import FILE, ask
    from rimrl.runs.settings import split_overrides

    check_worker_options(options)
    given, overrides = config_among(options.overrides)
    if given is None:
        raise needs("rimrl tune", "CONFIG", advice="see rimrl tune --help")
    asked = ask(
        given,
        options.space,
        split_overrides([*overrides, *flags(options)]),
        options.seeds,
        trials=options.trials,
        episodes=options.episodes,
        sampler=options.sampler,
        sampler_seed=options.sampler_seed,
        pruning=False if options.no_pruning else None,
    )
    folder = options.run_dir or folder_of(given, FILE) or default_folder(asked.config, "tune")
    tune = Tune(asked, folder, check=options.trial is None, tracking=tracking_of(options))
    return run_study(tune, options, lambda _: _show(tune))


def _show(tune: Tune) -> None:
    """Print what is known so far."""
    from rich import box
    from rich.table import Table

    from rimrl.experiments.tune import BEST, TABLE

    results, best = tune.results, tune.best
    if not results:
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("trial", "state", "score", "steps", *tune.config.space):
        table.add_column(name.rpartition(".")[2], overflow="fold")
    for number, result in results.items():
        score = "" if result.score is None else f"{result.score:.4g}"
        values = [_short(result.values.get(key, "")) for key in tune.config.space]
        table.add_row(str(number), result.state, score, f"{result.steps:,}", *values)
    console().print(table)
    effort = tune.effort()
    states = ", ".join(
        f"{effort[state]} {state}" for state in ("complete", "pruned", "diverged", "unfit") if effort[state]
    )
    print(f"searched: {effort['trials']} trials ({states}), {effort['steps']:,} steps")
    print(f"table: {tune.folder / TABLE}")
    if best is None:
        print("no trial is complete, so that there is no best one")
        return
    number, result = best
    print(f"best: trial {number}, mean {result.measure} {result.score:.4g} on the split it is trained on")
    print(f"next: rimrl train {quoted(tune.folder / BEST)}{import_options(tune.config.experiment.modules)}")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
