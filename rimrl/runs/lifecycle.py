"""How a run of any kind begins, goes on and ends; what learns in it is behind `Learner`.

A kind of run gives its `rimrl.runs.folder.RunFolder`, its configuration, and a function that makes the learner.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from stable_baselines3.common.logger import Logger

from rimrl.errors import UsageError, invalid_value
from rimrl.runs.checkpoint_files import Contents, found
from rimrl.runs.device import check_device
from rimrl.runs.environment import Status
from rimrl.runs.failures import described, explained
from rimrl.runs.folder import RunFolder, default_run_dir
from rimrl.runs.logs import appending_logger, log_hparams, new_logger, progress_of, truncate_logs
from rimrl.runs.processes import Processes
from rimrl.runs.resuming import accepted_changes
from rimrl.runs.stopping import Stop, graceful_stop
from rimrl.runs.tracked import Tracked, track, tracked_by
from rimrl.runs.tracking import Tracking


class Learner(Protocol):
    """What learns in a run, with all that it needs for that."""

    @property
    def reached(self) -> int:
        """How many steps or updates it has had."""

    @property
    def metrics(self) -> Sequence[str]:
        """Names in the log that tell how well it learns; one at least."""

    def log_to(self, logger: Logger) -> None:
        """Log there from now on."""

    def learn(self, stop: Stop) -> bool:
        """Learn up to the configured total, or until asked to stop.

        Returns:
            Whether it came to its end.
        """

    def write_checkpoint(self) -> None:
        """Write a checkpoint of where it is, after `learn` came to its end."""

    def write_pending(self) -> None:
        """Write one of the last point that can be gone on from, wherever `learn` stopped."""

    def restore(self, accept_changes: bool, changes: Sequence[str]) -> tuple[Contents, str | None]:
        """Go back to the last good checkpoint.

        Args:
            accept_changes: Whether it may be of another configuration.
            changes: What changed of what may decide shapes, for the refusal.

        Returns:
            What the checkpoint holds, and why the result will not be, bit for bit, that of an uninterrupted run, if so.
        """

    def truncate_logs(self, contents: Contents) -> None:
        """Take out of logs of its own what came after a checkpoint."""

    def save(self) -> None:
        """Save what was learned to the run's ``model_file``.

        Raises:
            OSError: If it cannot be written.
            RuntimeError: Likewise, from torch.
        """

    def close(self) -> None:
        """Let go of logs and of everything else; also where something is broken."""


T = TypeVar("T")
C = TypeVar("C", bound=Any)
R = TypeVar("R", bound=RunFolder[Any])
Make = Callable[[R, C, bool], Learner]
"""Makes a learner for a run and a configuration, which goes on with a run or begins."""


def start_run(
    runs: type[R],
    config: C,
    run_dir: Path | None,
    make: Make[R, C],
    processes: Processes,
    tracking: Tracking | None = None,
) -> tuple[R, bool]:
    """Train in a new run folder.

    Args:
        runs: Of which kind.
        config: What to do.
        run_dir: Where to leave the results; default: the first free ``runs/NAME_1``, ``runs/NAME_2``, …
        make: Makes what learns.
        processes: Who trains.
        tracking: Where it is logged besides. Default: nowhere.

    Returns:
        The run, and whether it was trained to its end.

    Raises:
        UsageError: If the configuration does not fit together or the folder cannot be used; no folder is left then.
            Also if training meets NaN.
        RunFailedError: If something breaks on the way, such as an environment or the disk.
    """
    check_device(config.train.device)
    path = processes.broadcast_object(default_run_dir(config) if run_dir is None else run_dir)
    with _on_writer(processes, lambda: runs.create(path, config)) as created:
        run = created or runs(path, config)
        run.processes, run.tracking = processes.size, tracking
        learner = make(run, config, False)
        tracked = _log_anew(learner, run, processes)
    with _on_writer(processes, run.locked):
        return run, _carry_out(run, learner, processes, tracked)


def resume_run(
    run: R,
    config: C,
    accept_changes: bool,
    make: Make[R, C],
    processes: Processes,
    tracking: Tracking | None = None,
) -> bool:
    """Go on with a run from its last good checkpoint.

    Args:
        run: The run.
        config: How to go on.
        accept_changes: Take differences that are not free.
        make: Makes what learns.
        processes: Who trains.
        tracking: Where it is logged besides. Default: nowhere.

    Returns:
        Whether it was trained to its end.

    Raises:
        UsageError: If the run is finished, is being trained, has no good checkpoint, is past the total, or differs in
            what matters.
        RunFailedError: If something breaks on the way.
    """
    run.processes, run.tracking = processes.size, tracking
    changes = accepted_changes(run, config, accept_changes)
    check_device(config.train.device)
    with _on_writer(processes, run.locked):
        if not processes.broadcast_object(found(run.path)):
            return _start_again(run, config, make, processes)
        learner = make(run, config, True)
        try:
            inexact, tracked = _go_back(run, config, learner, accept_changes, changes, processes)
        except BaseException:
            learner.close()
            raise
        if inexact is not None and processes.writes:
            print(
                f"rimrl: episodes begin anew at step {learner.reached}, so that the result will not be, bit for bit, "
                f"that of an uninterrupted run: {inexact}",
                file=sys.stderr,
            )
        return _carry_out(run, learner, processes, tracked)


def _go_back(
    run: RunFolder[Any], config: Any, learner: Learner, accept: bool, changes: list[str], processes: Processes
) -> tuple[str | None, Tracked]:
    """Bring a learner to the last good checkpoint, and the run's files to what they were then."""
    tracked = Tracked(run)
    shaping = [change for change in changes if accept and change.partition(".")[0] in run.kind.shaping]
    contents, inexact = learner.restore(accept, shaping)
    reached = learner.reached  # past the total that the run was begun with where that ends within a rollout
    if config.total < min(run.config.total, reached):
        raise invalid_value(run.kind.flag, f"at least {reached}, which {run.path} has had already", config.total)
    run.config = config
    with processes.sync_errors():
        if processes.writes:
            tracked = _tracked(run)
            try:
                run.note_resumption(reached, inexact is None, changes, progress_of(contents, run.kind))
                truncate_logs(run.path, contents)
                learner.truncate_logs(contents)
                logger = appending_logger(run.path)
                logger.output_formats.append(tracked)
                learner.log_to(logger)
            except BaseException:
                tracked.end("interrupted")
                raise
    return inexact, tracked


