"""A run at MLflow. MLflow itself says where to, by ``MLFLOW_TRACKING_URI``; its default is ``mlflow.db`` here."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from rimrl.runs.environment import Status
from rimrl.runs.tracked import Opening

_STATUSES: Mapping[Status, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_MOST_PARAMS = 100  # that MLflow takes at once
_LONGEST_PARAM = 6000


class MlflowTracker:
    """One run of MLflow.

    Args:
        opening: What to begin, or to go on with.

    Attributes:
        id: By which MLflow knows the run.
    """

    def __init__(self, opening: Opening) -> None:
        self._client = MlflowClient()
        if opening.id is None:
            tags = {} if opening.group is None else {"group": opening.group}
            experiment = find_experiment(opening.project)
            run = self._client.create_run(experiment, run_name=opening.name, tags=tags)
        else:
            run = self._client.get_run(opening.id)
            self._client.update_run(opening.id, status="RUNNING")
        self.id: str = run.info.run_id
        self._last = {
            name: max(point.step for point in self._client.get_metric_history(self.id, name))
            for name in run.data.metrics
        }
        self._configure(opening, run.data.params)

    def _configure(self, opening: Opening, there: Mapping[str, str]) -> None:
        """Log the configuration: as parameters, which never change again, and as a file, which does."""
        settings = {_name(key): str(value)[:_LONGEST_PARAM] for key, value in opening.config.flat().items()}
        params = [Param(key, value) for key, value in settings.items() if key not in there]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self.id, params=params[start : start + _MOST_PARAMS])
        self._client.log_text(self.id, opening.config.to_yaml(), "config.yaml")

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Log scalars at a step, but for those that are there from before the run was stopped."""
        self.summarize({name: value for name, value in scalars.items() if step > self._last.get(_name(name), -1)}, step)

    def summarize(self, scalars: Mapping[str, float], step: int) -> None:
        """Log scalars at a step; MLflow shows the latest of them."""
        now = int(time.time() * 1000)
        metrics = [Metric(_name(name), value, now, step) for name, value in scalars.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def show(self, pictures: Mapping[str, Path], step: int) -> None:
        """Put pictures among the artifacts, in folders by their names."""
        for name, file in pictures.items():
            self._client.log_artifact(self.id, str(file), str(PurePosixPath(_name(name)).parent))

    def end(self, status: Status) -> None:
        """Say how the run ended."""
        if status in _STATUSES:
            self._client.set_terminated(self.id, _STATUSES[status])


def begin(opening: Opening) -> MlflowTracker:
    """Begin a run, or go on with one."""
    return MlflowTracker(opening)


def find_experiment(name: str) -> str:
    """The id of an experiment, which is made if it is not there."""
    client = MlflowClient()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # made by another process just now, unless the name is none
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _name(text: str) -> str:
    """A text with what MLflow does not take in names replaced."""
    return re.sub(r"[^\w\-. /:]", "_", text)
