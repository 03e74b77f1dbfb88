"""A run at Weights & Biases. wandb itself says where to, by ``wandb login``, ``WANDB_MODE`` and ``WANDB_DIR``."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import wandb

from rimrl.runs.environment import Status
from rimrl.runs.tracked import Opening

_EXIT_CODES: Mapping[Status, int] = {"finished": 0, "failed": 1, "interrupted": 130, "running": 0}


class WandbTracker:
    """One run of wandb.

    wandb takes steps in rising order. After a resumption its run stands behind the last step that it has, and what
    comes again before that is left out.

    Args:
        opening: What to begin, or to go on with.

    Attributes:
        id: By which wandb knows the run.
    """

    def __init__(self, opening: Opening) -> None:
        self.id = opening.id or uuid4().hex
        if opening.id is not None:
            time.sleep(1.0)  # wandb names its folder by id and second, so that no part lands in the folder of another
        self._run = wandb.init(
            project=opening.project,
            id=self.id,
            name=opening.name,
            group=opening.group,
            resume="allow",
            reinit="create_new",
            # wandb would take the folder in which it was first used.
            dir=os.environ.get("WANDB_DIR") or str(Path.cwd()),
            config={"name": opening.config.name, **opening.config.groups()},
            allow_val_change=True,
            # What is printed belongs to the progress bar.
            settings=wandb.Settings(console="off"),
        )

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Log scalars at a step, unless the run is past it."""
        if step >= self._run.step:
            self._run.log(dict(scalars), step=step)

    def summarize(self, scalars: Mapping[str, float], step: int) -> None:
        """Put scalars into the summary."""
        self._run.summary.update(dict(scalars))

    def show(self, pictures: Mapping[str, Path], step: int) -> None:
        """Log pictures at a step, or behind the last one that the run has."""
        images = {name: wandb.Image(str(file)) for name, file in pictures.items()}
        self._run.log(images, step=max(step, self._run.step))

    def end(self, status: Status) -> None:
        """Send what is left."""
        self._run.finish(exit_code=_EXIT_CODES[status])


def begin(opening: Opening) -> WandbTracker:
    """Begin a run, or go on with one."""
    return WandbTracker(opening)
