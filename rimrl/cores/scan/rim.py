"""The RIM's cell of a scan: its plain twin is `rimrl.cores.rim.RIM._step`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace
from rimrl.cores.scan.dynamics import Dynamics, GRUDynamics, LSTMDynamics
from rimrl.cores.scan.memory import Buffers
from rimrl.cores.scan.messages import MessagePlan, Messages
from rimrl.cores.scan.reading import Competition, SharedInput


@dataclass(frozen=True)
class RIMPlan:
    """What the cell cannot read off its tensors.

    Attributes:
        num_active: Active units K.
        lstm: ``dynamics="lstm"``; otherwise GRU.
        competes: There is input attention; otherwise all units read the input in full.
        over_units: ``competition="units"``.
        messages: Options of communication; None without.
        reads_candidates: ``communication_reads="candidate"``.
    """

    num_active: int
    lstm: bool
    competes: bool
    over_units: bool
    messages: MessagePlan | None
    reads_candidates: bool


class RIMCell:
    """Competition, dynamics, communication, and the update of the active units.

    Args:
        plan: Options.
        T: Time steps.
        B: Batch rows.
        saving: Keep what the backward pass needs.
        tensors: Those of `Competition` (keys, gates, bias) or `SharedInput` (gates), of the dynamics, of `Messages`.
    """

    def __init__(self, plan: RIMPlan, T: int, B: int, saving: bool, *tensors: Tensor) -> None:
        self.plan = plan
        N = tensors[0].shape[0]
        self.shape, self.device = (N, T, B), tensors[0].device
        rest = list(tensors)
        buffers = Buffers(N, T, B, saving, tensors[0])
        self.competition: Competition | None = None
        self.reader: Competition | SharedInput
        if plan.competes:
            keys, gates, bias = (rest.pop(0) for _ in range(3))
            self.reader = self.competition = Competition(buffers, plan.num_active, plan.over_units, keys, gates, bias)
        else:
            self.reader = SharedInput(rest.pop(0))
        self.dynamics: Dynamics
        if plan.lstm:
            self.dynamics = LSTMDynamics(buffers, rest.pop(0))
        else:
            self.dynamics = GRUDynamics(buffers, rest.pop(0), rest.pop(0))
        self.messages: Messages | None = None
        if plan.messages is not None:
            self.messages = Messages(buffers, plan.messages, *rest)
            self.h_read = buffers.units_first(self.dynamics.size)
            self.h_read_steps = buffers.each(self.h_read)

    def forward(self, t: int, h: Tensor, c: Tensor, h_out: Tensor, c_out: Tensor, y: Tensor) -> None:
        h_new, c_new = self.dynamics.update(t, self.reader.forward(t, h), h, c)
        mask = None if self.competition is None else self.competition.mask_steps[t]
        if self.messages is not None:
            h_read = self.h_read_steps[t]
            if mask is None or self.plan.reads_candidates:
                h_read.copy_(h_new)
            else:
                torch.lerp(h, h_new, mask, out=h_read)
            h_new.add_(self.messages.forward(t, h_read))
        if mask is None:
            h_out.copy_(h_new)
            c_out.copy_(c_new)
        else:
            # With a weight of exactly 0 or 1 this takes one of the two as it is; torch.where is not vectorised.
            torch.lerp(h, h_new, mask, out=h_out)
            torch.lerp(c, c_new, mask, out=c_out)
        y.copy_(h_out.transpose(0, 1))

    def start_backward(self) -> None:
        for stage in (self.reader, self.dynamics, self.messages):
            if stage is not None:
                stage.start_backward()

    def backward(self, t: int, h: Tensor, c: Tensor, dh: Tensor, dc: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        dh = dh + dy.transpose(0, 1)
        mask = None if self.competition is None else self.competition.mask_steps[t]
        if mask is None:
            if self.messages is not None:
                dh = dh + self.messages.backward(t, dh)
            d_gates, dh, dc = self.dynamics.update_backward(t, h, c, dh, dc)
            self.reader.backward(t, h, d_gates)
            return dh, dc
        # The part of the gradient that goes through the units that were updated, and the part that goes around.
        dh_new, dc_new = dh * mask, dc * mask
        dh_past, dc_past = dh - dh_new, dc - dc_new
        if self.messages is not None:
            d_read = self.messages.backward(t, dh_new)
            d_active = d_read * mask
            dh_new += d_active
            if not self.plan.reads_candidates:
                dh_past += d_read - d_active
        d_gates, dh_before, dc_before = self.dynamics.update_backward(t, h, c, dh_new, dc_new)
        d_query = self.reader.backward(t, h, d_gates)
        assert d_query is not None
        return dh_before + d_query + dh_past, dc_before + dc_past

    def gradients(self, h: Tensor) -> tuple[Tensor | None, ...]:
        grads = self.reader.gradients(h, self.dynamics.d_gates) + self.dynamics.gradients(h)
        if self.messages is not None:
            grads += self.messages.gradients(self.h_read)
        return grads

    def trace(self) -> CoreTrace:
        communication = None if self.messages is None else self.messages.trace()
        if self.competition is None:
            N, T, B = self.shape
            return CoreTrace(torch.ones(T, B, N, dtype=torch.bool, device=self.device), None, communication)
        return CoreTrace(*self.competition.trace(), communication)
