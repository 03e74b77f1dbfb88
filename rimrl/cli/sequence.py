"""``rimrl sequence``: train and test a core on a sequence task of the papers, or go on with that."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rimrl.cli.codes import INTERRUPTED
from rimrl.cli.parser import Verbs, config_among, old_name
from rimrl.cli.sequence_tasks import lesion
from rimrl.cli.tracking import add_tracking, tracking_of
from rimrl.errors import conflict, mismatch, needs, wrong
from rimrl.runs.tracking import Tracking
from rimrl.sequence.registry import TASKS

LESION = "lesion"
_OLD_LESION = "dropping"  # old name, one version ago
_LESION_OPTIONS = ("runs", "output", "blocks")
# What is not told by options that a lesion refuses.
_NOT_OF_TRAINING = {*_LESION_OPTIONS, "quiet", "imports", "overrides", "name", "verb", "takes_overrides"}

if TYPE_CHECKING:
    from rimrl.sequence.run import SequenceRun


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "sequence",
        help="train and test a core on the papers' sequence tasks",
        usage="rimrl sequence [-h] [TASK] [--core NAME] [--preset NAME] [--resume DIR] [options]",
        description=f"Train a core on a supervised sequence task, test it on every split, and leave a run folder. TASK "
        f"is {', '.join(TASKS)}, a preset (rimrl list configs) or a YAML file; with --resume it may be left out. "
        f"'rimrl sequence {LESION} --runs RUN ...' masks single units of trained runs of balls.",
        epilog="Every other key of the configuration is an override, such as --core.num_active 3 or --task.blanks 30; "
        "'rimrl sequence TASK --print-config' lists them.",
        allow_abbrev=False,
        examples=[
            "rimrl sequence adding --core rim --run-dir runs/adding",
            "rimrl sequence copying --core lstm --num-updates 1000",
        ],
    )
    parser.add_argument("--core", metavar="NAME", help="the recurrent core (rimrl list cores); default rim")
    parser.add_argument("--preset", metavar="NAME", help="cpu (default): minutes on a core; paper: the full protocol")
    parser.add_argument(
        "--ablation", metavar="NAME", action="append", help="a mechanism to switch off, such as no_communication"
    )
    parser.add_argument("--seed", metavar="N", help="seed of weights and training sequences")
    parser.add_argument("--num-updates", metavar="N", help="updates to train for")
    parser.add_argument("--data", metavar="PATH", help="mnist: folder of its files (or RIMRL_MNIST); text: file")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="where to leave the run; default runs/NAME_N")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with a run from its last checkpoint")
    parser.add_argument("--accept-changes", action="store_true", help="resume with what differs from its own keys")
    shown = parser.add_argument("--print-config", action="store_true", help="list the keys and their values, and stop")
    old_name(parser, "--keys", shown)
    add_tracking(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.add_argument("--runs", type=Path, nargs="+", metavar="RUN", help=f"{LESION}: runs of balls")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"{LESION}: picture; default in the first run")
    parser.add_argument("--blocks", type=int, metavar="N", help=f"{LESION}: parts of a core without units; default 6")
    parser.set_defaults(verb=_sequence, takes_overrides=True)


def _sequence(options: argparse.Namespace) -> int:
    from rimrl.sequence.config_files import load_sequence

    given, overrides = config_among(options.overrides)
    if given in (LESION, _OLD_LESION):
        told = [name for name, value in vars(options).items() if value not in (None, False)]
        others = [f"--{name.replace('_', '-')}" for name in told if name not in _NOT_OF_TRAINING]
        if unexpected := [*overrides, *others]:
            raise wrong("unexpected argument", repr(unexpected[0]), f"{LESION} takes --runs RUN ...", "name")
        return lesion(options)
    for flag in _LESION_OPTIONS:
        if getattr(options, flag) is not None:
            raise needs(f"--{flag}", f"rimrl sequence {LESION}")
    tracking = tracking_of(options)
    if options.ablation is not None:
        if len(options.ablation) > 1:
            raise mismatch("--ablation", "one mechanism for a run", " and ".join(options.ablation))
        (options.ablation,) = options.ablation
    if options.resume is not None:
        return _resume(options, given, overrides, tracking)
    if options.accept_changes:
        raise needs("--accept-changes", "--resume", advice="see rimrl sequence --help")
    if given is None:
        raise needs("rimrl sequence", f"TASK ({', '.join(TASKS)})", advice="see rimrl sequence --help")
    config = load_sequence(given, options.core, options.preset, options.ablation, [*overrides, *_flags(options)])
    if options.print_config:
        print(config.to_yaml(), end="")
        return 0
    from rimrl.sequence.train import train

    run, finished = train(config, options.run_dir, progress_bar=not options.quiet, tracking=tracking)
    return _trained(run, finished, options.quiet)


def _resume(options: argparse.Namespace, given: str | None, overrides: list[str], tracking: Tracking | None) -> int:
    from rimrl.sequence.config_files import load_sequence
    from rimrl.sequence.run import SequenceRun

    if options.run_dir is not None:
        raise conflict("--run-dir", "--resume, which goes on in the run's own folder")
    run = SequenceRun.open(options.resume)
    file = given or str(run.path / "config.yaml")
    config = load_sequence(file, options.core, options.preset, options.ablation, [*overrides, *_flags(options)])
    if options.print_config:
        print(config.to_yaml(), end="")
        return 0
    from rimrl.sequence.resuming import resume

    finished = resume(run, config, options.accept_changes, not options.quiet, tracking)
    return _trained(run, finished, options.quiet)


def _trained(run: SequenceRun, finished: bool, quiet: bool) -> int:
    if not finished:
        so_far = f"the model so far is in {run.model_file}"
        print(f"rimrl: interrupted; {so_far}; to go on: {run.resume_command}", file=sys.stderr)
        return INTERRUPTED
    from rimrl.runs.tracked import tracked_again
    from rimrl.sequence.evaluate import evaluate
    from rimrl.sequence.registry import task_class

    with tracked_again(run.tracking, run) as tracked:
        evaluation = evaluate(run, progress_bar=not quiet)
        tracked.evaluation(evaluation)
    print(f"trained {run.config.name}: {run.path}")
    metric = task_class(run.config.task.name).metric
    figures = ", ".join(f"{name} {result[metric]:.4g}" for name, result in evaluation["splits"].items())
    print(f"{metric.replace('_', ' ')}: {figures}")
    return 0


def _flags(options: argparse.Namespace) -> list[str]:
    """The common flags as overrides."""
    if options.data is not None and Path(options.data).exists():
        options.data = Path(options.data).absolute()  # the run is tested from elsewhere, too
    keys = (("seed", "train.seed"), ("num_updates", "train.num_updates"), ("data", "task.data"))
    return [f"--{key}={getattr(options, flag)}" for flag, key in keys if getattr(options, flag) is not None]
