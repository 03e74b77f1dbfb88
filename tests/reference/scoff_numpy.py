"""SCOFF, object files and schemata (Goyal et al., 2020; our reading of what it leaves open) in loop form.

What it shares with RIM is written in `rim_numpy`, which these equations use with the same matrices for every slot.
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
    RimOptions,
    communicate,
    largest,
    margin_between,
    read_input,
    softmax,
    stop_gradient,
)


@dataclass(frozen=True)
class ScoffOptions:
    """What cannot be read off the shapes of the weights."""

    num_units: int
    num_active: int
    num_schemata: int
    dynamics: str = "gru"
    assignment: str = "chosen"
    schema_temperature: float = 0.5
    competition: str = "null"
    input_heads: int = 1
    communication: str | None = "gated"
    communication_reads: str = "candidate"
    communication_heads: int = 4
    communication_key_size: int = 32
    communication_value_size: int = 32

    def of_rim(self) -> RimOptions:
        """The options of what SCOFF has in common with RIM."""
        return RimOptions(
            self.num_units,
            self.num_active,
            competition=self.competition,
            input_heads=self.input_heads,
            communication=self.communication,
            communication_heads=self.communication_heads,
            communication_key_size=self.communication_key_size,
            communication_value_size=self.communication_value_size,
        )


class ScoffResult(NamedTuple):
    """Outputs ``[T, B, N D]``, final ``h`` and ``c [1, B, N D]``, and what happened on the way.

    ``margin`` is the smallest distance, over all steps, between what was chosen and what was not.
    """

    y: Array
    h: Array
    c: Array
    active: NDArray[np.bool_]
    schema: NDArray[np.int_]
    input_attention: Array
    communication_attention: Array
    margin: float


def for_every_slot(w: Mapping[str, Array], N: int) -> dict[str, Array]:
    """Matrices that slots share, once for each slot, under the names that RIM has them by."""
    shared = ("input_read.query", "communication.query_key_value")
    return {name: np.repeat(value, N, axis=0) if name in shared else value for name, value in w.items()}


def update(o: ScoffOptions, w: Mapping[str, Array], n: int, u: Array, h: Array, c: Array) -> tuple[Any, ...]:
    """Slot n by the schema that suits it: new h and c, the schema, and the margin of the choice (step 3)."""
    cells = {name.replace("dynamics.cells.", "dynamics."): value for name, value in w.items()}
    proposals = [CELLS[o.dynamics](cells, s, u, h, c) for s in range(o.num_schemata)]
    if o.assignment == "fixed" or o.num_schemata == 1:
        s = n if o.assignment == "fixed" else 0
        return *proposals[s], s, np.inf
    query = h @ w["dynamics.query"]
    e = [query @ (proposals[s][0] @ w["dynamics.key"][s]) for s in range(o.num_schemata)]
    (chosen,) = largest(e, 1)
    soft = softmax([score / o.schema_temperature for score in e])
    # Straight through: the value is that of the chosen one, the gradient that of the mean under `soft`.
    weights = [float(s == chosen) + p - stop_gradient(np.asarray(p)) for s, p in enumerate(soft)]
    h_new = np.sum([a * proposal[0] for a, proposal in zip(weights, proposals, strict=True)], axis=0)
    c_new = np.sum([a * proposal[1] for a, proposal in zip(weights, proposals, strict=True)], axis=0)
    return h_new, c_new, chosen, margin_between(e, 1)


def scoff(o: ScoffOptions, w: Mapping[str, Array], starts: NDArray[np.bool_]) -> ScoffResult:
    """Run one sequence; ``w`` as in `rim_numpy.rim`."""
    x, dtype = w["x"], np.result_type(*w.values())
    T, B, M, _ = x.shape
    N, width = o.num_units, w["h"].shape[2]
    as_rim, repeated = o.of_rim(), for_every_slot(w, N)
    y = np.zeros((T, B, width), dtype)
    h_last, c_last = np.zeros((1, B, width), dtype), np.zeros((1, B, width), dtype)
    active, schema = np.zeros((T, B, N), np.bool_), np.zeros((T, B, N), np.int_)
    input_attention, communication_attention = np.zeros((T, B, N, 1 + M), dtype), np.zeros((T, B, N, N), dtype)
    margin, zeros = np.inf, np.zeros(width, dtype)
    for b in range(B):
        h, c = np.split(w["h"][0, b], N), np.split(w["c"][0, b], N)
        for t in range(T):
            if starts[t, b]:
                h, c = np.split(w.get("initial_h", zeros), N), np.split(w.get("initial_c", zeros), N)
            read = read_input(as_rim, repeated, x[t, b], h)  # step 2
            winners = largest(read.priority, o.num_active)
            margin = min(margin, margin_between(read.priority, o.num_active))
            h_new, c_new, readable = [], [], []
            for n in range(N):
                h_n, c_n, schema[t, b, n], gap = update(o, w, n, read.value[n], h[n], c[n])  # step 3
                h_new.append(h_n)
                c_new.append(c_n)
                margin = min(margin, gap)
                unread = stop_gradient(h_n) if o.communication_reads == "candidate" else h[n]
                readable.append(h_n if n in winners else unread)
            received = [np.zeros(width // N, dtype)] * N
            if o.communication is not None:
                received, communication_attention[t, b], _ = communicate(as_rim, repeated, readable)  # step 4
            h = [h_new[n] + received[n] if n in winners else h[n] for n in range(N)]
            c = [c_new[n] if n in winners else c[n] for n in range(N)]
            y[t, b] = np.concatenate(h)
            active[t, b, winners] = True
            input_attention[t, b] = read.attention
        h_last[0, b], c_last[0, b] = np.concatenate(h), np.concatenate(c)
    return ScoffResult(y, h_last, c_last, active, schema, input_attention, communication_attention, margin)
