"""``rimrl train --resume RUN``: a run that was stopped goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from stable_baselines3.common.logger import Logger

from rimrl.agents.distributed import Ranks, join
from rimrl.errors import UsageError
from rimrl.experiments.checkpoints import cut_back, told
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.ranks import at_once, check_same
from rimrl.experiments.run import Run
from rimrl.experiments.train import Training, writes
from rimrl.runs.checkpoint_files import found
from rimrl.runs.device import check_device
from rimrl.runs.logs import appending_logger, new_logger
from rimrl.runs.resuming import accepted_changes, check_not_past


def resume(
    run: Run, config: ExperimentConfig | None = None, accept_changes: bool = False, progress_bar: bool = True
) -> bool:
    """Go on with a run from its last good checkpoint.

    On the CPU, with environments that can be replayed (`rimrl.envs.replay`), the result is that of a run that was never
    stopped, bit for bit; a line on standard error tells where it is not. Logs are cut back to the checkpoint, so that
    nothing is in them twice.

    Args:
        run: The run.
        config: How to go on; default: as before. More ``total_timesteps`` and another ``resume_freq`` or
            ``checkpoint_freq`` are taken as they are.
        accept_changes: Take other differences, too.
        progress_bar: Show progress on standard error.

    Returns:
        Whether it was trained to its end.

    Raises:
        UsageError: If the run is finished, is being trained, has no good checkpoint, is past the total, or differs in
            what matters.
        RunFailedError: If something breaks on the way.
    """
    ranks = join()
    config = run.config if config is None else replace(config, name=run.config.name)
    if ranks is not None:
        check_same(config, ranks)
        run.processes = ranks.size
    changes = _checked_changes(run, config, accept_changes)
    check_device(config.train.device)
    with _locked(run, ranks):
        if not told(ranks, lambda: found(run.path)):
            return _start_again(run, config, progress_bar, ranks)
        training = Training(run, config, progress_bar, append=True, ranks=ranks)
        try:
            training.agent.set_logger(Logger(None, []))  # holds what waits to be logged until the logs are cut back
            shaping = [change for change in changes if change.startswith(("env.", "core.", "agent."))]
            contents, inexact = training.checkpoints.resume(accept_changes, shaping)
            reached = training.agent.num_timesteps
            before, total = run.config.train.total_timesteps, config.train.total_timesteps
            check_not_past(run.path, reached, total, before, "steps", "--total-timesteps")
            run.config = config
            with at_once(ranks):
                if writes(ranks):
                    run.note_resumption(reached, inexact is None, changes, contents.progress)
                    cut_back(run.path, contents)
                    _append_logs(training, run)
        except BaseException:
            training.close()
            raise
        if inexact is not None and writes(ranks):
            print(
                f"rimrl: episodes begin anew at step {reached}, so that the result will not be, bit for bit, that of "
                f"an uninterrupted run: {inexact}",
                file=sys.stderr,
            )
        return training.learn()


@contextmanager
def _locked(run: Run, ranks: Ranks | None) -> Iterator[None]:
    """`Run.locked`; of several processes the first one holds the lock."""
    with ExitStack() as stack:
        with at_once(ranks):
            if writes(ranks):
                stack.enter_context(run.locked())
        yield


def _checked_changes(run: Run, config: ExperimentConfig, accept_changes: bool) -> list[str]:
    """What differs from the run's own configuration.

    Raises:
        UsageError: If that must be accepted first, or nothing is left to do.
    """
    last = "train.total_timesteps" if config.agent.learning_rate_schedule == "linear" else None
    changes = accepted_changes(run.path, run.config.flat(), config.flat(), config.kind.free, last, accept_changes)
    before, total = run.config.train.total_timesteps, config.train.total_timesteps
    if run.status == "finished" and total <= before:
        raise UsageError(f"{run.path} is finished, at {before} steps; give a larger --total-timesteps to go on")
    return changes


def _start_again(run: Run, config: ExperimentConfig, progress_bar: bool, ranks: Ranks | None) -> bool:
    logger = Logger(None, [])
    with ExitStack() as preparing:
        with at_once(ranks):
            if writes(ranks):
                preparing.enter_context(run.restarting(config))
        training = Training(run, config, progress_bar, ranks=ranks)
        try:
            with at_once(ranks):
                preparing.close()
        except BaseException:
            training.close()
            raise
    with at_once(ranks):
        if writes(ranks):
            logger = new_logger(run.path)
    training.agent.set_logger(logger)
    return training.learn()


def _append_logs(training: Training, run: Run) -> None:
    pending, logger = training.agent.logger, appending_logger(run.path)
    logger.name_to_value, logger.name_to_count = pending.name_to_value, pending.name_to_count
    logger.name_to_excluded = pending.name_to_excluded
    training.agent.set_logger(logger)
