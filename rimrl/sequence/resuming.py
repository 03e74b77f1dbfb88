"""``rimrl sequence --resume RUN``: a training that was stopped goes on."""

from __future__ import annotations

from dataclasses import replace

from rimrl.runs.lifecycle import resume_run
from rimrl.runs.processes import Processes
from rimrl.runs.tracking import Tracking
from rimrl.sequence.config import SequenceConfig
from rimrl.sequence.run import SequenceRun
from rimrl.sequence.train import learner_factory


def resume(
    run: SequenceRun,
    config: SequenceConfig | None = None,
    accept_changes: bool = False,
    progress_bar: bool = True,
    tracking: Tracking | None = None,
) -> bool:
    """Go on with a run from its last good checkpoint.

    On the CPU the result is that of a run which was never stopped, bit for bit. Logs are cut back to the checkpoint.

    Args:
        run: The run.
        config: How to go on; default: as before. More ``train.num_updates``, another ``resume_freq`` and another place
            of the data are taken as they are.
        accept_changes: Take other differences, too.
        progress_bar: Show progress on standard error.
        tracking: Where it is logged beside TensorBoard; default: nowhere. A run that was tracked goes on there.

    Returns:
        Whether it was trained to its end.

    Raises:
        UsageError: If the run is finished, is being trained, has no good checkpoint, is past the total, or differs in
            what matters.
        RunFailedError: If something breaks on the way.
    """
    config = run.config if config is None else replace(config, name=run.config.name)
    return resume_run(run, config, accept_changes, learner_factory(progress_bar), Processes(), tracking)
