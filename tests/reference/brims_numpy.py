"""BRIMs (Mittal et al., ICML 2020) in loop form: RIM's own equations, layer after layer; see `rim_numpy`.

What happens inside a layer is RIM's, and taken from its transcription. What a layer reads is written out here, because
its elements come from several places and have different widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.reference.rim_numpy import (
    CELLS,
    Array,
    Read,
    RimOptions,
    communicate,
    largest,
    margin_between,
    softmax,
    stop_gradient,
)


@dataclass(frozen=True)
class BrimsOptions:
    """RIM's options for every layer, layer 0 first, and where top-down input comes from."""

    layers: tuple[RimOptions, ...]
    top_down: str | None = "adjacent"


class BrimsResult(NamedTuple):
    """As `rim_numpy.RimResult`; traces run over the units of layer 0, then of layer 1, and so on."""

    y: Array
    h: Array
    c: Array
    active: NDArray[np.bool_]
    input_attention: Array
    communication_attention: Array
    margin: float


class Element(NamedTuple):
    """Something that a layer may attend to; the key is None without input attention."""

    x: Array
    key: Array | None
    value: Array


def source_of_top_down(o: BrimsOptions, layer: int) -> int | None:
    """The layer whose last state is the element above, if there is one."""
    last = len(o.layers) - 1
    if o.top_down == "adjacent" and layer < last:
        return layer + 1
    if o.top_down == "last_to_first" and layer == 0 and last > 0:
        return last
    return None


def read_elements(o: RimOptions, Wq: Array | None, elements: list[Element], h: list[Array]) -> Read:
    """What every unit of a layer reads; attention has column 0 for null, then one per element."""
    N, E, H = o.num_units, len(elements), o.input_heads
    if not o.input_attention:
        u = np.sum([e.x @ e.value for e in elements], axis=0) / E
        return Read([u] * N, [0.0] * N, [[0.0] * (1 + E)] * N)
    assert Wq is not None
    dk, dv = Wq.shape[2] // H, elements[0].value.shape[1] // H
    pieces: list[list[Array]] = [[] for _ in range(N)]
    total: list[list[Any]] = [[0.0] * (1 + E) for _ in range(N)]
    for head in range(H):
        keys, values = slice(head * dk, (head + 1) * dk), slice(head * dv, (head + 1) * dv)
        K = [np.zeros(dk)]
        V = [np.zeros(dv)]
        for e in elements:
            assert e.key is not None
            K.append(e.x @ e.key[:, keys])
            V.append(e.x @ e.value[:, values])
        scores = [[(h[n] @ Wq[n][:, keys]) @ k / np.sqrt(dk) for k in K] for n in range(N)]
        P: list[list[Any]] = [[0.0] * (1 + E) for _ in range(N)]
        if o.competition == "null":
            P = [softmax(scores[n]) for n in range(N)]
        else:
            for m in range(1, 1 + E):
                for n, share in enumerate(softmax([scores[n][m] for n in range(N)])):
                    P[n][m] = share
        for n in range(N):
            pieces[n].append(np.sum([p * v for p, v in zip(P[n], V, strict=True)], axis=0))
            total[n] = [t + p / H for t, p in zip(total[n], P[n], strict=True)]
    priority = [-total[n][0] if o.competition == "null" else sum(total[n][1:]) for n in range(N)]
    return Read([np.concatenate(piece) for piece in pieces], priority, total)


class LayerStep(NamedTuple):
    """The new state of every unit of a layer, the winners, and what was attended to."""

    h: list[Array]
    c: list[Array]
    winners: list[int]
    input_attention: list[list[Any]]
    communication_attention: list[list[Any]]
    margin: float


