"""What Optuna knows of a search: which values to try next, and whether a trial is worth going on.

Needs ``pip install 'rimrl[tune]'``. Everything that happened is in ``optuna.log`` in the search's folder, which
`optuna.storages.JournalStorage` reads and which any process may add to. Trial N of the folder is Optuna's trial N.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rimrl.errors import UsageError, damaged, not_installed
from rimrl.experiments.tune_space import Choice, Dimension, Space
from rimrl.files import check_writable, locked
from rimrl.reading import MEGABYTE
from rimrl.studies.record import LOGS

if TYPE_CHECKING:
    import optuna

JOURNAL = "optuna.log"
SAMPLERS = ("tpe", "random")
_NAME = "rimrl"
_RESULT = "result"
_LARGEST = 256 * MEGABYTE
# Seconds that another process may take to ask for values, or to write a line.
_PATIENCE = 120.0
# Trials that are never pruned, and the part of training in which none is.
_UNPRUNED_TRIALS = 5
_UNPRUNED_PART = 0.2


@dataclass(frozen=True)
class Strategy:
    """How a search goes on.

    Attributes:
        space: What is searched.
        start: Values of the first trial, as far as they lie in the space.
        sampler: One of `SAMPLERS`.
        seed: Of the sampler.
        pruning: Whether trials that do worse than the median of those before them are ended.
        points: Of how many points each learning curve is made.
    """

    space: Space
    start: Mapping[str, Any]
    sampler: str = "tpe"
    seed: int = 0
    pruning: bool = True
    points: int = 20


class Search:
    """A search in its folder, as one trial sees it.

    Args:
        folder: Of the search.
        strategy: How it goes on.
        number: Of the trial.

    Raises:
        UsageError: If Optuna is not installed, or its file is damaged or cannot be written.
    """

    def __init__(self, folder: Path, strategy: Strategy, number: int) -> None:
        self._folder = folder
        self._strategy = strategy
        self._number = number
        optuna = import_optuna()
        check_writable(folder / JOURNAL, folder)
        with locked(folder / LOGS / ".asking", f"{folder} is in use", patience=_PATIENCE):
            try:
                self._storage = _storage(folder)
                study = optuna.create_study(
                    storage=self._storage,
                    study_name=_NAME,
                    load_if_exists=True,
                    direction="maximize",
                    sampler=_sampler(strategy, number),
                    pruner=_pruner(strategy),
                )
                for place in range(len(study.trials), number + 1):
                    study.enqueue_trial({} if place else dict(strategy.start))
                self._study = study
                self._trial = self._begun()
            except (ValueError, KeyError, AssertionError, AttributeError, TypeError) as error:
                raise _damaged(folder, error) from None

    @property
    def values(self) -> dict[str, Any]:
        """What the trial tries: the same however often it is asked."""
        return dict(self._trial.params)

    @property
    def result(self) -> dict[str, Any] | None:
        """How the trial ended; None if it has not."""
        frozen = self._study.trials[self._number]
        if not frozen.state.is_finished():
            return None
        found = frozen.user_attrs.get(_RESULT)
        if not isinstance(found, dict):
            raise _damaged(self._folder, f"trial {self._number} has ended and does not say how")
        return found

    def is_hopeless(self, step: int, value: float) -> bool:
        """Note a point of the trial's learning curve, and say whether the trial is to be pruned.

        Args:
            step: Which point; one that is known is not noted again.
            value: What it is.
        """
        last = max(self._study.trials[self._number].intermediate_values, default=-1)
        if step > last:
            self._trial.report(value, step)
        return self._strategy.pruning and step >= last and self._trial.should_prune()

    def finish(self, result: Mapping[str, Any], value: float | None) -> None:
        """Note how the trial ended.

        Args:
            result: What is to be kept of it.
            value: What it reached, to be as large as possible; None if it was pruned, or could not be trained.
        """
        state = import_optuna().trial.TrialState
        self._trial.set_user_attr(_RESULT, dict(result))
        if value is None:
            self._study.tell(self._number, state=state.PRUNED)
        else:
            self._study.tell(self._number, value)

    def _begun(self) -> optuna.trial.Trial:
        """The trial as Optuna has it, with values drawn for it now or, if it was stopped, before."""
        of_trials, storage = import_optuna().trial, self._storage
        place = storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(_NAME), self._number)
        state = storage.get_trial(place).state
        if state == of_trials.TrialState.WAITING:
            storage.set_trial_state_values(place, of_trials.TrialState.RUNNING)
        trial: optuna.trial.Trial = of_trials.Trial(self._study, place)
        if not state.is_finished():
            for key, dimension in self._strategy.space.items():
                _draw(trial, key, dimension)
        return trial


def _damaged(folder: Path, why: object) -> UsageError:
    return damaged(folder / JOURNAL, why, "restore it, or choose another --run-dir")


def import_optuna() -> Any:
    """Optuna, quiet.

    Raises:
        UsageError: If it is not installed; says how to.
    """
    try:
        import optuna  # noqa: PLC0415 (an extra)
    except ImportError:
        raise not_installed("rimrl tune", "Optuna", "rimrl[tune]") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _sampler(strategy: Strategy, number: int) -> Any:
    """A sampler whose draws depend on the seed, the trial's number and what is known of other trials, on no process."""
    samplers = import_optuna().samplers
    seed = int(np.random.SeedSequence([strategy.seed, number]).generate_state(1)[0])
    return samplers.TPESampler(seed=seed) if strategy.sampler == "tpe" else samplers.RandomSampler(seed=seed)


def _pruner(strategy: Strategy) -> Any:
    pruners = import_optuna().pruners
    warmup = round(_UNPRUNED_PART * strategy.points)
    return pruners.MedianPruner(_UNPRUNED_TRIALS, warmup) if strategy.pruning else pruners.NopPruner()


def _draw(trial: optuna.trial.Trial, key: str, dimension: Dimension) -> None:
    """Draw a value, unless the trial has one."""
    if isinstance(dimension, Choice):
        trial.suggest_categorical(key, dimension.values)
    elif dimension.whole:
        trial.suggest_int(key, int(dimension.low), int(dimension.high), log=dimension.log)
    else:
        trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)


def _storage(folder: Path) -> Any:
    storages, journal = import_optuna().storages, folder / JOURNAL
    lock = _Lock(folder)
    lock.acquire()
    try:
        _cut_half_line(journal)
    finally:
        lock.release()
    backend = storages.journal.JournalFileBackend(str(journal), lock_obj=lock)
    return storages.JournalStorage(backend)


class _Lock:
    """A lock that goes with its process; those of Optuna stay for half a minute where it was killed."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / LOGS / ".journal"
        self._held = ExitStack()

    def acquire(self) -> bool:
        self._held.enter_context(locked(self._file, f"{self._file} is locked", patience=_PATIENCE))
        return True

    def release(self) -> None:
        self._held.close()


def _cut_half_line(file: Path) -> None:
    """Take out what a process that was killed did not come to write to its end."""
    if not file.is_file():
        return
    if file.stat().st_size > _LARGEST:
        raise _damaged(file.parent, f"more than {_LARGEST // MEGABYTE} MB")
    with file.open("r+b") as stream:
        content = stream.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            stream.truncate(whole)
            os.fsync(stream.fileno())
