"""Recurrent Entity Network (Henaff et al., ICLR 2017) in loop form; see `rim_numpy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.reference.rim_numpy import Array, sigmoid


class EntNetResult(NamedTuple):
    """Outputs ``[T, B, S F]``, final ``h`` and ``c [1, B, S F]``, and every slot's gate ``[T, B, S]``."""

    y: Array
    h: Array
    c: Array
    gate: Array


def phi(activation: str, w: Mapping[str, Array], z: Array) -> Array:
    if activation == "identity":
        return z
    return np.where(np.real(z) > 0, z, w["slope"] * z)


def entnet(activation: str, w: Mapping[str, Array], starts: NDArray[np.bool_]) -> EntNetResult:
    """Run one sequence; ``w`` has the weights by name, ``"x" [T, B, I]`` and ``"h" [1, B, S F]``."""
    x, dtype = w["x"], np.result_type(*w.values())
    T, B, _ = x.shape
    keys = w["keys"]
    S, width = len(keys), w["h"].shape[2]
    y, gate = np.zeros((T, B, width), dtype), np.zeros((T, B, S), dtype)
    h_last = np.zeros((1, B, width), dtype)
    for b in range(B):
        h = list(np.split(w["h"][0, b], S))
        for t in range(T):
            if starts[t, b]:
                h = list(keys)
            s = w["encoder.weight"] @ x[t, b] + w["encoder.bias"]
            for j in range(S):
                g = sigmoid(s @ h[j] + s @ keys[j])  # Eq. 2
                candidate = phi(  # Eq. 3
                    activation,
                    w,
                    w["content.weight"] @ h[j] + w["content.bias"] + w["key.weight"] @ keys[j] + w["input.weight"] @ s,
                )
                grown = h[j] + g * candidate  # Eq. 4
                h[j] = grown / np.sqrt(np.sum(grown * grown))  # Eq. 5
                gate[t, b, j] = g
            y[t, b] = np.concatenate(h)
        h_last[0, b] = np.concatenate(h)
    return EntNetResult(y, h_last, np.zeros_like(h_last), gate)
