"""A configuration for several processes: each takes its share, and the first one writes for all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from typing import TypeVar

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import VecEnv

from rimrl.agents.ranks import OtherRankError, RankLostError, Ranks, share_evenly
from rimrl.envs.vector_state import monitor_of
from rimrl.errors import conflict, mismatch, wrong
from rimrl.experiments.config import ExperimentConfig
from rimrl.runs.failures import Failure, described
from rimrl.runs.processes import Processes

_T = TypeVar("_T")
_LARGEST_SEED = 2**32


def shard_config(config: ExperimentConfig, ranks: Ranks) -> ExperimentConfig:
    """What one rank does of a training.

    Environments and minibatches are divided, so that a configuration says the same whoever trains it. Environments
    keep the seeds that they would have in one process.

    Args:
        config: The whole training.
        ranks: Who shares it.

    Raises:
        UsageError: If so many processes cannot share it equally; says what would be valid.
    """
    if ranks.size == 1:
        return config
    if config.agent.normalize_rewards:
        raise conflict("agent.normalize_rewards", "several processes, as it scales by what one has seen")
    n_envs = share_evenly(config.env.n_envs, ranks.size, "env.n_envs")
    return replace(
        config,
        env=replace(config.env, n_envs=n_envs),
        agent=config.agent.share(ranks, config.env.n_envs),
        train=replace(
            config.train,
            seed=(config.train.seed + ranks.rank * n_envs) % _LARGEST_SEED,
            device=_device(config.train.device),
        ),
    )


def _device(device: str) -> str:
    """The GPU of this rank, where GPUs are used."""
    if device not in ("auto", "cuda") or not th.cuda.is_available():
        return device
    local, count = int(os.environ.get("LOCAL_RANK", "0")), th.cuda.device_count()
    if local >= count:
        raise wrong("the number of processes", f"exceeds the {count} GPUs", "start fewer, or use --train.device cpu")
    th.cuda.set_device(local)
    return f"cuda:{local}"


def check_same(config: ExperimentConfig, ranks: Ranks) -> None:
    """Refuse ranks that were asked for different things.

    Raises:
        UsageError: Names the first key that differs.
    """
    mine = config.flat()
    for rank, other in enumerate(ranks.all_gather_object(mine)):
        for key in {**mine, **other} if rank != ranks.rank else {}:
            if mine.get(key) != other.get(key):
                raise mismatch(key, f"{mine.get(key)} on rank {rank}, as on rank {ranks.rank}", other.get(key))


class RankProcesses(Processes):
    """All ranks as a run's lifecycle sees them.

    Args:
        ranks: The same.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.size = ranks.size
        self.writes = ranks.first

    @property
    def in_sync(self) -> bool:
        """Whether all ranks have stopped at the same point."""
        return self._ranks.in_sync

    def sync_errors(self) -> AbstractContextManager[None]:
        """A block in which what fails on one rank fails on all."""
        return self._ranks.sync_errors()

    def broadcast_object(self, what: _T) -> _T:
        """What the first rank has."""
        return self._ranks.broadcast_object(what)

    def any(self, flag: bool) -> bool:
        """Whether something is true on any rank."""
        return any(self._ranks.all_gather_object(flag))

    def failed(self, failure: Exception | None) -> Failure | None:
        """What ended the training of all ranks, given what ended it here; None if nothing did."""
        ranks = self._ranks
        mine = None if failure is None or isinstance(failure, OtherRankError | RankLostError) else described(failure)
        if mine is not None and not ranks.in_sync:
            ranks.abort(asdict(mine))
            return mine
        if not isinstance(failure, RankLostError):
            try:
                return next(filter(None, ranks.all_gather_object(mine)), None)
            except RankLostError:
                pass
        words = ranks.abort_reason()
        if words is None:
            return Failure("another process of this training was killed or ended without a word", None, "")
        return Failure(**words)

    @contextmanager
    def written_before(self) -> Iterator[None]:
        """A block at whose end the first rank has written everything."""
        try:
            yield
        finally:
            if self.writes:
                self._ranks.has_written()
            else:
                self._ranks.wait_until_written()


class SharedMonitor(BaseCallback):
    """Writes the episodes of all ranks to ``monitor.csv``, in the order in which one process would have.

    Args:
        venv: This rank's environments, whose monitor stops to write on its own.
        ranks: All ranks; they take over the first one's clock.
    """

    def __init__(self, venv: VecEnv, ranks: Ranks) -> None:
        super().__init__()
        monitor = monitor_of(venv)
        monitor.t_start = ranks.broadcast_object(monitor.t_start)
        self._writer: ResultsWriter | None = monitor.results_writer
        monitor.results_writer = None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self._writer is not None:
            for episode in self.model.last_episodes:  # type: ignore[attr-defined]
                self._writer.write_row(episode)

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
