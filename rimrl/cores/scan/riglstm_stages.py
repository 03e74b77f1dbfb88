"""RigLSTM's stages on torch's operations: selection of views and of hidden vectors, and the soft update.

Letters as in `rimrl.cores.riglstm`: V views, F their width. Tensors of one step are ``[N, B, ...]``, units first, but
where attention works row by row, ``[B, N, ...]``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rimrl.cores.scan.memory import Buffers
from rimrl.cores.scan.products import batch_first_weight_gradient, weight_gradient
from rimrl.cores.scan.selection import softmax_of_largest


def _softmax_backward(d_attention: Tensor, attention: Tensor) -> Tensor:
    """Gradient of scores ``[B, n, m]``, given that of the attention ``[B, n, m]`` and the attention ``[m, n, B]``."""
    d_attention = d_attention.permute(2, 1, 0).contiguous()
    d_scores = torch._softmax_backward_data(d_attention, attention, 0, attention.dtype)
    return d_scores.permute(2, 1, 0).contiguous()


class Views:
    """Input feature selection, and what the selected features add to the gates.

    Args:
        buffers: Where to keep the steps.
        top_k: Views that a unit reads.
        views: ``[T, B, V, F]``.
        keys: ``[T, B, V, dk]``.
        query: ``[N, D, dk]``.
        weight: ``[N, F, 4 D]``.
        bias: ``[N, 4 D]``.
    """

    def __init__(
        self, buffers: Buffers, top_k: int, views: Tensor, keys: Tensor, query: Tensor, weight: Tensor, bias: Tensor
    ) -> None:
        self.buffers, self.top_k, self.query, self.weight = buffers, top_k, query, weight
        self.bias = bias.unsqueeze(1)
        self.all_views, self.all_keys = views, keys
        self.views, self.keys = views.unbind(0), keys.unbind(0)
        N, B, (V, F) = buffers.num_units, buffers.batch_size, views.shape[2:]
        self.queries = buffers.steps(query.shape[2])
        self.attention = buffers.steps_first(*self._attention_shape(V))[1]
        self.read, self.read_steps = buffers.steps_first(B, N, F)

    def _attention_shape(self, num_views: int) -> tuple[int, int, int]:
        return num_views, self.buffers.num_units, self.buffers.batch_size  # [j, n, B]

    def forward(self, t: int, h: Tensor) -> tuple[Tensor, Tensor]:
        """The input's part of the gates ``[N, B, 4 D]``, and every unit's mean score ``[N, B]``."""
        queries = torch.bmm(h, self.query, out=self.queries[t])
        scores = torch.bmm(self.keys[t], queries.permute(1, 2, 0)).permute(1, 2, 0).contiguous()  # [j, n, B]
        attention = softmax_of_largest(scores, self.top_k, self.attention[t])
        read = torch.bmm(attention.permute(2, 1, 0).contiguous(), self.views[t], out=self.read_steps[t])
        return torch.baddbmm(self.bias, read.transpose(0, 1), self.weight), scores.mean(0)

    def start_backward(self) -> None:
        self.d_queries, self.d_queries_steps = self.buffers.units_first(self.query.shape[2])
        self.d_views, self.d_keys = torch.empty_like(self.all_views), torch.empty_like(self.all_keys)
        self.d_views_steps, self.d_keys_steps = self.d_views.unbind(0), self.d_keys.unbind(0)
        self.weight_transposed = self.weight.transpose(1, 2).contiguous()
        self.query_transposed = self.query.transpose(1, 2).contiguous()

    def backward(self, t: int, h: Tensor, d_gates: Tensor) -> Tensor:
        """The gradient of ``h``."""
        d_read = torch.bmm(d_gates, self.weight_transposed).transpose(0, 1)  # [B, N, F]
        attention = self.attention[t]
        torch.bmm(attention.permute(2, 0, 1).contiguous(), d_read, out=self.d_views_steps[t])
        d_scores = _softmax_backward(torch.bmm(d_read, self.views[t].transpose(1, 2)), attention)  # [B, n, j]
        torch.bmm(d_scores.transpose(1, 2), self.queries[t].transpose(0, 1), out=self.d_keys_steps[t])
        d_queries = self.d_queries_steps[t]
        d_queries.copy_(torch.bmm(d_scores, self.keys[t]).transpose(0, 1))
        return torch.bmm(d_queries, self.query_transposed)

    def gradients(self, h: Tensor, d_gates: Tensor) -> dict[str, Tensor]:
        """Those of its tensors, by their names in `rimrl.cores.scan.riglstm.RigLSTMTensors`."""
        return {
            "views": self.d_views,
            "keys": self.d_keys,
            "query": weight_gradient(h, self.d_queries),
            "weight_input": batch_first_weight_gradient(self.read, d_gates),
            "bias": d_gates.sum((1, 2)),
        }

    def trace(self) -> Tensor:
        """Attention ``[T, B, N, V]``."""
        return torch.stack(self.attention).permute(0, 3, 2, 1)


class Hidden:
    """Hidden state selection.

    Args:
        buffers: Where to keep the steps.
        top_k: Other units that a unit reads.
        query: ``[N, D, dk]``.
        key_value: Key beside value, ``[D, dk + dv]``.
    """

    def __init__(self, buffers: Buffers, top_k: int, query: Tensor, key_value: Tensor) -> None:
        self.buffers, self.key_value = buffers, key_value
        self.top_k = top_k if top_k < buffers.num_units - 1 else None  # all others
        dk = query.shape[2]
        self.scale = 1.0 / math.sqrt(dk)
        self.query = query * self.scale
        N, B = buffers.num_units, buffers.batch_size
        self.widths = [dk, key_value.shape[1] - dk]
        self.queries = buffers.steps(dk)
        self.keys_values = buffers.steps_first(N * B, key_value.shape[1])[1]
        self.attention = buffers.steps_first(N, N, B)[1]  # [m, n, B]
        self.read, self.read_steps = buffers.steps_first(B, N, self.widths[1])
        self.itself = torch.eye(N, dtype=torch.bool, device=query.device).unsqueeze(-1)

    def _split(self, t: int) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, N, d]``."""
        N = self.buffers.num_units
        keys, values = torch.split(self.keys_values[t].view(N, -1, sum(self.widths)).transpose(0, 1), self.widths, -1)
        return keys, values

    def forward(self, t: int, h: Tensor) -> Tensor:
        """What each unit reads of the others, ``[N, B, dv]``."""
        queries = torch.bmm(h, self.query, out=self.queries[t])
        torch.mm(h.reshape(-1, h.shape[2]), self.key_value, out=self.keys_values[t])
        keys, values = self._split(t)
        scores = torch.bmm(keys, queries.permute(1, 2, 0)).permute(1, 2, 0)  # [m, n, B]
        attention = softmax_of_largest(scores.masked_fill(self.itself, float("-inf")), self.top_k, self.attention[t])
        return torch.bmm(attention.permute(2, 1, 0).contiguous(), values, out=self.read_steps[t]).transpose(0, 1)

    def start_backward(self) -> None:
        self.d_queries, self.d_queries_steps = self.buffers.units_first(self.query.shape[2])
        self.d_keys_values, self.d_keys_values_steps = self.buffers.units_first(sum(self.widths))
        self.query_transposed = self.query.transpose(1, 2).contiguous()
        self.key_value_transposed = self.key_value.t().contiguous().expand(len(self.query), -1, -1)

    def backward(self, t: int, h: Tensor, d_read: Tensor) -> Tensor:
        """The gradient of ``h``, given that of what was read, ``[N, B, dv]``."""
        d_read, attention = d_read.transpose(0, 1), self.attention[t]
        keys, values = self._split(t)
        d_scores = _softmax_backward(torch.bmm(d_read, values.transpose(1, 2)), attention)  # [B, n, m]
        d_keys = torch.bmm(d_scores.transpose(1, 2), self.queries[t].transpose(0, 1))
        d_values = torch.bmm(attention.permute(2, 0, 1).contiguous(), d_read)
        d_keys_values, d_queries = self.d_keys_values_steps[t], self.d_queries_steps[t]
        d_keys_values.copy_(torch.cat([d_keys, d_values], dim=-1).transpose(0, 1))
        d_queries.copy_(torch.bmm(d_scores, keys).transpose(0, 1))
        return torch.bmm(d_queries, self.query_transposed).baddbmm_(d_keys_values, self.key_value_transposed)

    def gradients(self, h: Tensor) -> dict[str, Tensor]:
        """As `Views.gradients`."""
        d_key_value = weight_gradient(h, self.d_keys_values).sum(0)
        return {"hidden_query": weight_gradient(h, self.d_queries) * self.scale, "hidden_key_value": d_key_value}

    def reader_gradient(self, d_gates: Tensor) -> Tensor:
        """Gradient of the weight that what was read is multiplied with, ``[N, dv, G D]``."""
        return batch_first_weight_gradient(self.read, d_gates)

    def trace(self) -> Tensor:
        """Attention ``[T, B, N, N]``, reader by read unit."""
        return torch.stack(self.attention).permute(0, 3, 2, 1).contiguous()


