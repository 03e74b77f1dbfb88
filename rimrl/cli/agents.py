"""What verbs do with runs of agents."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rimrl.cli.parser import play_arguments
from rimrl.cli.tables import print_comparison, print_inspection, read_comparison
from rimrl.cli.tracking import tracking_of
from rimrl.errors import UsageError

if TYPE_CHECKING:
    from rimrl.experiments.run import Run


def evaluate_runs(options: argparse.Namespace) -> None:
    """Play every split with the agents of runs, as ``rimrl evaluate`` was asked to, and print how they did.

    Raises:
        UsageError: For bad input.
    """
    from rimrl.experiments.evaluate import (
        DEFAULT_EPISODES,
        check_suite,
        environment_arguments,
        evaluate,
        evaluation_file,
    )
    from rimrl.experiments.played import suite_name
    from rimrl.experiments.run import Run
    from rimrl.runs.evaluations import ablation_suffix, arguments_suffix
    from rimrl.runs.tracked import tracked_again

    tracking = tracking_of(options)
    runs = [Run.open(path) for path in options.runs]
    arguments: dict[str, Any] = {}
    for run in runs:  # what is missing is said before anything is played
        run.agent_file(options.best)
        arguments = environment_arguments(run, options.overrides)
        check_suite(run, options.suite, options.split, arguments)
    variant = f"{ablation_suffix(options.num_active)}{arguments_suffix(arguments)}"
    for run in runs:
        with tracked_again(tracking, run) as tracked:
            evaluation = evaluate(
                run,
                episodes=DEFAULT_EPISODES if options.episodes is None else options.episodes,
                split=options.split,
                n_envs=options.n_envs,
                random_policy=not options.no_random,
                suite=options.suite,
                num_active=options.num_active,
                env_kwargs=arguments,
                **play_arguments(options),
            )
            trained_on = suite_name(run.config.played)
            file = evaluation_file(evaluation["suite"], trained_on, options.num_active, arguments)
            tracked.evaluation(evaluation, Path(file).stem)
    for paths in _by_suite(runs, options.suite):
        try:
            print_comparison(read_comparison(paths, options.suite, variant=variant))
        except UsageError as error:  # what was evaluated is kept, whether or not it fits in one table
            print(f"note: no table of them together: {error}", file=sys.stderr)
            for path in paths:
                print_comparison(read_comparison([path], options.suite, variant=variant))


def inspect_run(options: argparse.Namespace) -> None:
    """Record and draw what the units of an agent do, as ``rimrl inspect`` was asked to.

    Raises:
        UsageError: For bad input.
    """
    from rimrl.experiments.inspect import record
    from rimrl.experiments.played import splits_to_play
    from rimrl.experiments.run import Run
    from rimrl.files import replacing
    from rimrl.reporting.inspection import PICTURES, save_pictures
    from rimrl.runs.evaluations import ablation_suffix
    from rimrl.runs.recording import RECORDING_FILES
    from rimrl.runs.tracked import tracked_again

    tracking = tracking_of(options)
    run = Run.open(options.run)
    (split,) = splits_to_play(run.config.played, options.split)
    name = f"{split.name}{ablation_suffix(options.num_active)}"
    folder = (options.output or run.path / "inspection") / name
    with (
        tracked_again(tracking, run) as tracked,
        replacing(folder, [*RECORDING_FILES, *PICTURES], options.output or run.path) as partial,
    ):
        recording = record(
            run,
            episodes=options.episodes,
            split=split.name,
            num_active=options.num_active,
            also=options.record,
            **play_arguments(options),
        )
        recording.save(partial)
        pictures = save_pictures(partial)
        tracked.pictures([partial / each for each in pictures], f"inspection/{name}")
    print_inspection(run.path, recording.facts, "actions and rewards")
    print("pictures:", ", ".join(str(folder / name) for name in pictures))


def _by_suite(runs: list[Run], suite: str | None) -> list[list[Path]]:
    """Folders of runs that were asked the same questions."""
    together: dict[str, list[Path]] = {}
    for run in runs:
        together.setdefault(run.config.env.id if suite is None else suite, []).append(run.path)
    return list(together.values())
