"""Communication between units: `rimrl.cores.attention.UnitCommunication` of a whole sequence."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rimrl.cores.scan.memory import Buffers
from rimrl.cores.scan.products import weight_gradient
from rimrl.cores.scan.selection import softmax_of_largest


class UnitCommunicationScan:
    """`rimrl.cores.attention.UnitCommunication` of a whole sequence.

    Args:
        buffers: Where to keep the steps.
        heads: Heads H.
        top_k: Each unit and head reads only the k units it scores highest; None: all.
        query_key_value: ``[N, D, H (2 dk + dv)]``.
        project: ``[D or 2 D, H dv]``: Wf, and Wg below it if gated.
        bias: ``[D or 2 D]``.
        scale: What dropout multiplies messages by, ``[T, N, B, D]``, or None.
    """

    def __init__(
        self,
        buffers: Buffers,
        heads: int,
        top_k: int | None,
        query_key_value: Tensor,
        project: Tensor,
        bias: Tensor,
        scale: Tensor | None = None,
    ) -> None:
        self.buffers, self.heads, self.top_k = buffers, heads, top_k
        self.gated = len(bias) > query_key_value.shape[1]
        key_size, value_size = communication_sizes(heads, query_key_value, project)
        self.widths = [key_size, key_size, value_size]
        self.scale = 1.0 / math.sqrt(key_size)
        self.dropout_steps = None if scale is None else scale.flatten(1, 2).unbind(0)
        N, B, H = buffers.num_units, buffers.batch_size, heads
        # By head, [q | k | v], so that [B, H] is one axis of the products of attention.
        self.weight = self._by_head(query_key_value)
        self.project = project
        self.bias = bias
        self.qkv_steps = buffers.steps(H * sum(self.widths))
        self.attention_steps = buffers.steps_first(N, N, B * H)[1]  # [m, n, B H]
        # Shared by the units: all of them, and all steps, are rows of one product.
        self.read, self.read_steps = buffers.steps_first(N * B, H * value_size)
        self.output, self.output_steps = buffers.steps_first(N * B, len(bias))

    def _by_head(self, weight: Tensor) -> Tensor:
        parts = torch.split(weight, [self.heads * width for width in self.widths], dim=-1)
        shaped = [p.view(*p.shape[:2], self.heads, -1) for p in parts]
        shaped[0] = shaped[0] * self.scale
        return torch.cat(shaped, dim=-1).flatten(2)

    def _by_kind(self, d_weight: Tensor) -> Tensor:
        """Undo `_by_head`, for a gradient."""
        parts = list(torch.split(d_weight.view(*d_weight.shape[:2], self.heads, -1), self.widths, dim=-1))
        parts[0] = parts[0] * self.scale
        return torch.cat([part.flatten(2) for part in parts], dim=-1)

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values ``[B H, N, d]`` of ``[N, B, H (2 dk + dv)]``, without copying."""
        N, B = qkv.shape[:2]
        return qkv.view(N, B * self.heads, -1).transpose(0, 1).split_with_sizes(self.widths, dim=-1)

    def forward(self, t: int, h: Tensor) -> Tensor:
        """What each unit receives, ``[N, B, D]``."""
        N, B, D = h.shape
        qkv = torch.bmm(h, self.weight, out=self.qkv_steps[t])
        q, k, v = self._split(qkv)
        scores = torch.bmm(k, q.transpose(1, 2)).permute(1, 2, 0)  # [m, n, B H]
        attention = softmax_of_largest(scores, self.top_k, self.attention_steps[t])
        read = torch.bmm(attention.permute(2, 1, 0).contiguous(), v)  # [B H, N, dv]
        self.read_steps[t].view(N, B * self.heads, -1).copy_(read.transpose(0, 1))
        output = self.output_steps[t]
        torch.addmm(self.bias, self.read_steps[t], self.project.t(), out=output)
        if self.dropout_steps is not None:
            output[:, :D].mul_(self.dropout_steps[t])
        if not self.gated:
            return output.view(N, B, D)
        torch.tanh_(output[:, :D])
        torch.sigmoid_(output[:, D:])
        return torch.mul(output[:, :D], output[:, D:]).view(N, B, D)

    def start_backward(self) -> None:
        self.d_qkv, self.d_qkv_steps = self.buffers.units_first(self.heads * sum(self.widths))
        self.d_output, self.d_output_steps = self.buffers.steps_first(*self.output.shape[1:])
        self.weight_transposed = self.weight.transpose(1, 2).contiguous()

    def backward(self, t: int, d_received: Tensor) -> Tensor:
        """The gradient of the states that were read, ``[N, B, D]``."""
        N, B, D = d_received.shape
        d_received = d_received.reshape(N * B, D)
        output, d_output = self.output_steps[t], self.d_output_steps[t]
        if self.gated:
            value, gate = output[:, :D], output[:, D:]
            torch.ops.aten.tanh_backward.grad_input(d_received * gate, value, grad_input=d_output[:, :D])
            torch.ops.aten.sigmoid_backward.grad_input(d_received * value, gate, grad_input=d_output[:, D:])
        else:
            d_output.copy_(d_received)
        if self.dropout_steps is not None:
            d_output[:, :D].mul_(self.dropout_steps[t])
        d_read = torch.mm(d_output, self.project).view(N, B * self.heads, -1).transpose(0, 1)  # [B H, N, dv]
        q, k, v = self._split(self.qkv_steps[t])
        attention = self.attention_steps[t]
        d_attention = torch.bmm(v, d_read.transpose(1, 2)).permute(1, 2, 0).contiguous()  # [m, n, B H]
        d_scores = torch._softmax_backward_data(d_attention, attention, 0, attention.dtype)
        d_scores = d_scores.permute(2, 0, 1).contiguous()  # [B H, m, n]
        dq, dk = torch.bmm(d_scores.transpose(1, 2), k), torch.bmm(d_scores, q)
        dv = torch.bmm(attention.permute(2, 0, 1).contiguous(), d_read)
        d_qkv = self.d_qkv_steps[t]
        d_qkv.view(N, B * self.heads, -1).copy_(torch.cat([dq, dk, dv], dim=-1).transpose(0, 1))
        return torch.bmm(d_qkv, self.weight_transposed)

    def trace(self) -> Tensor:
        """Attention ``[T, B, N, N]``, mean over heads, reader by read unit."""
        attention = torch.stack(self.attention_steps).permute(0, 3, 2, 1)  # [T, B H, n, m]
        T, N = attention.shape[0], attention.shape[-1]
        return attention.reshape(T, -1, self.heads, N, N).mean(2)

    def gradients(self, h: Tensor) -> dict[str, Tensor]:
        """Those of its three tensors, given the states that were read, ``[N, T, B, D]``."""
        d_weight = self._by_kind(weight_gradient(h, self.d_qkv))
        d_output = self.d_output.flatten(0, 1)
        d_project = d_output.t() @ self.read.flatten(0, 1)
        return {"query_key_value": d_weight, "project": d_project, "project_bias": d_output.sum(0)}


def communication_sizes(heads: int, query_key_value: Tensor, project: Tensor) -> tuple[int, int]:
    """Width of a key and of a value of one head, read off the weights."""
    value_size = project.shape[1] // heads
    return (query_key_value.shape[2] // heads - value_size) // 2, value_size


def joins_values(message_size: int, value_size: int, rows: int) -> bool:
    """Whether kernels project the values of units before other units read them, not after.

    Both give the same but for rounding. The first takes less work where what is made of messages is narrow (of width P:
    Wf, over Wg if gated), since values get as wide, and if there are enough rows of all steps together: it begins with
    a product of weights.
    """
    return 4 * message_size <= 5 * value_size and rows >= 3 * message_size
