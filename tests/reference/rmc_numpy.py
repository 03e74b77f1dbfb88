"""Relational Memory Core (Santoro et al., NeurIPS 2018; released code) in loop form; see `rim_numpy`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.reference.rim_numpy import Array, sigmoid, softmax


@dataclass(frozen=True)
class RmcOptions:
    """What cannot be read off the shapes of the weights."""

    num_slots: int
    num_heads: int
    key_size: int
    num_blocks: int = 1
    mlp_layers: int = 2
    gate: str | None = "unit"
    input_bias: float = 0.0
    forget_bias: float = 1.0
    qkv_norm: bool = True


class RmcResult(NamedTuple):
    """Outputs ``[T, B, S F]``, final ``h`` and ``c [1, B, S F]``, and attention of the first block, mean over heads."""

    y: Array
    h: Array
    c: Array
    input_attention: Array
    communication_attention: Array


def layer_norm(z: Array, weight: Array, bias: Array) -> Array:
    deviation = z - np.sum(z) / len(z)
    variance = np.sum(deviation * deviation) / len(z)
    result: Array = weight * deviation / np.sqrt(variance + 1e-5) + bias
    return result


def relu(z: Array) -> Array:
    return np.where(np.real(z) > 0, z, 0)


def mlp(o: RmcOptions, w: Mapping[str, Array], z: Array) -> Array:
    for j in range(o.mlp_layers):
        z = w[f"mlp.{2 * j}.weight"] @ z + w[f"mlp.{2 * j}.bias"]
        if j < o.mlp_layers - 1:
            z = relu(z)
    return z


def block(o: RmcOptions, w: Mapping[str, Array], b: int, Z: list[Array]) -> tuple[list[Array], list[list[Any]]]:
    """The rows after one round of attention, and the attention of every row to every row, mean over heads."""
    rows, H, dk = len(Z), o.num_heads, o.key_size
    dv = len(Z[0]) // H
    own = {name.removeprefix(f"blocks.{b}."): value for name, value in w.items() if name.startswith(f"blocks.{b}.")}
    q: list[list[Array]] = []
    k: list[list[Array]] = []
    v: list[list[Array]] = []
    for z in Z:
        packed = own["query_key_value.weight"] @ z + own["query_key_value.bias"]
        if o.qkv_norm:
            packed = layer_norm(packed, own["norm_qkv.weight"], own["norm_qkv.bias"])
        q.append([packed[g * dk : (g + 1) * dk] for g in range(H)])
        k.append([packed[(H + g) * dk : (H + g + 1) * dk] for g in range(H)])
        v.append([packed[2 * H * dk + g * dv : 2 * H * dk + (g + 1) * dv] for g in range(H)])
    result = []
    attention: list[list[Any]] = [[0.0] * rows for _ in range(rows)]
    for i in range(rows):
        heads = []
        for g in range(H):
            A = softmax([q[i][g] @ k[j][g] / np.sqrt(dk) for j in range(rows)])
            heads.append(np.sum([a * v[j][g] for j, a in enumerate(A)], axis=0))
            attention[i] = [total + a / H for total, a in zip(attention[i], A, strict=True)]
        z = layer_norm(Z[i] + np.concatenate(heads), own["norm_attention.weight"], own["norm_attention.bias"])
        result.append(layer_norm(z + mlp(o, w, z), own["norm_mlp.weight"], own["norm_mlp.bias"]))
    return result, attention


def gated(o: RmcOptions, w: Mapping[str, Array], e: list[Array], old: Array, candidate: Array) -> Array:
    """One slot through the gates; a gate of one value holds for the whole slot."""
    if o.gate is None:
        return candidate
    a = w["gate_input.weight"] @ np.concatenate(e) + w["gate_input.bias"] + w["gate_memory.weight"] @ np.tanh(old)
    i, f = np.split(a, 2)
    assert len(i) == (len(old) if o.gate == "unit" else 1)
    result: Array = sigmoid(i + o.input_bias) * np.tanh(candidate) + sigmoid(f + o.forget_bias) * old
    return result


def rmc(o: RmcOptions, w: Mapping[str, Array], starts: NDArray[np.bool_]) -> RmcResult:
    """Run one sequence; ``w`` has the weights by name, ``"x" [T, B, E, I]`` and ``"h" [1, B, S F]``."""
    x, dtype = w["x"], np.result_type(*w.values())
    T, B, E, _ = x.shape
    S, width = o.num_slots, w["h"].shape[2]
    F = width // S
    y = np.zeros((T, B, width), dtype)
    h_last = np.zeros((1, B, width), dtype)
    input_attention = np.zeros((T, B, S, 1 + E), dtype)
    communication_attention = np.zeros((T, B, S, S), dtype)
    for b in range(B):
        M = list(np.split(w["h"][0, b].astype(dtype), S))
        for t in range(T):
            if starts[t, b]:
                M = [np.array([1.0 if d == s else 0.0 for d in range(F)], dtype) for s in range(S)]
            e = [w["project.weight"] @ element + w["project.bias"] for element in x[t, b]]
            Z = [*M, *e]
            for number in range(o.num_blocks):
                Z, attention = block(o, w, number, Z)
                if number == 0:
                    for s in range(S):
                        input_attention[t, b, s, 1:] = attention[s][S:]
                        communication_attention[t, b, s] = np.array(attention[s][:S]) / sum(attention[s][:S])
            M = [gated(o, w, e, M[s], Z[s]) for s in range(S)]
            y[t, b] = np.concatenate(M)
        h_last[0, b] = np.concatenate(M)
    return RmcResult(y, h_last, np.zeros_like(h_last), input_attention, communication_attention)
