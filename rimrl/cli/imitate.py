"""``rimrl imitate``: train an agent to do what demonstrations show."""

from __future__ import annotations

import argparse
from pathlib import Path

from rimrl.cli.parser import Verbs, config_among
from rimrl.cli.tracking import tracking_of
from rimrl.cli.train import add_run_options, train_anew
from rimrl.errors import needs


def add(verbs: Verbs) -> None:
    """Add the verb."""
    imitate = verbs.add_parser(
        "imitate",
        help="train an agent to do what demonstrations show",
        usage="rimrl imitate [-h] CONFIG --data DATA [options]",
        description="Train an agent by behaviour cloning on demonstrations in Minari's format (needs rimrl[imitate]). "
        "CONFIG is a shipped name (rimrl list configs) or a YAML file. 'rimrl train --resume' goes on with the run.",
        epilog="Every other key of the configuration is an override, such as --env.id Pendulum-v1 or "
        "--agent.validation_share 0.2; 'rimrl imitate CONFIG --data DATA --print-config' lists them.",
        allow_abbrev=False,
        examples=[
            "rimrl imitate imitation/rim --data halfcheetah/expert-v0 --seed 1 --run-dir runs/cheetah",
            "rimrl imitate imitation/lstm --env.id perturbed/Pendulum --data pendulum/expert-v0",
        ],
    )
    imitate.add_argument("--data", metavar="DATA", help="id of a Minari data set of this machine, or its folder")
    add_run_options(imitate)
    imitate.set_defaults(verb=_imitate, takes_overrides=True)


def _imitate(options: argparse.Namespace) -> int:
    tracking = tracking_of(options)
    given, overrides = config_among(options.overrides)
    for value, name in ((given, "CONFIG"), (options.data, "--data")):
        if value is None:
            raise needs("rimrl imitate", name, advice="see rimrl imitate --help")
    assert given is not None
    folder = Path(options.data)
    data = folder.absolute() if folder.is_dir() else options.data  # the run may be resumed from elsewhere
    return train_anew(options, given, ["--agent.algorithm=bc", f"--agent.data={data}", *overrides], tracking)
