"""BRIMs as a loop in compiled code, for the options that `rimrl.cores.scan.native` knows of a RIM.

The loop over time and layers is in ``loops.h``, and so are the gradients; here is their memory.
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
from rimrl.cores.scan.communication import communication_sizes, joins_values
from rimrl.cores.scan.layout import BRIMS_LAYER
from rimrl.cores.scan.loop import LayersTensors
from rimrl.cores.scan.native import ROWS_AT_ONCE
from rimrl.cores.stepwise import StepTrace

_BRIMSLayer = BRIMS_LAYER.as_ctypes()


@dataclass
class NativeLayerTensors:
    """What a layer of a `NativeBRIMs` is made from; W is its width, and U the width of all values together.

    Attributes:
        query: ``[N, D, H dk]``.
        weight_input: ``[N, U, 4 D]``.
        bias: ``[N, 4 D]``.
        weight_hidden: ``[N, D, 4 D]``.
        weight_qkv: ``[N, D, H' (2 dk' + dv')]``.
        project: ``[2 D, H' dv']``: Wf over Wg.
        project_bias: ``[2 D]``.
        input_keys: ``[M, T, B, H dk]``; this and `input_values` are None for all layers but the first.
        input_values: ``[M, T, B, U]``.
        below_key: ``[W, H dk]``; None for the first layer.
        below_value: ``[W, U]``.
        above_key: ``[W, H dk]``; None where nothing comes from above.
        above_value: ``[W, U]``.
    """

    query: Tensor
    weight_input: Tensor
    bias: Tensor
    weight_hidden: Tensor
    weight_qkv: Tensor
    project: Tensor
    project_bias: Tensor
    input_keys: Tensor | None = None
    input_values: Tensor | None = None
    below_key: Tensor | None = None
    below_value: Tensor | None = None
    above_key: Tensor | None = None
    above_value: Tensor | None = None


class NativeBRIMsTensors(LayersTensors[NativeLayerTensors]):
    """What a `NativeBRIMs` is made from."""

    kind = NativeLayerTensors


class _Layer:
    """A layer's sizes, memory and gradients."""

    def __init__(
        self, structure: Any, plan: BRIMsPlan, index: int, T: int, B: int, saving: bool, own: NativeLayerTensors
    ) -> None:
        self.structure, self.own, config = structure, own, plan.layers[index]
        N, D, Q = own.query.shape
        U = own.weight_input.shape[1]
        dk, dv = communication_sizes(config.heads, own.weight_qkv, own.project)
        self.is_joined = joins_values(D, dv, T * B)
        self.V = config.heads * (2 * D if self.is_joined else dv)
        F = config.heads * 2 * dk + self.V
        inputs = 0 if own.input_keys is None else own.input_keys.shape[0]
        self.inputs, self.sizes = inputs, (T, B, N, D, Q, U, F)
        M = self.elements = inputs + (own.below_key is not None) + (own.above_key is not None)
        kept = M if inputs < M else 0  # keys and values of the input alone are read where they are
        S, self.chunk = T if saving else 1, min(T, max(1, ROWS_AT_ONCE // B))
        self.memory = memory.Block(
            self,
            own.query,
            {
                **{"h": (N, T + 1, B, D), "c": (N, T + 1, B, D), "rows": (T + 1, B, N * D), "outputs": (S, B, N * D)},
                **{"keys": (kept, T, B, Q), "values": (kept, T, B, U), "queries": (S, N, B, Q)},
                **{"weights": (S, N, B, plan.input_heads, 1 + M), "read": (N, S, B, U), "gates": (S, N, B, 4 * D)},
                **{"priority": (S, N, B), "mask": (S, N, B), "tanh_c": (S, N, B, D), "h_new": (N, S, B, D)},
                **{"qkv": (S, N, B, F), "attention": (S, B, config.heads, N, N), "received": (S, N * B, self.V)},
                **{"output": (S, N * B, 2 * D)},
            },
        )
        self.held = {name: tensor.contiguous() for name, tensor in vars(own).items() if tensor is not None}
        numbers = {
            "L": len(plan.layers),
            **{"T": T, "B": B, "N": N, "D": D, "H": config.heads, "dk": dk, "dv": dv, "heads": plan.input_heads},
            **{"key_size": Q // plan.input_heads, "value_size": U // plan.input_heads, "M": inputs},
            **{"below": int(own.below_key is not None), "above": plan.above.get(index, index) - index},
            **{"K": config.num_active, "keep": int(saving), "chunk": self.chunk, "is_joined": int(self.is_joined)},
            **self.memory.addresses(),
        }
        self.set(**numbers, **{name: tensor.data_ptr() for name, tensor in self.held.items()})

    def set(self, **numbers: int | None) -> None:
        """Set fields of its structure; None is a null pointer."""
        for name, number in numbers.items():
            setattr(self.structure, name, number)

    def read(self, input_keys: Tensor, input_values: Tensor) -> None:
        """Take an input."""
        self.held |= {"input_keys": input_keys.contiguous(), "input_values": input_values.contiguous()}
        self.set(**{name: self.held[name].data_ptr() for name in ("input_keys", "input_values")})

    def keep_packed(self) -> None:
        """As `ActingCell.keep_packed`."""
        _, _, N, D, Q, U, F = self.sizes
        of_other_layers = (self.own.below_key is not None) + (self.own.above_key is not None)
        gates, messages = ((N, U, 4 * D), (N, D, 4 * D)), ((N, D, F), (int(not self.is_joined), self.V, 2 * D))
        further = ((of_other_layers, N * D, Q), (of_other_layers, N * D, U))
        self.packed = memory_of([(N, D, Q), *further, *gates, *messages], self.own.query)
        self.set(packed=self.packed.data_ptr())

    def start_backward(self, like: Tensor) -> None:
        """Make room for gradients, of the dtype of `like`."""
        T, B, N, D, Q, U, F = self.sizes
        M, chunk = self.elements, self.chunk
        self.gradient_memory = memory.Block(
            self,
            like,
            {
                **{"dh": (N, B, D), "dc": (N, B, D), "d_rows": (B, N * D), "d_gates": (N, chunk, B, 4 * D)},
                **{"d_queries": (N, chunk, B, Q), "d_qkv": (N, chunk, B, F), "d_output": (N * B, 2 * D)},
                **{"dh_new": (N, B, D), "d_h_read": (N, B, D), "d_received": (N * B, self.V), "d_read": (N, B, U)},
            },
        )
        # Those of the input become gradients, which outlive the layer.
        self.d_keys, self.d_values = like.new_empty(M, T, B, Q), like.new_empty(M, T, B, U)
        of_weights = (name for name in self.held if name not in ("input_keys", "input_values"))
        self.found = {name: torch.zeros_like(self.held[name]) for name in of_weights}
        of_found = {f"d_{name}": gradient.data_ptr() for name, gradient in self.found.items()}
        of_elements = {"d_keys": self.d_keys.data_ptr(), "d_values": self.d_values.data_ptr()}
        self.set(**self.gradient_memory.addresses(), **of_found, **of_elements)

    def gradients(self) -> NativeLayerTensors:
        """Those of its tensors."""
        result = NativeLayerTensors(**self.found)
        if self.inputs:
            result.input_keys, result.input_values = self.d_keys[: self.inputs], self.d_values[: self.inputs]
        return result

    def trace(self) -> StepTrace:
        """That of a sequence, ``[T B, ...]``."""
        active = self.memory["mask"].transpose(1, 2).bool().flatten(0, 1)
        attention = self.memory["weights"].mean(3).transpose(1, 2).flatten(0, 1)
        return StepTrace(active, attention, self.memory["attention"].mean(2).flatten(0, 1))


class NativeBRIMs(ActingCell):
    """`rimrl.cores.scan.brims.BRIMsCell` for LSTM dynamics and gated communication among candidates.

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
