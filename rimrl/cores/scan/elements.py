"""What units read of several elements, those of the input and states of other layers.

Tensors of one step are ``[N, B, ...]``, of a sequence ``[N, T, B, ...]``; W is the width of a layer, and U the width of
all values together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rimrl.cores.scan.memory import Buffers
from rimrl.cores.scan.products import weight_gradient
from rimrl.cores.scan.selection import rank


class Elements:
    """`rimrl.cores.attention.InputAttention` of a whole sequence.

    `look_at` says before each step what the further elements are.

    Args:
        buffers: Where to keep the steps.
        num_active: Active units K.
        over_units: The softmax runs over the units (``competition="units"``) instead of over null and the elements.
        heads: Heads H.
        query: ``[N, D, H dk]``.
        weight_input: ``[N, U, G D]``.
        bias: Of the gates, ``[N, G D]``.
        keys: Of the input, scaled, ``[T, B, H, dk, M]``; None for a layer that does not read it.
        values: Of the input, ``[T, B, H, M, dv]``, or None.
        rows: What makes keys and values of each further element, ``[W, H dk + U]``; the keys scaled.
        scale: What dropout multiplies the attention by that reads values, ``[T, N, B, H, M]``, or None.
    """

    def __init__(
        self,
        buffers: Buffers,
        num_active: int,
        over_units: bool,
        heads: int,
        query: Tensor,
        weight_input: Tensor,
        bias: Tensor,
        keys: Tensor | None,
        values: Tensor | None,
        rows: list[Tensor],
        scale: Tensor | None = None,
    ) -> None:
        self.buffers, self.num_active, self.over_units, self.heads = buffers, num_active, over_units, heads
        self.query, self.weight, self.bias, self.rows = query, weight_input, bias.unsqueeze(1), rows
        self.fixed = 0 if keys is None else keys.shape[-1]
        N, B, T = buffers.num_units, buffers.batch_size, buffers.num_steps
        self.key_width, self.value_width = self.query.shape[2], self.weight.shape[1]
        M = self.fixed + len(self.rows)
        self.keys = buffers.empty(T, B * heads, M, self.key_width // heads)
        self.values = buffers.empty(T, B * heads, M, self.value_width // heads)
        if keys is not None and values is not None:
            self.keys[:, :, : self.fixed] = keys.flatten(1, 2).transpose(2, 3)
            self.values[:, :, : self.fixed] = values.flatten(1, 2)
        self.keys_steps, self.values_steps = self.keys.unbind(0), self.values.unbind(0)
        width = self.rows[0].shape[0] if self.rows else 0
        self.seen = [buffers.steps_first(B, width) for _ in self.rows]
        self.queries_steps = buffers.steps(self.key_width)
        self.attention_steps = buffers.steps_first(1 + M, N, B * heads)[1]
        self.read, self.read_steps = buffers.units_first(self.value_width)
        self.mask_steps = buffers.steps(1)
        # As attention is, [M, N, B H].
        self.dropout_steps = None if scale is None else scale.permute(0, 4, 1, 2, 3).flatten(3).unbind(0)

    def look_at(self, t: int, rows: list[Tensor]) -> None:
        """The further elements of step t, each ``[B, W]``."""
        B = self.buffers.batch_size
        for m, (row, weight) in enumerate(zip(rows, self.rows, strict=True)):
            both = torch.mm(row, weight)
            self.seen[m][1][t].copy_(row)
            self.keys_steps[t][:, self.fixed + m] = both[:, : self.key_width].reshape(B * self.heads, -1)
            self.values_steps[t][:, self.fixed + m] = both[:, self.key_width :].reshape(B * self.heads, -1)

    def forward(self, t: int, h: Tensor) -> Tensor:
        """The input's part of the gates of step t, ``[N, B, G D]``; `mask_steps` then says who is active."""
        N, B = h.shape[:2]
        attention, read = self.attention_steps[t], self.read_steps[t]
        queries = torch.bmm(h, self.query, out=self.queries_steps[t])
        scores = torch.bmm(self.keys_steps[t], _by_head(queries, self.heads).transpose(1, 2)).permute(1, 2, 0)
        if self.over_units:
            attention[0].zero_()
            torch.softmax(scores.contiguous(), dim=1, out=attention[1:])
            priority = attention[1:].view(-1, N, B, self.heads).mean(3).sum(0)
        else:
            torch.softmax(torch.nn.functional.pad(scores, (0, 0, 0, 0, 1, 0)), dim=0, out=attention)
            priority = attention[0].view(N, B, self.heads).mean(2).neg_()
        torch.lt(rank(priority), self.num_active, out=self.mask_steps[t][..., 0])
        by_head = torch.bmm(self._used(t).permute(2, 1, 0).contiguous(), self.values_steps[t])  # [B H, N, dv]
        read.view(N, B * self.heads, -1).copy_(by_head.transpose(0, 1))
        return torch.baddbmm(self.bias, read, self.weight)

    def _used(self, t: int) -> Tensor:
        """The attention that reads values, ``[M, N, B H]``."""
        attention = self.attention_steps[t][1:]
        return attention if self.dropout_steps is None else attention * self.dropout_steps[t]

    def start_backward(self) -> None:
        """Make room for gradients."""
        self.d_keys, self.d_values = torch.empty_like(self.keys), torch.empty_like(self.values)
        self.d_keys_steps, self.d_values_steps = self.d_keys.unbind(0), self.d_values.unbind(0)
        width = self.key_width + self.value_width
        self.d_rows = [self.buffers.steps_first(self.buffers.batch_size, width) for _ in self.rows]
        self.d_queries, self.d_queries_steps = self.buffers.units_first(self.key_width)
        self.rows_transposed = [weight.t().contiguous() for weight in self.rows]
        self.query_transposed = self.query.transpose(1, 2).contiguous()
        self.weight_transposed = self.weight.transpose(1, 2).contiguous()

    def backward(self, t: int, h: Tensor, d_gates: Tensor) -> Tensor:
        """The gradient of ``h``, given that of the gates."""
        N, B = h.shape[:2]
        keys, values, attention = self.keys_steps[t], self.values_steps[t], self.attention_steps[t]
        d_read = _by_head(torch.bmm(d_gates, self.weight_transposed), self.heads)  # [B H, N, dv]
        d_attention = torch.bmm(values, d_read.transpose(1, 2)).permute(1, 2, 0)  # [M, N, B H]
        if self.dropout_steps is not None:
            d_attention = d_attention * self.dropout_steps[t]
        dtype = attention.dtype
        if self.over_units:
            d_scores = torch._softmax_backward_data(d_attention.contiguous(), attention[1:], 1, dtype)
        else:
            d_all = torch.nn.functional.pad(d_attention, (0, 0, 0, 0, 1, 0))
            d_scores = torch._softmax_backward_data(d_all, attention, 0, dtype)[1:]
        d_scores = d_scores.permute(2, 0, 1).contiguous()  # [B H, M, N]
        torch.bmm(d_scores, _by_head(self.queries_steps[t], self.heads), out=self.d_keys_steps[t])
        torch.bmm(self._used(t).permute(2, 0, 1).contiguous(), d_read, out=self.d_values_steps[t])
        d_queries = self.d_queries_steps[t]
        d_queries.view(N, B * self.heads, -1).copy_(torch.bmm(d_scores.transpose(1, 2), keys).transpose(0, 1))
        return torch.bmm(d_queries, self.query_transposed)

    def seen_backward(self, t: int) -> list[Tensor]:
        """After `backward`, the gradients of the further elements, each ``[B, W]``."""
        B, found = self.buffers.batch_size, []
        for m, (weight, (_, d_steps)) in enumerate(zip(self.rows_transposed, self.d_rows, strict=True)):
            d_keys, d_values = self.d_keys_steps[t][:, self.fixed + m], self.d_values_steps[t][:, self.fixed + m]
            d_row = torch.cat([d_keys.reshape(B, -1), d_values.reshape(B, -1)], dim=1, out=d_steps[t])
            found.append(torch.mm(d_row, weight))
        return found

    def trace(self) -> tuple[Tensor, Tensor]:
        """Active units ``[T, B, N]``, and attention ``[T, B, N, 1 + M]`` to null and the elements, mean over heads."""
        active = torch.stack(self.mask_steps)[..., 0].transpose(1, 2).bool()
        attention = torch.stack(self.attention_steps).permute(0, 3, 2, 1)  # [T, B H, N, 1 + M]
        return active, attention.reshape(len(attention), -1, self.heads, *attention.shape[2:]).mean(2)

    def gradients(self, h: Tensor, d_gates: Tensor) -> dict[str, Tensor]:
        """Those of ``query``, ``weight_input`` and ``bias``."""
        return {
            "query": weight_gradient(h, self.d_queries),
            "weight_input": weight_gradient(self.read, d_gates),
            "bias": d_gates.sum((1, 2)),
        }

    def input_gradients(self) -> tuple[Tensor, Tensor]:
        """Those of ``keys`` and ``values``."""
        T, by_head = len(self.keys), (self.buffers.batch_size, self.heads)
        d_keys, d_values = self.d_keys[:, :, : self.fixed].transpose(2, 3), self.d_values[:, :, : self.fixed]
        found = (d.clone(memory_format=torch.contiguous_format) for d in (d_keys, d_values))
        d_keys, d_values = (d.view(T, *by_head, *d.shape[2:]) for d in found)
        return d_keys, d_values

    def row_gradients(self) -> list[Tensor]:
        """Those of ``rows``."""
        pairs = zip(self.seen, self.d_rows, strict=True)
        return [seen.flatten(0, 1).t() @ d_rows.flatten(0, 1) for (seen, _), (d_rows, _) in pairs]


def _by_head(x: Tensor, heads: int) -> Tensor:
    """View ``[N, B, H d]`` as ``[B H, N, d]``."""
    N, B = x.shape[:2]
    return x.view(N, B * heads, -1).transpose(0, 1)


def scaled(key: Tensor, heads: int) -> Tensor:
    """A key matrix ``[W, H dk]`` whose keys need no division by ``sqrt(dk)``."""
    return key / math.sqrt(key.shape[-1] // heads)
