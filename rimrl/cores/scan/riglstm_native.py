"""RigLSTM's stages on compiled kernels: the twins of `Views`, `Hidden` and `SoftUpdating` of `riglstm`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rimrl.cores.scan.library import Kernels
from rimrl.cores.scan.memory import Buffers
from rimrl.cores.scan.products import batch_first_weight_gradient, weight_gradient


class NativeViews:
    """Input feature selection, and what the selected features add to the gates.

    Args:
        kernels: Compiled for the tensors' dtype.
        buffers: Where to keep the steps.
        top_k: Views that a unit reads.
        views: ``[T, B, V, F]``.
        keys: ``[T, B, V, dk]``.
        query: ``[N, D, dk]``.
        weight: ``[N, F, 4 D]``.
        bias: ``[N, 4 D]``.
    """

    def __init__(
        self,
        kernels: Kernels,
        buffers: Buffers,
        top_k: int,
        views: Tensor,
        keys: Tensor,
        query: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> None:
        self.kernels, self.buffers, self.query, self.weight = kernels, buffers, query, weight
        self.bias = bias.unsqueeze(1)
        self.all_views, self.all_keys = views.contiguous(), keys.contiguous()
        self.views, self.keys = self.all_views.unbind(0), self.all_keys.unbind(0)
        N, B, (V, F) = buffers.num_units, buffers.batch_size, views.shape[2:]
        self.sizes = (N, B, V, query.shape[2], F)
        self.top_k = top_k
        self.queries = buffers.steps(query.shape[2])
        self.attention = buffers.each(buffers.empty(buffers.slots, B, N, V), dim=0)
        self.read = buffers.empty(buffers.slots, B, N, F)
        self.read_steps = buffers.each(self.read, dim=0)

    def forward(self, t: int, h: Tensor) -> tuple[Tensor, Tensor]:
        """The input's part of the gates ``[N, B, 4 D]``, and every unit's mean score ``[N, B]``."""
        queries = torch.bmm(h, self.query, out=self.queries[t])
        scores, read = h.new_empty(h.shape[:2]), self.read_steps[t]
        # fmt: off
        self.kernels.select_views(*self.sizes, self.top_k, queries.data_ptr(), self.keys[t].data_ptr(),
                                  self.views[t].data_ptr(), self.attention[t].data_ptr(), scores.data_ptr(),
                                  read.data_ptr())
        # fmt: on
        return torch.baddbmm(self.bias, read.transpose(0, 1), self.weight), scores

    def start_backward(self) -> None:
        self.d_queries = self.buffers.units_first(self.query.shape[2])
        self.d_queries_steps = self.buffers.each(self.d_queries)
        self.d_views, self.d_keys = torch.empty_like(self.all_views), torch.empty_like(self.all_keys)
        self.d_views_steps, self.d_keys_steps = self.d_views.unbind(0), self.d_keys.unbind(0)
        self.weight_transposed = self.weight.transpose(1, 2).contiguous()
        self.query_transposed = self.query.transpose(1, 2).contiguous()

    def backward(self, t: int, h: Tensor, d_gates: Tensor) -> Tensor:
        """The gradient of ``h``."""
        d_read = torch.bmm(d_gates, self.weight_transposed)
        d_queries = self.d_queries_steps[t]
        # fmt: off
        self.kernels.select_views_backward(*self.sizes, self.queries[t].data_ptr(), self.keys[t].data_ptr(),
                                           self.views[t].data_ptr(), self.attention[t].data_ptr(), d_read.data_ptr(),
                                           d_queries.data_ptr(), d_queries.stride(0),
                                           self.d_keys_steps[t].data_ptr(), self.d_views_steps[t].data_ptr())
        # fmt: on
        return torch.bmm(d_queries, self.query_transposed)

    def gradients(self, h: Tensor, d_gates: Tensor) -> tuple[Tensor | None, ...]:
        """Of views, keys, query, ``weight_input`` and bias."""
        d_weight = batch_first_weight_gradient(self.read, d_gates)
        return self.d_views, self.d_keys, weight_gradient(h, self.d_queries), d_weight, d_gates.sum((1, 2))

    def trace(self) -> Tensor:
        """Attention ``[T, B, N, V]``."""
        return torch.stack(self.attention)


class NativeHidden:
    """Hidden state selection.

    Args:
        kernels: Compiled for the tensors' dtype.
        buffers: Where to keep the steps.
        top_k: Other units that a unit reads.
        query: ``[N, D, dk]``.
        key_value: Key beside value, ``[D, dk + dv]``.
    """

    def __init__(self, kernels: Kernels, buffers: Buffers, top_k: int, query: Tensor, key_value: Tensor) -> None:
        self.kernels, self.buffers, self.top_k = kernels, buffers, top_k
        self.key_size = query.shape[2]
        self.value_size = key_value.shape[1] - self.key_size
        self.weight = torch.cat([query, key_value.expand(len(query), -1, -1)], dim=2)
        N, B = buffers.num_units, buffers.batch_size
        self.qkv = buffers.steps(self.weight.shape[2])
        self.attention = buffers.each(buffers.empty(buffers.slots, B, N, N), dim=0)
        self.read = buffers.steps(self.value_size)

    def forward(self, t: int, h: Tensor) -> Tensor:
        """What each unit reads of the others, ``[N, B, dv]``."""
        qkv, read = torch.bmm(h, self.weight, out=self.qkv[t]), self.read[t]
        N, B = h.shape[:2]
        # fmt: off
        self.kernels.attend(N, B, 1, self.key_size, self.value_size, self.top_k, 1, qkv.data_ptr(),
                            self.attention[t].data_ptr(), read.data_ptr())
        # fmt: on
        return read

    def start_backward(self) -> None:
        self.d_qkv = self.buffers.units_first(self.weight.shape[2])
        self.d_qkv_steps = self.buffers.each(self.d_qkv)
        self.weight_transposed = self.weight.transpose(1, 2).contiguous()

    def backward(self, t: int, h: Tensor, d_read: Tensor) -> Tensor:
        """The gradient of ``h``, given that of what was read, ``[N, B, dv]``."""
        d_read, d_qkv = d_read.contiguous(), self.d_qkv_steps[t]
        N, B = h.shape[:2]
        # fmt: off
        self.kernels.attend_backward(N, B, 1, self.key_size, self.value_size, self.qkv[t].data_ptr(),
                                     self.attention[t].data_ptr(), d_read.data_ptr(), d_qkv.data_ptr(),
                                     d_qkv.stride(0))
        # fmt: on
        return torch.bmm(d_qkv, self.weight_transposed)

    def gradients(self, h: Tensor) -> tuple[Tensor, ...]:
        """Of query, and key beside value."""
        d_weight = weight_gradient(h, self.d_qkv)
        return d_weight[..., : self.key_size].contiguous(), d_weight[..., self.key_size :].sum(0)

    def reader_gradient(self, d_gates: Tensor) -> Tensor:
        """Gradient of the weight that what was read is multiplied with, ``[N, dv, G D]``."""
        return weight_gradient(torch.stack(self.read, dim=1), d_gates)

    def trace(self) -> Tensor:
        """Attention ``[T, B, N, N]``, reader by read unit."""
        return torch.stack(self.attention)


class NativeSoftUpdating:
    """Soft state updating.

    Args:
        kernels: Compiled for the tensors' dtype.
        buffers: Where to keep the steps.
        input_query: The input's part of the query, ``[T, B, dk]``.
        matrix: ``[2 D, dk]``.
        key: ``[D, dk]``.
    """

    def __init__(self, kernels: Kernels, buffers: Buffers, input_query: Tensor, matrix: Tensor, key: Tensor) -> None:
        self.kernels, self.buffers, self.matrix = kernels, buffers, matrix
        self.input_query = input_query.unbind(0)
        self.scale = 1.0 / math.sqrt(key.shape[1])
        self.key = key * self.scale
        B, (D, dk) = buffers.batch_size, key.shape
        self.means = buffers.empty(buffers.slots, B, 2 * D)
        self.means_steps = buffers.each(self.means, dim=0)
        self.query = buffers.empty(buffers.slots, B, dk)
        self.query_steps = buffers.each(self.query, dim=0)
        self.direction = buffers.each(buffers.empty(buffers.slots, B, D), dim=0)
        self.h_new: list[Tensor] = [key] * len(self.input_query)
        self.share = buffers.steps(1)

    def forward(self, t: int, h: Tensor, h_new: Tensor, mask: Tensor, h_out: Tensor, y: Tensor) -> None:
        """Write the hidden vectors after the step."""
        means, direction = self.means_steps[t], self.direction[t]
        self.h_new[t] = h_new
        # fmt: off
        self.kernels.soft_means(*h.shape, h_new.data_ptr(), h.data_ptr(), h.stride(0), means.data_ptr())
        query = torch.addmm(self.input_query[t], means, self.matrix, out=self.query_steps[t])
        torch.mm(query, self.key.t(), out=direction)
        self.kernels.soft_update(*h.shape, h_new.data_ptr(), h.data_ptr(), h.stride(0), direction.data_ptr(),
                                 mask.data_ptr(), self.share[t].data_ptr(), h_out.data_ptr(), h_out.stride(0),
                                 y.data_ptr())
        # fmt: on

    def start_backward(self) -> None:
        T, B, D = len(self.input_query), self.buffers.batch_size, self.key.shape[0]
        self.d_direction = self.buffers.empty(T, B, D)
        self.d_query = self.key.new_empty(T, B, self.key.shape[1])
        self.d_direction_steps, self.d_query_steps = self.d_direction.unbind(0), self.d_query.unbind(0)
        self.d_means = self.key.new_empty(B, 2 * D)

    def backward(self, t: int, h: Tensor, dh: Tensor, dy: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the new and of the old hidden vector, given that of the state after the step."""
        dh = dh.contiguous()
        dh_new, d_direction = torch.empty_like(dh), self.d_direction_steps[t]
        # fmt: off
        self.kernels.soft_update_backward(*h.shape, dy.data_ptr(), self.h_new[t].data_ptr(), h.data_ptr(), h.stride(0),
                                          self.direction[t].data_ptr(), mask.data_ptr(), self.share[t].data_ptr(),
                                          dh.data_ptr(), dh_new.data_ptr(), d_direction.data_ptr())
        d_query = torch.mm(d_direction, self.key, out=self.d_query_steps[t])
        torch.mm(d_query, self.matrix.t(), out=self.d_means)
        self.kernels.soft_means_backward(*h.shape, self.d_means.data_ptr(), dh_new.data_ptr(), dh.data_ptr())
        # fmt: on
        return dh_new, dh

    def gradients(self) -> tuple[Tensor, ...]:
        """Of the input's part of the query, its matrix, and the key."""
        d_query = self.d_query.flatten(0, 1)
        d_key = self.d_direction.flatten(0, 1).t() @ self.query.flatten(0, 1)
        return self.d_query, self.means.flatten(0, 1).t() @ d_query, d_key * self.scale
