"""Sizes and memory of ``units.h``: what a compiled RIM and a compiled layer of BRIMs have in common.

Letters as in `rimrl.cores.scan.layout`; F is the width of a unit's queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from rimrl.cores.scan.communication import communication_sizes, joins_values
from rimrl.cores.scan.memory import Block
from rimrl.cores.scan.rim import RIMScanConfig

ROWS_AT_ONCE = 64
"""Of the products that can wait for several steps: enough for them to be fast, few enough to stay in the cache."""

BY_ROW = {"x": 1, "read_scale": 2, "message_scale": 2}
"""Names of the tensors that have rows, each with the dimension that counts them, for `in_threads`."""

Shapes = dict[str, tuple[int, ...]]


class UnitTensors(Protocol):
    """What both are made from.

    Attributes:
        weight_hidden: ``[N, D, G]``.
        bias: ``[N, G]``.
        bias_hidden: A GRU's, ``[N, 3 D]``; None for an LSTM.
        query_key_value: ``[N, D, H' (2 dk' + dv')]``; this and the following are None without communication.
        project: ``[P, H' dv']``: Wf, and Wg below it if gated.
        project_bias: ``[P]``.
        message_scale: What dropout multiplies messages by, ``[T, N, B, D]``, or None.
    """

    weight_hidden: Tensor
    bias: Tensor
    bias_hidden: Tensor | None
    query_key_value: Tensor | None
    project: Tensor | None
    project_bias: Tensor | None
    message_scale: Tensor | None


def keeps_messages(unit_size: int, batch_size: int) -> bool:
    """Whether queries, keys, values and what units read are kept for the backward pass, or made anew there.

    Both give the same. To keep them takes less time where units are wide and rows few, since to make them anew reads
    all of their weights again.
    """
    return unit_size > 2 * batch_size


class NativeUnits:
    """Sizes of the units, and what memory they need.

    Args:
        config: Options.
        T, B, saving: As `rimrl.cores.scan.compiled.MakeCell` says.
        tensors: Weights; those that are there say what there is.
    """

    def __init__(self, config: RIMScanConfig, T: int, B: int, saving: bool, tensors: UnitTensors) -> None:
        self.T, self.B, self.saving, self.config = T, B, saving, config
        self.N, self.D, self.G = tensors.weight_hidden.shape
        self.is_gru = tensors.bias_hidden is not None
        self.H = self.dk = self.dv = self.P = 0
        if tensors.query_key_value is not None and tensors.project is not None:
            self.H, self.P = config.heads, len(tensors.project)
            self.dk, self.dv = communication_sizes(self.H, tensors.query_key_value, tensors.project)
        self.is_joined = self.P > 0 and joins_values(self.P, self.dv, T * B)
        self.V = self.H * (self.P if self.is_joined else self.dv)
        self.F = self.H * 2 * self.dk + self.V
        self.keeps_messages = saving and keeps_messages(self.D, B)
        self.reads_past = self.P > 0 and not config.reads_candidates
        self.slots, self.chunk = T if saving else 1, min(T, max(1, ROWS_AT_ONCE // B))

    def numbers(self) -> dict[str, int]:
        """Fields of the structure."""
        config, sizes = self.config, ("T", "B", "N", "D", "G", "H", "dk", "dv", "P", "chunk")
        return {name: getattr(self, name) for name in sizes} | {
            **{"K": config.num_active, "keep": int(self.saving), "over_units": int(config.over_units)},
            **{"num_read": config.top_k or self.N, "is_joined": int(self.is_joined)},
            "keeps_messages": int(self.keeps_messages),
        }

    def shapes(self) -> Shapes:
        """Memory of a sequence."""
        T, B, N, D, G, S = self.T, self.B, self.N, self.D, self.G, self.slots
        of_messages = (S,) if self.keeps_messages else ()
        return {
            **{"h": (N, T + 1, B, D), "c": (N, T + 1, B, D), "gates": (S, N, B, G), "mask": (S, N, B)},
            **{"tanh_c": (S, N, B, D), "hidden": (N, B, G) if self.is_gru else (0,), "h_new": (N, S, B, D)},
            **{"h_read": (N, S, B, D) if self.reads_past else (0,), "qkv": (*of_messages, N, B, self.F)},
            **{
                "attention": (S, B, self.H, N, N),
                "received": (*of_messages, N * B, self.V),
                "output": (S, N * B, self.P),
            },
        }

    def addresses(self, memory: Block) -> dict[str, int]:
        """Where they are; what is read of candidates is where candidates are."""
        found = memory.addresses()
        return found if self.reads_past else found | {"h_read": found["h_new"]}

    def gradient_shapes(self) -> Shapes:
        """Memory of the backward pass."""
        B, N, D, G, chunk = self.B, self.N, self.D, self.G, self.chunk
        return {
            **{"dh": (N, B, D), "dc": (N, B, D), "d_gates": (N, chunk, B, G)},
            **{"d_hidden": (N, chunk, B, G) if self.is_gru else (0,), "d_qkv": (N, chunk, B, self.F)},
            **{"d_output": (N * B, self.P), "d_received": (N * B, self.V), "dh_new": (N, B, D), "d_h_read": (N, B, D)},
        }

    def products(self) -> Sequence[tuple[int, int, int]]:
        """Matrices that the forward kernel packs, each as how many, k and n."""
        N, D = self.N, self.D
        talks, projects = (N if self.P else 0), int(self.P > 0 and not self.is_joined)
        return (N, D, self.G), (talks, D, self.F), (projects, self.V, self.P)
