"""The RIM's cell on compiled kernels: the options of the paper's RIM, on the CPU.

Per step, forward and backward each take four calls of ``kernels.cpp`` and three products of matrices. Everything else
of `rimrl.cores.scan.rim.RIMCell` that can wait until after the loop is done for the active rows alone: an inactive
unit's gates have no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace
from rimrl.cores.scan.library import MAX_UNITS, Kernels
from rimrl.cores.scan.memory import Buffers
from rimrl.cores.scan.products import weight_gradient
from rimrl.cores.scan.rim import RIMPlan


class NativeRIMCell:
    """`rimrl.cores.scan.rim.RIMCell` for one input head, LSTM dynamics and gated communication among candidates.

    Args:
        kernels: Compiled for the tensors' dtype.
        plan: Options that `covers` accepts.
        T: Time steps.
        B: Batch rows.
        saving: Keep what the backward pass needs.
        keys: ``Wq k / sqrt(dk)``, ``[N, T, B, D]``.
        values: What the input element is worth, before it meets the gates, ``[T, B, U]``.
        weight_input: ``[N, U, 4 D]``.
        weight_hidden: ``[N, D, 4 D]``.
        bias: ``[N, 4 D]``.
        query_key_value: ``[N, D, H (2 dk + dv)]``.
        project: ``[2 D, H dv]``: Wf over Wg.
        project_bias: ``[2 D]``.
    """

    def __init__(
        self,
        kernels: Kernels,
        plan: RIMPlan,
        T: int,
        B: int,
        saving: bool,
        keys: Tensor,
        values: Tensor,
        weight_input: Tensor,
        weight_hidden: Tensor,
        bias: Tensor,
        query_key_value: Tensor,
        project: Tensor,
        project_bias: Tensor,
    ) -> None:
        assert plan.messages is not None
        heads = plan.messages.heads
        self.kernels, self.num_active, self.heads, self.key_size = (
            kernels,
            plan.num_active,
            heads,
            plan.messages.key_size,
        )
        N, D = keys.shape[0], keys.shape[3]
        self.sizes = (N, B, D)
        self.value_size = plan.messages.value_size
        self.keys, self.values, self.bias = keys.contiguous(), values.contiguous(), bias.contiguous()
        self.weight_input, self.weight_hidden = weight_input, weight_hidden
        self.query_key_value, self.project, self.project_bias = query_key_value, project, project_bias
        self.stride = T * B * D

        self.buffers = buffers = Buffers(N, T, B, saving, keys)
        rows = self.values.flatten(0, 1)
        self.reads = buffers.empty(N, T * B, 4 * D)
        torch.bmm(rows.expand(N, *rows.shape), weight_input, out=self.reads)
        self.gates = buffers.steps(4 * D)
        self.share = buffers.steps(1)
        self.mask = buffers.steps(1)
        self.tanh_c = buffers.steps(D)
        self.h_new = buffers.units_first(D)
        self.h_new_steps = buffers.each(self.h_new)
        self.h_new_stride = self.h_new.stride(0)
        self.qkv = buffers.steps(query_key_value.shape[2])
        self.attention = buffers.each(buffers.empty(buffers.slots, B, heads, N, N), dim=0)
        self.read = buffers.empty(buffers.slots, N * B, project.shape[1])
        self.read_steps = buffers.each(self.read, dim=0)
        self.answer = buffers.empty(buffers.slots, N * B, 2 * D)
        self.answer_steps = buffers.each(self.answer, dim=0)

    @staticmethod
    def covers(plan: RIMPlan, num_units: int) -> bool:
        """Tell whether the kernels know these options."""
        messages = plan.messages
        communicates = messages is not None and messages.gated and messages.top_k is None
        return (
            num_units <= MAX_UNITS
            and communicates
            and plan.lstm
            and plan.competes
            and not plan.over_units
            and plan.reads_candidates
        )

    def forward(self, t: int, h: Tensor, c: Tensor, h_out: Tensor, c_out: Tensor, y: Tensor) -> None:
        N, B, D = self.sizes
        k, stride = self.kernels, self.stride
        gates, mask, h_new = self.gates[t], self.mask[t].data_ptr(), self.h_new_steps[t]
        qkv, read, answer = self.qkv[t], self.read_steps[t], self.answer_steps[t]
        state_stride = h.stride(0)
        item = self.keys.element_size() * t * B * D
        # fmt: off
        k.compete(N, B, D, 4 * D, self.num_active, h.data_ptr(), state_stride, self.keys.data_ptr() + item, stride,
                  self.reads.data_ptr() + 4 * item, 4 * stride, self.bias.data_ptr(), gates.data_ptr(),
                  self.share[t].data_ptr(), mask)
        gates.baddbmm_(h, self.weight_hidden)
        k.lstm(N, B, D, gates.data_ptr(), c.data_ptr(), state_stride, mask, self.tanh_c[t].data_ptr(),
               h_new.data_ptr(), self.h_new_stride, c_out.data_ptr(), state_stride)
        torch.bmm(h_new, self.query_key_value, out=qkv)
        k.attend(N, B, self.heads, self.key_size, self.value_size, N, 0, qkv.data_ptr(),
                 self.attention[t].data_ptr(), read.data_ptr())
        torch.addmm(self.project_bias, read, self.project.t(), out=answer)
        k.update(N, B, D, answer.data_ptr(), h_new.data_ptr(), self.h_new_stride, h.data_ptr(), state_stride, mask,
                 h_out.data_ptr(), state_stride, y.data_ptr())
        # fmt: on

    def start_backward(self) -> None:
        D = self.sizes[2]
        self.d_gates = self.buffers.units_first(4 * D)
        self.d_gates_steps = self.buffers.each(self.d_gates)
        self.d_scores = self.buffers.steps(1)
        self.d_qkv = self.buffers.units_first(self.query_key_value.shape[2])
        self.d_qkv_steps = self.buffers.each(self.d_qkv)
        self.d_answer = self.buffers.empty(*self.answer.shape)
        self.d_answer_steps = self.buffers.each(self.d_answer, dim=0)
        self.weight_hidden_transposed = self.weight_hidden.transpose(1, 2).contiguous()
        self.qkv_transposed = self.query_key_value.transpose(1, 2).contiguous()
        self.dh_new = torch.empty_like(self.tanh_c[0])
        self.d_h_read = torch.empty_like(self.dh_new)
        self.dh_gates = torch.empty_like(self.dh_new)
        self.d_read = torch.empty_like(self.read[0])

    def backward(self, t: int, h: Tensor, c: Tensor, dh: Tensor, dc: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        N, B, D = self.sizes
        k, stride = self.kernels, self.stride
        mask, d_answer, d_gates, d_qkv = (
            self.mask[t].data_ptr(),
            self.d_answer_steps[t],
            self.d_gates_steps[t],
            self.d_qkv_steps[t],
        )
        item = self.keys.element_size() * t * B * D
        # fmt: off
        k.update_backward(N, B, D, dy.data_ptr(), dh.data_ptr(), mask, self.answer_steps[t].data_ptr(),
                          self.dh_new.data_ptr(), d_answer.data_ptr())
        torch.mm(d_answer, self.project, out=self.d_read)
        k.attend_backward(N, B, self.heads, self.key_size, self.value_size, self.qkv[t].data_ptr(),
                          self.attention[t].data_ptr(), self.d_read.data_ptr(), d_qkv.data_ptr(), d_qkv.stride(0))
        torch.bmm(d_qkv, self.qkv_transposed, out=self.d_h_read)
        k.lstm_backward(N, B, D, self.dh_new.data_ptr(), self.d_h_read.data_ptr(), mask, self.gates[t].data_ptr(),
                        self.tanh_c[t].data_ptr(), c.data_ptr(), c.stride(0), dc.data_ptr(), d_gates.data_ptr(),
                        4 * stride)
        torch.bmm(d_gates, self.weight_hidden_transposed, out=self.dh_gates)
        k.compete_backward(N, B, D, 4 * D, d_gates.data_ptr(), 4 * stride, self.reads.data_ptr() + 4 * item,
                           4 * stride, self.keys.data_ptr() + item, stride, self.share[t].data_ptr(), mask,
                           self.dh_gates.data_ptr(), self.d_scores[t].data_ptr(), dh.data_ptr())
        # fmt: on
        return dh, dc

    def gradients(self, h: Tensor) -> tuple[Tensor | None, ...]:
        N = self.sizes[0]
        d_scores = torch.stack(self.d_scores, dim=1)
        mask, share = torch.stack(self.mask, dim=1).flatten(1), torch.stack(self.share, dim=1).flatten(1)
        rows, d_gates, h_rows = self.values.flatten(0, 1), self.d_gates.flatten(1, 2), h.flatten(1, 2)
        d_rows = torch.zeros_like(rows)
        d_weight_input, d_weight_hidden = torch.empty_like(self.weight_input), torch.empty_like(self.weight_hidden)
        d_bias = torch.empty_like(self.bias)
        # Memory for the active rows of one unit after the other: fresh memory costs more than what is done with it.
        d_active_all, rows_active, h_active = (self.buffers.empty(*x.shape) for x in (d_gates[0], rows, h_rows[0]))
        for n in range(N):
            active = mask[n].nonzero().squeeze(1)
            d_active = torch.index_select(d_gates[n], 0, active, out=d_active_all[: len(active)])
            torch.sum(d_active, 0, out=d_bias[n])
            unit_h = torch.index_select(h_rows[n], 0, active, out=h_active[: len(active)])
            torch.mm(unit_h.t(), d_active, out=d_weight_hidden[n])
            d_active.mul_(share[n].index_select(0, active).unsqueeze(1))
            unit_rows = torch.index_select(rows, 0, active, out=rows_active[: len(active)])
            torch.mm(unit_rows.t(), d_active, out=d_weight_input[n])
            d_rows.index_add_(0, active, torch.mm(d_active, self.weight_input[n].t(), out=unit_rows))
        d_answer = self.d_answer.flatten(0, 1)
        return (
            h * d_scores,
            d_rows.view_as(self.values),
            d_weight_input,
            d_weight_hidden,
            d_bias,
            weight_gradient(self.h_new, self.d_qkv),
            d_answer.t() @ self.read.flatten(0, 1),
            d_answer.sum(0),
        )

    def trace(self) -> CoreTrace:
        active = torch.stack(self.mask)[..., 0].transpose(1, 2).bool()
        share = torch.stack(self.share)[..., 0].transpose(1, 2)
        attention = torch.stack(self.attention).mean(2)
        return CoreTrace(active, torch.stack([1.0 - share, share], dim=-1), attention)
