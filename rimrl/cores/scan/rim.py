"""The RIM's cell of a scan: its plain twin is `rimrl.cores.rim.RIM._step`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace
from rimrl.cores.scan.communication import UnitCommunicationScan
from rimrl.cores.scan.dynamics import GRUDynamics, LSTMDynamics
from rimrl.cores.scan.elements import Elements
from rimrl.cores.scan.input_attention import Competition, SharedInput
from rimrl.cores.scan.library import Kernels
from rimrl.cores.scan.loop import StepCell, Tensors
from rimrl.cores.scan.memory import Buffers


@dataclass
class RIMScanConfig:
    """What a cell cannot read off its tensors; the defaults are for a core of one unit.

    Attributes:
        num_active: Active units K.
        over_units: ``competition="units"``.
        heads: Heads of the communication.
        top_k: ``communication_top_k``.
        reads_candidates: ``communication_reads="candidate"``.
        kernels: What a compiled cell calls; None for any other.
    """

    num_active: int = 1
    over_units: bool = False
    heads: int = 1
    top_k: int | None = None
    reads_candidates: bool = True
    kernels: Kernels | None = None


@dataclass
class RIMTensors(Tensors):
    """What a `RIMCell` is made from.

    Attributes:
        gates: What the input adds to the gates: with competition if it is read in full, by head,
            ``[N, T, B, H, G D]``; without, ``[N, T, B, G D]``, bias included.
        weight_hidden: ``[N, D, G D]``, G being 4 for an LSTM and 3 for a GRU.
        keys: ``Wq k / sqrt(dk)``, ``[N, T, B, H, D]``; None without competition.
        bias: Of the gates, ``[N, G D]``; None without competition.
        bias_hidden: A GRU's, ``[N, 3 D]``; None for an LSTM.
        query_key_value: ``[N, D, H' (2 dk' + dv')]``; this and the following are None without communication.
        project: ``[D or 2 D, H' dv']``: Wf, and Wg below it if gated.
        project_bias: ``[D or 2 D]``.
        read_scale: What dropout multiplies the shares by that are read, ``[T, N, B, H, 1]``, or None.
        message_scale: What it multiplies messages by, ``[T, N, B, D]``, or None.
    """

    gates: Tensor
    weight_hidden: Tensor
    keys: Tensor | None = None
    bias: Tensor | None = None
    bias_hidden: Tensor | None = None
    query_key_value: Tensor | None = None
    project: Tensor | None = None
    project_bias: Tensor | None = None
    read_scale: Tensor | None = None
    message_scale: Tensor | None = None


class UnitWeights(Protocol):
    """Of `RIMTensors`, what is not about the input."""

    weight_hidden: Tensor
    bias_hidden: Tensor | None
    query_key_value: Tensor | None
    project: Tensor | None
    project_bias: Tensor | None
    message_scale: Tensor | None


class Units:
    """Competition, dynamics, communication, and the update of the active units.

    Args:
        config: Options.
        buffers: Where to keep the steps.
        reader: What the units read.
        tensors: Weights; those that are there say what there is.
    """

    def __init__(
        self,
        config: RIMScanConfig,
        buffers: Buffers,
        reader: Competition | Elements | SharedInput,
        tensors: UnitWeights,
    ) -> None:
        self.config = config
        self.reader = reader
        self.masks = None if isinstance(reader, SharedInput) else reader.mask_steps
        self.dynamics: LSTMDynamics | GRUDynamics
        if tensors.bias_hidden is None:
            self.dynamics = LSTMDynamics(buffers, tensors.weight_hidden)
        else:
            self.dynamics = GRUDynamics(buffers, tensors.weight_hidden, tensors.bias_hidden)
        self.communication: UnitCommunicationScan | None = None
        if tensors.query_key_value is not None:
            assert tensors.project is not None
            assert tensors.project_bias is not None
            weights = tensors.query_key_value, tensors.project, tensors.project_bias
            self.communication = UnitCommunicationScan(
                buffers, config.heads, config.top_k, *weights, tensors.message_scale
            )
            self.h_read, self.h_read_steps = buffers.units_first(self.dynamics.size)

    def forward(self, t: int, h: Tensor, c: Tensor, h_out: Tensor, c_out: Tensor) -> None:
        """Write the state after step t, all ``[N, B, D]``."""
        h_new, c_new = self.dynamics.update(t, self.reader.forward(t, h), h, c)
        mask = None if self.masks is None else self.masks[t]
        if self.communication is not None:
            h_read = self.h_read_steps[t]
            if mask is None or self.config.reads_candidates:
                h_read.copy_(h_new)
            else:
                torch.lerp(h, h_new, mask, out=h_read)
            h_new.add_(self.communication.forward(t, h_read))
        if mask is None:
            h_out.copy_(h_new)
            c_out.copy_(c_new)
        else:
            # With a weight of exactly 0 or 1 this takes one of the two as it is; torch.where is not vectorised.
            torch.lerp(h, h_new, mask, out=h_out)
            torch.lerp(c, c_new, mask, out=c_out)

    def start_backward(self) -> None:
        """Make room for gradients."""
        for stage in (self.reader, self.dynamics, self.communication):
            if stage is not None:
                stage.start_backward()

    def backward(self, t: int, h: Tensor, c: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the state before step t, given those of the state after it, ``[N, B, D]``."""
        mask = None if self.masks is None else self.masks[t]
        if mask is None:
            if self.communication is not None:
                dh = dh + self.communication.backward(t, dh)
            d_gates, dh, dc = self.dynamics.update_backward(t, h, c, dh, dc)
            self.reader.backward(t, h, d_gates)
            return dh, dc
        # The part of the gradient that goes through the units that were updated, and the part that goes around.
        dh_new, dc_new = dh * mask, dc * mask
        dh_past, dc_past = dh - dh_new, dc - dc_new
        if self.communication is not None:
            d_read = self.communication.backward(t, dh_new)
            d_active = d_read * mask
            dh_new += d_active
            if not self.config.reads_candidates:
                dh_past += d_read - d_active
        d_gates, dh_before, dc_before = self.dynamics.update_backward(t, h, c, dh_new, dc_new)
        d_query = self.reader.backward(t, h, d_gates)
        assert d_query is not None
        return dh_before + d_query + dh_past, dc_before + dc_past

    def gradients(self, h: Tensor) -> dict[str, Tensor]:
        """Those of all tensors, by name, given ``h [N, T, B, D]`` before each step."""
        communication_tensors = {} if self.communication is None else self.communication.gradients(self.h_read)
        return self.reader.gradients(h, self.dynamics.d_gates) | self.dynamics.gradients(h) | communication_tensors


class RIMCell(StepCell):
    """`Units` that read one element of the input.

    Args:
        config: Options.
        T, B, saving: As `rimrl.cores.scan.loop.MakeCell` says.
        tensors: Input and weights; those that are there say what the cell consists of.
    """

    def __init__(self, config: RIMScanConfig, T: int, B: int, saving: bool, tensors: RIMTensors) -> None:
        gates = tensors.gates
        N = gates.shape[0]
        self.shape, self.device = (N, T, B), gates.device
        buffers = Buffers(N, T, B, saving, gates)
        self.competition: Competition | None = None
        if tensors.keys is not None and tensors.bias is not None:
            of_input = tensors.keys, gates, tensors.bias, tensors.read_scale
            self.competition = Competition(buffers, config.num_active, config.over_units, *of_input)
        self.units = Units(config, buffers, self.competition or SharedInput(gates), tensors)

    def forward(self, t: int, h: Tensor, c: Tensor, h_out: Tensor, c_out: Tensor, y: Tensor) -> None:
        self.units.forward(t, h, c, h_out, c_out)
        y.copy_(h_out.transpose(0, 1))

    def start_backward(self) -> None:
        self.units.start_backward()

    def backward(self, t: int, h: Tensor, c: Tensor, dh: Tensor, dc: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        return self.units.backward(t, h, c, dh + dy.transpose(0, 1), dc)

    def gradients(self, h: Tensor) -> RIMTensors:
        return RIMTensors(**self.units.gradients(h))

    def trace(self) -> CoreTrace:
        communication_tensors = self.units.communication
        communication = None if communication_tensors is None else communication_tensors.trace()
        if self.competition is None:
            N, T, B = self.shape
            return CoreTrace(torch.ones(T, B, N, dtype=torch.bool, device=self.device), None, communication)
        return CoreTrace(*self.competition.trace(), communication)
