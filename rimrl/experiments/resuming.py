"""``rimrl train --resume RUN``: a run that was stopped goes on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from stable_baselines3.common.callbacks import BaseCallback

from rimrl.agents.distributed import init_ranks
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.ranks import RankProcesses, check_same
from rimrl.experiments.run import Run
from rimrl.experiments.train import AgentLearner
from rimrl.runs.lifecycle import resume_run
from rimrl.runs.tracking import Tracking


def resume(
    run: Run,
    config: ExperimentConfig | None = None,
    accept_changes: bool = False,
    progress_bar: bool = True,
    callback: BaseCallback | None = None,
    tracking: Tracking | None = None,
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
        callback: Looks on, and may end the training. Default none.
        tracking: Where it is logged beside TensorBoard; default: nowhere. A run that was tracked goes on there.

    Returns:
        Whether it was trained to its end.

    Raises:
        UsageError: If the run is finished, is being trained, has no good checkpoint, is past the total, or differs in
            what matters.
        RunFailedError: If something breaks on the way.
    """
    ranks = init_ranks()
    config = run.config if config is None else replace(config, name=run.config.name)
    check_same(config, ranks)
    learner = partial(AgentLearner, progress_bar=progress_bar, ranks=ranks, callback=callback)
    return resume_run(run, config, accept_changes, learner, RankProcesses(ranks), tracking)
