"""Data sets of demonstrations, written as Minari stores them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

PENDULUM = gymnasium.make("Pendulum-v1")
GAIN = np.array([0.3, -0.8, -0.1], dtype=np.float32)
Episode = tuple[Any, NDArray[Any]]
"""Observations ``[T + 1, ...]``, or a dict of such, and actions ``[T, ...]``."""


def write(
    folder: Path,
    episodes: Sequence[Episode],
    observation_space: spaces.Space[Any] = PENDULUM.observation_space,
    action_space: spaces.Space[Any] = PENDULUM.action_space,
) -> str:
    """Write a data set, and return the folder's name."""
    minari = pytest.importorskip("minari", reason="needs Minari: pip install 'rimrl[imitate]'")
    pytest.importorskip("h5py")
    from minari.data_collector import EpisodeBuffer  # noqa: PLC0415
    from minari.dataset.minari_storage import MinariStorage  # noqa: PLC0415

    folder.mkdir(parents=True)
    storage = MinariStorage.new(folder, observation_space, action_space)
    storage.update_metadata({"dataset_id": "tests/expert-v0", "minari_version": minari.__version__})
    storage.update_episodes(
        EpisodeBuffer(
            id=number,
            observations=observations,
            actions=list(actions),
            rewards=[0.0] * len(actions),
            terminations=[False] * len(actions),
            truncations=[False] * len(actions),
        )
        for number, (observations, actions) in enumerate(episodes)
    )
    return str(folder)


def expert(observations: NDArray[Any]) -> NDArray[np.float32]:
    """What a linear controller of Pendulum does, ``[..., 3]`` -> ``[..., 1]``."""
    return np.asarray(observations @ GAIN, dtype=np.float32)[..., None]


def linear_episodes(lengths: Sequence[int], seed: int = 0) -> list[Episode]:
    """Episodes of `expert` on observations that are drawn, not played."""
    rng = np.random.default_rng(seed)
    seen = [rng.uniform(-1, 1, (length + 1, 3)).astype(np.float32) for length in lengths]
    return [(each, expert(each[:-1])) for each in seen]
