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
from rimrl.cores.scan.library import Kernels, kernels, unavailable_reason, warn_if_missing
from rimrl.cores.scan.native import NativeRIM, NativeRIMTensors
from rimrl.cores.scan.pieces import run_side_by_side
from rimrl.cores.scan.products import input_product
from rimrl.cores.scan.rim import RIMCell, RIMScanConfig, RIMTensors
from rimrl.cores.scan.threads import in_threads
from rimrl.cores.units import UnitLSTMCell


class TorchRIM:
    """`RIMCell` on torch's operations."""

    name: BackendName = "torch"

    def unsupported_reason(self, core: RIM, like: Tensor) -> str | None:
        if core.num_inputs > 1:
            return f"whole sequences are run of one input element, and num_inputs is {core.num_inputs}"
        return "dropout draws anew in every step, and the core is in training mode" if core.drops_out else None

    def run(
        self, core: RIM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        if core.has_cell_memory:
            warn_if_missing(state[0])
        return run_side_by_side(partial(self._run, core), x, state, episode_starts, return_trace)

    def _run(
        self, core: RIM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        encoded = core._encode(x)
        # Under autocast only the products of the input take a lower precision; the recurrence keeps the state's.
        with torch.autocast(x.device.type, enabled=False):
            make_cell, tensors = self._cell(core, *(tensor.to(state[0].dtype) for tensor in encoded))
            initial = partial(core.initial_state, 1)
            return loop.run(make_cell, tensors, core.num_units, len(x), state, initial, episode_starts, return_trace)

    def _cell(self, core: RIM, *encoded: Tensor) -> tuple[loop.MakeCell, loop.Tensors]:
        return rim_cell(core, None, *encoded)


class NativeOrTorchRIM(TorchRIM):
    """`NativeRIM` where it knows all of the core's options, else `RIMCell` with the kernels of an LSTM's gates."""

    name: BackendName = "native"

    def unsupported_reason(self, core: RIM, like: Tensor) -> str | None:
        if kernels(like) is None:
            return unavailable_reason(like)
        if not core.has_cell_memory:
            return 'no kernel knows dynamics="gru"'
        return super().unsupported_reason(core, like)

    def run(
        self, core: RIM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        if not runs_natively(core):
            return super().run(core, x, state, episode_starts, return_trace)
        make_cell, tensors = native_cell(core, (x if x.dim() == 3 else x.squeeze(2)).to(state[0].dtype))
        if torch.is_grad_enabled():
            initial, threaded = partial(core.initial_state, 1), in_threads(make_cell, {"x": 1}, core.hidden_size)
            return loop.run(threaded, tensors, core.num_units, len(x), state, initial, episode_starts, return_trace)
        cell = make_cell(len(x), x.shape[1], return_trace, tensors)
        return loop.fill(cell, len(x), state, core.initial_state, episode_starts)

    def _cell(self, core: RIM, *encoded: Tensor) -> tuple[loop.MakeCell, loop.Tensors]:
        return rim_cell(core, kernels(encoded[0]), *encoded)


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


def unknown_option(core: RIM) -> str | None:
    """The first option, of a core or of a layer with input attention, that kernels for whole sequences do not know."""
    read, communication = core.input_read, core.communication
    if not core.has_cell_memory:
        return 'no kernel knows dynamics="gru"'
    if isinstance(read, InputAttention) and read.competition != "null":
        return f"no kernel knows competition={read.competition!r}"
    if communication is None or communication.kind != "gated":
        return f"no kernel knows communication={communication and communication.kind!r}"
    if communication.top_k is not None or core.communication_reads != "candidate":
        return "no kernel knows communication_top_k and communication_reads='previous'"
    heads = read.heads if isinstance(read, InputAttention) else 1
    if max(core.num_units, core.num_inputs + 2, heads) > MAX_UNITS:
        return f"kernels take at most {MAX_UNITS} units, elements or heads"
    return None


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


def plan_of(
    core: RIM, communication: UnitCommunication | None, over_units: bool, native: Kernels | None
) -> RIMScanConfig:
    """What the cell of a core, or of a layer, cannot read off its tensors."""
    heads, top_k = (1, None) if communication is None else (communication.heads, communication.top_k)
    return RIMScanConfig(core.num_active, over_units, heads, top_k, core.communication_reads == "candidate", native)


def _by_head(x: Tensor, weight: Tensor) -> Tensor:
    """``[N, T, B, H, out]`` of ``x [T, B, H, in]`` and ``weight [H, N, in, out]``."""
    products = [input_product(x_head, w) for x_head, w in zip(x.unbind(2), weight, strict=True)]
    return products[0].unsqueeze(3) if len(products) == 1 else torch.stack(products, dim=3)


def of_communication(communication: UnitCommunication) -> tuple[Tensor, Tensor, Tensor]:
    """``query_key_value``, then Wf over Wg and their biases."""
    project, gate = communication.project, communication.gate
    maps = [project] if gate is None else [project, gate]
    return communication.query_key_value, torch.cat([m.weight for m in maps]), torch.cat([m.bias for m in maps])


BACKENDS = (NativeOrTorchRIM(), TorchRIM())
