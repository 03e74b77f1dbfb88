"""Flat batches of sequences, and whether observations, states and episode starts are of the same environments.

Contrib's interface lays sequences one after the other in a flat batch and reads their number off the state. A state of
fewer environments would therefore make time steps of what are environments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from rimrl.errors import mismatch, missing, wrong


def batch_size(obs: PyTorchObs) -> int:
    """How many observations there are.

    Args:
        obs: ``[B, *observation shape]``, or a dict of such.

    Raises:
        UsageError: If the parts of a dict differ in that.
    """
    if isinstance(obs, Tensor):
        return len(obs)
    sizes = {key: len(part) for key, part in obs.items()}
    (first, size), *others = sizes.items()
    for key, other in others:
        if other != size:
            raise wrong("the observations", f"have {size} of {first!r} and {other} of {key!r}", kind="mismatch")
    return size


def check_state(state: Any) -> None:
    """Refuse what is no recurrent state.

    Args:
        state: Should be ``(h, c)``, arrays or tensors of ``[num_layers, B, hidden_size]``.

    Raises:
        UsageError: Says what it is instead.
    """
    if not isinstance(state, tuple | list) or len(state) != 2:
        what = f"{len(state)} parts" if isinstance(state, tuple | list) else f"a {type(state).__name__}"
        raise mismatch("the state", "(h, c), as the last call returned it, or None", what)
    for part in state:
        if not isinstance(part, Tensor | np.ndarray) or part.ndim != 3:
            what = f"the shape {list(part.shape)}" if isinstance(part, Tensor | np.ndarray) else type(part).__name__
            raise mismatch("each part of the state", "an array [num_layers, environments, hidden_size]", what)


def check_step(obs: PyTorchObs, state: tuple[Tensor, ...], episode_starts: Tensor) -> None:
    """Refuse a state or episode starts of other environments, for a single step of each.

    Args:
        obs: ``[B, *observation shape]``, or a dict of such.
        state: Each ``[num_layers, B, hidden_size]``.
        episode_starts: ``[B]``.

    Raises:
        UsageError: Says how many environments each is of.
    """
    if state:  # a critic without a core has none
        check_state(state)
    observations = batch_size(obs)
    for part in state:
        if part.shape[1] != observations:
            raise mismatch(
                "the state",
                f"of {observations} environments, as the observations",
                part.shape[1],
                "use None where episodes begin",
            )
    _check_starts(episode_starts, observations)


def to_sequences(batch: Tensor, n_seq: int) -> Tensor:
    """Contrib's flat ``[n_seq * T, ...]``, sequence after sequence, as ``[T, n_seq, ...]``."""
    return batch.reshape(n_seq, -1, *batch.shape[1:]).transpose(0, 1)


def to_batch(sequences: Tensor) -> Tensor:
    """The inverse of `to_sequences`."""
    return sequences.transpose(0, 1).flatten(0, 1)


def without_padding(values: Any, space: spaces.Space[Any]) -> Any:
    """Values of a space with a choice of it in place of contrib's padding, which is 0 and may be none.

    Args:
        values: ``[B, ...]``, or a dict of such.
        space: Their space; only those of choices that do not count from 0 are changed.
    """
    if isinstance(space, spaces.Dict):
        return {key: without_padding(value, space[key]) for key, value in values.items()}
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and np.any(space.start):
        counts = space.n if isinstance(space, spaces.Discrete) else space.nvec
        first = th.as_tensor(np.asarray(space.start, dtype=np.int64), device=values.device)
        last = first + th.as_tensor(np.asarray(counts, dtype=np.int64), device=values.device) - 1
        values = values.long()
        return th.where((values == 0) & ((first > 0) | (last < 0)), first, values)
    return values


def check_sequences(obs: PyTorchObs, state: tuple[Tensor, ...], episode_starts: Tensor) -> None:
    """Refuse a flat batch that is no whole number of steps of each sequence.

    Args:
        obs: ``[n_seq * T, *observation shape]``, or a dict of such.
        state: Each ``[num_layers, n_seq, hidden_size]``.
        episode_starts: ``[n_seq * T]``.

    Raises:
        UsageError: Says which numbers do not fit.
    """
    check_state(state)
    observations, sequences = batch_size(obs), state[0].shape[1]
    if not observations:
        raise missing("observations")
    if not sequences or observations % sequences:
        raise wrong(
            f"{observations} observations", f"are no equally long sequences of {sequences} states", kind="mismatch"
        )
    _check_starts(episode_starts, observations)


def _check_starts(episode_starts: Tensor, observations: int) -> None:
    if episode_starts.shape != (observations,):
        raise mismatch("episode_start", f"one flag for each of {observations} observations", list(episode_starts.shape))
