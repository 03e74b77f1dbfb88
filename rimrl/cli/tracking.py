"""``--track``: logging to Weights & Biases or MLflow, for the verbs that train, evaluate or draw."""

from __future__ import annotations

import argparse

from rimrl.errors import needs
from rimrl.runs.tracking import TRACKERS, Tracking


def add_tracking(parser: argparse.ArgumentParser) -> None:
    """Say where runs are logged beside TensorBoard."""
    parser.add_argument("--track", choices=list(TRACKERS), help="log there, too (TensorBoard is always written)")
    parser.add_argument(
        "--track-project", metavar="NAME", help="project of wandb or experiment of mlflow (default rimrl)"
    )


def tracking_of(options: argparse.Namespace) -> Tracking | None:
    """What `add_tracking` was given.

    Raises:
        UsageError: If the tracker is not installed, or a project is named without one.
    """
    if options.track is None:
        if options.track_project is not None:
            raise needs("--track-project", "--track", advice=f"see rimrl {options.name} --help")
        return None
    if options.track_project == "":
        raise needs("--track-project", "a name")
    tracking = Tracking(options.track, options.track_project)
    tracking.check_installed()
    return tracking