class SoftUpdating:
    """Soft state updating: how far each unit goes from its old to its new hidden vector.

    Args:
        buffers: Where to keep the steps.
        input_query: The input's part of the query, ``[T, B, dk]``.
        matrix: ``[2 D, dk]``.
        key: ``[D, dk]``.
    """

    def __init__(self, buffers: Buffers, input_query: Tensor, matrix: Tensor, key: Tensor) -> None:
        self.buffers, self.matrix = buffers, matrix
        self.input_query = input_query.unbind(0)
        self.scale = 1.0 / math.sqrt(key.shape[1])
        self.key = key * self.scale
        B, (D, dk) = buffers.batch_size, key.shape
        self.means, self.means_steps = buffers.steps_first(B, 2 * D)
        self.query, self.query_steps = buffers.steps_first(B, dk)
        self.direction = buffers.steps_first(B, D)[1]
        self.share = buffers.steps(1)
        self._keep_change(D)

    def _keep_change(self, size: int) -> None:
        """Make room for what a step changes, ``[N, B, D]``."""
        self.change = self.buffers.steps(size)

    def forward(self, t: int, h: Tensor, h_new: Tensor, mask: Tensor, h_out: Tensor, y: Tensor) -> None:
        """Write the hidden vectors after the step."""
        D = h.shape[2]
        means, share = self.means_steps[t], self.share[t]
        torch.mean(h_new, 0, out=means[:, :D])
        torch.mean(h, 0, out=means[:, D:])
        query = torch.addmm(self.input_query[t], means, self.matrix, out=self.query_steps[t])
        direction = torch.mm(query, self.key.t(), out=self.direction[t])
        change = torch.sub(h_new, h, out=self.change[t])
        torch.sigmoid(torch.linalg.vecdot(change, direction).unsqueeze(-1), out=share)
        torch.lerp(h, h_new, share * mask, out=h_out)
        y.copy_(h_out.transpose(0, 1))

    def start_backward(self) -> None:
        T, B, D = len(self.input_query), self.buffers.batch_size, self.key.shape[0]
        self.d_direction = self.buffers.empty(T, B, D)
        self.d_query = self.key.new_empty(T, B, self.key.shape[1])
        self.d_direction_steps, self.d_query_steps = self.d_direction.unbind(0), self.d_query.unbind(0)

    def backward(self, t: int, h: Tensor, dh: Tensor, dy: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the new and of the old hidden vector, given that of the state after the step."""
        D, N = h.shape[2], len(h)
        dh = dh + dy.transpose(0, 1)
        share, change = self.share[t], self.change[t]
        weight = share * mask
        # of share * change, and of share = sigmoid(change . direction)
        d_score = torch.linalg.vecdot(dh, change).unsqueeze(-1) * (weight * (1.0 - share))  # [N, B, 1]
        torch.sum(d_score * change, 0, out=self.d_direction_steps[t])
        d_query = torch.mm(self.d_direction_steps[t], self.key, out=self.d_query_steps[t])
        d_means = torch.mm(d_query, self.matrix.t()) / N
        d_change = torch.addcmul(dh * weight, d_score, self.direction[t])
        dh_past = dh - d_change
        dh_past += d_means[:, D:]
        d_change += d_means[:, :D]
        return d_change, dh_past

    def gradients(self) -> dict[str, Tensor]:
        """As `Views.gradients`."""
        d_query = self.d_query.flatten(0, 1)
        d_key = self.d_direction.flatten(0, 1).t() @ self.query.flatten(0, 1)
        return {
            "soft_input": self.d_query,
            "soft_matrix": self.means.flatten(0, 1).t() @ d_query,
            "soft_key": d_key * self.scale,
        }
