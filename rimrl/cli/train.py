"""``rimrl train``: train an agent, or go on with a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rimrl.cli.codes import INTERRUPTED
from rimrl.cli.parser import Verbs, config_among, flags, old_name
from rimrl.cli.processes import init_distributed, should_print
from rimrl.cli.tracking import add_tracking, tracking_of
from rimrl.errors import conflict, needs, quoted
from rimrl.imports import options as import_options
from rimrl.runs.tracking import Tracking
from rimrl.runs.tracking import options as track_options

if TYPE_CHECKING:
    from rimrl.experiments.run import Run


def add(verbs: Verbs) -> None:
    """Add the verb."""
    train = verbs.add_parser(
        "train",
        help="train an agent",
        usage="rimrl train [-h] [CONFIG] [--resume DIR] [options]",
        description="Train an agent and leave a run folder. CONFIG is a shipped name (rimrl list configs) or a YAML "
        "file; with --resume it may be left out.",
        epilog="Every other key of the configuration is an override, such as --core.num_active 3 or --env.n_envs 8; "
        "'rimrl train CONFIG --print-config' lists them.",
        allow_abbrev=False,
        examples=[
            "rimrl train distractors/rim --seed 1 --run-dir runs/rim",
            "rimrl train --resume runs/rim --total-timesteps 2000000 --accept-changes",
        ],
    )
    add_run_options(train)
    train.add_argument("--resume", type=Path, metavar="DIR", help="go on with a run from its last checkpoint")
    train.add_argument("--accept-changes", action="store_true", help="resume with what differs from the run's own keys")
    train.set_defaults(verb=_train, takes_overrides=True)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """What a new run of an agent is told besides its configuration."""
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="where to leave the run; default runs/CONFIG_N")
    parser.add_argument("--seed", metavar="N", help="seed of weights, actions and environments")
    parser.add_argument("--total-timesteps", metavar="N", help="environment steps to train for")
    shown = parser.add_argument("--print-config", action="store_true", help="list the keys and their values, and stop")
    old_name(parser, "--keys", shown)
    add_tracking(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def _train(options: argparse.Namespace) -> int:
    init_distributed()
    tracking = tracking_of(options)
    given, overrides = config_among(options.overrides)
    if options.resume is not None:
        return _resume(options, given, overrides, tracking)
    if options.accept_changes:
        raise needs("--accept-changes", "--resume", advice="see rimrl train --help")
    if given is None:
        raise needs("rimrl train", "CONFIG", advice="see rimrl train --help")
    return train_anew(options, given, overrides, tracking)


def train_anew(options: argparse.Namespace, given: str, overrides: list[str], tracking: Tracking | None) -> int:
    """Train with a configuration in a new run folder, or print it if that is asked for.

    Args:
        options: Those of `add_run_options`.
        given: The configuration.
        overrides: Command line words that change it.
        tracking: Where it is logged besides.

    Raises:
        UsageError: For bad input.
        RunFailedError: If something breaks on the way.
    """
    from rimrl.experiments.config_files import load_config

    config = load_config(given, [*overrides, *flags(options)])
    if options.print_config:
        print(config.to_yaml(), end="")
        return 0
    from rimrl.experiments.train import train

    run, finished = train(config, options.run_dir, progress_bar=not options.quiet, tracking=tracking)
    return _trained(run, finished)


def _resume(options: argparse.Namespace, given: str | None, overrides: list[str], tracking: Tracking | None) -> int:
    from rimrl.experiments.config_files import load_config
    from rimrl.experiments.run import Run

    if options.run_dir is not None:
        raise conflict("--run-dir", "--resume, which goes on in the run's own folder")
    run = Run.open(options.resume)
    config = load_config(given or str(run.path / "config.yaml"), [*overrides, *flags(options)])
    if options.print_config:
        print(config.to_yaml(), end="")
        return 0
    from rimrl.experiments.resuming import resume

    return _trained(run, resume(run, config, options.accept_changes, not options.quiet, tracking=tracking))


def _trained(run: Run, finished: bool) -> int:
    if not should_print():
        return 0 if finished else INTERRUPTED
    if not finished:
        so_far = f"the agent so far is in {run.model_file}"
        print(f"rimrl: interrupted; {so_far}; to go on: {run.resume_command}", file=sys.stderr)
        return INTERRUPTED
    early = "" if run.ended_early is None else f" (ended early: {run.ended_early})"
    print(f"trained {run.config.name}: {run.path}{early}")
    more = import_options(run.config.played_modules) + track_options(run.tracking)
    print(f"next: rimrl evaluate {quoted(run.path)}{more}")
    return 0
