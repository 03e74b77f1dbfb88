"""Demonstrations of an expert, from a data set in the Minari format.

Minari (https://minari.farama.org) is gymnasium's format for recorded episodes. A data set says itself what its
observations and actions are, so that nothing of the environment that it was recorded in has to be installed.

Notation: E = episodes, N = steps of all episodes together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rimrl.agents.rollout import Obs, map_parts
from rimrl.errors import mismatch, missing, not_installed, trying, unknown_name, wrong
from rimrl.reading import read_json
from rimrl.spaces import describe_space

_METADATA = "metadata.json"
# Minari makes the environment itself where one is missing, which would run what the data set names.
_SPACES = ("observation_space", "action_space")


@dataclass(frozen=True)
class Demonstrations:
    """Episodes one behind the other.

    Attributes:
        observations: What was seen before each action, ``[N, *observation shape]`` or a dict of such.
        actions: What was done, ``[N]`` for discrete actions (int64), else ``[N, action width]``.
        lengths: Steps of each episode, ``[E]``.
    """

    observations: Obs
    actions: NDArray[Any]
    lengths: NDArray[np.int64]

    @property
    def first(self) -> NDArray[np.int64]:
        """Where each episode begins, ``[E]``."""
        begins: NDArray[np.int64] = np.cumsum(self.lengths) - self.lengths
        return begins


def read_demonstrations(
    data: str, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> Demonstrations:
    """Read a whole data set into memory.

    Args:
        data: A folder, or the id of a data set where Minari keeps them (``MINARI_DATASETS_PATH``, or
            ``~/.minari/datasets``).
        observation_space: What the learner sees.
        action_space: What it does.

    Raises:
        UsageError: If Minari is missing, there is no such data set, it is damaged or holds no step, or its observations
            or actions are others (which).
    """
    try:
        import minari  # noqa: PLC0415 (of an extra)
    except ImportError:
        raise not_installed("demonstrations", "Minari", "rimrl[imitate]") from None
    folder = _find(data)
    _check_metadata(folder)
    with trying("read the demonstrations", data, Exception):  # Minari and HDF5 fail in every way
        dataset = minari.MinariDataset(folder)
        _check_space("observations", dataset.observation_space, observation_space, data)
        _check_space("actions", dataset.action_space, action_space, data, bounds=True)
        episodes = [episode for episode in dataset.iterate_episodes() if len(episode)]
        if not episodes:
            raise wrong(f"the demonstrations {data}", "hold no episodes", kind="missing")
        lengths = np.array([len(episode) for episode in episodes])
        observations = _joined((episode.observations for episode in episodes), lengths + 1, observation_space, data)
        actions = _array((episode.actions for episode in episodes), lengths, action_space, f"actions of {data}")
    before_an_action = np.delete(np.arange((lengths + 1).sum()), np.cumsum(lengths + 1) - 1)
    seen = map_parts(lambda part: part[before_an_action], observations)
    return Demonstrations(seen, _as_stored(actions, action_space), lengths)


def _find(data: str) -> Path:
    """The folder with the metadata of a data set."""
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
    for folder in (Path(data), Path(data) / "data", root / data / "data"):
        if (folder / _METADATA).is_file():
            return folder
    if Path(data).is_dir():
        raise missing("a Minari data set", data, f"neither {_METADATA} nor data/{_METADATA} is there")
    known = [file.parent.parent.relative_to(root).as_posix() for file in root.glob(f"**/data/{_METADATA}")]
    raise unknown_name("data set", data, known, where=str(root))


def _check_metadata(folder: Path) -> None:
    file = folder / _METADATA
    metadata = read_json(file)
    for name in _SPACES:
        if not isinstance(metadata, dict) or not isinstance(metadata.get(name), str):
            raise missing(f"the {name.replace('_', ' ')} of the demonstrations", file)


def _check_space(
    what: str, found: spaces.Space[Any], needed: spaces.Space[Any], data: str, bounds: bool = False
) -> None:
    """Refuse what was recorded with another space; names the key of a Dict."""
    if isinstance(found, spaces.Dict) and isinstance(needed, spaces.Dict):
        for key in sorted(found.spaces.keys() | needed.spaces.keys()):
            if key not in found.spaces:
                raise missing(f"the {what} {key!r} of the environment", f"the data set {data}")
            if key not in needed.spaces:
                raise missing(f"the {what} {key!r} of the data set {data}", "the environment")
            _check_space(f"{what} {key!r}", found[key], needed[key], data, bounds)
    elif not _is_same(found, needed, bounds):
        raise mismatch(
            f"{what} of the demonstrations {data}", f"those here, {describe_space(needed)}", describe_space(found)
        )


def _is_same(found: spaces.Space[Any], needed: spaces.Space[Any], bounds: bool) -> bool:
    """Bounds of observations mean nothing to a policy; those of actions say what their numbers are."""
    if not (isinstance(found, spaces.Box) and isinstance(needed, spaces.Box)):
        return bool(found == needed)
    if found.shape != needed.shape or found.dtype.kind != needed.dtype.kind:
        return False
    return not bounds or (np.allclose(found.low, needed.low) and np.allclose(found.high, needed.high))


def _joined(parts: Iterable[Any], lengths: NDArray[np.int64], space: spaces.Space[Any], data: str) -> Obs:
    """Observations of all episodes, each with the one after its last action."""
    if not isinstance(space, spaces.Dict):
        return _array(parts, lengths, space, f"observations of {data}")
    episodes = list(parts)
    return {
        key: _array((episode[key] for episode in episodes), lengths, part, f"observations {key!r} of {data}")
        for key, part in space.spaces.items()
    }


def _array(parts: Iterable[Any], lengths: NDArray[np.int64], space: spaces.Space[Any], what: str) -> NDArray[Any]:
    """What episodes hold of one space, one behind the other.

    Raises:
        UsageError: If an episode is not as long as it says, or holds what the space does not have.
    """
    arrays = [np.asarray(part) for part in parts]
    for number, (array, length) in enumerate(zip(arrays, lengths, strict=True)):
        if array.shape != (length, *(space.shape or ())):
            expected = [int(length), *(space.shape or ())]
            raise mismatch(f"{what} in episode {number}", f"of the shape {expected}", list(array.shape))
        if not _is_valid(array, space):
            raise wrong(f"{what} in episode {number}", f"are not all of {describe_space(space)}", kind="mismatch")
    return np.concatenate(arrays).astype(space.dtype, copy=False)


def _is_valid(array: NDArray[Any], space: spaces.Space[Any]) -> bool:
    """Whether a policy can read or do it; numbers beyond the bounds of a Box are clipped when they are done."""
    if array.dtype.kind not in "biuf":
        return False
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        count: Any = space.n if isinstance(space, spaces.Discrete) else space.nvec
        return bool(((array >= space.start) & (array - space.start < count)).all())
    if isinstance(space, spaces.MultiBinary):
        return bool(((array == 0) | (array == 1)).all())
    return bool(np.isfinite(array).all())


def _as_stored(actions: NDArray[Any], space: spaces.Space[Any]) -> NDArray[Any]:
    """Actions as `rimrl.agents.rollout.SequenceRolloutBuffer` stores them."""
    if isinstance(space, spaces.Discrete):
        return actions.astype(np.int64)
    flat = actions.reshape(len(actions), -1)
    return flat.astype(np.int64 if isinstance(space, spaces.MultiDiscrete) else np.float32)
