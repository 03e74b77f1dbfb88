"""``rimrl evaluate``: play the training and held-out splits."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rimrl.cli.diagnostics import are_diagnostics, evaluate_diagnostics
from rimrl.cli.parser import Verbs, add_ablation, playing_options, refuse_ablation
from rimrl.cli.tables import print_comparison, read_comparison
from rimrl.errors import UsageError

if TYPE_CHECKING:
    from rimrl.experiments.run import Run


def add(verbs: Verbs) -> None:
    """Add the verb."""
    evaluate = verbs.add_parser(
        "evaluate",
        help="play the training and held-out splits",
        parents=[playing_options()],
        description="Evaluate runs on every split of their suite and write evaluation.json into each.",
    )
    evaluate.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run folder, or one of rimrl export")
    evaluate.add_argument(
        "--episodes", type=int, metavar="N", help="per split (default 100; of a diagnostic as it is configured)"
    )
    evaluate.add_argument("--suite", metavar="NAME", help="another suite or environment than the run was trained on")
    evaluate.add_argument("--split", metavar="NAME", help="only this split; of a diagnostic any such as 800_blanks")
    evaluate.add_argument("--n-envs", type=int, default=16, metavar="N", help="played side by side (default 16)")
    evaluate.add_argument("--no-random", action="store_true", help="leave out the random policy")
    add_ablation(evaluate)
    evaluate.set_defaults(verb=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    if are_diagnostics(options.runs):
        refuse_ablation(options)
        evaluate_diagnostics(options.runs, options)
        print_comparison(read_comparison(options.runs))
        return 0
    from rimrl.experiments.evaluate import DEFAULT_EPISODES, DEFAULT_SEED, check_suite, evaluate
    from rimrl.experiments.run import Run

    runs = [Run.open(path) for path in options.runs]
    for run in runs:  # what is missing is said before anything is played
        run.agent_file(options.best)
        check_suite(run, options.suite, options.split)
    for run in runs:
        evaluate(
            run,
            episodes=DEFAULT_EPISODES if options.episodes is None else options.episodes,
            split=options.split,
            deterministic=options.deterministic,
            seed=DEFAULT_SEED if options.seed is None else options.seed,
            n_envs=options.n_envs,
            random_policy=not options.no_random,
            best=options.best,
            trust=options.trust,
            progress_bar=not options.quiet,
            suite=options.suite,
            num_active=options.num_active,
        )
    for paths in _by_suite(runs, options.suite):
        try:
            print_comparison(read_comparison(paths, options.suite, num_active=options.num_active))
        except UsageError as error:  # what was evaluated is kept, whether or not it fits in one table
            print(f"note: no table of them together: {error}", file=sys.stderr)
            for path in paths:
                print_comparison(read_comparison([path], options.suite, num_active=options.num_active))
    return 0


def _by_suite(runs: list[Run], suite: str | None) -> list[list[Path]]:
    """Folders of runs that were asked the same questions."""
    together: dict[str, list[Path]] = {}
    for run in runs:
        together.setdefault(run.config.env.id if suite is None else suite, []).append(run.path)
    return list(together.values())
