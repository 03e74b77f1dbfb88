"""RIM with a shared workspace (Goyal et al., ICLR 2022; our reading of its gates) in loop form; see `rim_numpy`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.reference.rim_numpy import (
    CELLS,
    Array,
    RimOptions,
    largest,
    margin_between,
    read_input,
    sigmoid,
    softmax,
)


@dataclass(frozen=True)
class WorkspaceOptions:
    """What cannot be read off the shapes of the weights."""

    num_units: int
    num_active: int
    num_slots: int
    dynamics: str = "lstm"
    competition: str = "null"
    input_heads: int = 1
    write_top_k: int | None = None
    broadcast: str = "all"
    workspace_heads: int = 4

    def of_rim(self) -> RimOptions:
        """The options of what it has in common with RIM."""
        return RimOptions(self.num_units, self.num_active, competition=self.competition, input_heads=self.input_heads)


class WorkspaceResult(NamedTuple):
    """Outputs ``[T, B, (N + S) D]``, final ``h`` and ``c``, and what happened; ``margin`` as in `rim_numpy`."""

    y: Array
    h: Array
    c: Array
    active: NDArray[np.bool_]
    input_attention: Array
    communication_attention: Array
    margin: float


def attend(
    w: Mapping[str, Array], H: int, reader: Array, rows: dict[int, Array], k: int | None = None
) -> tuple[Array, dict[int, Any], float]:
    """What one row reads of others, how much of each, mean over heads, and the margin of the choice of k."""
    dk, dv = w["query"].shape[1] // H, w["value"].shape[1] // H
    heads, total, margin = [], dict.fromkeys(rows, 0.0), np.inf
    names = list(rows)
    for g in range(H):
        keys, values = slice(g * dk, (g + 1) * dk), slice(g * dv, (g + 1) * dv)
        query = reader @ w["query"][:, keys]
        scores = [query @ (rows[n] @ w["key"][:, keys]) / np.sqrt(dk) for n in names]
        kept = sorted(largest(scores, len(names) if k is None else k))
        margin = min(margin, margin_between(scores, len(kept)))
        weights = softmax([scores[i] for i in kept])
        heads.append(
            np.sum([a * (rows[names[i]] @ w["value"][:, values]) for a, i in zip(weights, kept, strict=True)], axis=0)
        )
        for a, i in zip(weights, kept, strict=True):
            total[names[i]] = total[names[i]] + a / H
    return w["project.weight"] @ np.concatenate(heads), total, margin


def within(w: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}


def workspace_rim(o: WorkspaceOptions, w: Mapping[str, Array], starts: NDArray[np.bool_]) -> WorkspaceResult:
    """Run one sequence; ``w`` as in `rim_numpy.rim`, states ``[1, B, (N + S) D]``."""
    x, dtype = w["x"], np.result_type(*w.values())
    T, B, M, _ = x.shape
    N, S, width = o.num_units, o.num_slots, w["h"].shape[2]
    D = width // (N + S)
    y, active = np.zeros((T, B, width), dtype), np.zeros((T, B, N), np.bool_)
    h_last, c_last = np.zeros((1, B, width), dtype), np.zeros((1, B, width), dtype)
    input_attention, communication_attention = np.zeros((T, B, N, 1 + M), dtype), np.zeros((T, B, N, N), dtype)
    identity = np.array([[1.0 if d == s else 0.0 for d in range(D)] for s in range(S)])
    margin, zeros = np.inf, np.zeros(width)
    for b in range(B):
        rows, c = np.split(w["h"][0, b], N + S), np.split(w["c"][0, b], N + S)[:N]
        h, slots = list(rows[:N]), list(rows[N:])
        for t in range(T):
            if starts[t, b]:
                rows = np.split(w.get("initial_h", zeros), N + S)
                c = np.split(w.get("initial_c", zeros), N + S)[:N]
                h, slots = list(rows[:N]), [rows[N + s] + identity[s] for s in range(S)]
            read = read_input(o.of_rim(), w, x[t, b], h)
            winners = sorted(largest(read.priority, o.num_active))
            margin = min(margin, margin_between(read.priority, o.num_active))
            new = {n: CELLS[o.dynamics](w, n, read.value[n], h[n], c[n]) for n in winners}
            h = [new[n][0] if n in winners else h[n] for n in range(N)]
            c = [new[n][1] if n in winners else c[n] for n in range(N)]
            writers = []
            for s in range(S):
                candidates = {n: h[n] for n in winners}
                write = within(w, "workspace.write.")
                written, shares, gap = attend(write, o.workspace_heads, slots[s], candidates, o.write_top_k)
                gates = w["workspace.gate.weight"] @ np.concatenate([written, np.tanh(slots[s])])
                i, f = np.split(gates + w["workspace.gate.bias"], 2)
                slots[s] = sigmoid(i) * np.tanh(written) + sigmoid(f + 1) * slots[s]
                writers.append(shares)
                margin = min(margin, gap)
            received = []
            for n in range(N):
                of_slots = dict(enumerate(slots))
                told, shares, _ = attend(within(w, "workspace.read."), o.workspace_heads, h[n], of_slots)
                received.append(told)
                for s in range(S):
                    for m in winners:
                        communication_attention[t, b, n, m] += shares[s] * writers[s][m]
            h = [h[n] + received[n] if n in winners or o.broadcast == "all" else h[n] for n in range(N)]
            y[t, b] = np.concatenate([*h, *slots])
            active[t, b, winners] = True
            input_attention[t, b] = read.attention
        h_last[0, b] = np.concatenate([*h, *slots])
        c_last[0, b, : N * D] = np.concatenate(c)
    return WorkspaceResult(y, h_last, c_last, active, input_attention, communication_attention, margin)
