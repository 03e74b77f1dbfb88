"""Where the environments of a Stable-Baselines3 vector are, and how to bring others there.

The environments' own part is `rimrl.envs.replay`; this adds what the vector's wrappers count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, unwrap_vec_wrapper

from rimrl.envs.atari import LearningSignal
from rimrl.envs.replay import EpisodeRecord, Replayable, ReplayError
from rimrl.envs.reward_scale import RewardScale, VecNormalizedRewards


@dataclass(slots=True)
class VectorMark:
    """What the wrappers counted when a vector was marked.

    Attributes:
        returns: Return of each running episode, float32 [B].
        lengths: Its steps, int32 [B].
        episode_count: Episodes that have ended.
        lives: Lives of each game, int64 [B]; None where no wrapper counts them.
        scale: What rewards are scaled by; None where they are not.
    """

    returns: NDArray[np.float32]
    lengths: NDArray[np.int32]
    episode_count: int
    lives: NDArray[np.int64] | None
    scale: RewardScale | None = None


def is_replayable(venv: VecEnv) -> bool:
    """Whether every environment can be asked for the way back."""
    return all(venv.env_is_wrapped(Replayable))


def mark(venv: VecEnv) -> VectorMark:
    """Remember this point, also in the environments where they can."""
    if is_replayable(venv):
        venv.env_method("mark")
    monitor, signal = monitor_of(venv), unwrap_vec_wrapper(venv, LearningSignal)
    normalized = unwrap_vec_wrapper(venv, VecNormalizedRewards)
    return VectorMark(
        monitor.episode_returns.copy(),
        monitor.episode_lengths.copy(),
        monitor.episode_count,
        None if signal is None else signal.lives.copy(),
        None if normalized is None else normalized.scale,
    )


def marked_episodes(venv: VecEnv) -> list[EpisodeRecord] | None:
    """The way back to the last mark for each environment.

    Returns:
        One record an environment; None before the first reset.

    Raises:
        ReplayError: If an environment knows none.
    """
    if not is_replayable(venv):
        raise ReplayError("this back end does not tell where its environments are")
    records = []
    for record in venv.env_method("marked"):
        if record is None:
            return None
        if isinstance(record, str):
            raise ReplayError(record)
        records.append(record)
    return records


def restore(venv: VecEnv, mark: VectorMark, episodes: list[EpisodeRecord] | None) -> None:
    """Bring a vector to where another was marked.

    Raises:
        ReplayError: If an environment does not get there.
    """
    if episodes is not None:
        if not is_replayable(venv):
            raise ReplayError("this back end cannot be brought to where others were")
        # One after the other: a call for all would hand each of them the same record.
        for env, record in enumerate(episodes):
            (failed,) = venv.env_method("replay", record, indices=[env])
            if failed is not None:
                raise ReplayError(failed)
        for layer in _layers(venv):
            layer._reset_seeds()  # they were used by the episode before the first mark
    monitor, signal = monitor_of(venv), unwrap_vec_wrapper(venv, LearningSignal)
    monitor.episode_count = mark.episode_count
    monitor.episode_returns, monitor.episode_lengths = mark.returns.copy(), mark.lengths.copy()
    if signal is not None and mark.lives is not None:
        signal.lives = mark.lives.copy()
    normalized = unwrap_vec_wrapper(venv, VecNormalizedRewards)
    if normalized is not None and mark.scale is not None:
        normalized.scale = mark.scale


def monitor_of(venv: VecEnv) -> VecMonitor:
    """The wrapper that counts a vector's episodes."""
    monitor = unwrap_vec_wrapper(venv, VecMonitor)
    assert monitor is not None
    return monitor


def _layers(venv: VecEnv) -> Iterator[VecEnv]:
    while isinstance(venv, VecEnvWrapper):
        yield venv
        venv = venv.venv
    yield venv


def worker_processes(venv: VecEnv) -> list[Any]:
    """Processes that environments run in, if they have some of their own."""
    return list(getattr(venv.unwrapped, "processes", ()))
