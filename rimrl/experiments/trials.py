"""One run as a trial of a study: trained from where it is and, if that is asked for, evaluated."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from rimrl.errors import UsageError
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.evaluate import DEFAULT_SEED, evaluate
from rimrl.experiments.played import splits_to_play
from rimrl.experiments.resuming import resume
from rimrl.experiments.run import Run
from rimrl.experiments.train import train
from rimrl.imports import import_modules
from rimrl.runs import checkpoint_files
from rimrl.runs.environment import run_status
from rimrl.runs.evaluations import read_evaluation
from rimrl.runs.tracked import tracked_again
from rimrl.runs.tracking import Tracking, last_names


@dataclass(frozen=True, kw_only=True)
class ExperimentTrial:
    """What trains an experiment.

    Attributes:
        config: The experiment, complete.
        tracking: Where its runs are logged beside TensorBoard, in a group of the study's; None for nowhere.
    """

    config: ExperimentConfig
    tracking: Tracking | None = None

    @property
    def threads(self) -> int:
        """Processor cores that it takes."""
        return self.config.train.num_threads

    @property
    def gpus(self) -> float:
        """GPUs that it takes."""
        return 1.0 if self.config.train.device.startswith("cuda") else 0.0

    def tracked_as(self, study: Path, name: str) -> Tracking | None:
        """Where one of its runs is logged, under that name."""
        return None if self.tracking is None else replace(self.tracking, group=last_names(study), name=name)


@dataclass(frozen=True, kw_only=True)
class RunTrial(ExperimentTrial):
    """A run.

    Attributes:
        name: Its folder, below that of the study.
        needs: Names of the trials that have to be finished first.
        episodes: Evaluate with so many on each split, or more; None for no evaluation.
    """

    name: str
    needs: tuple[str, ...] = ()
    episodes: int | None = None

    def is_done(self, study: Path) -> bool:
        """Whether the run is trained to its end and, if that is asked for, evaluated."""
        return run_status(study / self.name) == "finished" and self._is_evaluated(study / self.name)

    def run(self, study: Path, progress_bar: bool) -> bool:
        """Train and evaluate; what stopped before goes on from its last checkpoint.

        Returns:
            Whether it came to its end.

        Raises:
            UsageError: If the configuration does not fit together, or training meets NaN.
            RunFailedError: If something breaks on the way.
        """
        path = study / self.name
        import_modules(self.config.modules, "the configuration")  # this may be a process of its own
        tracking = self.tracked_as(study, self.name)
        if run_status(path) != "finished" and not carry_on(self.config, path, progress_bar, tracking=tracking):
            return False
        if self.episodes is not None and not self._is_evaluated(path):
            run = Run.open(path)
            with tracked_again(tracking, run) as tracked:
                evaluation = evaluate(run, episodes=self.episodes, progress_bar=progress_bar)
                tracked.evaluation(evaluation)
        return True

    def _is_evaluated(self, path: Path) -> bool:
        """Whether the agent at the end of training has played enough episodes on every split of its suite."""
        if self.episodes is None:
            return True
        try:
            found = read_evaluation(path / "evaluation.json")
        except UsageError:
            return False
        played = {name: split["episodes"] for name, split in found["splits"].items()}
        how = tuple(found.get(key) for key in ("model", "deterministic", "seed"))
        wanted = {split.name for split in splits_to_play(self.config.played, None)}
        enough = played.keys() == wanted and all(number >= self.episodes for number in played.values())
        return how == ("model.zip", False, DEFAULT_SEED) and enough


def carry_on(
    config: ExperimentConfig,
    path: Path,
    progress_bar: bool,
    callback: BaseCallback | None = None,
    tracking: Tracking | None = None,
) -> bool:
    """Train a run, or go on with what is there of it.

    Args:
        config: Of the run; if what is there is of another one, it is trained anew.
        path: Its folder.
        progress_bar: Show progress on standard error.
        callback: Looks on, and may end the training. Default none.
        tracking: Where it is logged beside TensorBoard; default: nowhere.

    Returns:
        Whether it came to its end.

    Raises:
        UsageError: If the configuration does not fit together, or training meets NaN.
        RunFailedError: If something breaks on the way.
    """
    if (path / "config.yaml").is_file():
        run = Run.open(path)
        if checkpoint_files.found(path) and run.config.flat() == config.flat():
            return resume(run, config, progress_bar=progress_bar, callback=callback, tracking=tracking)
        with run.locked():  # it has learned nothing, or something that is not asked for any more
            shutil.rmtree(path)
    elif path.is_dir() and all(file.name.startswith(".") for file in path.iterdir()):
        shutil.rmtree(path)  # killed before anything but a part of the first file was there
    return train(config, path, progress_bar, callback, tracking)[1]
