"""BRIMs as a loop in compiled code, for the options that `rimrl.cores.scan.native` knows of a RIM.

The loop over time and layers is in ``loops.h``, and so are the gradients; here is their memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace, State
from rimrl.cores.scan import memory
from rimrl.cores.scan.brims import BRIMsPlan
from rimrl.cores.scan.calls import KernelCall
from rimrl.cores.scan.communication import communication_sizes
from rimrl.cores.scan.layout import BRIMS_LAYER
from rimrl.cores.scan.loop import FillingCell, LayersTensors
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

    def __init__(self, plan: BRIMsPlan, index: int, T: int, B: int, saving: bool, own: NativeLayerTensors) -> None:
        self.own, config = own, plan.layers[index]
        N, D, Q = own.query.shape
        U, F = own.weight_input.shape[1], own.weight_qkv.shape[2]
        dk, dv = communication_sizes(config.heads, own.weight_qkv, own.project)
        inputs = 0 if own.input_keys is None else own.input_keys.shape[0]
        self.inputs, self.sizes = inputs, (T, B, N, D, Q, U, F)
        M = self.elements = inputs + (own.below_key is not None) + (own.above_key is not None)
        kept = M if inputs < M else 0  # keys and values of the input alone are read where they are
        self.V, S, self.chunk = config.heads * dv, T if saving else 1, min(T, max(1, ROWS_AT_ONCE // B))
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
        self.numbers: dict[str, int | None] = {
            "L": len(plan.layers),
            **{"T": T, "B": B, "N": N, "D": D, "H": config.heads, "dk": dk, "dv": dv, "heads": plan.input_heads},
            **{"key_size": Q // plan.input_heads, "value_size": U // plan.input_heads, "M": inputs},
            **{"below": int(own.below_key is not None), "above": plan.above.get(index, index) - index},
            **{"K": config.num_active, "keep": int(saving), "chunk": self.chunk},
            **{name: tensor.data_ptr() for name, tensor in self.held.items()},
            **self.memory.addresses(),
        }

    def start_backward(self, dh: Tensor, dc: Tensor) -> dict[str, int]:
        """Addresses of gradients, given those of the last state, ``[B, W]``."""
        T, B, N, D, Q, U, F = self.sizes
        M, chunk = self.elements, self.chunk
        self.gradient_memory = memory.Block(
            self,
            dh,
            {
                **{"dh": (N, B, D), "dc": (N, B, D), "d_rows": (B, N * D), "d_gates": (N, chunk, B, 4 * D)},
                **{"d_queries": (N, chunk, B, Q), "d_qkv": (N, chunk, B, F), "d_output": (N * B, 2 * D)},
                **{"dh_new": (N, B, D), "d_h_read": (N, B, D), "d_received": (N * B, self.V), "d_read": (N, B, U)},
            },
        )
        # Those of the input become gradients, which outlive the layer.
        self.d_keys, self.d_values = dh.new_empty(M, T, B, Q), dh.new_empty(M, T, B, U)
        self.gradient_memory["dh"].copy_(dh.view(B, N, D).transpose(0, 1))
        self.gradient_memory["dc"].copy_(dc.view(B, N, D).transpose(0, 1))
        self.gradient_memory["d_rows"].zero_()
        of_weights = (name for name in self.held if name not in ("input_keys", "input_values"))
        self.found = {name: torch.zeros_like(self.held[name]) for name in of_weights}
        of_found = {f"d_{name}": gradient.data_ptr() for name, gradient in self.found.items()}
        of_elements = {"d_keys": self.d_keys.data_ptr(), "d_values": self.d_values.data_ptr()}
        return self.gradient_memory.addresses() | of_found | of_elements

    def end_backward(self, dh: Tensor, dc: Tensor) -> None:
        """Fill in the gradients of the first state, ``[B, W]``."""
        _, B, N, D = self.sizes[:4]
        found = self.gradient_memory
        torch.add(found["dh"].transpose(0, 1), found["d_rows"].view(B, N, D), out=dh.view(B, N, D))
        dc.view(B, N, D).copy_(found["dc"].transpose(0, 1))

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


class NativeBRIMs(FillingCell):
    """`rimrl.cores.scan.brims.BRIMsCell` for LSTM dynamics and gated communication among candidates.

    Args:
        plan: Options.
        T, B, saving, tensors: As `rimrl.cores.scan.loop.MakeCell` says.
    """

    def __init__(self, plan: BRIMsPlan, T: int, B: int, saving: bool, tensors: NativeBRIMsTensors) -> None:
        self.plan, self.shape, self.saving = plan, (T, B), saving
        self.layers = [_Layer(plan, i, T, B, saving, own) for i, own in enumerate(tensors.layers)]

    def start_run(
        self, h: Tensor, c: Tensor, y: Tensor, h_start: Tensor | None, c_start: Tensor | None, starts: Tensor | None
    ) -> KernelCall:
        L, T = len(self.layers), self.shape[0]
        at_start = None
        if h_start is not None and c_start is not None:
            at_start = h_start.view(L, -1), c_start.view(L, -1)
        return self._filling((h[:, 0], c[:, 0]), (h[:, T], c[:, T]), y[:, :, -1], at_start, starts)

    def fill(self, first: State, last: State, y: Tensor, at_start: State | None, starts: Tensor | None) -> None:
        self._filling(first, last, y, at_start, starts).run()

    def _filling(
        self, first: State, last: State, y: Tensor, at_start: State | None, starts: Tensor | None
    ) -> KernelCall:
        self.starts = starts  # the backward pass reads them, too
        states = dict(zip(("h_first", "c_first", "h_last", "c_last"), (*first, *last), strict=True))
        if at_start is not None:
            states |= {"h_start": at_start[0], "c_start": at_start[1]}
        size = y.element_size()
        places = {name: (state.data_ptr(), state.stride(0) * size) for name, state in states.items()}
        for index, layer in enumerate(self.layers):
            layer.numbers |= {name: at + index * step for name, (at, step) in places.items()}
            layer.numbers["starts"] = None if starts is None else starts.data_ptr()
            layer.numbers["y_stride"] = y.stride(1)
        self.layers[-1].numbers["y"] = y.data_ptr()
        return self._call("brims_forward", (first, last, y, at_start))

    def start_backward(self, dh: Tensor, dc: Tensor, dh_start: Tensor, dc_start: Tensor, dy: Tensor) -> KernelCall:
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            layer.numbers |= layer.start_backward(dh[index], dc[index])
            layer.numbers |= {"dh_start": dh_start[index].data_ptr(), "dc_start": dc_start[index].data_ptr()}
        self.layers[last].numbers["dy"] = dy[:, :, last].data_ptr()
        return self._call("brims_backward", (dh_start, dc_start, dy))

    def end_backward(self, dh: Tensor, dc: Tensor) -> None:
        for index, layer in enumerate(self.layers):
            layer.end_backward(dh[index], dc[index])

    def _call(self, kernel: str, kept: object) -> KernelCall:
        structures = (_BRIMSLayer * len(self.layers))(*(_BRIMSLayer(**layer.numbers) for layer in self.layers))
        return KernelCall(getattr(self.plan.layers[0].kernels, kernel), structures, kept)

    def gradients(self, h: Tensor) -> NativeBRIMsTensors:
        return NativeBRIMsTensors.of_layers([layer.gradients() for layer in self.layers])

    def trace(self) -> CoreTrace:
        return self.plan.trace([layer.trace() for layer in self.layers], *self.shape)
