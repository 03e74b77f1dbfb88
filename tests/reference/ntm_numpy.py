"""Neural Turing Machine (Graves et al., 2014) in loop form; see `rim_numpy`.

DNC's transcription shares its controller, content addressing and packing of the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.reference.rim_numpy import Array, sigmoid, softmax


class MemoryResult(NamedTuple):
    """Outputs ``[T, B, F]``, final ``h`` and ``c [L, B, F]``, and the write weighting at every step ``[T, B, N]``."""

    y: Array
    h: Array
    c: Array
    written: Array


@dataclass(frozen=True)
class Sizes:
    """Slots N, their width W, read heads R and the controller's width C."""

    N: int
    W: int
    R: int
    C: int


def take(flat: Array, *shapes: tuple[int, ...]) -> list[Array]:
    """The first entries as arrays of these shapes, one after the other."""
    found, at = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        found.append(flat[at : at + size].reshape(shape))
        at += size
    return found


def unpack(h: Array, c: Array, *shapes: tuple[int, ...]) -> list[Array]:
    """Arrays of these shapes out of ``h`` and ``c [L, F]``, the first half of all entries out of h."""
    size = sum(int(np.prod(shape)) for shape in shapes)
    half = (size + 1) // 2
    return take(np.concatenate([h.reshape(-1)[:half], c.reshape(-1)[: size - half]]), *shapes)


def pack(parts: list[Array], L: int, F: int) -> tuple[Array, Array]:
    """The inverse of `unpack`, with zeros at the ends of ``h`` and ``c``."""
    flat = np.concatenate([np.reshape(part, -1) for part in parts])
    half = (len(flat) + 1) // 2
    h, c = np.zeros((L, F), flat.dtype), np.zeros((L, F), flat.dtype)
    h.reshape(-1)[:half] = flat[:half]
    c.reshape(-1)[: len(flat) - half] = flat[half:]
    return h, c


def softplus(z: Array) -> Array:
    result: Array = np.log(1 + np.exp(z))
    return result


def controller(w: Mapping[str, Array], x: Array, hidden: Array, reads: Array, cell: Array) -> tuple[Array, Array]:
    """One step of the LSTM."""
    seen = np.concatenate([hidden, *reads])
    gates = w["controller_input.weight"] @ x + w["controller_input.bias"] + w["controller_hidden.weight"] @ seen
    i, f, g, o = np.split(gates, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


def output(w: Mapping[str, Array], hidden: Array, reads: Array) -> Array:
    result: Array = w["output.weight"] @ np.concatenate([hidden, *reads]) + w["output.bias"]
    return result


def cosine(k: Array, row: Array) -> Array:
    result: Array = (k @ row) / (np.sqrt(k @ k + 1e-6) * np.sqrt(row @ row + 1e-6))
    return result


def by_content(k: Array, strength: Array, M: Array) -> Array:
    return np.array(softmax([strength * cosine(k, row) for row in M]))


def write_to(M: Array, w: Array, e: Array, a: Array) -> Array:
    new = np.zeros_like(M)
    for n in range(len(M)):
        for d in range(len(e)):
            new[n, d] = M[n, d] * (1 - w[n] * e[d]) + w[n] * a[d]
    return new


def read_from(M: Array, w: Array) -> Array:
    result: Array = np.sum([w[n] * M[n] for n in range(len(M))], axis=0)
    return result


def address(p: Array, M: Array, previous: Array) -> Array:
    """The weighting of one head with the parameters p ``[W + 6]``."""
    N, W = M.shape
    k, beta, g, s, gamma = p[:W], softplus(p[W]), sigmoid(p[W + 1]), softmax(list(p[W + 2 : W + 5])), p[W + 5]
    wc = by_content(k, beta, M)  # Eq. 5, 6
    wg = g * wc + (1 - g) * previous  # Eq. 7
    ws = np.zeros_like(wg)
    for i in range(N):
        for j in range(N):
            for index, shift in enumerate((-1, 0, 1)):
                if (i - j - shift) % N == 0:
                    ws[i] += wg[j] * s[index]  # Eq. 8
    sharp = np.array([ws[i] ** (1 + softplus(gamma)) for i in range(N)])
    result: Array = sharp / np.sum(sharp)  # Eq. 9
    return result


def ntm(z: Sizes, w: Mapping[str, Array], starts: NDArray[np.bool_]) -> MemoryResult:
    """Run one sequence; ``w`` has the weights by name, ``"x" [T, B, I]``, ``"h"`` and ``"c" [L, B, F]``."""
    dtype = np.result_type(*w.values())
    T, B = starts.shape
    L, _, F = w["h"].shape
    y, written = np.zeros((T, B, F), dtype), np.zeros((T, B, z.N), dtype)
    h, c = np.zeros((L, B, F), dtype), np.zeros((L, B, F), dtype)
    for b in range(B):
        shapes = ((z.C,), (z.R, z.W), (z.N, z.W), (z.C,), (1 + z.R, z.N))
        hidden, reads, M, cell, heads = unpack(w["h"][:, b], w["c"][:, b], *shapes)
        for t in range(T):
            if starts[t, b]:
                hidden, reads, cell = np.zeros(z.C), np.zeros((z.R, z.W)), np.zeros(z.C)
                M = np.full((z.N, z.W), 1e-6, dtype)
                heads = np.array([softmax(list(row)) for row in w["initial_focus"]])
            hidden, cell = controller(w, w["x"][t, b], hidden, reads, cell)
            xi = w["interface.weight"] @ hidden + w["interface.bias"]
            p, e, a = take(xi, (1 + z.R, z.W + 6), (z.W,), (z.W,))
            heads = heads.astype(dtype)
            heads[0] = address(p[0], M, heads[0])
            M = write_to(M, heads[0], sigmoid(e), a)  # Eq. 3, 4
            for i in range(1, 1 + z.R):
                heads[i] = address(p[i], M, heads[i])
            reads = np.array([read_from(M, head) for head in heads[1:]])  # Eq. 2
            y[t, b] = output(w, hidden, reads)
            written[t, b] = heads[0]
        h[:, b], c[:, b] = pack([hidden, reads, M, cell, heads], L, F)
    return MemoryResult(y, h, c, written)
