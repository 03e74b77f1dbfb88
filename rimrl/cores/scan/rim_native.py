"""The RIM as a loop in compiled code, on the CPU, where it reads one element with one head, or the input as it is.

The loop over time is in ``rim.h``, and so are the gradients; here is their memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace
from rimrl.cores.scan import memory
from rimrl.cores.scan.acting import OneStructureActingCell
from rimrl.cores.scan.calls import Arguments
from rimrl.cores.scan.layout import RIM_SEQUENCE
from rimrl.cores.scan.loop import Tensors
from rimrl.cores.scan.native_units import NativeUnits
from rimrl.cores.scan.rim import RIMScanConfig

_RIMSequence = RIM_SEQUENCE.as_ctypes()
_NOT_WEIGHTS = frozenset({"x", "read_scale", "message_scale"})


@dataclass
class NativeRIMTensors(Tensors):
    """What a `NativeRIM` is made from; G counts the gates of a unit, 4 D for an LSTM and 3 D for a GRU.

    Attributes:
        x: The input, ``[T, B, I]``.
        value: ``[I, U]``.
        weight_input: ``[N, U, G]``.
        weight_hidden: ``[N, D, G]``.
        bias: ``[N, G]``.
        bias_hidden: A GRU's, ``[N, 3 D]``; None for an LSTM.
        key: ``[I, dk]``; this and `query` are None without input attention.
        query: ``[N, D, dk]``.
        read_scale: What dropout multiplies the shares by that are read, ``[T, N, B, 1, 1]``, or None.
        query_key_value: ``[N, D, H' (2 dk' + dv')]``; this and the following are None without communication.
        project: ``[P, H' dv']``: Wf, and Wg below it if gated; P is D or 2 D.
        project_bias: ``[P]``.
        message_scale: What dropout multiplies messages by, ``[T, N, B, D]``, or None.
    """

    x: Tensor
    value: Tensor
    weight_input: Tensor
    weight_hidden: Tensor
    bias: Tensor
    bias_hidden: Tensor | None = None
    key: Tensor | None = None
    query: Tensor | None = None
    read_scale: Tensor | None = None
    query_key_value: Tensor | None = None
    project: Tensor | None = None
    project_bias: Tensor | None = None
    message_scale: Tensor | None = None


class NativeRIM(OneStructureActingCell):
    """`rimrl.cores.scan.rim.RIMCell` for one input head.

    Args:
        config: Options, with kernels for the tensors' dtype.
        T, B, saving, tensors: As `rimrl.cores.scan.compiled.MakeCell` says.
    """

    def __init__(self, config: RIMScanConfig, T: int, B: int, saving: bool, tensors: NativeRIMTensors) -> None:
        assert config.kernels is not None
        self.kernels = config.kernels.rim_forward, config.kernels.rim_backward
        self.saving, self.wants_dx, self.over_units = saving, tensors.x.requires_grad, config.over_units
        self.units = units = NativeUnits(config, T, B, saving, tensors)
        self.inputs, self.U = tensors.value.shape
        self.attends, self.Q = tensors.key is not None, 0 if tensors.key is None else tensors.key.shape[1]
        N, D, slots, chunk, steps = units.N, units.D, units.slots, units.chunk, T if saving else units.chunk
        present = {name: tensor for name, tensor in vars(tensors).items() if tensor is not None}
        self.weights = {name: tensor.contiguous() for name, tensor in present.items() if name not in _NOT_WEIGHTS}
        self.memory = memory.Block(
            self,
            tensors.value,
            units.shapes()
            | {
                **{"keys": (steps, B, self.Q), "values": (steps, B, self.U)},
                **{"unit_keys": (N, steps, B, D) if self.attends else (0,), "share": (slots, N, B)},
                "reads": (N, chunk, B, units.G),
            },
        )
        self.arguments = Arguments(
            _RIMSequence,
            **units.numbers(),
            **{"I": self.inputs, "key_size": self.Q, "value_size": self.U, "attends": int(self.attends)},
            **units.addresses(self.memory),
        )
        self.arguments.hold(**self.weights, read_scale=tensors.read_scale, message_scale=tensors.message_scale)
        self.read(tensors.x)

    def products(self) -> Sequence[tuple[int, int, int]]:
        units, attends = self.units, int(self.attends)
        of_input = (attends, self.inputs, self.Q), (1, self.inputs, self.U), (attends * units.N, self.Q, units.D)
        return *of_input, (units.N, self.U, units.G), *units.products()

    def read(self, *of_input: Tensor) -> None:
        (x,) = of_input
        self.arguments.hold(x=x.contiguous())

    def prepare_backward(self, like: Tensor) -> None:
        units, B = self.units, self.units.B
        self.found = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.dx = torch.empty_like(self.arguments.tensors["x"]) if self.wants_dx else None
        self.arguments.hold(dx=self.dx, **{f"d_{name}": gradient for name, gradient in self.found.items()})
        self.scratch = memory.Block(
            self,
            like,
            units.gradient_shapes()
            | {
                **{"d_keys": (units.chunk, B, self.Q), "d_values": (units.chunk, B, self.U)},
                **{
                    "d_scores": (units.chunk, units.N, B),
                    "d_input": (B, self.U),
                    "h_scaled": (units.chunk, B, units.D),
                },
            },
        )
        self.arguments.set(**self.scratch.addresses())

    def gradients(self) -> NativeRIMTensors:
        return NativeRIMTensors(x=self.dx, **self.found)  # type: ignore[arg-type]

    def trace(self) -> CoreTrace:
        active, share = self.memory["mask"].transpose(1, 2).bool(), self.memory["share"].transpose(1, 2)
        null = torch.zeros_like(share) if self.over_units else 1.0 - share
        attention = torch.stack([null, share], dim=-1) if self.attends else None
        return CoreTrace(active, attention, self.memory["attention"].mean(2) if self.units.P else None)
