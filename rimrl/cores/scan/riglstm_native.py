"""RigLSTM's cell and stages on compiled kernels: each derives from its twin on torch's operations."""

from __future__ import annotations

import torch
from torch import Tensor

from rimrl.cores.scan.library import Kernels
from rimrl.cores.scan.memory import Buffers
from rimrl.cores.scan.products import weight_gradient
from rimrl.cores.scan.riglstm import RigLSTMCell
from rimrl.cores.scan.riglstm_stages import Hidden, SoftUpdating, Views


class NativeViews(Views):
    """`Views`, whose attention is ``[B, N, V]`` here."""

    def __init__(
        self, buffers: Buffers, top_k: int, views: Tensor, keys: Tensor, query: Tensor, weight: Tensor, bias: Tensor
    ) -> None:
        super().__init__(buffers, top_k, views.contiguous(), keys.contiguous(), query, weight, bias)
        self.kernels = kernels_of(buffers)
        self.sizes = (buffers.num_units, *views.shape[1:3], query.shape[2], views.shape[3])

    def _attention_shape(self, num_views: int) -> tuple[int, int, int]:
        return self.buffers.batch_size, self.buffers.num_units, num_views

    def forward(self, t: int, h: Tensor) -> tuple[Tensor, Tensor]:
        queries = torch.bmm(h, self.query, out=self.queries[t])
        scores, read = h.new_empty(h.shape[:2]), self.read_steps[t]
        # fmt: off
        self.kernels.select_views(*self.sizes, self.top_k, queries.data_ptr(), self.keys[t].data_ptr(),
                                  self.views[t].data_ptr(), self.attention[t].data_ptr(), scores.data_ptr(),
                                  read.data_ptr())
        # fmt: on
        return torch.baddbmm(self.bias, read.transpose(0, 1), self.weight), scores

    def backward(self, t: int, h: Tensor, d_gates: Tensor) -> Tensor:
        d_read = torch.bmm(d_gates, self.weight_transposed)
        d_queries = self.d_queries_steps[t]
        # fmt: off
        self.kernels.select_views_backward(*self.sizes, self.queries[t].data_ptr(), self.keys[t].data_ptr(),
                                           self.views[t].data_ptr(), self.attention[t].data_ptr(), d_read.data_ptr(),
                                           d_queries.data_ptr(), d_queries.stride(0),
                                           self.d_keys_steps[t].data_ptr(), self.d_views_steps[t].data_ptr())
        # fmt: on
        return torch.bmm(d_queries, self.query_transposed)

    def trace(self) -> Tensor:
        return torch.stack(self.attention)


class NativeHidden(Hidden):
    """`Hidden`, with one product for queries, keys and values, and attention ``[B, N, N]``."""

    def __init__(self, buffers: Buffers, top_k: int, query: Tensor, key_value: Tensor) -> None:
        self.kernels, self.buffers, self.top_k = kernels_of(buffers), buffers, top_k
        self.key_size = query.shape[2]
        self.value_size = key_value.shape[1] - self.key_size
        self.weight = torch.cat([query, key_value.expand(len(query), -1, -1)], dim=2)
        N, B = buffers.num_units, buffers.batch_size
        self.qkv = buffers.steps(self.weight.shape[2])
        self.attention = buffers.steps_first(B, N, N)[1]
        self.reads = buffers.steps(self.value_size)

    def forward(self, t: int, h: Tensor) -> Tensor:
        qkv, read = torch.bmm(h, self.weight, out=self.qkv[t]), self.reads[t]
        N, B = h.shape[:2]
        # fmt: off
        self.kernels.attend(N, B, 1, self.key_size, self.value_size, self.top_k, 1, qkv.data_ptr(),
                            self.attention[t].data_ptr(), read.data_ptr())
        # fmt: on
        return read

    def start_backward(self) -> None:
        self.d_qkv, self.d_qkv_steps = self.buffers.units_first(self.weight.shape[2])
        self.weight_transposed = self.weight.transpose(1, 2).contiguous()

    def backward(self, t: int, h: Tensor, d_read: Tensor) -> Tensor:
        d_read, d_qkv = d_read.contiguous(), self.d_qkv_steps[t]
        N, B = h.shape[:2]
        # fmt: off
        self.kernels.attend_backward(N, B, 1, self.key_size, self.value_size, self.qkv[t].data_ptr(),
                                     self.attention[t].data_ptr(), d_read.data_ptr(), d_qkv.data_ptr(),
                                     d_qkv.stride(0))
        # fmt: on
        return torch.bmm(d_qkv, self.weight_transposed)

    def gradients(self, h: Tensor) -> dict[str, Tensor]:
        d_weight = weight_gradient(h, self.d_qkv)
        d_query, d_key_value = d_weight[..., : self.key_size].contiguous(), d_weight[..., self.key_size :].sum(0)
        return {"hidden_query": d_query, "hidden_key_value": d_key_value}

    def reader_gradient(self, d_gates: Tensor) -> Tensor:
        return weight_gradient(torch.stack(self.reads, dim=1), d_gates)

    def trace(self) -> Tensor:
        return torch.stack(self.attention)


class NativeSoftUpdating(SoftUpdating):
    """`SoftUpdating`; what a step changes is not kept, but read off the states."""

    def __init__(self, buffers: Buffers, input_query: Tensor, matrix: Tensor, key: Tensor) -> None:
        super().__init__(buffers, input_query, matrix, key)
        self.kernels = kernels_of(buffers)
        self.h_new: list[Tensor] = [key] * len(self.input_query)

    def _keep_change(self, size: int) -> None:
        pass

    def forward(self, t: int, h: Tensor, h_new: Tensor, mask: Tensor, h_out: Tensor, y: Tensor) -> None:
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
        super().start_backward()
        self.d_means = self.key.new_empty(self.buffers.batch_size, 2 * self.key.shape[0])

    def backward(self, t: int, h: Tensor, dh: Tensor, dy: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
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


class NativeRigLSTMCell(RigLSTMCell):
    """`RigLSTMCell` on the kernels of its config."""

    views_stage = NativeViews
    hidden_stage = NativeHidden
    soft_stage = NativeSoftUpdating

    def choose(self, priority: Tensor, mask: Tensor) -> None:
        N, B = priority.shape
        kernels = self.config.kernels
        assert kernels is not None
        kernels.choose(N, B, self.config.num_active, priority.contiguous().data_ptr(), mask.data_ptr())


def kernels_of(buffers: Buffers) -> Kernels:
    """The kernels that stages are to use."""
    assert buffers.kernels is not None
    return buffers.kernels
