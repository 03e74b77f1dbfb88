"""RigLSTM, transcribed from its equations as slowly and plainly as possible; see `rim_numpy`.

One batch row, one time step, one unit and one view at a time. The choices (units, views, other units) look at real
parts and so are constants for the complex step, as they are for the gradient; nothing else is.

Letters: T time, B batch, I input width, N units, K active units, D unit size, V views, F view size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.reference.rim_numpy import Array, largest, margin_between, sigmoid, softmax


@dataclass(frozen=True)
class RigOptions:
    """What cannot be read off the shapes of the weights; ``input_top_k`` and ``hidden_top_k`` are resolved numbers."""

    num_units: int
    num_active: int
    input_top_k: int
    hidden_top_k: int
    cell_selection: bool = True
    cell_selection_weights: str = "shared"
    input_selection: bool = True
    hidden_selection: bool = True
    soft_update: bool = True


class RigResult(NamedTuple):
    """Outputs ``[T, B, N D]``, final ``h`` and ``c [1, B, N D]``, and what happened on the way.

    The margins are the smallest distance, over all steps, between what was chosen and what was not: of units, of views,
    of other units.
    """

    y: Array
    h: Array
    c: Array
    active: NDArray[np.bool_]
    input_attention: Array
    communication_attention: Array
    margins: tuple[float, float, float]


class Choice(NamedTuple):
    """Weights of the k best of several candidates, by candidate, and how clear the choice was."""

    weights: dict[int, Any]
    margin: float


def choose(scores: Mapping[int, Any], k: int) -> Choice:
    """A softmax over the k largest scores; of equal ones the candidate with the lowest number."""
    candidates = sorted(scores)
    ordered = [scores[m] for m in candidates]
    kept = [candidates[position] for position in sorted(largest(ordered, k))]
    return Choice(dict(zip(kept, softmax([scores[m] for m in kept]), strict=True)), margin_between(ordered, k))


def view_scores(w: Mapping[str, Array], name: str, h: Sequence[Array], views: Sequence[Array]) -> list[list[Any]]:
    """``[N][V]``: ``<h_n Wq_n, x^j Wk> / sqrt(dk)`` with the matrices of one mechanism."""
    Wq, Wk = w[f"{name}.query"], w[f"{name}.key"]
    dk = Wk.shape[1]
    return [[(h[n] @ Wq[n]) @ (view @ Wk) / np.sqrt(dk) for view in views] for n in range(len(h))]


def select_cells(
    o: RigOptions, w: Mapping[str, Array], h: Sequence[Array], views: Sequence[Array]
) -> tuple[list[int], float]:
    """The active units, and by how much the last of them beat the others."""
    if not o.cell_selection:
        return list(range(o.num_units)), np.inf
    shared = o.cell_selection_weights == "shared" and o.input_selection
    scores = view_scores(w, "input_selection" if shared else "cell_selection", h, views)
    means = [sum(of_unit) / len(views) for of_unit in scores]
    return largest(means, o.num_active), margin_between(means, o.num_active)


def riglstm(o: RigOptions, w: Mapping[str, Array], starts: NDArray[np.bool_]) -> RigResult:
    """Run one sequence.

    Args:
        o: The options.
        w: The weights by name, and ``"x" [T, B, I]``, ``"h"`` and ``"c" [1, B, N D]``. With ``"initial_h" [N D]`` and
            ``"initial_c"`` episodes start there, else in zeros.
        starts: ``[T, B]``, where an episode starts.
    """
    T, B, _ = w["x"].shape
    N, width = o.num_units, w["h"].shape[2]
    D, V = width // N, len(w["views"])
    dtype = np.result_type(*w.values())
    y = np.zeros((T, B, width), dtype)
    h_last, c_last = np.zeros((1, B, width), dtype), np.zeros((1, B, width), dtype)
    active = np.zeros((T, B, N), np.bool_)
    input_attention = np.zeros((T, B, N, 1 + V), dtype)
    communication_attention = np.zeros((T, B, N, N), dtype)
    units_margin = views_margin = others_margin = np.inf
    zeros = np.zeros(width, dtype)
    for b in range(B):
        h = [w["h"][0, b, n * D : (n + 1) * D] for n in range(N)]
        c = [w["c"][0, b, n * D : (n + 1) * D] for n in range(N)]
        for t in range(T):
            if starts[t, b]:
                h = [w.get("initial_h", zeros)[n * D : (n + 1) * D] for n in range(N)]
                c = [w.get("initial_c", zeros)[n * D : (n + 1) * D] for n in range(N)]
            x = w["x"][t, b]

            # Input transformation and cell selection.
            views = [x @ w["views"][j] for j in range(V)]
            winners, margin = select_cells(o, w, h, views)
            units_margin = min(units_margin, margin)
            active[t, b, winners] = True

            scores = view_scores(w, "input_selection", h, views) if o.input_selection else []
            h_new, c_new = [], []
            for n in range(N):
                # Input feature selection: the best views, or all of them side by side.
                if o.input_selection:
                    a = choose(dict(enumerate(scores[n])), o.input_top_k)
                    views_margin = min(views_margin, a.margin)
                    u = np.sum([a.weights[j] * views[j] for j in a.weights], axis=0)
                    for j, weight in a.weights.items():
                        input_attention[t, b, n, 1 + j] = weight
                else:
                    u = np.concatenate(views)

                # Hidden state selection: the best other units beside the unit itself, or all units in order.
                if o.hidden_selection:
                    Wq, Wk, Wv = (w[f"hidden_selection.{part}"] for part in ("query", "key", "value"))
                    others = {m: (h[n] @ Wq[n]) @ (h[m] @ Wk) / np.sqrt(Wk.shape[1]) for m in range(N) if m != n}
                    chosen = choose(others, o.hidden_top_k)
                    others_margin = min(others_margin, chosen.margin)
                    r = np.sum([weight * (h[m] @ Wv) for m, weight in chosen.weights.items()], axis=0)
                    for m, weight in chosen.weights.items():
                        communication_attention[t, b, n, m] = weight
                    seen = np.concatenate([h[n], r])
                else:
                    seen = np.concatenate(h)

                # Grid LSTM step.
                z = u @ w["dynamics.weight_input"][n] + seen @ w["dynamics.weight_hidden"][n] + w["dynamics.bias"][n]
                i, f, g, out = z[:D], z[D : 2 * D], z[2 * D : 3 * D], z[3 * D :]
                c_new.append(sigmoid(f) * c[n] + sigmoid(i) * np.tanh(g))
                h_new.append(sigmoid(out) * np.tanh(c_new[n]))

            # Soft state updating.
            mixed = list(h_new)
            if o.soft_update:
                Wqs, Wks = w["soft_update.query"], w["soft_update.key"]
                q = np.concatenate([x, sum(h_new) / N, sum(h) / N]) @ Wqs
                for n in range(N):
                    new, old = softmax([q @ (state @ Wks) / np.sqrt(Wks.shape[1]) for state in (h_new[n], h[n])])
                    mixed[n] = new * h_new[n] + old * h[n]
            h = [mixed[n] if n in winners else h[n] for n in range(N)]
            c = [c_new[n] if n in winners else c[n] for n in range(N)]
            y[t, b] = np.concatenate(h)
        h_last[0, b], c_last[0, b] = np.concatenate(h), np.concatenate(c)
    margins = (float(units_margin), float(views_margin), float(others_margin))
    return RigResult(y, h_last, c_last, active, input_attention, communication_attention, margins)
