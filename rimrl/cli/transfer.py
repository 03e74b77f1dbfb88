"""``rimrl transfer``: train on sources, transfer to targets, score it."""

from __future__ import annotations

import argparse
from pathlib import Path

from rimrl.cli.parser import Verbs
from rimrl.cli.studies import add_worker_options, check_worker_options, run_study
from rimrl.cli.tables import console
from rimrl.cli.tracking import tracking_of


def add(verbs: Verbs) -> None:
    """Add the verb."""
    transfer = verbs.add_parser(
        "transfer",
        help="train on sources, transfer to targets, score it",
        description="Train sources, then targets by every method (from scratch, fine-tuned, frozen, random, "
        "progressive), and score what the sources were good for; several at a time, here or on a Ray cluster. The same "
        "command goes on with what was interrupted or failed.",
        examples=["rimrl transfer transfer/small --seeds 0..2 --run-dir runs/transfer"],
    )
    transfer.add_argument("config", metavar="CONFIG", help="a shipped name (rimrl list configs) or a YAML file")
    transfer.add_argument("--run-dir", type=Path, metavar="DIR", help="the folder to work in; default runs/CONFIG")
    transfer.add_argument(
        "--seeds", nargs="+", metavar="SEEDS", help="such as 0..4, or 0,1,5 (default: the configuration's)"
    )
    transfer.add_argument("--source-timesteps", type=int, metavar="N", help="environment steps on a source")
    transfer.add_argument("--target-timesteps", type=int, metavar="N", help="environment steps on a target")
    add_worker_options(transfer)
    transfer.set_defaults(verb=_transfer)


def _transfer(options: argparse.Namespace) -> int:
    from rimrl.experiments.sweep_config import parse_seeds
    from rimrl.experiments.transfer import Transfer, default_folder
    from rimrl.experiments.transfer_config import load_transfer
    from rimrl.reporting.transfer import scored

    check_worker_options(options)
    asked = {key: getattr(options, key) for key in ("source_timesteps", "target_timesteps")}
    asked["seeds"] = None if options.seeds is None else parse_seeds(",".join(options.seeds))
    config = load_transfer(options.config, {key: value for key, value in asked.items() if value is not None})
    folder = options.run_dir or default_folder(config)
    transfer = Transfer(config, folder, lambda plan: scored(folder, plan), tracking_of(options))
    if options.plan:
        for given in (trial.given for trial in transfer.all_trials if trial.given is not None):
            print(f"   -  finished     trained before  {given}")
    return run_study(transfer, options, lambda _: _show(folder))


def _show(folder: Path) -> None:
    """Print and draw what is known so far."""
    from rimrl.reporting.transfer import score_folder
    from rimrl.reporting.transfer_plots import save_matrices
    from rimrl.reporting.transfer_table import count_table, score_table

    result = score_folder(folder)
    for table in (score_table(result), count_table(result)):
        console().print(table)
    print(f"scores: {folder / 'transfer.json'}")
    print("pictures:", ", ".join(map(str, save_matrices(result, folder))))
