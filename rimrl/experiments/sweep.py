"""``rimrl sweep``: one experiment over seeds and values of its keys; a study, which ``rimrl compare`` reads.

sweep.yaml        what was asked for, and every experiment complete; ``rimrl sweep FOLDER`` goes on with it
sweep.json        every trial with its state
KEY=VALUE/…/seed_N         run folders
logs/KEY=VALUE/…/seed_N.*  what each trial said, and its attempts
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from rimrl.errors import UsageError
from rimrl.experiments.config_files import config_from
from rimrl.experiments.evaluate import MOST_EPISODES
from rimrl.experiments.run import Run
from rimrl.experiments.sweep_config import FILE, LARGEST, MOST_VALUES, SweepConfig, check_same, merged, read
from rimrl.experiments.sweep_grid import SweepTrial, check_trials, make_trials
from rimrl.files import refuse_links
from rimrl.reading import read_json
from rimrl.runs.environment import run_status
from rimrl.runs.tracking import Tracking
from rimrl.runs.yaml_files import read_yaml
from rimrl.studies.study import Study


class Sweep(Study[SweepTrial]):
    """A sweep in its folder.

    Args:
        asked: What to do. Seeds and values are added to those of a sweep that is there.
        folder: Where its runs are, or will be.
        episodes: Evaluate each trial with so many episodes on each split; None for no evaluation.
        check: Make every environment and agent that is yet to be trained, to see whether that can be done.
        progress_bar: Show on standard error how far that is, if it is a terminal.
        tracking: Where the runs are logged beside TensorBoard; default: nowhere.

    Raises:
        UsageError: For what cannot be trained, and for a folder that holds something else or a sweep with other
            settings. Nothing is written then.
    """

    kind = "sweep"
    noun = "trial"

    def __init__(
        self,
        asked: SweepConfig,
        folder: Path,
        episodes: int | None = None,
        check: bool = True,
        progress_bar: bool = False,
        tracking: Tracking | None = None,
    ) -> None:
        there = self.is_in(folder)
        self.episodes = episodes
        self.config = merged(read(folder), asked, folder) if there else asked
        trials = make_trials(self.config, episodes)
        super().__init__(folder, [replace(trial, tracking=tracking) for trial in trials])
        if there:
            self._check_experiments()
        if check:
            fresh = (trial for trial in self.trials if not (folder / trial.name / "config.yaml").is_file())
            check_trials(fresh, progress_bar)

    def description(self) -> str:
        """What was asked for, and every experiment complete."""
        experiments: dict[str, Any] = {}
        for trial in self.trials:
            experiments.setdefault(trial.experiment, yaml.safe_load(trial.config.to_yaml()))
        return yaml.safe_dump(asdict(self.config) | {"experiments": experiments}, sort_keys=False)

    def summary(self) -> dict[str, Any]:
        """Every trial with its state."""
        progress = self.progress()
        return {
            "time": datetime.now(UTC).isoformat("T", "seconds"),
            "config": self.config.config,
            "episodes": self.episodes,
            "states": dict(Counter(each["state"] for each in progress.values())),
            "trials": [
                {
                    "number": trial.number,
                    "path": trial.name,
                    "settings": dict(trial.settings),
                    "seed": trial.seed,
                    "trained": run_status(self.folder / trial.name) == "finished",
                    **progress[trial.name],
                }
                for trial in self.trials
            ],
        }

    def _check_experiments(self) -> None:
        """Refuse trials that are not what they were: a configuration file, or a default, has changed."""
        found = read_yaml(self.folder / FILE, False, LARGEST, MOST_VALUES).get("experiments")
        checked: set[str] = set()
        for trial in self.trials:
            if trial.experiment not in checked and isinstance(found, dict) and trial.experiment in found:
                checked.add(trial.experiment)
                before = config_from(found[trial.experiment], self.folder / FILE)
                before = replace(before, train=replace(before.train, seed=trial.seed))
                check_same(self.folder, trial.experiment, before.flat(), trial.config.flat())
            refuse_links(self.folder / trial.name, self.folder)
            if (self.folder / trial.name / "config.yaml").is_file():
                run = Run.open(self.folder / trial.name)
                check_same(self.folder, trial.name, run.config.flat(), trial.config.flat())


def episodes_before(folder: Path) -> int | None:
    """With how many episodes the sweep in a folder was last to be evaluated; None if it was not."""
    try:
        found = read_json(folder / "sweep.json", follow=False)
    except UsageError:
        return None
    episodes = found.get("episodes") if isinstance(found, dict) else None
    well = isinstance(episodes, int) and not isinstance(episodes, bool) and 0 < episodes <= MOST_EPISODES
    return episodes if well else None
