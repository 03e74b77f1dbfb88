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
from rimrl.cores.scan.brims import BRIMsCell, BRIMsPlan, BRIMsTensors
from rimrl.cores.scan.brims_native import NativeBRIMs, NativeBRIMsTensors
from rimrl.cores.scan.elements import scaled
from rimrl.cores.scan.library import Kernels, kernels, unavailable_reason
from rimrl.cores.scan.rim_layers import by_element, layer_tensors, native_layer_tensors, plan_of, unknown_option
from rimrl.cores.scan.threads import in_threads


class TorchBRIMs:
    """`BRIMsCell` on torch's operations."""

    name: BackendName = "torch"

    def unsupported_reason(self, core: BRIMs, like: Tensor) -> str | None:
        first = core._rims()[0]
        if not isinstance(first.input_read, InputAttention):
            return "whole sequences are run with input attention, and input_attention is false"
        return "dropout draws anew in every step, and the core is in training mode" if first.drops_out else None

    def run(
        self, core: BRIMs, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        if len(x) == 1:  # a single step is not faster here
            return core._scan(x, state, episode_starts, return_trace)
        encoded = core._encode(x)
        with torch.autocast(x.device.type, enabled=False):
            keys, values = (tensor.to(state[0].dtype) for tensor in encoded)
            return _run(core, *self._cell(core, keys, values), len(x), state, episode_starts, return_trace)

    def _cell(self, core: BRIMs, keys: Tensor, values: Tensor) -> tuple[loop.MakeCell, loop.Tensors]:
        layers = []
        for index, layer in enumerate(core._rims()):
            read = layer.input_read
            assert isinstance(read, InputAttention)
            tensors = layer_tensors(layer, read)
            if index == 0:
                tensors.keys, tensors.values = keys, values
            else:
                tensors.below = _row_weight(read)
            if index in core.above:
                further = core._top_down_into(index)
                assert isinstance(further, FurtherElements)
                tensors.above = _row_weight(further)
            layers.append(tensors)
        return partial(BRIMsCell, _plan(core, None)), BRIMsTensors.of_layers(layers)


class NativeBRIMsWhereKnown(TorchBRIMs):
    """`NativeBRIMs` where it knows all of the core's options."""

    name: BackendName = "native"

    def unsupported_reason(self, core: BRIMs, like: Tensor) -> str | None:
        if kernels(like) is None:
            return unavailable_reason(like)
        return super().unsupported_reason(core, like) or next(filter(None, map(unknown_option, core._rims())), None)

    def run(
        self, core: BRIMs, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        read = core._rims()[0].input_read
        assert isinstance(read, InputAttention)
        encoded = [by_element(x, weight) for weight in (read.key, read.value)]
        with torch.autocast(x.device.type, enabled=False):
            keys, values = (tensor.to(state[0].dtype) for tensor in encoded)
            if not torch.is_grad_enabled():
                active = tuple(layer.num_active for layer in core._rims())
                cell = filling_cell(core, active, native_cell, (keys, values), x.shape[:2], return_trace)
                return compiled.fill(cell, len(x), state, core.initial_state, episode_starts)
            make_cell, tensors = native_cell(core, keys, values)
            rows = {"input_keys": 2, "input_values": 2}
            threaded = in_threads(make_cell, rows, core.num_layers * core.hidden_size)
            return compiled.run(threaded, tensors, len(x), state, core.initial_state, episode_starts, return_trace)


def native_cell(core: BRIMs, keys: Tensor, values: Tensor) -> tuple[partial[NativeBRIMs], NativeBRIMsTensors]:
    """The compiled cell of a core, and what it is made from.

    Args:
        core: A core whose options kernels know.
        keys: Of the input, ``[M, T, B, H dk]``.
        values: Of the input, ``[M, T, B, U]``.
    """
    native, layers = kernels(keys), []
    assert native is not None
    for index, layer in enumerate(core._rims()):
        read, tensors = layer.input_read, native_layer_tensors(layer)
        assert isinstance(read, InputAttention)
        if index == 0:
            tensors.input_keys, tensors.input_values = keys, values
        else:
            tensors.below_key, tensors.below_value = read.key[0], read.value[0]
        if index in core.above:
            further = core._top_down_into(index)
            assert isinstance(further, FurtherElements)
            tensors.above_key, tensors.above_value = further.key[0], further.value[0]
        layers.append(tensors)
    return partial(NativeBRIMs, _plan(core, native)), NativeBRIMsTensors.of_layers(layers)


def _plan(core: BRIMs, native: Kernels | None) -> BRIMsPlan:
    read = core._rims()[0].input_read
    assert isinstance(read, InputAttention)
    over_units = read.competition == "units"
    layers = [plan_of(layer, layer.communication, over_units, native) for layer in core._rims()]
    return BRIMsPlan(layers, read.heads, core.above, core._join_traces)


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


BACKENDS = (NativeBRIMsWhereKnown(), TorchBRIMs())
