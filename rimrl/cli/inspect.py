"""``rimrl inspect``: what the units of a trained agent do."""

from __future__ import annotations

import argparse
from pathlib import Path

from rimrl.cli.kinds import verbs_of
from rimrl.cli.parser import Verbs, add_ablation, filming_options
from rimrl.cli.tracking import add_tracking


def add(verbs: Verbs) -> None:
    """Add the verb."""
    inspect = verbs.add_parser(
        "inspect",
        help="show what the units of a trained agent do",
        parents=[filming_options(50, "which split to play (default train; the first split of a sequence task)")],
        description="Play episodes of a run and draw which unit of its core is active when, what the units attend to, "
        "and how often each of them works. For a run of rimrl sequence episodes are sequences, by default of its first "
        "split; of frames it also draws what was predicted beside the truth.",
        examples=["rimrl inspect runs/rim", "rimrl inspect runs/rim --split all_novel --episodes 10"],
    )
    inspect.add_argument(
        "--output", type=Path, metavar="DIR", help="gets one folder per split (default RUN/inspection)"
    )
    inspect.add_argument(
        "--record",
        nargs="+",
        default=[],
        metavar="WHAT",
        help="also keep states, observations or values of every step in recording.npz, for probing; name RUN first",
    )
    add_ablation(inspect)
    add_tracking(inspect)
    inspect.set_defaults(verb=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from rimrl.experiments.pretrained import run_folder

    options.run = run_folder(options.run)
    verbs_of([options.run]).inspect_run(options)
    return 0