def _start_again(run: R, config: C, make: Make[R, C], processes: Processes) -> bool:
    """Begin a run again that was stopped before its first checkpoint."""
    with ExitStack() as preparing:
        with processes.sync_errors():
            if processes.writes:
                preparing.enter_context(run.restarting(config))
        learner = make(run, config, False)
        try:
            with processes.sync_errors():
                preparing.close()
        except BaseException:
            learner.close()
            raise
    tracked = _log_anew(learner, run, processes)
    return _carry_out(run, learner, processes, tracked)


def _log_anew(learner: Learner, run: RunFolder[Any], processes: Processes) -> Tracked:
    tracked, logger = Tracked(run), Logger(None, [])
    try:
        with processes.sync_errors():
            if processes.writes:
                tracked = _tracked(run)
                logger = new_logger(run.path)
                log_hparams(logger, run.config.flat(), learner.metrics)
            logger.output_formats.append(tracked)
            learner.log_to(logger)
    except BaseException:
        learner.close()
        tracked.end("failed")
        raise
    return tracked


def _tracked(run: RunFolder[Any]) -> Tracked:
    """Begin or go on to track a run, or say that it is not tracked any more."""
    before = tracked_by(run.path)
    if run.tracking is None and before:
        print(
            f"rimrl: {run.path} was tracked by {before[0]} and is not any more; stop it and add --track {before[0]} to "
            "go on with that",
            file=sys.stderr,
        )
    return track(run.tracking, run)


@contextmanager
def _on_writer(processes: Processes, make: Callable[[], AbstractContextManager[T]]) -> Iterator[T | None]:
    """Enter a context in the process that writes; where that fails it fails in all."""
    with ExitStack() as stack:
        entered = None
        with processes.sync_errors():
            if processes.writes:
                entered = stack.enter_context(make())
        yield entered


def _carry_out(run: RunFolder[Any], learner: Learner, processes: Processes, tracked: Tracked) -> bool:
    """Learn up to the configured total, and tell whether it came to its end."""
    status: Status = "failed"
    try:
        status = _learned(run, learner, processes)
    finally:
        tracked.end(status)  # at last, because it may wait for a server
    return status == "finished"


def _learned(run: RunFolder[Any], learner: Learner, processes: Processes) -> Status:
    """Learn; whatever stops it, what can be left is left. What broke is raised as `explained` says it."""
    status: Status = "failed"
    failure: Exception | None = None
    try:
        with graceful_stop(once=processes.size == 1) as stop:
            ended = learner.learn(stop)
        if processes.any(not ended):
            learner.write_pending()
            status = "interrupted"
        else:
            learner.write_checkpoint()
            status = "finished"
    except Exception as error:
        failure = error
        if processes.in_sync:
            with suppress(Exception):  # on a full disk the checkpoint before it has to do
                learner.write_pending()
    with processes.written_before():
        common = processes.failed(failure)
        if common is not None:
            status = "failed"
        if processes.writes:
            left = _leave(run, learner, status)
            failure = failure or left
        else:
            learner.close()
    if common is None and failure is not None:
        common = described(failure)
    if common is not None:
        raise explained(common, run, learner.reached, processes.writes) from failure
    return status


def _leave(run: RunFolder[Any], learner: Learner, status: Status) -> Exception | None:
    """Save what was learned and how the training ended; tells what kept it from that."""
    failure: Exception | None = None
    try:
        learner.save()
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter on a full disk
        status, failure = "failed", error
    try:
        run.set_status(status, learner.reached)
    except UsageError as error:
        failure = failure or error
    finally:
        learner.close()
    return failure
