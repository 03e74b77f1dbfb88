"""RigLSTM's cell of a scan: its plain twin is `rimrl.cores.riglstm.RigLSTM._step`. Letters as there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace
from rimrl.cores.scan.dynamics import LSTMGates
from rimrl.cores.scan.library import Kernels
from rimrl.cores.scan.loop import StepCell, Tensors
from rimrl.cores.scan.memory import Buffers
from rimrl.cores.scan.products import weight_gradient
from rimrl.cores.scan.riglstm_stages import Hidden, SoftUpdating, Views
from rimrl.cores.scan.selection import rank


@dataclass
class RigLSTMScanConfig:
    """What the cell cannot read off its tensors.

    Attributes:
        num_active: Active units Ka.
        selects: Whether there is cell selection; without it all units are active.
        input_top_k: Views Kx that a unit reads.
        hidden_top_k: Other units Kh that a unit reads.
        kernels: What stands for torch's operations in the gates, and in the stages of a native cell; None: nothing.
    """

    num_active: int
    selects: bool
    input_top_k: int
    hidden_top_k: int
    kernels: Kernels | None


@dataclass
class RigLSTMTensors(Tensors):
    """What a `RigLSTMCell` is made from; None for what belongs to a mechanism that is off.

    Attributes:
        weight_hidden: Of the gates, as `rimrl.cores.riglstm.RigLSTM` has it.
        input_gates: Without input selection the input's part of the gates, ``[N, T, B, 4 D]``, bias included.
        views: With input selection, ``[T, B, V, F]``; so all down to `bias`.
        keys: ``[T, B, V, dk]``.
        query: ``[N, D, dk]``.
        weight_input: ``[N, F, 4 D]``.
        bias: ``[N, 4 D]``.
        cell_keys: With weights of its own for cell selection, ``[T, B, dk, 1]``.
        cell_query: The same, ``[N, D, dk]``.
        hidden_query: With hidden selection, ``[N, D, dk]``.
        hidden_key_value: The same, key beside value, ``[D, dk + dv]``.
        soft_input: With soft updating the input's part of the query, ``[T, B, dk]``.
        soft_matrix: The same, the states' part of its matrix, ``[2 D, dk]``.
        soft_key: The same, ``[D, dk]``.
    """

    weight_hidden: Tensor
    input_gates: Tensor | None = None
    views: Tensor | None = None
    keys: Tensor | None = None
    query: Tensor | None = None
    weight_input: Tensor | None = None
    bias: Tensor | None = None
    cell_keys: Tensor | None = None
    cell_query: Tensor | None = None
    hidden_query: Tensor | None = None
    hidden_key_value: Tensor | None = None
    soft_input: Tensor | None = None
    soft_matrix: Tensor | None = None
    soft_key: Tensor | None = None


class RigLSTMCell(StepCell):
    """Selection of views, of units and of hidden vectors, the LSTM step, and the soft update.

    Args:
        config: Options.
        T, B, saving: As `rimrl.cores.scan.loop.MakeCell` says.
        tensors: Input and weights; those that are there say which mechanisms are on.
    """

    views_stage: type[Views] = Views
    hidden_stage: type[Hidden] = Hidden
    soft_stage: type[SoftUpdating] = SoftUpdating

    def __init__(self, config: RigLSTMScanConfig, T: int, B: int, saving: bool, tensors: RigLSTMTensors) -> None:
        self.config = config
        self.weight_hidden = tensors.weight_hidden
        N = self.weight_hidden.shape[0]
        self.buffers = buffers = Buffers(N, T, B, saving, self.weight_hidden, config.kernels)
        self.views: Views | None = None
        self.input_gates: tuple[Tensor, ...] = ()
        if tensors.input_gates is not None:
            self.input_gates = tensors.input_gates.unbind(1)
        else:
            of_views = (tensors.views, tensors.keys, tensors.query, tensors.weight_input, tensors.bias)
            self.views = self.views_stage(buffers, config.input_top_k, *map(_there, of_views))
        self.own: tuple[tuple[Tensor, ...], Tensor] | None = None
        if tensors.cell_query is not None:
            self.own = _there(tensors.cell_keys)[..., 0].unbind(0), tensors.cell_query
        self.hidden: Hidden | None = None
        if tensors.hidden_query is not None:
            key_value = _there(tensors.hidden_key_value)
            self.hidden = self.hidden_stage(buffers, config.hidden_top_k, tensors.hidden_query, key_value)
        self.gates = LSTMGates(buffers, self.weight_hidden.shape[2] // 4)
        self.soft: SoftUpdating | None = None
        if tensors.soft_key is not None:
            soft_input, matrix = _there(tensors.soft_input), _there(tensors.soft_matrix)
            self.soft = self.soft_stage(buffers, soft_input, matrix, tensors.soft_key)
        self.mask = buffers.steps(1)

    def choose(self, priority: Tensor, mask: Tensor) -> None:
        """Mark the active units, those of the largest priority ``[N, B]``, in ``mask [N, B, 1]``."""
        torch.lt(rank(priority), self.config.num_active, out=mask[..., 0])

    def forward(self, t: int, h: Tensor, c: Tensor, h_out: Tensor, c_out: Tensor, y: Tensor) -> None:
        D = h.shape[2]
        mask = self.mask[t]
        if self.views is not None:
            gates, priority = self.views.forward(t, h)
        else:
            gates, priority = self.input_gates[t].clone(memory_format=torch.contiguous_format), None
        if self.own is not None:
            keys, query = self.own
            priority = torch.linalg.vecdot(torch.bmm(h, query), keys[t])
        if self.config.selects and priority is not None:
            self.choose(priority, mask)
        else:
            mask.fill_(1.0)
        if self.hidden is not None:
            gates.baddbmm_(h, self.weight_hidden[:, :D])
            gates.baddbmm_(self.hidden.forward(t, h), self.weight_hidden[:, D:])
        else:
            gates.baddbmm_(_everyone(h), self.weight_hidden)
        h_new, c_new = self.gates.forward(t, gates, c)
        torch.lerp(c, c_new, mask, out=c_out)
        if self.soft is not None:
            self.soft.forward(t, h, h_new, mask, h_out, y)
        else:
            torch.lerp(h, h_new, mask, out=h_out)
            y.copy_(h_out.transpose(0, 1))

    def start_backward(self) -> None:
        for stage in (self.views, self.hidden, self.gates, self.soft):
            if stage is not None:
                stage.start_backward()
        self.weight_hidden_transposed = self.weight_hidden.transpose(1, 2).contiguous()

    def backward(self, t: int, h: Tensor, c: Tensor, dh: Tensor, dc: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        D = h.shape[2]
        mask = self.mask[t]
        dc_new = dc * mask
        dc_past = dc - dc_new
        if self.soft is not None:
            dh_new, dh_past = self.soft.backward(t, h, dh, dy, mask)
        else:
            dh = dh + dy.transpose(0, 1)
            dh_new = dh * mask
            dh_past = dh - dh_new
        d_gates, dc_before = self.gates.backward(t, c, dh_new, dc_new)
        seen = torch.bmm(d_gates, self.weight_hidden_transposed)
        if self.hidden is not None:
            dh_past += seen[..., :D]
            dh_past += self.hidden.backward(t, h, seen[..., D:])
        else:
            dh_past += seen.sum(0).view(-1, len(h), D).transpose(0, 1)
        if self.views is not None:
            dh_past += self.views.backward(t, h, d_gates)
        return dh_past, dc_before + dc_past

    def gradients(self, h: Tensor) -> RigLSTMTensors:
        d_gates = self.gates.d_gates
        # The choice of units has no gradient, and so none has what it alone is made from.
        found = {"input_gates": d_gates.clone()} if self.views is None else self.views.gradients(h, d_gates)
        if self.hidden is not None:
            d_own, d_read = weight_gradient(h, d_gates), self.hidden.reader_gradient(d_gates)
            found |= self.hidden.gradients(h)
            found["weight_hidden"] = torch.cat([d_own, d_read], dim=1)
        else:
            everyone = h.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)  # [T B, N D]
            found["weight_hidden"] = torch.bmm(everyone.t().expand(len(h), -1, -1), d_gates.flatten(1, 2))
        if self.soft is not None:
            found |= self.soft.gradients()
        return RigLSTMTensors(**found)

    def trace(self) -> CoreTrace:
        active = torch.stack(self.mask)[..., 0].transpose(1, 2).bool()
        # There is no null element: column 0 is zero.
        views = None if self.views is None else torch.nn.functional.pad(self.views.trace(), (1, 0))
        return CoreTrace(active, views, None if self.hidden is None else self.hidden.trace())


def _everyone(h: Tensor) -> Tensor:
    """``[N, B, N D]``: the hidden vectors of all units, for every unit."""
    rows = h.transpose(0, 1).flatten(1)
    return rows.expand(len(h), *rows.shape)


def _there(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
