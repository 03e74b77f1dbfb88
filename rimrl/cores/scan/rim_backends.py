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
from rimrl.cores.scan.brims import BRIMsCell, BRIMsPlan, BRIMsTensors, LayerTensors
from rimrl.cores.scan.brims_native import NativeBRIMs, NativeBRIMsTensors, NativeLayerTensors
from rimrl.cores.scan.library import Kernels, kernels, unavailable_reason, warn_if_missing
from rimrl.cores.scan.native_units import BY_ROW
from rimrl.cores.scan.pieces import run_side_by_side
from rimrl.cores.scan.products import input_product
from rimrl.cores.scan.rim import RIMCell, RIMTensors
from rimrl.cores.scan.rim_layers import (
    communication_weights,
    dropout_scales,
    dynamics_weights,
    keys_and_values,
    plan_of,
    too_large,
)
from rimrl.cores.scan.rim_native import NativeRIM, NativeRIMTensors
from rimrl.cores.scan.threads import in_threads


class TorchRIM:
    """`RIMCell` on torch's operations; with several elements a `BRIMsCell` of one layer."""

    name: BackendName = "torch"

    def unsupported_reason(self, core: RIM, like: Tensor) -> str | None:
        return None

    def run(
        self, core: RIM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        warn_if_missing(state[0])
        if core.num_inputs > 1 and len(x) == 1:  # where the scan gains nothing
            return core._scan(x, state, episode_starts, return_trace)
        return run_side_by_side(partial(_run_in_torch, core), x, state, episode_starts, return_trace)


def _run_in_torch(
    core: RIM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
) -> tuple[Tensor, State, CoreTrace | None]:
    encoded = core._encode(x)
    # Under autocast only the products of the input take a lower precision; the recurrence keeps the state's.
    with torch.autocast(x.device.type, enabled=False):
        encoded = tuple(tensor.to(state[0].dtype) for tensor in encoded)
        reads_elements = core.num_inputs > 1 and isinstance(core.input_read, InputAttention)
        make_cell, tensors = (_elements_cell if reads_elements else _rim_cell)(core, *encoded)
        units = 1 if reads_elements else core.num_units
        return loop.run(make_cell, tensors, units, len(x), state, core.initial_state, episode_starts, return_trace)


class CompiledRIM:
    """`NativeRIM`; with several elements or heads of the input attention a `NativeBRIMs` of one layer."""

    name: BackendName = "native"

    def unsupported_reason(self, core: RIM, like: Tensor) -> str | None:
        return unavailable_reason(like) if kernels(like) is None else too_large(core)

    def run(
        self, core: RIM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        read = core.input_read
        by_element = isinstance(read, InputAttention) and (core.num_inputs > 1 or read.heads > 1)
        describe = _native_elements_cell if by_element else _native_cell
        x = (x if x.dim() == 4 else x.unsqueeze(2)).to(state[0].dtype)
        with torch.autocast(x.device.type, enabled=False):
            if not torch.is_grad_enabled() and not core.drops_out:
                cell = filling_cell(core, core.num_active, describe, (x,), x.shape[:2], return_trace)
                return compiled.fill(cell, len(x), state, core.initial_state, episode_starts)
            make_cell, tensors = describe(core, x)
            threaded = in_threads(make_cell, BY_ROW, core.hidden_size)
            return compiled.run(threaded, tensors, len(x), state, core.initial_state, episode_starts, return_trace)


def _native_cell(core: RIM, x: Tensor) -> tuple[partial[NativeRIM], NativeRIMTensors]:
    """The compiled cell of a core that reads one element, or the mean of all, and what it is made from.

    Args:
        core: The core.
        x: ``[T, B, M, I]``.
    """
    x = x.flatten(2)
    read, of_input = core.input_read, {}
    if isinstance(read, InputAttention):
        of_input = {"key": read.key[0], "query": read.query}
    # Without attention units read the mean of all elements.
    value = read.value[0] if core.num_inputs == 1 else read.value.flatten(0, 1) / core.num_inputs
    weights = {**of_input, **dynamics_weights(core), **communication_weights(core)}
    scales = dropout_scales(core, T=x.shape[0], B=x.shape[1], M=1, like=x)
    return partial(NativeRIM, plan_of(core, kernels(x))), NativeRIMTensors(x, value, **weights, **scales)


def _native_elements_cell(core: RIM, x: Tensor) -> tuple[partial[NativeBRIMs], NativeBRIMsTensors]:
    """The compiled cell of a core that reads several elements, or with several heads, and what it is made from."""
    read, (T, B, M) = core.input_read, x.shape[:3]
    assert isinstance(read, InputAttention)
    weights = {**dynamics_weights(core), **communication_weights(core), **dropout_scales(core, T, B, M, like=x)}
    layer = NativeLayerTensors(read.query, **weights, x=x, input_weight=keys_and_values(read))
    return partial(NativeBRIMs, _one_layer(core, kernels(x))), NativeBRIMsTensors.of_layers([layer])


def _elements_cell(core: RIM, keys: Tensor, values: Tensor) -> tuple[loop.MakeCell, loop.Tensors]:
    """The cell of a core that reads several input elements, and what it is made from.

    Args:
        core: A core with input attention.
        keys: Of the input, scaled, ``[T, B, H, dk, M]``.
        values: ``[T, B, H, M, dv]``.
    """
    assert isinstance(core.input_read, InputAttention)
    T, B, M = len(keys), keys.shape[1], keys.shape[-1]
    weights = {**dynamics_weights(core), **communication_weights(core), **dropout_scales(core, T, B, M, like=keys)}
    layer = LayerTensors(core.input_read.query, **weights, keys=keys, values=values)
    return partial(BRIMsCell, _one_layer(core, None)), BRIMsTensors.of_layers([layer])


def _one_layer(core: RIM, native: Kernels | None) -> BRIMsPlan:
    """A BRIMs of one layer."""
    assert isinstance(core.input_read, InputAttention)
    return BRIMsPlan([plan_of(core, native)], core.input_read.heads, {}, lambda traces: traces[0])


def _rim_cell(core: RIM, *encoded: Tensor) -> tuple[loop.MakeCell, loop.Tensors]:
    """The cell of a core that reads one element, or the mean of all, and what it is made from.

    Args:
        core: The core.
        encoded: What the core's ``input_read`` made of the input.
    """
    read, weights = core.input_read, dynamics_weights(core) | communication_weights(core)
    weight_input = weights.pop("weight_input")
    if isinstance(read, InputAttention):
        query = split_heads(read.query, read.heads).permute(2, 0, 3, 1)  # [H, N, dk, D]
        weight = torch.stack(weight_input.chunk(read.heads, dim=1))  # [H, N, dv, G D]
        weights["keys"] = _by_head(encoded[0].squeeze(-1), query)
        gates = _by_head(encoded[1].squeeze(-2), weight)
    else:
        gates = input_product(encoded[0].mean(2), weight_input) + weights.pop("bias")[:, None, None]
    scales = dropout_scales(core, T=gates.shape[1], B=gates.shape[2], M=1, like=gates)
    return partial(RIMCell, plan_of(core, None)), RIMTensors(gates, **weights, **scales)


def _by_head(x: Tensor, weight: Tensor) -> Tensor:
    """``[N, T, B, H, out]`` of ``x [T, B, H, in]`` and ``weight [H, N, in, out]``."""
    products = [input_product(x_head, w) for x_head, w in zip(x.unbind(2), weight, strict=True)]
    return products[0].unsqueeze(3) if len(products) == 1 else torch.stack(products, dim=3)


BACKENDS = (CompiledRIM(), TorchRIM())
