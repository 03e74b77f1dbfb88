"""Grid LSTM in loop form, one row, one step and one unit at a time, differentiable by complex step; see `rim_numpy`.

Letters: T time, B batch, I input width, N units, D unit size.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests.reference.baselines_numpy import Result
from tests.reference.rim_numpy import Array, sigmoid


def grid_lstm(num_units: int, w: Mapping[str, Array], starts: Array) -> Result:
    """Run one sequence; an episode starts with everything at zero.

    Args:
        num_units: Units N.
        w: The weights by name, and ``"x" [T, B, I]``, ``"h"`` and ``"c" [1, B, N D]``.
        starts: ``[T, B]``, where an episode starts.
    """
    T, B, _ = w["x"].shape
    N, width = num_units, w["h"].shape[2]
    D = width // N
    Wx, Wh, bias = w["dynamics.weight_input"], w["dynamics.weight_hidden"], w["dynamics.bias"]
    dtype = np.result_type(*w.values())
    y = np.zeros((T, B, width), dtype)
    h_last, c_last = w["h"].astype(dtype), w["c"].astype(dtype)
    for b in range(B):
        hidden = [h_last[0, b, n * D : (n + 1) * D] for n in range(N)]
        memory = [c_last[0, b, n * D : (n + 1) * D] for n in range(N)]
        for t in range(T):
            if starts[t, b]:
                hidden, memory = [np.zeros(D, dtype)] * N, [np.zeros(D, dtype)] * N
            seen = np.concatenate([w["x"][t, b], *hidden])  # [x_t ; h_1 ; ... ; h_N]
            new_hidden, new_memory = [], []
            for n in range(N):
                z = seen @ np.concatenate([Wx[n], Wh[n]]) + bias[n]
                i, f, g, o = (z[k * D : (k + 1) * D] for k in range(4))
                new_memory.append(sigmoid(f) * memory[n] + sigmoid(i) * np.tanh(g))
                new_hidden.append(sigmoid(o) * np.tanh(new_memory[n]))
            hidden, memory = new_hidden, new_memory
            y[t, b] = np.concatenate(hidden)
        h_last[0, b], c_last[0, b] = np.concatenate(hidden), np.concatenate(memory)
    return Result(y, h_last, c_last)
