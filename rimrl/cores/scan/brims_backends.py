"""The BRIMs' backends: what a plain `rimrl.cores.brims.BRIMs` becomes for a scan."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rimrl.cores.attention import FurtherElements, InputAttention
from rimrl.cores.base import CoreTrace, State
from rimrl.cores.brims import BRIMs
from rimrl.cores.registry import BackendName
from rimrl.cores.scan import compiled, loop
from rimrl.cores.scan.acting import filling_cell
from rimrl.cores.scan.brims import BRIMsCell, BRIMsPlan, BRIMsTensors, LayerTensors
from rimrl.cores.scan.brims_native import NativeBRIMs, NativeBRIMsTensors, NativeLayerTensors
from rimrl.cores.scan.elements import scaled
from rimrl.cores.scan.library import Kernels, kernels, unavailable_reason
from rimrl.cores.scan.native_units import BY_ROW
from rimrl.cores.scan.rim_layers import (
    communication_weights,
    dropout_scales,
    dynamics_weights,
    keys_and_values,
    plan_of,
    too_large,
)
from rimrl.cores.scan.threads import in_threads


class TorchBRIMs:
    """`BRIMsCell` on torch's operations."""

    name: BackendName = "torch"

    def unsupported_reason(self, core: BRIMs, like: Tensor) -> str | None:
        if not isinstance(core._rims()[0].input_read, InputAttention):
            return "whole sequences are run with input attention, and input_attention is false"
        return None

    def run(
        self, core: BRIMs, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        if len(x) == 1:  # a single step is not faster here
            return core._scan(x, state, episode_starts, return_trace)
        encoded = core._encode(x)
        with torch.autocast(x.device.type, enabled=False):
            keys, values = (tensor.to(state[0].dtype) for tensor in encoded)
            return _run(core, *_cell(core, keys, values), len(x), state, episode_starts, return_trace)


def _cell(core: BRIMs, keys: Tensor, values: Tensor) -> tuple[loop.MakeCell, loop.Tensors]:
    """The cell of a core, and what it is made from.

    Args:
        core: The core.
        keys: Of the input, scaled, ``[T, B, H, dk, M]``.
        values: ``[T, B, H, M, dv]``.
    """
    T, B, layers = len(keys), keys.shape[1], []
    for index, layer in enumerate(core._rims()):
        read, seen = layer.input_read, dict[str, Tensor]()
        assert isinstance(read, InputAttention)
        if index == 0:
            seen |= {"keys": keys, "values": values}
        else:
            seen["below"] = _row_weight(read)
        if index in core.above:
            further = core._top_down_into(index)
            assert isinstance(further, FurtherElements)
            seen["above"] = _row_weight(further)
        scales = dropout_scales(layer, T, B, _elements(core, index), like=keys)
        layers.append(
            LayerTensors(read.query, **dynamics_weights(layer), **communication_weights(layer), **seen, **scales)
        )
    return partial(BRIMsCell, _plan(core, None)), BRIMsTensors.of_layers(layers)


class CompiledBRIMs(TorchBRIMs):
    """`NativeBRIMs`."""

    name: BackendName = "native"

    def unsupported_reason(self, core: BRIMs, like: Tensor) -> str | None:
        if kernels(like) is None:
            return unavailable_reason(like)
        return super().unsupported_reason(core, like) or next(filter(None, map(too_large, core._rims())), None)

    def run(
        self, core: BRIMs, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        x = (x if x.dim() == 4 else x.unsqueeze(2)).to(state[0].dtype)
        with torch.autocast(x.device.type, enabled=False):
            if not torch.is_grad_enabled() and not core._rims()[0].drops_out:
                active = tuple(layer.num_active for layer in core._rims())
                cell = filling_cell(core, active, native_cell, (x,), x.shape[:2], return_trace)
                return compiled.fill(cell, len(x), state, core.initial_state, episode_starts)
            make_cell, tensors = native_cell(core, x)
            threaded = in_threads(make_cell, BY_ROW, core.num_layers * core.hidden_size)
            return compiled.run(threaded, tensors, len(x), state, core.initial_state, episode_starts, return_trace)


def native_cell(core: BRIMs, x: Tensor) -> tuple[partial[NativeBRIMs], NativeBRIMsTensors]:
    """The compiled cell of a core, and what it is made from.

    Args:
        core: The core.
        x: ``[T, B, M, I]``.
    """
    T, B, layers = len(x), x.shape[1], []
    for index, layer in enumerate(core._rims()):
        read, seen = layer.input_read, dict[str, Tensor]()
        assert isinstance(read, InputAttention)
        if index == 0:
            seen |= {"x": x, "input_weight": keys_and_values(read)}
        else:
            seen["below_weight"] = keys_and_values(read)[0]
        if index in core.above:
            further = core._top_down_into(index)
            assert isinstance(further, FurtherElements)
            seen["above_weight"] = keys_and_values(further)[0]
        scales = dropout_scales(layer, T, B, _elements(core, index), like=x)
        weights = dynamics_weights(layer) | communication_weights(layer)
        layers.append(NativeLayerTensors(read.query, **weights, **seen, **scales))
    return partial(NativeBRIMs, _plan(core, kernels(x))), NativeBRIMsTensors.of_layers(layers)


def _elements(core: BRIMs, index: int) -> int:
    """How many elements a layer reads."""
    return (core.num_inputs if index == 0 else 1) + (index in core.above)


def _plan(core: BRIMs, native: Kernels | None) -> BRIMsPlan:
    read = core._rims()[0].input_read
    assert isinstance(read, InputAttention)
    return BRIMsPlan([plan_of(layer, native) for layer in core._rims()], read.heads, core.above, core._join_traces)


def _run(
    core: BRIMs,
    make_cell: loop.MakeCell,
    tensors: loop.Tensors,
    num_steps: int,
    state: State,
    episode_starts: Tensor | None,
    return_trace: bool,
) -> tuple[Tensor, State, CoreTrace | None]:
    L, initial = core.num_layers, partial(_initial, core)
    before = _side_by_side(state)
    y, after, trace = loop.run(make_cell, tensors, L, num_steps, before, initial, episode_starts, return_trace)
    h, c = (s.view(s.shape[1], L, -1).transpose(0, 1).contiguous() for s in after)
    return y[..., -core.hidden_size :], (h, c), trace


def _row_weight(element: InputAttention | FurtherElements) -> Tensor:
    return torch.cat([scaled(element.key[0], element.heads), element.value[0]], dim=1)


def _side_by_side(state: State) -> State:
    """``[L, B, W]`` as ``[1, B, L W]``."""
    h, c = (s.transpose(0, 1).flatten(1).unsqueeze(0) for s in state)
    return h, c


def _initial(core: BRIMs, batch_size: int) -> State:
    return _side_by_side(core.initial_state(batch_size))


BACKENDS = (CompiledBRIMs(), TorchBRIMs())
