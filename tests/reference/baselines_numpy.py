"""LSTM, GRU, RNN, IndRNN and the feed-forward control in loop form, differentiable by complex step; see `rim_numpy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tests.reference.rim_numpy import Array, sigmoid

RECURRENT_BOUND = 0.4
"""Of IndRNN's recurrent weights."""


class Result(NamedTuple):
    """Outputs ``[T, B, hidden]`` and final ``h`` and ``c [L, B, hidden]``."""

    y: Array
    h: Array
    c: Array


def _affine(w: Mapping[str, Array], layer: int, x: Array, h: Array) -> tuple[Array, Array]:
    """Input and hidden pre-activations of one layer, in torch's parameter names."""
    return (
        w[f"rnn.weight_ih_l{layer}"] @ x + w[f"rnn.bias_ih_l{layer}"],
        w[f"rnn.weight_hh_l{layer}"] @ h + w[f"rnn.bias_hh_l{layer}"],
    )


def _lstm(w: Mapping[str, Array], layer: int, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    a, b = _affine(w, layer, x, h)
    i, f, g, o = np.split(a + b, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def _gru(w: Mapping[str, Array], layer: int, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    a, b = _affine(w, layer, x, h)
    (a_r, a_z, a_n), (b_r, b_z, b_n) = np.split(a, 3), np.split(b, 3)
    z = sigmoid(a_z + b_z)
    return (1 - z) * np.tanh(a_n + sigmoid(a_r + b_r) * b_n) + z * h, np.zeros_like(h)


def _tanh(w: Mapping[str, Array], layer: int, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    a, b = _affine(w, layer, x, h)
    return np.tanh(a + b), np.zeros_like(h)


def _relu(w: Mapping[str, Array], layer: int, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    a, b = _affine(w, layer, x, h)
    return _positive_part(a + b), np.zeros_like(h)


def _independent(w: Mapping[str, Array], layer: int, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """IndRNN (Li et al., 2018, Eq. 2), neuron by neuron."""
    new = np.zeros_like(h)
    for n in range(len(h)):
        drive = w[f"inputs.{layer}.weight"][n] @ x + w[f"inputs.{layer}.bias"][n]
        u = w["recurrent"][layer, n]
        u = u if abs(np.real(u)) <= RECURRENT_BOUND else np.sign(np.real(u)) * RECURRENT_BOUND
        new[n] = _positive_part(drive + u * h[n])
    return new, np.zeros_like(h)


def _positive_part(z: Array) -> Array:
    return np.where(np.real(z) > 0, z, 0)


def rnn(kind: str, w: Mapping[str, Array], starts: Array) -> Result:
    """Stacked layers, one row and step at a time; an episode starts with every layer at zero."""
    cell = {"lstm": _lstm, "gru": _gru, "tanh": _tanh, "relu": _relu, "indrnn": _independent}[kind]
    T, B = starts.shape
    L, _, width = w["h"].shape
    dtype = np.result_type(*w.values())
    y = np.zeros((T, B, width), dtype)
    h, c = w["h"].astype(dtype), w["c"].astype(dtype)
    for b in range(B):
        for t in range(T):
            if starts[t, b]:
                h[:, b], c[:, b] = 0, 0
            below = w["x"][t, b]
            for layer in range(L):
                h[layer, b], c[layer, b] = cell(w, layer, below, h[layer, b], c[layer, b])
                below = h[layer, b]
            y[t, b] = below
    return Result(y, h, c)


def feedforward(w: Mapping[str, Array], starts: Array) -> Result:
    """``tanh(W x + b)`` at every step on its own; starts cannot matter."""
    T, B = starts.shape
    y = [[np.tanh(w["linear.weight"] @ w["x"][t, b] + w["linear.bias"]) for b in range(B)] for t in range(T)]
    return Result(np.array(y), np.zeros_like(w["h"]), np.zeros_like(w["c"]))
