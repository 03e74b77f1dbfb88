"""What the cells of a scan are made from, of a plain RIM or of a layer of BRIMs, which is one."""

from __future__ import annotations

import torch
from torch import Tensor

from rimrl.cores.attention import InputAttention, UnitCommunication
from rimrl.cores.rim import RIM
from rimrl.cores.scan.brims import LayerTensors
from rimrl.cores.scan.brims_native import NativeLayerTensors
from rimrl.cores.scan.layout import MAX_UNITS
from rimrl.cores.scan.library import Kernels
from rimrl.cores.scan.rim import RIMScanConfig
from rimrl.cores.units import UnitLSTMCell


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


def plan_of(
    core: RIM, communication: UnitCommunication | None, over_units: bool, native: Kernels | None
) -> RIMScanConfig:
    """What the cell of a core, or of a layer, cannot read off its tensors."""
    heads, top_k = (1, None) if communication is None else (communication.heads, communication.top_k)
    return RIMScanConfig(core.num_active, over_units, heads, top_k, core.communication_reads == "candidate", native)


def layer_tensors(layer: RIM, read: InputAttention) -> LayerTensors:
    """All but what the layer reads."""
    dynamics = layer.dynamics
    bias, bias_hidden = (
        (dynamics.bias, None) if isinstance(dynamics, UnitLSTMCell) else (dynamics.bias_input, dynamics.bias_hidden)
    )
    tensors = LayerTensors(read.query, dynamics.weight_input, bias, dynamics.weight_hidden, bias_hidden)
    if layer.communication is not None:
        messages = of_communication(layer.communication)
        tensors.query_key_value, tensors.project, tensors.project_bias = messages
    return tensors


def native_layer_tensors(layer: RIM) -> NativeLayerTensors:
    """All but what the layer reads, for a layer whose options kernels know."""
    read, dynamics, communication = layer.input_read, layer.dynamics, layer.communication
    assert isinstance(read, InputAttention)
    assert isinstance(dynamics, UnitLSTMCell)
    assert communication is not None
    of_gates = dynamics.weight_input, dynamics.bias, dynamics.weight_hidden
    return NativeLayerTensors(read.query, *of_gates, *of_communication(communication))


def by_element(x: Tensor, weight: Tensor) -> Tensor:
    """``[M, T, B, out]`` of ``x [T, B, I]`` or ``[T, B, M, I]`` and ``weight [M, I, out]``."""
    if x.dim() == 3:
        return (x @ weight[0]).unsqueeze(0)
    return torch.einsum("tbmi,mio->mtbo", x, weight)


def of_communication(communication: UnitCommunication) -> tuple[Tensor, Tensor, Tensor]:
    """``query_key_value``, then Wf over Wg and their biases."""
    project, gate = communication.project, communication.gate
    maps = [project] if gate is None else [project, gate]
    return communication.query_key_value, torch.cat([m.weight for m in maps]), torch.cat([m.bias for m in maps])
