"""The RIM's backends: what a plain `rimrl.cores.rim.RIM` becomes for a scan."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rimrl.cores.attention import InputAttention, split_heads
from rimrl.cores.base import CoreTrace, State
from rimrl.cores.registry import BackendName
from rimrl.cores.rim import RIM
from rimrl.cores.scan import compiled, loop
from rimrl.cores.scan.acting import filling_cell
from rimrl.cores.scan.brims import BRIMsCell, BRIMsPlan, BRIMsTensors
from rimrl.cores.scan.brims_native import NativeBRIMs, NativeBRIMsTensors
from rimrl.cores.scan.library import Kernels, kernels, unavailable_reason, warn_if_missing
from rimrl.cores.scan.native import NativeRIM, NativeRIMTensors
from rimrl.cores.scan.pieces import run_side_by_side
from rimrl.cores.scan.products import input_product
from rimrl.cores.scan.rim import RIMCell, RIMTensors
from rimrl.cores.scan.rim_layers import (
    by_element,
    layer_tensors,
    native_layer_tensors,
    of_communication,
    plan_of,
    unknown_option,
)
from rimrl.cores.scan.threads import in_threads
from rimrl.cores.units import UnitLSTMCell


class TorchRIM:
    """`RIMCell` on torch's operations."""

    name: BackendName = "torch"

    def unsupported_reason(self, core: RIM, like: Tensor) -> str | None:
        if core.num_inputs > 1 and not isinstance(core.input_read, InputAttention):
            return "whole sequences of several elements are run with input attention, and input_attention is false"
        return "dropout draws anew in every step, and the core is in training mode" if core.drops_out else None

    def run(
        self, core: RIM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        if core.has_cell_memory:
            warn_if_missing(state[0])
        if core.num_inputs > 1 and len(x) == 1:  # where the scan gains nothing
            return core._scan(x, state, episode_starts, return_trace)
        return run_side_by_side(partial(self._run, core), x, state, episode_starts, return_trace)

    def _run(
        self, core: RIM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        encoded = core._encode(x)
        # Under autocast only the products of the input take a lower precision; the recurrence keeps the state's.
        with torch.autocast(x.device.type, enabled=False):
            encoded = tuple(tensor.to(state[0].dtype) for tensor in encoded)
            initial = core.initial_state
            if core.num_inputs > 1:
                make_cell, tensors = elements_cell(core, *encoded)
                return loop.run(make_cell, tensors, 1, len(x), state, initial, episode_starts, return_trace)
            make_cell, tensors = self._cell(core, *encoded)
            return loop.run(make_cell, tensors, core.num_units, len(x), state, initial, episode_starts, return_trace)

    def _cell(self, core: RIM, *encoded: Tensor) -> tuple[loop.MakeCell, loop.Tensors]:
        return rim_cell(core, None, *encoded)


class NativeOrTorchRIM(TorchRIM):
    """Compiled where kernels know all of the core's options, else `RIMCell` with the kernels of an LSTM's gates."""

    name: BackendName = "native"

    def unsupported_reason(self, core: RIM, like: Tensor) -> str | None:
        if kernels(like) is None:
            return unavailable_reason(like)
        if not core.has_cell_memory:
            return 'no kernel knows dynamics="gru"'
        unknown = unknown_option(core) if core.num_inputs > 1 else None
        return unknown or super().unsupported_reason(core, like)

    def run(
        self, core: RIM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        if core.num_inputs > 1:
            return _run_elements(core, x, state, episode_starts, return_trace)
        if not runs_natively(core):
            return super().run(core, x, state, episode_starts, return_trace)
        x = (x if x.dim() == 3 else x.squeeze(2)).to(state[0].dtype)
        if not torch.is_grad_enabled():
            cell = filling_cell(core, core.num_active, native_cell, (x,), x.shape[:2], return_trace)
            return compiled.fill(cell, len(x), state, core.initial_state, episode_starts)
        make_cell, tensors = native_cell(core, x)
        threaded = in_threads(make_cell, {"x": 1}, core.hidden_size)
        return compiled.run(threaded, tensors, len(x), state, core.initial_state, episode_starts, return_trace)

    def _cell(self, core: RIM, *encoded: Tensor) -> tuple[loop.MakeCell, loop.Tensors]:
        return rim_cell(core, kernels(encoded[0]), *encoded)


def _run_elements(
    core: RIM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
) -> tuple[Tensor, State, CoreTrace | None]:
    """Several input elements: those of a BRIMs of one layer."""
    read = core.input_read
    assert isinstance(read, InputAttention)
    encoded = [by_element(x, weight) for weight in (read.key, read.value)]
    with torch.autocast(x.device.type, enabled=False):
        keys, values = (tensor.to(state[0].dtype) for tensor in encoded)
        if not torch.is_grad_enabled():
            of_input = keys, values
            cell = filling_cell(core, core.num_active, _native_elements_cell, of_input, x.shape[:2], return_trace)
            return compiled.fill(cell, len(x), state, core.initial_state, episode_starts)
        make_cell, tensors = _native_elements_cell(core, keys, values)
        threaded = in_threads(make_cell, {"input_keys": 2, "input_values": 2}, core.hidden_size)
        return compiled.run(threaded, tensors, len(x), state, core.initial_state, episode_starts, return_trace)


def _native_elements_cell(core: RIM, keys: Tensor, values: Tensor) -> tuple[partial[NativeBRIMs], NativeBRIMsTensors]:
    """The compiled cell of a core that reads several input elements, and what it is made from."""
    native, layer = kernels(keys), native_layer_tensors(core)
    assert native is not None
    layer.input_keys, layer.input_values = keys, values
    return partial(NativeBRIMs, _plan(core, native)), NativeBRIMsTensors.of_layers([layer])


def elements_cell(core: RIM, keys: Tensor, values: Tensor) -> tuple[loop.MakeCell, loop.Tensors]:
    """The cell of a core that reads several input elements, and what it is made from.

    Args:
        core: A core with input attention.
        keys: Of the input, scaled, ``[T, B, H, dk, M]``.
        values: ``[T, B, H, M, dv]``.
    """
    read = core.input_read
    assert isinstance(read, InputAttention)
    layer = layer_tensors(core, read)
    layer.keys, layer.values = keys, values
    return partial(BRIMsCell, _plan(core, None)), BRIMsTensors.of_layers([layer])


def _plan(core: RIM, native: Kernels | None) -> BRIMsPlan:
    """A BRIMs of one layer."""
    read = core.input_read
    assert isinstance(read, InputAttention)
    layer = plan_of(core, core.communication, read.competition == "units", native)
    return BRIMsPlan([layer], read.heads, {}, lambda traces: traces[0])


def native_cell(core: RIM, x: Tensor) -> tuple[partial[NativeRIM], NativeRIMTensors]:
    """The compiled cell of a core whose options kernels know, and what it is made from."""
    read, dynamics, communication, native = core.input_read, core.dynamics, core.communication, kernels(x)
    assert native is not None
    assert isinstance(read, InputAttention)
    assert isinstance(dynamics, UnitLSTMCell)
    assert communication is not None
    of_input, of_gates = (x, read.key[0], read.value[0]), (dynamics.weight_input, dynamics.weight_hidden, dynamics.bias)
    tensors = NativeRIMTensors(*of_input, read.query, *of_gates, *of_communication(communication))
    return partial(NativeRIM, native, core.num_active, communication.heads), tensors


def runs_natively(core: RIM) -> bool:
    """Whether kernels know all of a core's options, so that its whole loop over time is compiled."""
    read = core.input_read
    return isinstance(read, InputAttention) and read.heads == 1 and unknown_option(core) is None


def rim_cell(core: RIM, native: Kernels | None, *encoded: Tensor) -> tuple[loop.MakeCell, loop.Tensors]:
    """The cell of a core and what it is made from.

    Args:
        core: A core that reads one input element.
        native: Kernels for the loop, or for the gates alone; None: torch's operations.
        encoded: What the core's ``input_read`` made of the input.
    """
    dynamics, read, communication = core.dynamics, core.input_read, core.communication
    bias, bias_hidden = (
        (dynamics.bias, None) if isinstance(dynamics, UnitLSTMCell) else (dynamics.bias_input, dynamics.bias_hidden)
    )
    keys, own_bias, over_units = None, None, False
    if isinstance(read, InputAttention):
        own_bias, over_units = bias, read.competition == "units"
        query = split_heads(read.query, read.heads).permute(2, 0, 3, 1)  # [H, N, dk, D]
        weight = torch.stack(dynamics.weight_input.chunk(read.heads, dim=1))  # [H, N, dv, G D]
        keys, gates = _by_head(encoded[0].squeeze(-1), query), _by_head(encoded[1].squeeze(-2), weight)
    else:
        gates = input_product(encoded[0].squeeze(2), dynamics.weight_input) + bias[:, None, None]
    messages = () if communication is None else of_communication(communication)
    tensors = RIMTensors(gates, dynamics.weight_hidden, keys, own_bias, bias_hidden, *messages)
    return partial(RIMCell, plan_of(core, communication, over_units, native)), tensors


def _by_head(x: Tensor, weight: Tensor) -> Tensor:
    """``[N, T, B, H, out]`` of ``x [T, B, H, in]`` and ``weight [H, N, in, out]``."""
    products = [input_product(x_head, w) for x_head, w in zip(x.unbind(2), weight, strict=True)]
    return products[0].unsqueeze(3) if len(products) == 1 else torch.stack(products, dim=3)


BACKENDS = (NativeOrTorchRIM(), TorchRIM())
