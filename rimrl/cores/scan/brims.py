"""The BRIMs' cell of a scan: its plain twin is `rimrl.cores.brims.BRIMs._step`.

For the loop over time a layer is what a unit is to other cores: states are ``[L, B, W]``, W being a layer's width.
Inside a layer they are seen as ``[N, B, D]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace
from rimrl.cores.scan.elements import Elements
from rimrl.cores.scan.loop import LayersTensors, StepCell
from rimrl.cores.scan.memory import Buffers
from rimrl.cores.scan.rim import RIMScanConfig, Units
from rimrl.cores.stepwise import StepTrace


@dataclass
class BRIMsPlan:
    """What a cell cannot read off its tensors.

    Attributes:
        layers: Options of every layer.
        input_heads: Heads H of the input attention.
        above: From every layer that has top-down input to the layer which that comes from.
        join_traces: Makes one trace of those of the layers.
    """

    layers: list[RIMScanConfig]
    input_heads: int
    above: dict[int, int]
    join_traces: Callable[[list[StepTrace]], StepTrace]

    def trace(self, layers: list[StepTrace], T: int, B: int) -> CoreTrace:
        """That of a core, given those of its layers, ``[T B, ...]``."""
        joined = self.join_traces(layers)
        return CoreTrace(*(None if part is None else part.view(T, B, *part.shape[1:]) for part in joined))  # type: ignore[arg-type]


@dataclass
class LayerTensors:
    """What a layer of a `BRIMsCell` is made from.

    Attributes:
        query: Of the input attention, ``[N, D, H dk]``.
        weight_input: ``[N, U, G D]``, G being 4 for an LSTM and 3 for a GRU; U is the width of all values together.
        bias: Of the gates, ``[N, G D]``.
        weight_hidden: ``[N, D, G D]``.
        bias_hidden: A GRU's, ``[N, 3 D]``; None for an LSTM.
        keys: Of the input, scaled, ``[T, B, H, dk, M]``; this and `values` are None for all layers but the first.
        values: ``[T, B, H, M, dv]``.
        below: What makes keys, scaled, and values of the layer below, ``[W, H dk + U]``; None for the first layer.
        above: The same of the layer above; None where nothing comes from there.
        query_key_value: ``[N, D, H' (2 dk' + dv')]``; this and the following are None without communication.
        project: ``[D or 2 D, H' dv']``: Wf, and Wg below it if gated.
        project_bias: ``[D or 2 D]``.
        read_scale: What dropout multiplies the attention by that reads values, ``[T, N, B, H, M']``, or None; M' counts
            all that the layer reads.
        message_scale: What it multiplies messages by, ``[T, N, B, D]``, or None.
    """

    query: Tensor
    weight_input: Tensor
    bias: Tensor
    weight_hidden: Tensor
    bias_hidden: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    below: Tensor | None = None
    above: Tensor | None = None
    query_key_value: Tensor | None = None
    project: Tensor | None = None
    project_bias: Tensor | None = None
    read_scale: Tensor | None = None
    message_scale: Tensor | None = None


class BRIMsTensors(LayersTensors[LayerTensors]):
    """What a `BRIMsCell` is made from."""

    kind = LayerTensors


class _Layer:
    """The units of a layer and what they read."""

    def __init__(self, plan: RIMScanConfig, heads: int, T: int, B: int, saving: bool, tensors: LayerTensors) -> None:
        N, self.size = tensors.query.shape[:2]
        buffers = Buffers(N, T, B, saving, tensors.query)
        rows = [weight for weight in (tensors.below, tensors.above) if weight is not None]
        of_units = tensors.query, tensors.weight_input, tensors.bias
        of_input = tensors.keys, tensors.values
        self.reader = Elements(
            buffers, plan.num_active, plan.over_units, heads, *of_units, *of_input, rows, tensors.read_scale
        )
        self.units = Units(plan, buffers, self.reader, tensors)

    def unit_view(self, state: Tensor) -> Tensor:
        """``[..., B, W]`` as ``[N, ..., B, D]``."""
        return state.view(*state.shape[:-1], -1, self.size).movedim(-2, 0)

    def gradients(self, h: Tensor, tensors: LayerTensors) -> LayerTensors:
        """Those of its tensors, given ``h [T, B, W]`` before each step."""
        found: dict[str, Tensor] = self.units.gradients(self.unit_view(h))
        if tensors.keys is not None:
            found["keys"], found["values"] = self.reader.input_gradients()
        names = [name for name in ("below", "above") if getattr(tensors, name) is not None]
        found |= dict(zip(names, self.reader.row_gradients(), strict=True))
        return LayerTensors(**found)

    def trace(self) -> StepTrace:
        """That of a sequence, ``[T B, ...]``."""
        messages = self.units.communication
        active, attention = self.reader.trace()
        communication = None if messages is None else messages.trace().flatten(0, 1)
        return StepTrace(active.flatten(0, 1), attention.flatten(0, 1), communication)


class BRIMsCell(StepCell):
    """Layers that run in turn, each reading the one below as it is and the one above as it was.

    Args:
        plan: Options.
        T, B, saving, tensors: As `rimrl.cores.scan.loop.MakeCell` says.
    """

    def __init__(self, plan: BRIMsPlan, T: int, B: int, saving: bool, tensors: BRIMsTensors) -> None:
        self.plan, self.tensors, self.shape = plan, tensors, (T, B)
        pairs = zip(plan.layers, tensors.layers, strict=True)
        self.layers = [_Layer(one, plan.input_heads, T, B, saving, own) for one, own in pairs]

    def forward(self, t: int, h: Tensor, c: Tensor, h_out: Tensor, c_out: Tensor, y: Tensor) -> None:
        for index, layer in enumerate(self.layers):
            rows = [] if index == 0 else [h_out[index - 1]]
            if index in self.plan.above:
                rows.append(h[self.plan.above[index]])
            layer.reader.look_at(t, rows)
            layer.units.forward(t, *(layer.unit_view(state[index]) for state in (h, c, h_out, c_out)))
        y.copy_(h_out.transpose(0, 1))

    def start_backward(self) -> None:
        for layer in self.layers:
            layer.units.start_backward()

    def backward(self, t: int, h: Tensor, c: Tensor, dh: Tensor, dc: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        dh = dh + dy.transpose(0, 1)
        dh_before, dc_before = torch.empty_like(dh), torch.empty_like(dc)
        for index in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[index]
            found = layer.units.backward(t, *(layer.unit_view(state[index]) for state in (h, c, dh, dc)))
            for before, d_state in zip((dh_before, dc_before), found, strict=True):
                layer.unit_view(before[index]).copy_(d_state)
            rows = layer.reader.seen_backward(t)
            if index > 0:
                dh[index - 1] += rows[0]
            if index in self.plan.above:
                dh_before[self.plan.above[index]] += rows[-1]
        return dh_before, dc_before

    def gradients(self, h: Tensor) -> BRIMsTensors:
        pairs = zip(h, self.layers, self.tensors.layers, strict=True)
        return BRIMsTensors.of_layers([layer.gradients(own, tensors) for own, layer, tensors in pairs])

    def trace(self) -> CoreTrace:
        return self.plan.trace([layer.trace() for layer in self.layers], *self.shape)
