"""What verbs do with runs of ``rimrl sequence``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rimrl.cli.tables import print_comparison, print_inspection, read_comparison
from rimrl.cli.tracking import tracking_of
from rimrl.errors import UsageError, conflict, needs, shorten, trying, wrong


def evaluate_runs(options: argparse.Namespace) -> None:
    """Test runs on every split again, as ``rimrl evaluate`` was asked to.

    Raises:
        UsageError: For options that only agents have, or bad input.
    """
    from rimrl.runs.tracked import tracked_again
    from rimrl.sequence.evaluate import DEFAULT_SEED, evaluate
    from rimrl.sequence.run import SequenceRun, make_run_task

    tracking = tracking_of(options)
    for word in options.overrides:
        raise wrong("unexpected argument", shorten(word), "see rimrl evaluate --help", "name")
    _refuse(options, "evaluate", "suite", "deterministic", "best", "trust", "no_random")
    runs = [SequenceRun.open(path) for path in options.runs]
    for run in runs:  # what is missing is said before anything is tested
        task = make_run_task(run.config)
        if options.split is not None:
            try:
                task.split(options.split)
            except UsageError as error:
                raise error.within(f"{run.path}: ") from None
        run.load_model(task)
    for run in runs:
        with tracked_again(tracking, run) as tracked:
            evaluation = evaluate(
                run,
                episodes=options.episodes,
                split=options.split,
                seed=DEFAULT_SEED if options.seed is None else options.seed,
                progress_bar=not options.quiet,
            )
            tracked.evaluation(evaluation)
    print_comparison(read_comparison(options.runs))


def inspect_run(options: argparse.Namespace) -> None:
    """Record and draw what units do, and rollouts of frames, as ``rimrl inspect`` was asked to.

    Raises:
        UsageError: For options that only agents have, or bad input.
    """
    from rimrl.files import replacing
    from rimrl.reporting.inspection import PICTURES, save_pictures
    from rimrl.reporting.rollouts import PICTURE, save_rollouts
    from rimrl.runs.recording import RECORDING_FILES
    from rimrl.runs.tracked import tracked_again
    from rimrl.sequence.evaluate import DEFAULT_SEED
    from rimrl.sequence.inspect import ROLLOUTS, find_split, record
    from rimrl.sequence.run import SequenceRun

    tracking = tracking_of(options)
    _refuse(options, "inspect", "deterministic", "best", "trust", "record")
    run = SequenceRun.open(options.run)
    split = find_split(run, None if options.split == "train" else options.split)
    folder = (options.output or run.path / "inspection") / split.name
    names = [*RECORDING_FILES, *PICTURES, ROLLOUTS, PICTURE]
    with (
        tracked_again(tracking, run) as tracked,
        replacing(folder, names, options.output or run.path) as partial,
    ):
        seed = DEFAULT_SEED if options.seed is None else options.seed
        inspected = record(run, split, options.episodes, seed)
        inspected.save(partial)
        pictures = save_pictures(partial)
        if inspected.rollouts is not None:
            pictures.append(save_rollouts(partial / ROLLOUTS, partial / PICTURE))
        tracked.pictures([partial / each for each in pictures], f"inspection/{split.name}")
    print_inspection(run.path, inspected.recording.facts, "inputs and outcomes")
    print("pictures:", ", ".join(str(folder / name) for name in pictures))


def lesion(options: argparse.Namespace) -> int:
    """Drop the units of trained runs one by one, as ``rimrl sequence lesion`` was asked to.

    Raises:
        UsageError: For bad input; nothing is left then.
    """
    from rimrl.files import check_writable, replacing
    from rimrl.reporting.lesion import PICTURE, save_lesions
    from rimrl.reporting.plots import check_suffix
    from rimrl.sequence.lesion import BLOCKS, FILES, lesion_units
    from rimrl.sequence.run import SequenceRun

    if not options.runs:
        raise needs("rimrl sequence lesion", "trained runs of balls: --runs RUN ...")
    runs = [SequenceRun.open(path) for path in options.runs]
    picture: Path = options.output or runs[0].path / PICTURE
    with trying("save the picture", picture, ValueError):
        check_suffix(picture)
    check_writable(picture)
    found = [lesion_units(run, blocks=BLOCKS if options.blocks is None else options.blocks) for run in runs]
    for run, each in zip(runs, found, strict=True):
        with replacing(run.path, FILES, run.path) as partial:
            each.save(partial)
        facts = each.facts
        print(
            f"{facts['config']}, seed {facts['seed']}: {facts['cross_entropy']:.1f} nats a frame; without one of "
            f"{len(facts['units'])} {facts['parts']} {facts['mean_increase']:+.1f}, and the others' states change by "
            f"{facts['mean_change_of_others']:.2f} of their norm"
        )
    save_lesions([run.path for run in runs], picture)
    print(f"picture: {picture}")
    return 0


def _refuse(options: argparse.Namespace, verb: str, *flags: str) -> None:
    if options.num_active is not None:
        raise wrong("--core.num_active", "is for agents; rimrl sequence trains with other numbers", kind="conflict")
    for flag in flags:
        if getattr(options, flag):
            name = flag.replace("_", "-")
            raise conflict(f"--{name}", f"rimrl {verb} of a run of rimrl sequence: it is for agents", "leave it out")
