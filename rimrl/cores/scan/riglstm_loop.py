"""RigLSTM as a loop in compiled code, for a core with all of its selections and the soft update, on the CPU.

The loop over time is in ``riglstm.h``, and so are the gradients of the weights; here is their memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace
from rimrl.cores.scan import memory
from rimrl.cores.scan.acting import OneStructureActingCell
from rimrl.cores.scan.calls import Arguments
from rimrl.cores.scan.layout import RIGLSTM_SEQUENCE
from rimrl.cores.scan.library import Kernels
from rimrl.cores.scan.loop import Tensors
from rimrl.cores.scan.native_units import ROWS_AT_ONCE

_RigLSTMSequence = RIGLSTM_SEQUENCE.as_ctypes()
_OF_INPUT = ("views", "keys", "soft_input")


@dataclass
class NativeRigLSTMTensors(Tensors):
    """What a `NativeRigLSTM` is made from; letters as in `rimrl.cores.riglstm.RigLSTM`.

    Attributes:
        views: ``[T, B, V, F]``.
        keys: Of the views, scaled, ``[T, B, V, dk]``.
        soft_input: The input's part of the soft update's query, ``[T, B, dk]``.
        query: ``[N, D, dk]``.
        weight_input: ``[N, F, 4 D]``.
        bias: ``[N, 4 D]``.
        weight_own: What the gates see of a unit's own hidden vector, ``[N, D, 4 D]``.
        weight_others: What they see of the other units, ``[N, dv, 4 D]``.
        query_key_value: Of hidden selection, ``[N, D, 2 dk + dv]``.
        soft_matrix: The states' part of the matrix of the soft update's query, ``[2 D, dk]``.
        soft_key: ``[D, dk]``.
    """

    views: Tensor
    keys: Tensor
    soft_input: Tensor
    query: Tensor
    weight_input: Tensor
    bias: Tensor
    weight_own: Tensor
    weight_others: Tensor
    query_key_value: Tensor
    soft_matrix: Tensor
    soft_key: Tensor


@dataclass
class RigLSTMPlan:
    """What a `NativeRigLSTM` cannot read off its tensors.

    Attributes:
        kernels: Compiled for the tensors' dtype.
        num_active: Active units Ka; all of them without cell selection.
        views_kept: Views Kx that a unit reads.
        units_kept: Other units Kh that a unit reads.
    """

    kernels: Kernels
    num_active: int
    views_kept: int
    units_kept: int


class NativeRigLSTM(OneStructureActingCell):
    """`rimrl.cores.scan.riglstm.RigLSTMCell` with all stages, whose cell selection has no weights of its own.

    Args:
        plan: Options.
        T, B, saving, tensors: As `rimrl.cores.scan.compiled.MakeCell` says.
    """

    def __init__(self, plan: RigLSTMPlan, T: int, B: int, saving: bool, tensors: NativeRigLSTMTensors) -> None:
        self.kernels, self.saving = (plan.kernels.riglstm_forward, plan.kernels.riglstm_backward), saving
        N, D, dk = tensors.query.shape
        V, F = tensors.views.shape[2:]
        dv = tensors.weight_others.shape[1]
        W, chunk = 2 * dk + dv, min(T, max(1, ROWS_AT_ONCE // B))
        self.sizes = (N, T, B, D, V, F, dk, dv, chunk)
        self.weights = {name: tensor.contiguous() for name, tensor in vars(tensors).items() if name not in _OF_INPUT}
        S = T if saving else 1
        self.memory = memory.Block(
            self,
            tensors.query,
            {
                **{"h": (N, T + 1, B, D), "c": (N, T + 1, B, D)},
                **{"queries": (S, N, B, dk), "attention": (S, B, N, V), "read": (S, B, N, F), "priority": (N, B)},
                **{"qkv": (S, N, B, W), "unit_attention": (S, B, N, N), "others": (N, S, B, dv)},
                **{"received": (N, B, dv), "gates": (S, N, B, 4 * D), "tanh_c": (S, N, B, D), "h_new": (S, N, B, D)},
                **{"mask": (S, N, B), "share": (S, N, B), "means": (S, B, 2 * D), "soft_query": (S, B, dk)},
                "direction": (S, B, D),
            },
        )
        self.arguments = Arguments(
            _RigLSTMSequence,
            **{"T": T, "B": B, "N": N, "D": D, "V": V, "F": F, "dk": dk, "dv": dv, "K": plan.num_active},
            **{"views_kept": plan.views_kept, "units_kept": plan.units_kept, "keep": int(saving), "chunk": chunk},
            **self.memory.addresses(),
        )
        self.arguments.hold(**self.weights)
        self.read(tensors.views, tensors.keys, tensors.soft_input)

    def products(self) -> Sequence[tuple[int, int, int]]:
        N, _, _, D, _, F, dk, dv, _ = self.sizes
        gates = (N, F, 4 * D), (N, D, 4 * D), (N, dv, 4 * D)
        return (N, D, dk), (N, D, 2 * dk + dv), *gates, (1, 2 * D, dk), (1, dk, D)

    def read(self, *of_input: Tensor) -> None:
        self.arguments.hold(**{name: part.contiguous() for name, part in zip(_OF_INPUT, of_input, strict=True)})

    def prepare_backward(self, like: Tensor) -> None:
        N, _, B, D, _, F, dk, dv, chunk = self.sizes
        self.found = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.found |= {name: torch.empty_like(self.arguments.tensors[name]) for name in _OF_INPUT}
        self.arguments.hold(**{f"d_{name}": gradient for name, gradient in self.found.items()})
        self.arguments.hold(ones=like.new_ones(N, B), nothing=like.new_zeros(N, B, D))
        self.scratch = memory.Block(
            self,
            like,
            {
                **{"dh": (N, B, D), "dc": (N, B, D)},
                **{"d_gates": (N, chunk, B, 4 * D), "d_queries": (N, chunk, B, dk)},
                **{"d_qkv": (N, chunk, B, 2 * dk + dv), "d_read": (N, B, F), "d_others": (N, B, dv)},
                **{"d_direction": (chunk, B, D), "d_means": (B, 2 * D), "dh_new": (N, B, D), "dc_past": (N, B, D)},
            },
        )
        self.arguments.set(**self.scratch.addresses())

    def gradients(self) -> NativeRigLSTMTensors:
        self.found["soft_key"] /= math.sqrt(self.sizes[6])
        return NativeRigLSTMTensors(**self.found)

    def trace(self) -> CoreTrace:
        active = self.memory["mask"].transpose(1, 2).bool()
        # There is no null element: column 0 is zero.
        views = torch.nn.functional.pad(self.memory["attention"], (1, 0))
        return CoreTrace(active, views, self.memory["unit_attention"].clone())
