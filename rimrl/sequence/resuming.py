"""``rimrl sequence --resume RUN``: a diagnostic that was stopped goes on."""

from __future__ import annotations

from dataclasses import replace

from rimrl.errors import UsageError
from rimrl.runs.checkpoint_files import found
from rimrl.runs.device import check_device
from rimrl.runs.logs import appending_logger, cut_back_logs, new_logger
from rimrl.runs.resuming import accepted_changes, check_not_past, restore_last
from rimrl.sequence.config import SequenceConfig
from rimrl.sequence.run import SequenceRun
from rimrl.sequence.train import Training


def resume(
    run: SequenceRun, config: SequenceConfig | None = None, accept_changes: bool = False, progress_bar: bool = True
) -> bool:
    """Go on with a run from its last good checkpoint.

    On the CPU the result is that of a run which was never stopped, bit for bit. Logs are cut back to the checkpoint.

    Args:
        run: The run.
        config: How to go on; default: as before. More ``train.num_updates``, another ``resume_freq`` and another place
            of the data are taken as they are.
        accept_changes: Take other differences, too.
        progress_bar: Show progress on standard error.

    Returns:
        Whether it was trained to its end.

    Raises:
        UsageError: If the run is finished, is being trained, has no good checkpoint, is past the total, or differs in
            what matters.
        RunFailedError: If something breaks on the way.
    """
    config = run.config if config is None else replace(config, name=run.config.name)
    old, new = run.config.flat(), config.flat()
    linear = config.train.learning_rate_schedule == "linear"
    changes = accepted_changes(
        run.path, old, new, config.kind.free, "train.num_updates" if linear else None, accept_changes
    )
    before, total = run.config.train.num_updates, config.train.num_updates
    if run.status == "finished" and total <= before:
        raise UsageError(f"{run.path} is finished, at {before} updates; give a larger --num-updates to go on")
    check_device(config.train.device)
    with run.locked():
        if not found(run.path):
            return _start_again(run, config, progress_bar)
        training = Training(run, config, progress_bar)
        known = None if accept_changes else run.config.identity()
        shaping = [change for change in changes if change.startswith(("task.", "core.", "model."))]
        _, contents, _ = restore_last(run.path, training.put_back, known, changes=shaping if accept_changes else ())
        check_not_past(run.path, training.update, total, before, "updates", "--num-updates")
        run.config = config
        run.note_resumption(training.update, True, changes, contents.progress)
        cut_back_logs(run.path, contents)
        training.logger = appending_logger(run.path)
        return training.learn()


def _start_again(run: SequenceRun, config: SequenceConfig, progress_bar: bool) -> bool:
    with run.restarting(config):
        training = Training(run, config, progress_bar)
    training.logger = new_logger(run.path)
    return training.learn()
