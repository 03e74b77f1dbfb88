"""``rimrl sequence``: from a configuration to a run folder with a trained and tested model."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import set_random_seed

from rimrl.errors import UsageError
from rimrl.runs import checkpoint_files
from rimrl.runs.chance import put_back_random, random_state
from rimrl.runs.checkpoint_files import Contents
from rimrl.runs.device import check_device
from rimrl.runs.environment import Status
from rimrl.runs.failures import explained
from rimrl.runs.folder import default_run_dir
from rimrl.runs.logs import event_sizes, new_logger, progress_until
from rimrl.runs.progress import progress_bar as bar
from rimrl.runs.stopping import graceful_stop
from rimrl.runs.tensors import fitting, optimizer_state, put_back_optimizer
from rimrl.runs.validated import Fields
from rimrl.sequence.config import SequenceConfig
from rimrl.sequence.evaluate import evaluating, score
from rimrl.sequence.run import SequenceRun, device_of, make_model, make_run_task
from rimrl.usage import collapse, worst_share

_EVALUATION_SEED = 2_000_000


def train(config: SequenceConfig, run_dir: Path | None = None, progress_bar: bool = True) -> tuple[SequenceRun, bool]:
    """Train a model on a diagnostic.

    SIGINT (Ctrl-C) and SIGTERM end the training after the update that runs, and a checkpoint is written.
    `rimrl.sequence.resuming.resume` goes on from there.

    Args:
        config: What to do.
        run_dir: Where to leave the results; default: the first free ``runs/NAME_1``, ``runs/NAME_2``, …
        progress_bar: Show progress on standard error.

    Returns:
        The run, and whether it was trained to its end.

    Raises:
        UsageError: If the configuration does not fit together, data is missing or the folder cannot be used; no folder
            is left then. Also if training meets NaN.
        RunFailedError: If something breaks on the way, such as the disk.
    """
    check_device(config.train.device)
    path = default_run_dir(config) if run_dir is None else run_dir
    with SequenceRun.create(path, config) as run:
        training = Training(run, config, progress_bar)
        training.logger = new_logger(run.path)
    with run.locked():
        return run, training.learn()


class Training:
    """A model with its task, optimiser and checkpoints, ready to learn.

    Args:
        run: Where the results go.
        config: What to do.
        progress_bar: Show progress on standard error.

    Attributes:
        update: How many updates there have been.
        logger: Where figures go.

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
        self.update = 0
        self.logger = Logger(None, [])
        self._run = run
        self._progress_bar = progress_bar
        self._units = self.model.core.num_units if self.model.core.num_units > 1 else 0
        self._since_log = _Sums()
        self._elapsed = 0.0
        self._chance = random_state()
        self._stepping = False
        self._written = -1

    def learn(self) -> bool:
        """Learn up to the configured update. Whatever stops it, what can be left is left.

        Returns:
            Whether it came to its end.

        Raises:
            UsageError: If it met NaN.
            RunFailedError: If something broke.
        """
        run, total = self._run, self.config.train.num_updates
        status: Status = "failed"
        failure: Exception | None = None
        begun = time.monotonic() - self._elapsed
        progress = bar(run.path.name, total, self.update, unit="update") if self._progress_bar else None
        try:
            with graceful_stop() as stop:
                while self.update < total and not stop.requested:
                    self._learn_once()
                    self._elapsed = time.monotonic() - begun
                    self._log(progress)
                    if self.config.train.resume_freq and self.update % self.config.train.resume_freq == 0:
                        self.write_checkpoint()
                    if progress is not None:
                        progress.update()
            self._require_finite()
            self.write_checkpoint()
            status = "finished" if self.update >= total else "interrupted"
        except Exception as error:
            failure = error
            if not self._stepping:
                with suppress(Exception):  # on a full disk the checkpoint before it has to do
                    self.write_checkpoint()
        finally:
            if progress is not None:
                progress.close()
        try:
            self._save_model()
        except OSError as error:
            status, failure = "failed", failure or error
        try:
            run.set_status(status, self.update)
        except UsageError as error:
            failure = failure or error
        finally:
            self.logger.close()
        if failure is not None:
            raise explained(failure, run.path, self.update, "rimrl sequence", "train.learning_rate") from failure
        return status == "finished"

    def _learn_once(self) -> None:
        settings = self.config.train
        self._chance = random_state()
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        batch = self.task.training_batch(settings.seed, self.update, settings.batch_size)
        self.model.train()
        loss = self.task.loss(self.model, batch.to(device_of(self.config)))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = th.nn.utils.clip_grad_norm_(self.model.parameters(), settings.max_grad_norm)
        figures = th.stack([loss.detach(), norm]).tolist()
        if not all(map(math.isfinite, figures)):
            what = "loss" if not math.isfinite(figures[0]) else "gradient"
            raise UsageError(f"the {what} is not finite; a smaller train.learning_rate may help")
        self._stepping = True
        self.optimizer.step()
        self._stepping = False
        self.update += 1
        self._chance = random_state()
        self._since_log.add(figures)

    def _learning_rate(self) -> float:
        settings = self.config.train
        if settings.learning_rate_schedule == "constant":
            return settings.learning_rate
        return settings.learning_rate * (1.0 - self.update / settings.num_updates)

    # -- logs ----------------------------------------------------------------------------------------------------------

    def _log(self, progress: Any) -> None:
        settings = self.config.train
        at_end = self.update == settings.num_updates
        evaluates = bool(settings.eval_freq) and (self.update % settings.eval_freq == 0 or at_end)
        if self.update % settings.log_freq and not evaluates and not at_end:
            return
        logger = self.logger
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
                logger.record(f"eval/{self.task.metric}_{split.name}", float(scores.metric.mean()))
        logger.record("time/total_timesteps", self.update)
        logger.record("time/time_elapsed", self._elapsed)
        logger.dump(self.update)
        self._since_log = _Sums()
        if progress is not None:
            progress.set_postfix({"loss": f"{loss:.4f}"}, refresh=False)

    def _active(self) -> list[float]:
        """How often each unit is active on a few sequences of the first split."""
        batch = self.task.evaluation_batch(self.task.splits[0], _EVALUATION_SEED, 0, 8)
        with evaluating(self.model):
            _, _, trace = self.model(batch.inputs.to(device_of(self.config)), return_trace=True)
        shares: list[float] = trace.active.float().mean((0, 1)).tolist()
        return shares

    def _save_model(self) -> None:
        if not self._stepping and self._is_finite():
            self._run.save_model(self.model)
        else:  # an older one is not of this update; --resume goes on from a checkpoint
            self._run.model_file.unlink(missing_ok=True)

    def _require_finite(self) -> None:
        if not self._is_finite():
            raise UsageError("the weights are not finite; a smaller train.learning_rate may help")

    def _is_finite(self) -> bool:
        return all(bool(weight.isfinite().all()) for weight in self.model.state_dict().values())

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def write_checkpoint(self) -> None:
        """Write where the training is, between two updates; not where weights are not finite.

        Raises:
            OSError: If it cannot be written.
        """
        if self.update == self._written or not self._is_finite():
            return
        weights = self.model.state_dict()
        chance, chance_tensors = self._chance
        optimizer_tensors, optimizer_numbers = optimizer_state(self.optimizer)
        tensors = {f"model.{name}": weight for name, weight in weights.items()} | chance_tensors | optimizer_tensors
        state = {
            "num_timesteps": self.update,
            "elapsed": self._elapsed,
            "random": chance,
            "optimizer": optimizer_numbers,
            "since_log": self._since_log.to_json(),
            "identity": self.config.identity(),
            "events": event_sizes(self._run.path),
        }
        checkpoint_files.write(
            self._run.path,
            self.update,
            Contents(
                {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
                state,
                progress_until(self._run.path / "progress.csv", self.update),
            ),
        )
        self._written = self.update

    def put_back(self, contents: Contents, fields: Fields) -> None:
        """Bring this training to where another was.

        Raises:
            DamagedError: If something does not fit.
        """
        own = self.model.state_dict()
        self.model.load_state_dict({name: fitting(contents.tensors, f"model.{name}", own[name]) for name in own})
        put_back_optimizer(self.optimizer, contents.tensors, fields.nested("optimizer"))
        self._since_log = _Sums.from_json(fields.nested("since_log"))
        self._elapsed = max(0.0, fields.number("elapsed"))
        self.update = self._written = fields.integer("num_timesteps")
        put_back_random(fields.nested("random"), contents.tensors)
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
