"""``rimrl evaluate``: play the training and held-out splits."""

from __future__ import annotations

import argparse

from rimrl.cli.kinds import verbs_of
from rimrl.cli.parser import Verbs, add_ablation, add_run, play_options
from rimrl.cli.tracking import add_tracking
from rimrl.errors import shorten, wrong


def add(verbs: Verbs) -> None:
    """Add the verb."""
    evaluate = verbs.add_parser(
        "evaluate",
        help="play the training and held-out splits",
        parents=[play_options()],
        description="Evaluate runs on every split of their suite and write evaluation.json into each.",
        epilog="Name RUN first. --env.kwargs.NAME VALUE gives every environment another argument, such as a size; the "
        "result goes to a file of its own, evaluation-NAME=VALUE.json, which no table of the suite holds.",
        examples=[
            "rimrl evaluate runs/rim",
            "rimrl evaluate runs/rim runs/lstm --episodes 200 --split all_novel",
            "rimrl evaluate runs/rim --env.kwargs.num_distractors 4",
        ],
    )
    add_run(evaluate, "a run folder, or one of rimrl export", several=True)
    evaluate.add_argument(
        "--episodes", type=int, metavar="N", help="per split (default 100; of a sequence task as it is configured)"
    )
    evaluate.add_argument("--suite", metavar="NAME", help="another suite, its YAML file or an environment")
    evaluate.add_argument("--split", metavar="NAME", help="only this split; of a sequence task any such as 800_blanks")
    evaluate.add_argument("--n-envs", type=int, default=16, metavar="N", help="played side by side (default 16)")
    evaluate.add_argument("--no-random", action="store_true", help="leave out the random policy")
    add_ablation(evaluate)
    add_tracking(evaluate)
    evaluate.set_defaults(verb=_evaluate, takes_overrides=True)


def _evaluate(options: argparse.Namespace) -> int:
    for word in options.overrides:
        if word.startswith("--") and not word.startswith("--env."):
            raise wrong("unexpected argument", shorten(word), "see rimrl evaluate --help", "name")
    from rimrl.experiments.pretrained import run_folder

    options.runs = [run_folder(word) for word in options.runs]
    verbs_of(options.runs).evaluate_runs(options)
    return 0
