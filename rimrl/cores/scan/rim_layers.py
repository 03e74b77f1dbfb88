"""What the cells of a scan are made from, of a plain RIM or of a layer of BRIMs, which is one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rimrl.cores.attention import FurtherElements, InputAttention
from rimrl.cores.rim import RIM
from rimrl.cores.scan.layout import MAX_UNITS
from rimrl.cores.scan.library import Kernels
from rimrl.cores.scan.rim import RIMScanConfig
from rimrl.cores.units import UnitLSTMCell


def too_large(core: RIM) -> str | None:
    """Why kernels do not take a core, or a layer; None: they do."""
    heads = core.input_read.heads if isinstance(core.input_read, InputAttention) else 1
    if max(core.num_units, core.num_inputs + 2, heads) > MAX_UNITS:
        return f"kernels take at most {MAX_UNITS} units, elements or heads"
    return None


def plan_of(layer: RIM, native: Kernels | None) -> RIMScanConfig:
    """What the cell of a core, or of a layer, cannot read off its tensors."""
    read, communication = layer.input_read, layer.communication
    over_units = isinstance(read, InputAttention) and read.competition == "units"
    heads, top_k = (1, None) if communication is None else (communication.heads, communication.top_k)
    reads_candidates = layer.communication_reads == "candidate"
    return RIMScanConfig(layer.num_active, over_units, heads, top_k, reads_candidates, native)


def dynamics_weights(layer: RIM) -> dict[str, Tensor]:
    """Weights of the units' gates, by the names of the tensors that cells are made from."""
    dynamics = layer.dynamics
    found: dict[str, Tensor] = {"weight_input": dynamics.weight_input, "weight_hidden": dynamics.weight_hidden}
    if isinstance(dynamics, UnitLSTMCell):
        return found | {"bias": dynamics.bias}
    return found | {"bias": dynamics.bias_input, "bias_hidden": dynamics.bias_hidden}


def communication_weights(layer: RIM) -> dict[str, Tensor]:
    """The same of their communication, if there is one: Wf is over Wg."""
    communication = layer.communication
    if communication is None:
        return {}
    maps = [communication.project] if communication.gate is None else [communication.project, communication.gate]
    project, bias = torch.cat([m.weight for m in maps]), torch.cat([m.bias for m in maps])
    return {"query_key_value": communication.query_key_value, "project": project, "project_bias": bias}


def dropout_scales(layer: RIM, T: int, B: int, M: int, like: Tensor) -> dict[str, Tensor]:
    """What dropout multiplies by in every step, drawn for all of them at once, by the names of the tensors.

    Only what drops anything out is there.

    Args:
        layer: A core, or a layer.
        T: Steps.
        B: Rows.
        M: Elements that the layer reads.
        like: Gives dtype and device.
    """
    read, communication, found = layer.input_read, layer.communication, {}
    if isinstance(read, InputAttention) and _drops_out(read.dropout):
        ones = like.new_ones(T, layer.num_units, B, read.heads, M)
        found["read_scale"] = read.dropout(ones)
    if communication is not None and _drops_out(communication.dropout):
        found["message_scale"] = communication.dropout(like.new_ones(T, layer.num_units, B, layer.unit_size))
    return found


def _drops_out(module: nn.Module) -> bool:
    return isinstance(module, nn.Dropout) and module.training


def keys_and_values(read: InputAttention | FurtherElements) -> Tensor:
    """What makes keys, not scaled, and values of each element, ``[M, I, H dk + U]``."""
    return torch.cat([read.key, read.value], dim=-1)
