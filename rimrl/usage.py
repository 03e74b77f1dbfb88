"""How evenly units are used, and what their use tells of events.

The measures of Mittal, Bengio and Lajoie, "Is a Modular Architecture Enough?" (NeurIPS 2022), as in the authors' code
(https://github.com/sarthmit/Mod_Arch). There one module works at a time; here several units may, and each takes an
equal part of the step.

Letters: S steps, R units of a layer, K active units, E kinds of event.

Layers select their units separately, so each is measured alone. A layer of one unit, or of units that are never active,
cannot be uneven and is left out; without any other layer every measure is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rimrl.errors import mismatch


def collapse(frequencies: ArrayLike, layers: Sequence[int] | None = None) -> float:
    """How much of the work that even use would give to some units is done by others ("Collapse-Avg" in the paper).

        p_i      = f_i / sum_j f_j
        collapse = R / (R - 1) * sum_i max(1/R - p_i, 0)

    It is 0 where all units are used alike, and 1 where one unit does everything. Where K units are active at every
    step, it is at most (R - K) / (R - 1): then they are always the same. With K = R it is 0.

    Args:
        frequencies: f ``[N]``, how often each unit is active; only their ratios count.
        layers: Units of each layer, one layer after the other. Default: a single layer.

    Returns:
        The measure; with several layers their mean.

    Raises:
        UsageError: If layers do not fit the units.

    Example:
        >>> round(collapse([1.0, 1.0, 0.0, 0.0]), 3)  # two of four, always the same
        0.667
    """
    parts = [_shares(f) for f in _by_layer(np.asarray(frequencies, dtype=np.float64), layers)]
    return _mean([len(p) / (len(p) - 1) * float(np.maximum(1 / len(p) - p, 0).sum()) for p in parts])


def worst_share(frequencies: ArrayLike, layers: Sequence[int] | None = None) -> float:
    """How far the least used unit falls short of its even share ("Collapse-Worst" in the paper).

        worst = 1 - R * min_i p_i = 1 - min_i f_i / mean_i f_i        with p as in `collapse`

    It is 0 where all units are used alike, and 1 where some unit never works.

    Args:
        frequencies: As in `collapse`.
        layers: As in `collapse`.

    Returns:
        The measure; with several layers the largest.

    Raises:
        UsageError: As `collapse`.

    Example:
        >>> worst_share([0.5, 0.75, 0.75])
        0.25
    """
    parts = _by_layer(np.asarray(frequencies, dtype=np.float64), layers)
    return max((max(0.0, 1 - float(f.min() / f.mean())) for f in parts), default=0.0)


def mutual_information(active: ArrayLike, events: ArrayLike, layers: Sequence[int] | None = None) -> float:
    """How much the unit at work tells of the event of the same step, in bits.

    Of the units that are active in a step, one is drawn, each as likely as the others. With a and e as below,

        p(e, i) = 1/S * sum_t [e_t = e] * a_ti / sum_j a_tj
        I(E; M) = sum_{e, i} p(e, i) log2( p(e, i) / (p(e) p(i)) )

    It is 0 where units and events are independent, and at most the entropy of the events. Where K units are active at
    every step, it is also at most log2(R / K). With K = R it is 0.

    The authors' code computes I in nats; the paper shows it as "inverse mutual information". As any estimate from
    counts, this one is too high after few steps: compare it over equally many.

    Args:
        active: a ``[S, N]``, whether each unit is active in each step. Steps in which no unit of a layer is active do
            not count for that layer.
        events: e ``[S]``, of any type that can be told apart.
        layers: As in `collapse`.

    Returns:
        The measure; with several layers their mean.

    Raises:
        UsageError: If shapes or layers do not fit.

    Example:
        >>> mutual_information([[1, 0], [0, 1], [1, 0], [0, 1]], ["left", "right", "left", "right"])
        1.0
    """
    a, e = np.asarray(active, dtype=np.float64), np.asarray(events)
    if a.ndim != 2 or e.shape != a.shape[:1] or not len(e):
        raise mismatch("mutual information", "of active [S, N] and events [S]", f"{a.shape} and {e.shape}")
    kinds, codes = np.unique(e, return_inverse=True)
    found = []
    for part in _by_layer(a, layers):
        counts = part.any(axis=1)
        joint = np.zeros((len(kinds), part.shape[1]))  # p(e, i), [E, R]
        np.add.at(joint, codes[counts], _shares(part[counts]) / counts.sum())
        independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
        met = joint > 0
        bits = float((joint[met] * np.log2(joint[met] / independent[met])).sum())
        found.append(max(0.0, bits))
    return _mean(found)


def _by_layer(values: NDArray[np.float64], layers: Sequence[int] | None) -> list[NDArray[np.float64]]:
    """The last axis by layers, without those that cannot be uneven."""
    layers = [values.shape[-1]] if layers is None else layers
    if sum(layers) != values.shape[-1]:
        raise mismatch("the units of layers", f"{values.shape[-1]} together", list(layers))
    parts = np.split(values, np.cumsum(layers)[:-1], axis=-1)
    return [part for part in parts if part.shape[-1] > 1 and part.any()]


def _shares(frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Parts of the last axis that sum to 1."""
    shares: NDArray[np.float64] = frequencies / frequencies.sum(axis=-1, keepdims=True)
    return shares


def _mean(measures: list[float]) -> float:
    return sum(measures) / len(measures) if measures else 0.0
