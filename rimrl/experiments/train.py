"""``rimrl train``: from a configuration to a run folder with a trained agent."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from rimrl.agents.distributed import init_ranks
from rimrl.agents.ranks import Ranks
from rimrl.envs.vector_state import worker_processes
from rimrl.experiments.callbacks import (
    Onlooker,
    Stopping,
    callbacks_of,
    evaluation_callback,
    why_ended,
)
from rimrl.experiments.checkpoints import Checkpoints, truncate_monitor
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.factory import make_agent, make_train_env
from rimrl.experiments.named_classes import made
from rimrl.experiments.ranks import RankProcesses, SharedMonitor, check_same, shard_config
from rimrl.experiments.run import Run
from rimrl.files import placing_file
from rimrl.runs.checkpoint_files import Contents
from rimrl.runs.lifecycle import start_run
from rimrl.runs.stopping import Stop
from rimrl.runs.tracking import Tracking


def train(
    config: ExperimentConfig,
    run_dir: Path | None = None,
    progress_bar: bool = True,
    callback: BaseCallback | None = None,
    tracking: Tracking | None = None,
) -> tuple[Run, bool]:
    """Train an agent.

    SIGINT (Ctrl-C) and SIGTERM end the training at the next environment step, and the agent is saved.
    `rimrl.experiments.resuming.resume` goes on from there, as from any failure.

    Args:
        config: What to do.
        run_dir: Where to leave the results; default: the first free ``runs/NAME_1``, ``runs/NAME_2``, …
        progress_bar: Show progress on standard error.
        callback: Looks on, and may end the training, which counts as interrupted then. Default none.
        tracking: Where it is logged beside TensorBoard; default: nowhere.

    Returns:
        The run, and whether it was trained to its end.

    Raises:
        UsageError: If the configuration does not fit together or the folder cannot be used; no folder is left then.
            Also if training meets NaN.
        RunFailedError: If something breaks on the way, such as an environment or the disk.
    """
    ranks = init_ranks()
    check_same(config, ranks)
    learner = partial(AgentLearner, progress_bar=progress_bar, ranks=ranks, callback=callback)
    return start_run(Run, config, run_dir, learner, RankProcesses(ranks), tracking)


class AgentLearner:
    """An agent with its environments, callbacks and checkpoints, as `rimrl.runs.lifecycle.Learner` wants it.

    Args:
        run: Where the results go.
        config: What to do.
        goes_on: Whether it goes on, with the ``monitor.csv`` that is there.
        progress_bar: Show progress on standard error.
        ranks: The processes that train it together, this one among them.
        callback: Looks on, and may end the training. Default none.

    Raises:
        UsageError: If the configuration does not fit together.
    """

    def __init__(
        self,
        run: Run,
        config: ExperimentConfig,
        goes_on: bool,
        progress_bar: bool,
        ranks: Ranks,
        callback: BaseCallback | None = None,
    ) -> None:
        th.set_num_threads(config.train.num_threads)
        self.config = config
        self._run = run
        self._ranks = ranks
        self._vectors: list[VecEnv] = []
        self._monitor: SharedMonitor | None = None
        try:
            with ranks.sync_errors():
                self._make(goes_on, progress_bar)
            self.agent.ranks = ranks
            ranks.broadcast_tensors(self.agent.policy.state_dict().values())
            if ranks.size > 1:
                self._monitor = SharedMonitor(self._vectors[0], ranks)
                self._callbacks.insert(0, self._monitor)
            self._onlooker = None if callback is None else Onlooker(callback)
            if self._onlooker is not None:
                self._callbacks.append(self._onlooker)
            if not goes_on:
                with ranks.sync_errors():  # let fail here what does not fit
                    self.agent.policy.predict(self.agent.observation_space.sample(), deterministic=True)
        except BaseException:
            self.close()
            raise

    def _make(self, goes_on: bool, progress_bar: bool) -> None:
        config, run, ranks = self.config, self._run, self._ranks
        own = shard_config(config, ranks)
        env = make_train_env(own, run.path if ranks.first else None, goes_on)
        self._vectors.append(env)
        self.agent = make_agent(own, env)
        run.core_backend = self.agent.policy.core.backend
        self.agent.set_logger(Logger(None, []))  # holds what waits to be logged until there is one of the run
        evaluation = evaluation_callback(config, run) if config.train.eval_freq and ranks.first else None
        if evaluation is not None:
            self._vectors.append(evaluation.eval_env)
        self._evaluation = evaluation
        chosen = made(config.train.callback, BaseCallback, "train.callback")
        self.checkpoints = Checkpoints(
            run.path, config, self.agent, evaluation, config.train.resume_freq, ranks, chosen
        )
        others = callbacks_of(config, run, evaluation, progress_bar) if ranks.first else []
        # The user's come last: a checkpoint is taken before they do anything at the start of a rollout.
        self._callbacks = [*others, self.checkpoints, *chosen]

    @property
    def reached(self) -> int:
        """How many environment steps the agent has had."""
        return self.agent.num_timesteps

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of its algorithm and, where it is evaluated on the way, the return of evaluations."""
        return (*self.agent.metrics, *(("eval/mean_reward",) if self.config.train.eval_freq else ()))

    def log_to(self, logger: Logger) -> None:
        """Log there from now on, beginning with what waits to be logged."""
        pending = self.agent.logger
        logger.name_to_value, logger.name_to_count = pending.name_to_value, pending.name_to_count
        logger.name_to_excluded = pending.name_to_excluded
        self.agent.set_logger(logger)

    def learn(self, stop: Stop) -> bool:
        """Learn up to the configured step, until a callback ends the training, or until asked to stop.

        Returns:
            Whether it came to its end, which a callback of the configuration may have brought forward; that of the
            caller only interrupts it.
        """
        agent = self.agent
        remaining = self.config.train.total_timesteps - agent.num_timesteps
        begun = agent._last_obs is not None
        for callback in [*self._callbacks, *(self._onlooker.callbacks if self._onlooker is not None else ())]:
            callback.n_calls = agent.num_timesteps // self.config.env.n_envs
        agent.learn(remaining, callback=[*self._callbacks, Stopping(stop)], reset_num_timesteps=not begun)
        onlooker_ended = self._onlooker is not None and self._onlooker.ended
        if stop.requested or (onlooker_ended and agent.num_timesteps < self.config.train.total_timesteps):
            return False
        if self.checkpoints.cut_short:
            self._run.ended_early = why_ended(self.config, self._evaluation)
        return True

    def write_checkpoint(self) -> None:
        """Write where the training is; where a callback ended it within a rollout, where that began."""
        if self.checkpoints.cut_short:
            self.checkpoints.write_pending()
        else:
            self.checkpoints.write()

    def write_pending(self) -> None:
        """Write where the rollout that was cut short began, unless an update has been at the weights since."""
        self.checkpoints.write_pending()

    def restore(self, accept_changes: bool, changes: Sequence[str]) -> tuple[Contents, str | None]:
        """Go back to the last good checkpoint; see `rimrl.runs.lifecycle.Learner.restore`."""
        return self.checkpoints.resume(accept_changes, changes)

    def truncate_logs(self, contents: Contents) -> None:
        """Take out of ``monitor.csv`` what came after a checkpoint: it will come again."""
        truncate_monitor(self._run.path, contents)

    def save(self) -> None:
        """Save the agent."""
        with placing_file(self._run.model_file) as partial:
            self.agent.save(partial)

    def close(self) -> None:
        """Close the logs, whose writers are threads, and all environments, also those whose process has died."""
        logger: Logger | None = getattr(getattr(self, "agent", None), "_logger", None)
        if logger is not None:
            with suppress(Exception):  # on a full disk what is left cannot be written
                logger.close()
        if self._monitor is not None:
            self._monitor.close()
        for vector in self._vectors:
            try:
                vector.close()
            except Exception:
                for process in worker_processes(vector):
                    process.terminate()