def layer_step(
    o: RimOptions, w: Mapping[str, Array], elements: list[Element], h: list[Array], c: list[Array]
) -> LayerStep:
    """One step of one layer, its weights under RIM's names."""
    N = o.num_units
    read = read_elements(o, w.get("input_read.query"), elements, h)
    winners = largest(read.priority, o.num_active)
    margin = margin_between(read.priority, o.num_active) if o.input_attention else np.inf
    candidates = [CELLS[o.dynamics](w, n, read.value[n], h[n], c[n]) for n in range(N)]
    readable = []
    for n in range(N):
        if n in winners:
            readable.append(candidates[n][0])
        else:
            readable.append(h[n] if o.communication_reads == "previous" else stop_gradient(candidates[n][0]))
    received: list[Any] = [0.0] * N
    attention: list[list[Any]] = [[0.0] * N for _ in range(N)]
    if o.communication is not None:
        received, attention, gap = communicate(o, w, readable)
        margin = min(margin, gap)
    h_new = [candidates[n][0] + received[n] if n in winners else h[n] for n in range(N)]
    c_new = [candidates[n][1] if n in winners else c[n] for n in range(N)]
    return LayerStep(h_new, c_new, winners, read.attention, attention, margin)


def units(state: Array, count: int) -> list[Array]:
    return [np.array(part) for part in np.split(state, count)]


def brims(o: BrimsOptions, w: Mapping[str, Array], starts: NDArray[np.bool_]) -> BrimsResult:
    """Run one sequence.

    Args:
        o: The options.
        w: The weights by name, and ``"x" [T, B, M, I]``, ``"h"`` and ``"c"`` ``[L, B, hidden]``.
        starts: ``[T, B]``, where an episode starts.
    """
    x, dtype = w["x"], np.result_type(*w.values())
    T, B, M, _ = x.shape
    L, width = len(o.layers), w["h"].shape[2]
    own = [
        {name.removeprefix(f"layers.{i}."): value for name, value in w.items() if name.startswith(f"layers.{i}.")}
        for i in range(L)
    ]
    first_unit = [sum(layer.num_units for layer in o.layers[:i]) for i in range(L + 1)]
    N = first_unit[L]
    any_top_down = any(source_of_top_down(o, i) is not None for i in range(L))
    y = np.zeros((T, B, width), dtype)
    h_last, c_last = np.zeros((L, B, width), dtype), np.zeros((L, B, width), dtype)
    active = np.zeros((T, B, N), np.bool_)
    input_attention = np.zeros((T, B, N, 1 + M + any_top_down), dtype)
    communication_attention = np.zeros((T, B, N, N), dtype)
    margin = np.inf
    zeros = np.zeros(width, dtype)
    for b in range(B):
        h, c = [w["h"][i, b] for i in range(L)], [w["c"][i, b] for i in range(L)]
        for t in range(T):
            if starts[t, b]:
                h = [weights.get("initial_h", zeros) for weights in own]
                c = [weights.get("initial_c", zeros) for weights in own]
            before = list(h)
            for i, layer in enumerate(o.layers):
                below = list(x[t, b]) if i == 0 else [h[i - 1]]
                keys, values = own[i].get("input_read.key"), own[i]["input_read.value"]
                elements = [Element(e, None if keys is None else keys[m], values[m]) for m, e in enumerate(below)]
                source = source_of_top_down(o, i)
                if source is not None:
                    key = w.get(f"top_down.{i}.key")
                    value = w[f"top_down.{i}.value"]
                    elements.append(Element(before[source], None if key is None else key[0], value[0]))
                step = layer_step(layer, own[i], elements, units(h[i], layer.num_units), units(c[i], layer.num_units))
                h[i], c[i] = np.concatenate(step.h), np.concatenate(step.c)
                margin = min(margin, step.margin)
                for n in range(layer.num_units):
                    u = first_unit[i] + n
                    active[t, b, u] = n in step.winners
                    attention = step.input_attention[n]
                    input_attention[t, b, u, : 1 + len(below)] = attention[: 1 + len(below)]
                    if source is not None:
                        input_attention[t, b, u, -1] = attention[-1]
                    communication_attention[t, b, u, first_unit[i] : first_unit[i + 1]] = step.communication_attention[
                        n
                    ]
            y[t, b] = h[L - 1]
        for i in range(L):
            h_last[i, b], c_last[i, b] = h[i], c[i]
    return BrimsResult(y, h_last, c_last, active, input_attention, communication_attention, margin)
