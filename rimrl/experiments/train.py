"""``rimrl train``: from a configuration to a run folder with a trained agent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from rimrl.agents.distributed import join
from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm
from rimrl.agents.ranks import Ranks
from rimrl.envs.vector_state import worker_processes
from rimrl.errors import UsageError
from rimrl.experiments.callbacks import Stopping, callbacks_of, evaluation_callback
from rimrl.experiments.checkpoints import Checkpoints
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.making import make_agent, make_train_env
from rimrl.experiments.ranks import SharedMonitor, check_same, common_failure, share_of, written_before
from rimrl.experiments.run import Run
from rimrl.files import placing_file
from rimrl.runs.device import check_device
from rimrl.runs.environment import Status
from rimrl.runs.failures import described, explained
from rimrl.runs.folder import default_run_dir, train_command
from rimrl.runs.logs import new_logger
from rimrl.runs.stopping import graceful_stop


def train(config: ExperimentConfig, run_dir: Path | None = None, progress_bar: bool = True) -> tuple[Run, bool]:
    """Train an agent.

    SIGINT (Ctrl-C) and SIGTERM end the training at the next environment step, and the agent is saved.
    `rimrl.experiments.resuming.resume` goes on from there, as from any failure.

    Args:
        config: What to do.
        run_dir: Where to leave the results; default: the first free ``runs/NAME_1``, ``runs/NAME_2``, …
        progress_bar: Show progress on standard error.

    Returns:
        The run, and whether it was trained to its end.

    Raises:
        UsageError: If the configuration does not fit together or the folder cannot be used; no folder is left then.
            Also if training meets NaN.
        RunFailedError: If something breaks on the way, such as an environment or the disk.
    """
    ranks = join()
    check_same(config, ranks)
    check_device(config.train.device)
    path = default_run_dir(config) if run_dir is None else run_dir
    with _new_run(path, config, ranks) as run:
        training = Training(run, config, progress_bar, ranks)
        with ranks.together():
            training.agent.predict(
                training.agent.observation_space.sample(), deterministic=True
            )  # what does not fit fails here
            training.agent.set_logger(new_logger(run.path) if ranks.first else Logger(None, []))
    with run.locked() if ranks.first else nullcontext():
        return run, training.learn()


@contextmanager
def _new_run(path: Path, config: ExperimentConfig, ranks: Ranks) -> Iterator[Run]:
    """`Run.create`; of several processes the first one does it."""
    path = ranks.told(path)
    run = Run(path, config)
    with ExitStack() as stack:
        with ranks.together():
            if ranks.first:
                run = stack.enter_context(Run.create(path, config))
        run.processes = ranks.size
        yield run


class Training:
    """An agent with its environments, callbacks and checkpoints, ready to learn.

    Args:
        run: Where the results go.
        config: What to do.
        progress_bar: Show progress on standard error.
        ranks: The processes that train it together, this one among them.
        append: Go on with the ``monitor.csv`` that is there.

    Raises:
        UsageError: If the configuration does not fit together.
    """

    def __init__(
        self,
        run: Run,
        config: ExperimentConfig,
        progress_bar: bool,
        ranks: Ranks,
        append: bool = False,
    ) -> None:
        th.set_num_threads(config.train.num_threads)
        self.config = config
        self._run = run
        self._ranks = ranks
        self._vectors: list[VecEnv] = []
        self._monitor: SharedMonitor | None = None
        try:
            with ranks.together():
                self._make(append, progress_bar)
            self.agent.ranks = ranks
            ranks.copy_from_first(self.agent.policy.state_dict().values())
            if ranks.size > 1:
                self._monitor = SharedMonitor(self._vectors[0], ranks)
                self._callbacks.insert(0, self._monitor)
        except BaseException:
            self.close()
            raise

    def _make(self, append: bool, progress_bar: bool) -> None:
        config, run, ranks = self.config, self._run, self._ranks
        own = share_of(config, ranks)
        env = make_train_env(own, run.path if ranks.first else None, append)
        self._vectors.append(env)
        self.agent = make_agent(own, env)
        run.core_backend = self.agent.policy.core.backend
        evaluation = evaluation_callback(config, run) if config.train.eval_freq and ranks.first else None
        if evaluation is not None:
            self._vectors.append(evaluation.eval_env)
        self.checkpoints = Checkpoints(run.path, config, self.agent, evaluation, config.train.resume_freq, ranks)
        others = callbacks_of(config, run, evaluation, progress_bar) if ranks.first else []
        self._callbacks = [*others, self.checkpoints]

    def learn(self) -> bool:
        """Learn up to the configured step. Whatever stops it, what can be left is left.

        Returns:
            Whether it came to its end.

        Raises:
            UsageError: If it met NaN.
            RunFailedError: If something broke.
        """
        agent, run, ranks = self.agent, self._run, self._ranks
        remaining = self.config.train.total_timesteps - agent.num_timesteps
        begun = agent._last_obs is not None
        for callback in self._callbacks:
            callback.n_calls = agent.num_timesteps // self.config.env.n_envs
        status: Status = "failed"
        failure: Exception | None = None
        try:
            with graceful_stop(once=ranks.size == 1) as stop:
                agent.learn(remaining, callback=[*self._callbacks, Stopping(stop)], reset_num_timesteps=not begun)
            if any(ranks.exchanged(stop.requested)):
                self.checkpoints.write_pending()
                status = "interrupted"
            else:
                self.checkpoints.write()
                status = "finished"
        except Exception as error:
            failure = error
            if ranks.in_step:
                with suppress(Exception):  # on a full disk the checkpoint before it has to do
                    self.checkpoints.write_pending()
        with written_before(ranks):
            ended = common_failure(failure, ranks)
            if ended is not None:
                status = "failed"
            if ranks.first:
                left = self._leave(status)
                failure = failure or left
            else:
                self.close()
        if ended is None and failure is not None:
            ended = described(failure)
        if ended is not None:
            raise explained(
                ended, run.path, agent.num_timesteps, train_command(run.processes), writes=ranks.first
            ) from failure
        return status == "finished"

    def _leave(self, status: Status) -> Exception | None:
        """Save the agent and how the training ended; tells what kept it from that."""
        failure: Exception | None = None
        try:
            _save(self.agent, self._run.model_file)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter on a full disk
            status, failure = "failed", error
        try:
            self._run.set_status(status, self.agent.num_timesteps)
        except UsageError as error:
            failure = failure or error
        finally:
            self.close()
        return failure

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


def _save(agent: RecurrentOnPolicyAlgorithm, file: Path) -> None:
    with placing_file(file) as partial:
        agent.save(partial)
