"""The RIM's backends: what a plain `rimrl.cores.rim.RIM` becomes for a scan."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rimrl.cores.attention import InputAttention, UnitCommunication, split_heads
from rimrl.cores.base import CoreTrace, State
from rimrl.cores.registry import BackendName
from rimrl.cores.rim import RIM
from rimrl.cores.scan import loop
from rimrl.cores.scan.layout import MAX_UNITS
from rimrl.cores.scan.library import Kernels, kernels, why_none
from rimrl.cores.scan.native import NativeRIM, NativeRIMTensors
from rimrl.cores.scan.products import input_product
from rimrl.cores.scan.rim import RIMCell, RIMPlan, RIMTensors
from rimrl.cores.units import UnitGRUCell, UnitLSTMCell


class TorchRIM:
    """`RIMCell` on torch's operations."""

    name: BackendName = "torch"

    def why_not(self, core: RIM, like: Tensor) -> str | None:
        if core.num_inputs > 1:
            return f"whole sequences are run of one input element, and num_inputs is {core.num_inputs}"
        return "dropout draws anew in every step, and the core is in training mode" if core.drops_out else None

    def run(
        self, core: RIM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        encoded = core._encode(x)
        # Under autocast only the products of the input take a lower precision; the recurrence keeps the state's.
        with torch.autocast(x.device.type, enabled=False):
            make_cell, tensors = self._cell(core, *(tensor.to(state[0].dtype) for tensor in encoded))
            initial = core.initial_state(1)
            return loop.run(make_cell, tensors, core.num_units, len(x), state, initial, episode_starts, return_trace)

    def _cell(self, core: RIM, *encoded: Tensor) -> tuple[loop.MakeCell, loop.Tensors]:
        return rim_cell(core, None, *encoded)


class NativeWhereKnown(TorchRIM):
    """`NativeRIM` where it knows all of the core's options, else `RIMCell` with the kernels of an LSTM's gates."""

    name: BackendName = "native"

    def why_not(self, core: RIM, like: Tensor) -> str | None:
        if kernels(like) is None:
            return why_none(like)
        if not isinstance(core.dynamics, UnitLSTMCell):
            return 'no kernel knows dynamics="gru"'
        return super().why_not(core, like)

    def _cell(self, core: RIM, *encoded: Tensor) -> tuple[loop.MakeCell, loop.Tensors]:
        native = kernels(encoded[0])
        if native is not None and native.gemm is not None and runs_natively(core):
            return _native_cell(core, native, *encoded)
        return rim_cell(core, native, *encoded)


def runs_natively(core: RIM) -> bool:
    """Whether kernels know all of a core's options, so that its whole loop over time is compiled."""
    read, communication = core.input_read, core.communication
    return (
        isinstance(read, InputAttention)
        and read.heads == 1
        and read.competition == "null"
        and isinstance(core.dynamics, UnitLSTMCell)
        and communication is not None
        and communication.gate is not None
        and communication.top_k is None
        and core.communication_reads == "candidate"
        and core.num_units <= MAX_UNITS
    )


def rim_cell(core: RIM, native: Kernels | None, *encoded: Tensor) -> tuple[loop.MakeCell, RIMTensors]:
    """The cell of a core and what it is made from.

    Args:
        core: A core that reads one input element.
        native: Kernels for the gates, or None.
        encoded: What the core's ``input_read`` made of the input.
    """
    dynamics, read, communication = core.dynamics, core.input_read, core.communication
    if isinstance(dynamics, UnitGRUCell):
        bias, bias_hidden = dynamics.bias_input, dynamics.bias_hidden
    else:
        bias, bias_hidden = dynamics.bias, None
    plan = RIMPlan(core.num_active, reads_candidates=core.communication_reads == "candidate", kernels=native)
    messages: tuple[Tensor | None, ...] = (None, None, None)
    if communication is not None:
        plan.heads, plan.top_k = communication.heads, communication.top_k
        messages = _of_communication(communication)
    if not isinstance(read, InputAttention):
        gates = input_product(encoded[0].squeeze(2), dynamics.weight_input) + bias[:, None, None]
        return partial(RIMCell, plan), RIMTensors(gates, dynamics.weight_hidden, None, None, bias_hidden, *messages)
    plan.over_units = read.competition == "units"
    keys, values = encoded[0].squeeze(-1), encoded[1].squeeze(-2)  # [T, B, H, dk], [T, B, H, dv]
    unit_keys = _by_head(keys, _query_by_head(read))
    weight = torch.stack(dynamics.weight_input.chunk(read.heads, dim=1))  # [H, N, dv, G D]
    gates = _by_head(values, weight)
    return partial(RIMCell, plan), RIMTensors(gates, dynamics.weight_hidden, unit_keys, bias, bias_hidden, *messages)


def _native_cell(core: RIM, native: Kernels, keys: Tensor, values: Tensor) -> tuple[loop.MakeCell, NativeRIMTensors]:
    dynamics, read, communication = core.dynamics, core.input_read, core.communication
    assert isinstance(dynamics, UnitLSTMCell)
    assert isinstance(read, InputAttention)
    assert communication is not None
    query_key_value, project, project_bias = _of_communication(communication)
    tensors = NativeRIMTensors(
        keys=_by_head(keys.squeeze(-1), _query_by_head(read))[..., 0, :],
        values=values.squeeze(-2)[:, :, 0],
        weight_input=dynamics.weight_input,
        weight_hidden=dynamics.weight_hidden,
        bias=dynamics.bias,
        query_key_value=query_key_value,
        project=project,
        project_bias=project_bias,
    )
    return partial(NativeRIM, native, core.num_active, communication.heads), tensors


def _query_by_head(read: InputAttention) -> Tensor:
    return split_heads(read.query, read.heads).permute(2, 0, 3, 1)  # [H, N, dk, D]


def _by_head(x: Tensor, weight: Tensor) -> Tensor:
    """``[N, T, B, H, out]`` of ``x [T, B, H, in]`` and ``weight [H, N, in, out]``."""
    products = [input_product(x_head, w) for x_head, w in zip(x.unbind(2), weight, strict=True)]
    return products[0].unsqueeze(3) if len(products) == 1 else torch.stack(products, dim=3)


def _of_communication(communication: UnitCommunication) -> tuple[Tensor, Tensor, Tensor]:
    """``query_key_value``, then Wf over Wg and their biases."""
    project, gate = communication.project, communication.gate
    maps = [project] if gate is None else [project, gate]
    return communication.query_key_value, torch.cat([m.weight for m in maps]), torch.cat([m.bias for m in maps])


BACKENDS = (NativeWhereKnown(), TorchRIM())
