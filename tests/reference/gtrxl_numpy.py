"""GTrXL (Parisotto et al., 2020; attention of Dai et al., 2019) in loop form, one step after the other.

A memory is a list of the last inputs of a layer, the newest first; it is as long as there are steps of the episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.reference.rim_numpy import Array, sigmoid, softmax
from tests.reference.rmc_numpy import layer_norm, relu


@dataclass(frozen=True)
class GtrxlOptions:
    """What cannot be read off the shapes of the weights."""

    num_layers: int
    memory_length: int


class GtrxlResult(NamedTuple):
    """Outputs ``[T, B, F]`` and the final ``h`` and ``c``, each ``[L, B, W]``."""

    y: Array
    h: Array
    c: Array


def encoding(distance: int, F: int) -> Array:
    """R_d: sines of the distance at every frequency, then cosines."""
    frequencies = [10_000.0 ** (-2 * i / F) for i in range((F + 1) // 2)]
    both = [np.sin(distance * w) for w in frequencies] + [np.cos(distance * w) for w in frequencies]
    return np.array(both[:F])


def gate(w: Mapping[str, Array], x: Array, y: Array) -> Array:
    F = len(x)
    Wr, Wz, Wg = w["new.weight"][:F], w["new.weight"][F : 2 * F], w["new.weight"][2 * F :]
    Ur, Uz = w["old.weight"][:F], w["old.weight"][F:]
    r = sigmoid(Wr @ y + Ur @ x)
    z = sigmoid(Wz @ y + Uz @ x - w["bias"])
    result: Array = (1 - z) * x + z * np.tanh(Wg @ y + w["reset.weight"] @ (r * x))
    return result


def attend(w: Mapping[str, Array], rows: list[Array]) -> Array:
    """What the first row reads of all rows; row d lies d steps before it."""
    H, dh = w["content_bias"].shape
    heads = []
    for g in range(H):
        own = slice(g * dh, (g + 1) * dh)
        Wq, Wp = w["query.weight"][own], w["position.weight"][own]
        Wk, Wv = w["key_value.weight"][own], w["key_value.weight"][H * dh :][own]
        q = Wq @ rows[0]
        scores = []
        for d, row in enumerate(rows):
            content = (q + w["content_bias"][g]) @ (Wk @ row)
            position = (q + w["position_bias"][g]) @ (Wp @ encoding(d, len(row)))
            scores.append((content + position) / np.sqrt(dh))
        heads.append(np.sum([a * (Wv @ row) for a, row in zip(softmax(scores), rows, strict=True)], axis=0))
    result: Array = w["project.weight"] @ np.concatenate(heads)
    return result


def within(w: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}


def layer(w: Mapping[str, Array], E: Array, memory: list[Array]) -> Array:
    rows = [layer_norm(row, w["norm_attention.weight"], w["norm_attention.bias"]) for row in [E, *memory]]
    Y = gate(within(w, "gate_attention."), E, relu(attend(within(w, "attention."), rows)))
    normed = layer_norm(Y, w["norm_mlp.weight"], w["norm_mlp.bias"])
    inner = relu(w["mlp.0.weight"] @ normed + w["mlp.0.bias"])
    return gate(within(w, "gate_mlp."), Y, relu(w["mlp.2.weight"] @ inner + w["mlp.2.bias"]))


def unpack(o: GtrxlOptions, h: Array, c: Array, F: int) -> list[Array]:
    flat = np.concatenate([h, c])
    count = round(float(np.clip(np.real(flat[o.memory_length * F]), 0, o.memory_length)))
    return [flat[m * F : (m + 1) * F] for m in range(count)]


def pack(o: GtrxlOptions, memory: list[Array], F: int, width: int) -> tuple[Array, Array]:
    flat = np.zeros(2 * width, memory[0].dtype)
    for m, row in enumerate(memory):
        flat[m * F : (m + 1) * F] = row
    flat[o.memory_length * F] = len(memory)
    return flat[:width], flat[width:]


def gtrxl(o: GtrxlOptions, w: Mapping[str, Array], starts: NDArray[np.bool_]) -> GtrxlResult:
    """Run one sequence; ``w`` has the weights by name, ``"x" [T, B, I]``, ``"h"`` and ``"c"`` ``[L, B, W]``."""
    x, dtype = w["x"], np.result_type(*w.values())
    T, B, _ = x.shape
    F, width = len(w["embed.weight"]), w["h"].shape[2]
    y = np.zeros((T, B, F), dtype)
    h_last, c_last = np.zeros(w["h"].shape, dtype), np.zeros(w["h"].shape, dtype)
    for b in range(B):
        memories = [unpack(o, w["h"][n, b], w["c"][n, b], F) for n in range(o.num_layers)]
        for t in range(T):
            if starts[t, b]:
                memories = [[] for _ in range(o.num_layers)]
            E = w["embed.weight"] @ x[t, b] + w["embed.bias"]
            for n in range(o.num_layers):
                before = E.astype(dtype)
                E = layer(within(w, f"layers.{n}."), E, memories[n])
                memories[n] = [before, *memories[n]][: o.memory_length]
            y[t, b] = E
        for n in range(o.num_layers):
            h_last[n, b], c_last[n, b] = pack(o, memories[n], F, width)
    return GtrxlResult(y, h_last, c_last)
