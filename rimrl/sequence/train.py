"""``rimrl sequence``: from a configuration to a run folder with a trained and tested model."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import set_random_seed

from rimrl.cores.base import State
from rimrl.errors import wrong
from rimrl.runs import checkpoint_files
from rimrl.runs.checkpoint_files import Contents
from rimrl.runs.kinds import SEQUENCE
from rimrl.runs.lifecycle import Make, start_run
from rimrl.runs.logs import event_sizes, progress_until
from rimrl.runs.processes import Processes
from rimrl.runs.progress import Bar
from rimrl.runs.progress import progress_bar as bar
from rimrl.runs.resuming import restore_last
from rimrl.runs.rng_state import random_state, restore_rng_state
from rimrl.runs.stopping import Stop
from rimrl.runs.tensors import fitting, optimizer_state, restore_optimizer
from rimrl.runs.tracking import Tracking
from rimrl.runs.validated import Fields
from rimrl.sequence.base import TaskSplit
from rimrl.sequence.config import SequenceConfig
from rimrl.sequence.evaluate import evaluating, score
from rimrl.sequence.run import SequenceRun, device_of, make_model, make_run_task
from rimrl.usage import collapse, worst_share

_EVALUATION_SEED = 2_000_000


def train(
    config: SequenceConfig,
    run_dir: Path | None = None,
    progress_bar: bool = True,
    tracking: Tracking | None = None,
) -> tuple[SequenceRun, bool]:
    """Train a model on a sequence task.

    SIGINT (Ctrl-C) and SIGTERM end the training after the update that runs, and a checkpoint is written.
    `rimrl.sequence.resuming.resume` goes on from there.

    Args:
        config: What to do.
        run_dir: Where to leave the results; default: the first free ``runs/NAME_1``, ``runs/NAME_2``, …
        progress_bar: Show progress on standard error.
        tracking: Where it is logged beside TensorBoard; default: nowhere.

    Returns:
        The run, and whether it was trained to its end.

    Raises:
        UsageError: If the configuration does not fit together, data is missing or the folder cannot be used; no folder
            is left then. Also if training meets NaN.
        RunFailedError: If something breaks on the way, such as the disk.
    """
    return start_run(SequenceRun, config, run_dir, learner_factory(progress_bar), Processes(), tracking)


def learner_factory(progress_bar: bool) -> Make[SequenceRun, SequenceConfig]:
    """What makes learners that show progress, or not."""
    return lambda run, config, _: ModelLearner(run, config, progress_bar)


class ModelLearner:
    """A model with its task, optimiser and checkpoints, as `rimrl.runs.lifecycle.Learner` wants it.

    Args:
        run: Where the results go.
        config: What to do.
        progress_bar: Show progress on standard error.

    Attributes:
        reached: How many updates there have been.

    Raises:
        UsageError: If the configuration does not fit together.
    """

    def __init__(self, run: SequenceRun, config: SequenceConfig, progress_bar: bool) -> None:
        settings = config.train
        th.set_num_threads(settings.num_threads)
        set_random_seed(settings.seed)
        self.config = config
        self.task = make_run_task(config)
        self.task.check_batch_size(settings.batch_size)
        self.model = make_model(config, self.task).to(device_of(config))
        self.optimizer = th.optim.Adam(self.model.parameters(), settings.learning_rate)
        run.core_backend = self.model.core.backend
        self.reached = 0
        self._logger = Logger(None, [])
        self._run = run
        self._shows_progress = progress_bar
        self._units = self.model.core.num_units if self.model.core.num_units > 1 else 0
        self._since_log = _Sums()
        self._elapsed = 0.0
        self._chance = random_state()
        self._stepping = False
        self._written = -1
        self._state: State | None = None  # after the last update, where the next one continues it

    @property
    def metrics(self) -> tuple[str, ...]:
        """The loss and, where it is evaluated on the way, the score on every split."""
        evaluated = self.task.splits if self.config.train.eval_freq else ()
        return ("train/loss", *(self._score_name(split) for split in evaluated))

    def _score_name(self, split: TaskSplit) -> str:
        return f"eval/{self.task.metric}_{split.name}"

    def log_to(self, logger: Logger) -> None:
        """Log there from now on."""
        self._logger = logger

    def learn(self, stop: Stop) -> bool:
        """Learn up to the configured update, or until asked to stop.

        Returns:
            Whether it came to its end.

        Raises:
            UsageError: If it met NaN.
        """
        settings = self.config.train
        begun = time.monotonic() - self._elapsed
        with bar(self._run.path.name, settings.num_updates, self.reached, "update", self._shows_progress) as progress:
            while self.reached < settings.num_updates and not stop.requested:
                self._learn_once()
                self._elapsed = time.monotonic() - begun
                self._log(progress)
                if settings.resume_freq and self.reached % settings.resume_freq == 0:
                    self.write_checkpoint()
                progress.update()
        if not self._is_finite():
            raise wrong("the weights", "are not finite", "a smaller train.learning_rate may help", "not_finite")
        return self.reached >= settings.num_updates

    def _learn_once(self) -> None:
        settings = self.config.train
        self._chance = random_state()
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        batch = self.task.training_batch(settings.seed, self.reached, settings.batch_size)
        self.model.train()
        begun = self._state if self.task.continues(self.reached, settings.batch_size) else None
        loss, ended = self.task.loss_from(self.model, batch.to(device_of(self.config)), begun)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = th.nn.utils.clip_grad_norm_(self.model.parameters(), settings.max_grad_norm)
        figures = th.stack([loss.detach(), norm]).tolist()
        if not all(map(math.isfinite, figures)):
            what = "loss" if not math.isfinite(figures[0]) else "gradient"
            raise wrong(f"the {what}", "is not finite", "a smaller train.learning_rate may help", "not_finite")
        self._stepping = True
        self.optimizer.step()
        self._state = None if ended is None else (ended[0].detach(), ended[1].detach())
        self._stepping = False
        self.reached += 1
        self._chance = random_state()
        self._since_log.add(figures)

    def _learning_rate(self) -> float:
        settings = self.config.train
        if settings.learning_rate_schedule == "constant":
            return settings.learning_rate
        return settings.learning_rate * (1.0 - self.reached / settings.num_updates)

    # -- logs ----------------------------------------------------------------------------------------------------------

    def _log(self, progress: Bar) -> None:
        settings = self.config.train
        at_end = self.reached == settings.num_updates
        evaluates = bool(settings.eval_freq) and (self.reached % settings.eval_freq == 0 or at_end)
        if self.reached % settings.log_freq and not evaluates and not at_end:
            return
        logger = self._logger
        loss, norm = self._since_log.means()
        logger.record("train/loss", loss)
        logger.record("train/grad_norm", norm)
        logger.record("train/learning_rate", self.optimizer.param_groups[0]["lr"])
        if self._units:
            shares, layers = self._active(), self.model.core.units_per_layer
            for unit, share in enumerate(shares):
                logger.record(f"units/active_{unit}", share)
            logger.record("units/collapse", collapse(shares, layers))
            logger.record("units/worst_share", worst_share(shares, layers))
        if evaluates:
            for split in self.task.splits:
                scores = score(self.task, self.model, split, _EVALUATION_SEED, settings.eval_sequences)
                logger.record(self._score_name(split), float(scores.metric.mean()))
        logger.record(SEQUENCE.column, self.reached)
        logger.record("time/time_elapsed", self._elapsed)
        logger.dump(self.reached)
        self._since_log = _Sums()
        progress.set_postfix({"loss": f"{loss:.4f}"}, refresh=False)

    def _active(self) -> list[float]:
        """How often each unit is active on a few sequences of the first split."""
        batch = self.task.evaluation_batch(self.task.splits[0], _EVALUATION_SEED, 0, 8)
        with evaluating(self.model):
            _, _, trace = self.model(batch.inputs.to(device_of(self.config)), return_trace=True)
        shares: list[float] = trace.active.float().mean((0, 1)).tolist()
        return shares

    def save(self) -> None:
        """Save the weights; where they are not those of an update remove older ones, as ``--resume`` needs none."""
        if not self._stepping and self._is_finite():
            self._run.save_model(self.model)
        else:
            self._run.model_file.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the logs."""
        self._logger.close()

    def _is_finite(self) -> bool:
        return all(bool(weight.isfinite().all()) for weight in self.model.state_dict().values())

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def write_checkpoint(self) -> None:
        """Write where the training is, between two updates; not where weights are not finite.

        Raises:
            OSError: If it cannot be written.
        """
        if self.reached == self._written or not self._is_finite():
            return
        weights = self.model.state_dict()
        chance, chance_tensors = self._chance
        optimizer_tensors, optimizer_numbers = optimizer_state(self.optimizer)
        tensors = {f"model.{name}": weight for name, weight in weights.items()} | chance_tensors | optimizer_tensors
        tensors |= {f"state.{number}": part for number, part in enumerate(self._state or ())}
        state = {
            "num_timesteps": self.reached,
            "elapsed": self._elapsed,
            "random": chance,
            "optimizer": optimizer_numbers,
            "since_log": self._since_log.to_json(),
            "identity": self.config.identity(),
            "events": event_sizes(self._run.path),
        }
        checkpoint_files.write(
            self._run.path,
            self.reached,
            Contents(
                {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
                state,
                progress_until(self._run.path, self.reached, SEQUENCE),
            ),
        )
        self._written = self.reached

    def write_pending(self) -> None:
        """`write_checkpoint`, unless an update has been broken off."""
        if not self._stepping:
            self.write_checkpoint()

    def restore(self, accept_changes: bool, changes: Sequence[str]) -> tuple[Contents, str | None]:
        """Go back to the last good checkpoint; see `rimrl.runs.lifecycle.Learner.restore`."""
        known = None if accept_changes else self.config.identity()
        _, contents, _ = restore_last(self._run.path, self._restore, known, changes=changes)
        return contents, None

    def truncate_logs(self, contents: Contents) -> None:
        """There are no other logs than those of every run."""

    def _restore(self, contents: Contents, fields: Fields) -> None:
        """Bring this training to where another was.

        Raises:
            DamagedError: If something does not fit.
        """
        own = self.model.state_dict()
        self.model.load_state_dict({name: fitting(contents.tensors, f"model.{name}", own[name]) for name in own})
        restore_optimizer(self.optimizer, contents.tensors, fields.nested("optimizer"))
        self._since_log = _Sums.from_json(fields.nested("since_log"))
        self._elapsed = max(0.0, fields.number("elapsed"))
        self.reached = self._written = fields.integer("num_timesteps")
        batch_size = self.config.train.batch_size
        if self.task.continues(self.reached, batch_size):
            like = self.model.core.initial_state(batch_size)
            h, c = (fitting(contents.tensors, f"state.{number}", part) for number, part in enumerate(like))
            self._state = h, c
        restore_rng_state(fields.nested("random"), contents.tensors)
        self._chance = random_state()


class _Sums:
    """Loss and norm of the gradient over the updates since the last row of the log."""

    def __init__(self) -> None:
        self._count = 0
        self._sums = [0.0, 0.0]

    def add(self, figures: list[float]) -> None:
        self._count += 1
        self._sums = [total + figure for total, figure in zip(self._sums, figures, strict=True)]

    def means(self) -> list[float]:
        return [total / max(1, self._count) for total in self._sums]

    def to_json(self) -> dict[str, Any]:
        return {"count": self._count, "sums": self._sums}

    @classmethod
    def from_json(cls, fields: Fields) -> _Sums:
        sums = cls()
        sums._count = fields.integer("count")
        sums._sums = fields.numbers("sums", 2)
        return sums
