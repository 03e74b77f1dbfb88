"""Differentiable Neural Computer (Graves et al., 2016) in loop form, with the sort of the paper; see `rim_numpy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.reference.ntm_numpy import (
    MemoryResult,
    Sizes,
    by_content,
    controller,
    output,
    pack,
    read_from,
    softplus,
    take,
    unpack,
    write_to,
)
from tests.reference.rim_numpy import Array, sigmoid, softmax

TIE = 1e-5


class Kept(NamedTuple):
    """What the memory's bookkeeping holds between steps."""

    write: Array
    reads: Array
    usage: Array
    precedence: Array
    link: Array


def allocation(usage: Array) -> Array:
    """The free list, then a running product along it."""
    biased = [float(np.real(u)) + TIE * n for n, u in enumerate(usage)]
    phi = sorted(range(len(usage)), key=lambda n: biased[n])
    a = np.zeros_like(usage)
    product: Array | float = 1.0
    for n in phi:
        a[n] = (1 - usage[n]) * product
        product = product * usage[n]
    return a


def usage_of(old: Kept, free: Array) -> Array:
    usage = np.zeros_like(old.usage)
    for n in range(len(usage)):
        psi: Array | float = 1.0
        for i, f in enumerate(free):
            psi = psi * (1 - f * old.reads[i, n])
        usage[n] = (old.usage[n] + old.write[n] - old.usage[n] * old.write[n]) * psi
    return usage


def link_of(old: Kept, write: Array) -> Array:
    link = np.zeros_like(old.link)
    for n in range(len(write)):
        for m in range(len(write)):
            if n != m:
                link[n, m] = (1 - write[n] - write[m]) * old.link[n, m] + write[n] * old.precedence[m]
    return link


def access(z: Sizes, xi: Array, M: Array, old: Kept) -> tuple[Array, Array, Kept]:
    """The new memory, what is read and the bookkeeping."""
    N, W, R = z.N, z.W, z.R
    kr, br, kw, bw, e, v, free, ga, gw, modes = take(xi, (R, W), (R,), (W,), (1,), (W,), (W,), (R,), (1,), (1,), (R, 3))
    usage = usage_of(old, sigmoid(free))
    content = by_content(kw, 1 + softplus(bw[0]), M)
    write = sigmoid(gw) * (sigmoid(ga) * allocation(usage) + (1 - sigmoid(ga)) * content)
    M = write_to(M, write, sigmoid(e), v)
    link = link_of(old, write)
    precedence = (1 - np.sum(write)) * old.precedence + write
    weightings = np.zeros_like(old.reads)
    for i in range(R):
        pi = softmax(list(modes[i]))
        content = by_content(kr[i], 1 + softplus(br[i]), M)
        for n in range(N):
            backward = sum(link[m, n] * old.reads[i, m] for m in range(N))
            forward = sum(link[n, m] * old.reads[i, m] for m in range(N))
            weightings[i, n] = pi[0] * backward + pi[1] * content[n] + pi[2] * forward
    reads = np.array([read_from(M, weighting) for weighting in weightings])
    return M, reads, Kept(write, weightings, usage, precedence, link)


def dnc(z: Sizes, w: Mapping[str, Array], starts: NDArray[np.bool_]) -> MemoryResult:
    """Run one sequence; ``w`` has the weights by name, ``"x" [T, B, I]``, ``"h"`` and ``"c" [L, B, F]``."""
    dtype = np.result_type(*w.values())
    T, B = starts.shape
    L, _, F = w["h"].shape
    shapes = ((z.C,), (z.R, z.W), (z.N, z.W), (z.C,), (z.N,), (z.R, z.N), (z.N,), (z.N,), (z.N, z.N))
    y, written = np.zeros((T, B, F), dtype), np.zeros((T, B, z.N), dtype)
    h, c = np.zeros((L, B, F), dtype), np.zeros((L, B, F), dtype)
    for b in range(B):
        hidden, reads, M, cell, *rest = unpack(w["h"][:, b].astype(dtype), w["c"][:, b].astype(dtype), *shapes)
        kept = Kept(*rest)
        for t in range(T):
            if starts[t, b]:
                hidden, reads, M, cell, *rest = [np.zeros(shape, dtype) for shape in shapes]
                kept = Kept(*rest)
            hidden, cell = controller(w, w["x"][t, b], hidden, reads, cell)
            xi = w["interface.weight"] @ hidden + w["interface.bias"]
            M, reads, kept = access(z, xi, M, kept)
            y[t, b] = output(w, hidden, reads)
            written[t, b] = kept.write
        h[:, b], c[:, b] = pack([hidden, reads, M, cell, *kept], L, F)
    return MemoryResult(y, h, c, written)
