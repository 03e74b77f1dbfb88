"""The relational memory core as a loop in compiled code, on the CPU.

The loop over time is in ``rmc.h``, and so are the gradients; here is their memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace
from rimrl.cores.scan import memory
from rimrl.cores.scan.acting import OneStructureActingCell
from rimrl.cores.scan.calls import Arguments
from rimrl.cores.scan.layout import RMC_SEQUENCE
from rimrl.cores.scan.library import Kernels
from rimrl.cores.scan.loop import Tensors
from rimrl.cores.stepwise import StepTrace

_RMCSequence = RMC_SEQUENCE.as_ctypes()
_OF_INPUT = ("rows", "gate_input")


@dataclass
class NativeRMCTensors(Tensors):
    """What a `NativeRMC` is made from: E elements, K blocks, L layers, and W the width of queries, keys and values.

    Attributes:
        rows: The projected input, ``[T, B, E, F]``.
        gate_input: What the input adds to the gates, their constants included, ``[T, B, 2 F]``.
        qkv_weight: ``[K, W, F]``.
        qkv_bias: ``[K, W]``.
        qkv_scale: Of the norm over queries, keys and values, ``[K, W]``.
        qkv_shift: ``[K, W]``.
        first_scale: Of the norm after the attention, ``[K, F]``.
        first_shift: ``[K, F]``.
        second_scale: Of the norm after the perceptron, ``[K, F]``.
        second_shift: ``[K, F]``.
        mlp_weight: ``[L, F, F]``.
        mlp_bias: ``[L, F]``.
        gate_memory: ``[2 F, F]``.
    """

    rows: Tensor
    gate_input: Tensor
    qkv_weight: Tensor
    qkv_bias: Tensor
    qkv_scale: Tensor
    qkv_shift: Tensor
    first_scale: Tensor
    first_shift: Tensor
    second_scale: Tensor
    second_shift: Tensor
    mlp_weight: Tensor
    mlp_bias: Tensor
    gate_memory: Tensor


@dataclass
class RMCPlan:
    """What a `NativeRMC` cannot read off its tensors.

    Attributes:
        kernels: Compiled for the tensors' dtype.
        num_slots: Slots S.
        heads: Heads H.
        make_trace: Makes the trace of the attention ``[T B, H, R, R]`` of the first block.
    """

    kernels: Kernels
    num_slots: int
    heads: int
    make_trace: Callable[[Tensor], StepTrace]


class NativeRMC(OneStructureActingCell):
    """`rimrl.cores.rmc.RMC._step` over time, with gates for every entry and normalised queries, keys and values.

    Args:
        plan: Options.
        T, B, saving, tensors: As `rimrl.cores.scan.compiled.MakeCell` says.
    """

    def __init__(self, plan: RMCPlan, T: int, B: int, saving: bool, tensors: NativeRMCTensors) -> None:
        self.plan, self.saving, self.states = plan, saving, ("h",)  # it has no other
        self.kernels = plan.kernels.rmc_forward, plan.kernels.rmc_backward
        E, F = tensors.rows.shape[2:]
        K, W, _ = tensors.qkv_weight.shape
        L, S, H = len(tensors.mlp_weight), plan.num_slots, plan.heads
        R, kept = S + E, T if saving else 1
        self.sizes = (S, T, B, F, R, W, K, L)
        self.weights = {name: tensor.contiguous() for name, tensor in vars(tensors).items() if name not in _OF_INPUT}
        self.memory = memory.Block(
            self,
            tensors.qkv_weight,
            {
                "h": (S, T + 1, B, F),
                **{"z": (kept, K + 1, R, B, F), "qkv_hat": (kept, K, R, B, W), "qkv": (kept, K, R, B, W)},
                **{"attention": (kept, K, B, H, R, R), "first_hat": (kept, K, R, B, F), "between": (kept, K, R, B, F)},
                **{"second_hat": (kept, K, R, B, F), "hidden": (kept, K, L - 1, R, B, F)},
                **{"deviation": (kept, K, 3, R, B), "gates": (kept, S, B, 2 * F)},
                **{"tanh_memory": (kept, S, B, F), "tanh_new": (kept, S, B, F)},
            },
        )
        dv = F // H
        self.arguments = Arguments(
            _RMCSequence,
            **{"T": T, "B": B, "N": S, "D": F, "E": E, "H": H, "dk": (W // H - dv) // 2, "dv": dv},
            **{"blocks": K, "layers": L, "keep": int(saving)},
            **self.memory.addresses(),
        )
        self.arguments.hold(**self.weights)
        self.read(tensors.rows, tensors.gate_input)

    def products(self) -> Sequence[tuple[int, int, int]]:
        _, _, _, F, _, W, K, L = self.sizes
        return (K, F, W), (L, F, F), (1, F, 2 * F)

    def read(self, *of_input: Tensor) -> None:
        self.arguments.hold(**{name: part.contiguous() for name, part in zip(_OF_INPUT, of_input, strict=True)})

    def prepare_backward(self, like: Tensor) -> None:
        S, _, B, F, R, W, _, _ = self.sizes
        self.found = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.found |= {name: torch.empty_like(self.arguments.tensors[name]) for name in _OF_INPUT}
        self.arguments.hold(**{f"d_{name}": gradient for name, gradient in self.found.items()})
        self.scratch = memory.Block(
            self,
            like,
            {
                "dh": (S, B, F),
                **{"dz": (R, B, F), "d_first": (R, B, F), "d_second": (R, B, F), "d_qkv": (R, B, W)},
                "d_gates": (S, B, 2 * F),
            },
        )
        self.arguments.set(**self.scratch.addresses())

    def gradients(self) -> NativeRMCTensors:
        return NativeRMCTensors(**self.found)

    def trace(self) -> CoreTrace:
        _, T, B = self.sizes[:3]
        step = self.plan.make_trace(self.memory["attention"][:, 0].flatten(0, 1))
        return CoreTrace(*(None if part is None else part.view(T, B, *part.shape[1:]) for part in step))  # type: ignore[arg-type]
