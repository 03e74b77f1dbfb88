"""Where a run is logged beside TensorBoard: in Weights & Biases or MLflow."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rimrl.errors import not_installed, unknown_name


@dataclass(frozen=True)
class About:
    """What differs between trackers before they are imported.

    Attributes:
        variable: The environment variable that names the project.
        advice: What may help where it does not begin.
    """

    variable: str
    advice: str


TRACKERS: Mapping[str, About] = {
    "wandb": About(
        "WANDB_PROJECT", "log in with 'wandb login', or keep the run on this machine with WANDB_MODE=offline"
    ),
    "mlflow": About("MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI says where it keeps its runs"),
}
"""The trackers by their names; each name is also the package that is imported, and the extra that installs it."""


@dataclass(frozen=True)
class Tracking:
    """Where a run is logged beside TensorBoard. It is no part of the configuration: the run is the same without it.

    Attributes:
        tracker: One of `TRACKERS`.
        project: The project of wandb, or the experiment of mlflow. Default: the one that the run is in, else what
            ``WANDB_PROJECT`` or ``MLFLOW_EXPERIMENT_NAME`` says, else ``rimrl``.
        group: The study that the run belongs to.
        name: How the tracker calls the run; default: the last two names of its folder.
    """

    tracker: str
    project: str | None = None
    group: str | None = None
    name: str | None = None

    def check_installed(self) -> None:
        """Refuse a tracker that is not there.

        Raises:
            UsageError: Says how to install it.
        """
        if self.tracker not in TRACKERS:
            raise unknown_name("tracker", self.tracker, TRACKERS)
        if importlib.util.find_spec(self.tracker) is None:
            raise not_installed(f"--track {self.tracker}", self.tracker, f"rimrl[{self.tracker}]")


def options(tracking: Tracking | None) -> str:
    """The option of a command that goes on with it, with a space before it; the project is in the run's folder."""
    return "" if tracking is None else f" --track {tracking.tracker}"


def last_names(path: Path) -> str:
    """The last two names of a folder, such as ``recall/rim_1``."""
    return "/".join(path.absolute().parts[-2:])
