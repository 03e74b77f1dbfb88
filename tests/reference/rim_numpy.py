"""Recurrent Independent Mechanisms, transcribed from the equations as slowly and plainly as possible.

One batch row, one time step, one unit and one head at a time; nothing is shared with `rimrl.cores`. All arithmetic
also holds for complex numbers, so that `tests.reference.complex_step` can differentiate it exactly. What must not be
differentiated is cut out with `stop_gradient`, which drops the imaginary part; comparisons look at real parts only.

Letters: T time, B batch, M input elements, I input width, N units, K active units, D unit size, H heads.
Equation numbers are those of Goyal et al., ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Cell = Callable[[Mapping[str, Array], int, Array, Array, Array], tuple[Array, Array]]


@dataclass(frozen=True)
class RimOptions:
    """What cannot be read off the shapes of the weights.

    ``block_gradient`` is no option of the core: switching it off shows what the blocked gradient is worth.
    """

    num_units: int
    num_active: int
    dynamics: str = "lstm"
    input_attention: bool = True
    competition: str = "null"
    input_heads: int = 1
    communication: str | None = "gated"
    communication_reads: str = "candidate"
    communication_heads: int = 4
    communication_key_size: int = 32
    communication_value_size: int = 32
    communication_top_k: int | None = None
    block_gradient: bool = True


class RimResult(NamedTuple):
    """Outputs ``[T, B, N D]``, final ``h`` and ``c [1, B, N D]``, and what happened on the way.

    ``margin`` is the smallest distance, over all steps, between a winner and a loser of a competition.
    """

    y: Array
    h: Array
    c: Array
    active: NDArray[np.bool_]
    input_attention: Array
    communication_attention: Array
    margin: float


def stop_gradient(z: Array) -> Array:
    return np.real(z).astype(z.dtype)


def sigmoid(z: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-z))
    return result


def softmax(scores: Sequence[Any]) -> list[Any]:
    top = max(np.real(s) for s in scores)
    weights = [np.exp(s - top) for s in scores]
    return [w / sum(weights) for w in weights]


def largest(scores: Sequence[Any], k: int) -> list[int]:
    """The indices of the k largest scores; of equal ones the lowest index."""
    order = sorted(range(len(scores)), key=lambda i: (-float(np.real(scores[i])), i))
    return order[:k]


def margin_between(scores: Sequence[Any], k: int) -> float:
    """How far the worst winner lies above the best loser."""
    ordered = sorted((float(np.real(s)) for s in scores), reverse=True)
    return ordered[k - 1] - ordered[k] if k < len(ordered) else np.inf


def lstm_cell(w: Mapping[str, Array], n: int, u: Array, h: Array, c: Array) -> tuple[Array, Array]:
    D = len(h)
    a = u @ w["dynamics.weight_input"][n] + h @ w["dynamics.weight_hidden"][n] + w["dynamics.bias"][n]
    i, f, o = sigmoid(a[:D]), sigmoid(a[D : 2 * D]), sigmoid(a[3 * D :])
    g = np.tanh(a[2 * D : 3 * D])
    c_new = f * c + i * g
    return o * np.tanh(c_new), c_new


def gru_cell(w: Mapping[str, Array], n: int, u: Array, h: Array, c: Array) -> tuple[Array, Array]:
    D = len(h)
    a = u @ w["dynamics.weight_input"][n] + w["dynamics.bias_input"][n]
    b = h @ w["dynamics.weight_hidden"][n] + w["dynamics.bias_hidden"][n]
    r, z = sigmoid(a[:D] + b[:D]), sigmoid(a[D : 2 * D] + b[D : 2 * D])
    new = np.tanh(a[2 * D :] + r * b[2 * D :])
    return (1 - z) * new + z * h, c


CELLS: dict[str, Cell] = {"lstm": lstm_cell, "gru": gru_cell}


class Read(NamedTuple):
    """What every unit took from the input, by how much each deserves to be active, and ``[N][1 + M]`` attention."""

    value: list[Array]
    priority: list[Any]
    attention: list[list[Any]]


def read_input(o: RimOptions, w: Mapping[str, Array], x: Array, h: list[Array]) -> Read:
    """Input attention of one row; ``x [M, I]``, ``h`` one ``[D]`` per unit."""
    M, H = len(x), o.input_heads
    Wq, We, Wv = w["input_read.query"], w["input_read.key"], w["input_read.value"]
    dk, dv = Wq.shape[2] // H, Wv.shape[2] // H
    pieces: list[list[Array]] = [[] for _ in range(o.num_units)]
    total: list[list[Any]] = [[0.0] * (1 + M) for _ in range(o.num_units)]
    for head in range(H):
        keys, values = slice(head * dk, (head + 1) * dk), slice(head * dv, (head + 1) * dv)
        # Eq. 1: row 0 is the null element. Its key and value are those of a zero input.
        X = [np.zeros_like(x[0]), *x]
        K = [X[0] @ We[0][:, keys]] + [X[1 + m] @ We[m][:, keys] for m in range(M)]
        V = [X[0] @ Wv[0][:, values]] + [X[1 + m] @ Wv[m][:, values] for m in range(M)]
        Q = [h[n] @ Wq[n][:, keys] for n in range(o.num_units)]
        scores = [[Q[n] @ K[m] / np.sqrt(dk) for m in range(1 + M)] for n in range(o.num_units)]
        if o.competition == "null":
            P = [softmax(scores[n]) for n in range(o.num_units)]  # Eq. 2
        else:
            P = [[0.0] * (1 + M) for _ in range(o.num_units)]
            for m in range(1, 1 + M):
                shares = softmax([scores[n][m] for n in range(o.num_units)])
                for n in range(o.num_units):
                    P[n][m] = shares[n]
        for n in range(o.num_units):
            pieces[n].append(np.sum([P[n][m] * V[m] for m in range(1 + M)], axis=0))
            total[n] = [total[n][m] + P[n][m] / H for m in range(1 + M)]
    if o.competition == "null":
        priority = [-total[n][0] for n in range(o.num_units)]
    else:
        priority = [sum(total[n][1:]) for n in range(o.num_units)]
    return Read([np.concatenate(piece) for piece in pieces], priority, total)


def read_whole_input(o: RimOptions, w: Mapping[str, Array], x: Array) -> Read:
    """The ablation without input attention: every unit reads the mean of the projected elements."""
    u = np.sum([x[m] @ w["input_read.value"][m] for m in range(len(x))], axis=0) / len(x)
    return Read([u] * o.num_units, [0.0] * o.num_units, [[0.0] * (1 + len(x))] * o.num_units)


def communicate(
    o: RimOptions, w: Mapping[str, Array], states: list[Array]
) -> tuple[list[Array], list[list[Any]], float]:
    """What every unit receives from all units, its attention, and the margin of the top-k choice."""
    N, H, dk, dv = o.num_units, o.communication_heads, o.communication_key_size, o.communication_value_size
    W = w["communication.query_key_value"]
    Wq, Wk, Wv = W[:, :, : H * dk], W[:, :, H * dk : 2 * H * dk], W[:, :, 2 * H * dk :]
    received = []
    attention: list[list[Any]] = [[0.0] * N for _ in range(N)]
    margin = np.inf
    for n in range(N):
        heads = []
        for head in range(H):
            keys, values = slice(head * dk, (head + 1) * dk), slice(head * dv, (head + 1) * dv)
            query = states[n] @ Wq[n][:, keys]
            scores = [query @ (states[m] @ Wk[m][:, keys]) / np.sqrt(dk) for m in range(N)]
            read = list(range(N))
            if o.communication_top_k is not None:
                read = sorted(largest(scores, o.communication_top_k))
                margin = min(margin, margin_between(scores, o.communication_top_k))
            weights = softmax([scores[m] for m in read])
            heads.append(
                np.sum([p * (states[m] @ Wv[m][:, values]) for p, m in zip(weights, read, strict=True)], axis=0)
            )
            for p, m in zip(weights, read, strict=True):
                attention[n][m] = attention[n][m] + p / H
        read_value = np.concatenate(heads)
        r = w["communication.project.weight"] @ read_value + w["communication.project.bias"]
        if o.communication == "gated":
            gate = sigmoid(w["communication.gate.weight"] @ read_value + w["communication.gate.bias"])
            r = gate * np.tanh(r)
        received.append(r)
    return received, attention, margin


def rim(o: RimOptions, w: Mapping[str, Array], starts: NDArray[np.bool_]) -> RimResult:
    """Run one sequence.

    Args:
        o: The options.
        w: The weights by name, and ``"x" [T, B, M, I]``, ``"h"`` and ``"c"`` ``[1, B, N D]``. With
            ``"initial_h" [N D]`` (and ``"initial_c"``) episodes start there, else in zeros.
        starts: ``[T, B]``, where an episode starts.
    """
    x, dtype = w["x"], np.result_type(*w.values())
    T, B, M, _ = x.shape
    N, width = o.num_units, w["h"].shape[2]
    D = width // N
    y = np.zeros((T, B, width), dtype)
    h_last, c_last = np.zeros((1, B, width), dtype), np.zeros((1, B, width), dtype)
    active = np.zeros((T, B, N), np.bool_)
    input_attention = np.zeros((T, B, N, 1 + M), dtype)
    communication_attention = np.zeros((T, B, N, N), dtype)
    margin = np.inf
    zeros = np.zeros(width, dtype)
    for b in range(B):
        h = [w["h"][0, b, n * D : (n + 1) * D] for n in range(N)]
        c = [w["c"][0, b, n * D : (n + 1) * D] for n in range(N)]
        for t in range(T):
            if starts[t, b]:
                h = [w.get("initial_h", zeros)[n * D : (n + 1) * D] for n in range(N)]
                c = [w.get("initial_c", zeros)[n * D : (n + 1) * D] for n in range(N)]
            # Sec. 2.2: read the input, then choose who may change.
            read = read_input(o, w, x[t, b], h) if o.input_attention else read_whole_input(o, w, x[t, b])
            winners = largest(read.priority, o.num_active)
            if o.input_attention:
                margin = min(margin, margin_between(read.priority, o.num_active))
            # Sec. 2.3: every unit's own dynamics.
            candidates = [CELLS[o.dynamics](w, n, read.value[n], h[n], c[n]) for n in range(N)]
            # Sec. 2.4: the winners read from all.
            readable = []
            for n in range(N):
                if n in winners:
                    readable.append(candidates[n][0])
                elif o.communication_reads == "previous":
                    readable.append(h[n])
                else:
                    readable.append(stop_gradient(candidates[n][0]) if o.block_gradient else candidates[n][0])
            received = [np.zeros(D, dtype)] * N
            if o.communication is not None:
                received, attention, gap = communicate(o, w, readable)
                communication_attention[t, b] = attention
                margin = min(margin, gap)
            h = [candidates[n][0] + received[n] if n in winners else h[n] for n in range(N)]
            c = [candidates[n][1] if n in winners else c[n] for n in range(N)]
            y[t, b] = np.concatenate(h)
            active[t, b, winners] = True
            input_attention[t, b] = read.attention
        h_last[0, b], c_last[0, b] = np.concatenate(h), np.concatenate(c)
    return RimResult(y, h_last, c_last, active, input_attention, communication_attention, margin)
