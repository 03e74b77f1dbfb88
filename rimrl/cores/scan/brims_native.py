"""BRIMs as a loop in compiled code, on the CPU.

The loop over time and layers is in ``brims.h``, and so are the gradients; here is their memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace, State
from rimrl.cores.scan import memory
from rimrl.cores.scan.acting import ActingCell, memory_of
from rimrl.cores.scan.brims import BRIMsPlan
from rimrl.cores.scan.calls import KernelCall
from rimrl.cores.scan.layout import BRIMS_LAYER
from rimrl.cores.scan.loop import LayersTensors
from rimrl.cores.scan.native_units import NativeUnits
from rimrl.cores.stepwise import StepTrace

_BRIMSLayer = BRIMS_LAYER.as_ctypes()


@dataclass
class NativeLayerTensors:
    """What a layer of a `NativeBRIMs` is made from; W is its width, and U the width of all values together.

    Attributes:
        query: ``[N, D, H dk]``.
        weight_input: ``[N, U, G]``; G counts the gates of a unit, 4 D for an LSTM and 3 D for a GRU.
        weight_hidden: ``[N, D, G]``.
        bias: ``[N, G]``.
        bias_hidden: A GRU's, ``[N, 3 D]``; None for an LSTM.
        x: The input, ``[T, B, M, I]``; this and `input_weight` are None for all layers but the first.
        input_weight: What makes keys and values of it, ``[M, I, H dk + U]``.
        below_weight: The same of the layer below, ``[W, H dk + U]``; None for the first layer.
        above_weight: The same of the layer above; None where nothing comes from there.
        read_scale: What dropout multiplies the attention by that reads values, ``[T, N, B, H, M']``, or None; M' counts
            all that the layer reads.
        query_key_value: ``[N, D, H' (2 dk' + dv')]``; this and the following are None without communication.
        project: ``[P, H' dv']``: Wf, and Wg below it if gated; P is D or 2 D.
        project_bias: ``[P]``.
        message_scale: What dropout multiplies messages by, ``[T, N, B, D]``, or None.
    """

    query: Tensor
    weight_input: Tensor
    weight_hidden: Tensor
    bias: Tensor
    bias_hidden: Tensor | None = None
    x: Tensor | None = None
    input_weight: Tensor | None = None
    below_weight: Tensor | None = None
    above_weight: Tensor | None = None
    read_scale: Tensor | None = None
    query_key_value: Tensor | None = None
    project: Tensor | None = None
    project_bias: Tensor | None = None
    message_scale: Tensor | None = None


_NOT_WEIGHTS = frozenset({"x", "read_scale", "message_scale"})


class NativeBRIMsTensors(LayersTensors[NativeLayerTensors]):
    """What a `NativeBRIMs` is made from."""

    kind = NativeLayerTensors


class _Layer:
    """A layer's sizes, memory and gradients."""

    def __init__(
        self, structure: Any, plan: BRIMsPlan, index: int, T: int, B: int, saving: bool, own: NativeLayerTensors
    ) -> None:
        self.structure, self.own = structure, own
        self.units = units = NativeUnits(plan.layers[index], T, B, saving, own)
        N, self.Q, self.U, S, heads = (
            units.N,
            own.query.shape[2],
            own.weight_input.shape[1],
            units.slots,
            plan.input_heads,
        )
        self.inputs, self.input_size = (0, 0) if own.x is None else own.x.shape[2:]
        self.wants_dx = own.x is not None and own.x.requires_grad
        self.elements = M = self.inputs + (own.below_weight is not None) + (own.above_weight is not None)
        self.memory = memory.Block(
            self,
            own.query,
            units.shapes()
            | {
                **{"rows": (T + 1, B, N * units.D), "outputs": (S, B, N * units.D)},
                **{"elements": (T, B, M, self.Q + self.U), "queries": (S, N, B, self.Q)},
                **{"weights": (S, N, B, heads, 1 + M), "read": (N, S, B, self.U), "priority": (S, N, B)},
            },
        )
        self.held = {name: tensor.contiguous() for name, tensor in vars(own).items() if tensor is not None}
        self.set(
            **units.numbers(),
            **{"L": len(plan.layers), "heads": heads, "key_size": self.Q // heads, "value_size": self.U // heads},
            **{"M": self.inputs, "I": self.input_size},
            **{"below": int(own.below_weight is not None), "above": plan.above.get(index, index) - index},
            **units.addresses(self.memory),
            **{name: tensor.data_ptr() for name, tensor in self.held.items()},
        )

    def set(self, **numbers: int | None) -> None:
        """Set fields of its structure; None is a null pointer."""
        for name, number in numbers.items():
            setattr(self.structure, name, number)

    def read(self, x: Tensor) -> None:
        """Take an input."""
        self.held["x"] = x.contiguous()
        self.set(x=self.held["x"].data_ptr())

    def keep_packed(self) -> None:
        """As `ActingCell.keep_packed`."""
        units, Q, U = self.units, self.Q, self.U
        of_other_layers = (self.own.below_weight is not None) + (self.own.above_weight is not None)
        of_input = (self.inputs, self.input_size, Q + U), (of_other_layers, units.N * units.D, Q + U)
        products = (units.N, units.D, Q), *of_input, (units.N, U, units.G), *units.products()
        self.packed = memory_of(products, self.own.query)
        self.set(packed=self.packed.data_ptr())

    def start_backward(self, like: Tensor) -> None:
        """Make room for gradients, of the dtype of `like`."""
        units, M = self.units, self.elements
        B, N, chunk = units.B, units.N, units.chunk
        self.gradient_memory = memory.Block(
            self,
            like,
            units.gradient_shapes()
            | {
                **{"d_rows": (B, N * units.D), "d_queries": (N, chunk, B, self.Q), "d_read": (N, B, self.U)},
                "d_elements": (chunk, B, M, self.Q + self.U),
            },
        )
        self.dx = torch.empty_like(self.held["x"]) if self.wants_dx else None
        of_weights = (name for name in self.held if name not in _NOT_WEIGHTS)
        self.found = {name: torch.zeros_like(self.held[name]) for name in of_weights}
        of_found = {f"d_{name}": gradient.data_ptr() for name, gradient in self.found.items()}
        dx = None if self.dx is None else self.dx.data_ptr()
        self.set(**self.gradient_memory.addresses(), **of_found, dx=dx)

    def gradients(self) -> NativeLayerTensors:
        """Those of its tensors."""
        return NativeLayerTensors(**self.found, x=self.dx)

    def trace(self) -> StepTrace:
        """That of a sequence, ``[T B, ...]``."""
        active = self.memory["mask"].transpose(1, 2).bool().flatten(0, 1)
        attention = self.memory["weights"].mean(3).transpose(1, 2).flatten(0, 1)
        communication = self.memory["attention"].mean(2).flatten(0, 1) if self.units.P else None
        return StepTrace(active, attention, communication)


class NativeBRIMs(ActingCell):
    """`rimrl.cores.scan.brims.BRIMsCell`, compiled.

    Args:
        plan: Options.
        T, B, saving, tensors: As `rimrl.cores.scan.compiled.MakeCell` says.
    """

    def __init__(self, plan: BRIMsPlan, T: int, B: int, saving: bool, tensors: NativeBRIMsTensors) -> None:
        self.plan, self.shape, self.saving = plan, (T, B), saving
        kernels = plan.layers[0].kernels
        assert kernels is not None
        self.kernels = kernels.brims_forward, kernels.brims_backward
        self.structures = (_BRIMSLayer * len(tensors.layers))()
        self.layers = [_Layer(self.structures[i], plan, i, T, B, saving, own) for i, own in enumerate(tensors.layers)]

    def read(self, *of_input: Tensor) -> None:
        self.layers[0].read(*of_input)

    def keep_packed(self) -> None:
        self.keeps_packed = True
        for layer in self.layers:
            layer.keep_packed()

    def run(self, first: State, last: State, y: Tensor, at_start: State | None, starts: Tensor | None) -> None:
        super().run(first, last, y, at_start, starts)
        for layer in self.layers:
            layer.set(is_packed=int(self.keeps_packed))

    def start_run(
        self, first: State, last: State, y: Tensor, at_start: State | None, starts: Tensor | None
    ) -> KernelCall:
        self.starts = starts  # the backward pass reads them, too
        named = {"h_first": first[0], "c_first": first[1], "h_last": last[0], "c_last": last[1]}
        if at_start is not None:
            named |= {"h_start": at_start[0], "c_start": at_start[1]}
        self._set_states(named)
        for layer in self.layers:
            layer.set(starts=None if starts is None else starts.data_ptr(), y_step=y.stride(0))
        self.layers[-1].set(y=y.data_ptr())
        return KernelCall(self.kernels[0], self.structures, (self, first, last, y, at_start))

    def start_backward(self, d_last: State, d_first: State, d_start: State, dy: Tensor) -> KernelCall:
        for layer in self.layers:
            layer.start_backward(dy)
            layer.set(y_step=dy.stride(0))
        named = {"dh_last": d_last[0], "dc_last": d_last[1], "dh_first": d_first[0], "dc_first": d_first[1]}
        self._set_states(named | {"dh_start": d_start[0], "dc_start": d_start[1]})
        self.layers[-1].set(dy=dy.data_ptr())
        return KernelCall(self.kernels[1], self.structures, (self, d_last, d_first, d_start, dy))

    def _set_states(self, states: dict[str, Tensor]) -> None:
        """Tell each layer where its part of ``[L, ...]`` is."""
        for name, state in states.items():
            first, step = state.data_ptr(), state.stride(0) * state.element_size()
            for index, layer in enumerate(self.layers):
                layer.set(**{name: first + index * step})

    def gradients(self) -> NativeBRIMsTensors:
        return NativeBRIMsTensors.of_layers([layer.gradients() for layer in self.layers])

    def trace(self) -> CoreTrace:
        return self.plan.trace([layer.trace() for layer in self.layers], *self.shape)
