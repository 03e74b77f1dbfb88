"""The units' LSTM and GRU cells, step by step forward and backward.

Tensors of one step are ``[N, B, ...]``, of a sequence ``[N, T, B, ...]``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rimrl.cores.scan.memory import Buffers
from rimrl.cores.scan.products import weight_gradient


class LSTMGates:
    """What an LSTM does with its gates: everything but the products.

    Args:
        buffers: Where to keep the steps; with kernels, these do it.
        size: Width D of a unit.
    """

    def __init__(self, buffers: Buffers, size: int) -> None:
        self.buffers = buffers
        self.size = size
        self.activations = buffers.steps(4 * size)
        self.tanh_c = buffers.steps(size)
        self.kernels = buffers.kernels
        if self.kernels is not None:
            shape = (buffers.num_units, buffers.batch_size)
            self.all_active, self.nothing = buffers.like.new_ones(shape), buffers.like.new_zeros(*shape, size)

    def forward(self, t: int, gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The new ``(h, c)`` of the gates ``[N, B, 4 D]``, which may be overwritten."""
        D, a, tanh_c = self.size, self.activations[t], self.tanh_c[t]
        if self.kernels is not None:
            a.copy_(gates)
            h_new, c_new = torch.empty_like(tanh_c), torch.empty_like(tanh_c)
            stride = tanh_c.stride(0)
            # fmt: off
            self.kernels.lstm(*tanh_c.shape, a.data_ptr(), c.data_ptr(), c.stride(0), self.all_active.data_ptr(),
                              tanh_c.data_ptr(), h_new.data_ptr(), stride, c_new.data_ptr(), stride)
            # fmt: on
            return h_new, c_new
        torch.sigmoid(gates[..., : 2 * D], out=a[..., : 2 * D])
        torch.tanh(gates[..., 2 * D : 3 * D], out=a[..., 2 * D : 3 * D])
        torch.sigmoid(gates[..., 3 * D :], out=a[..., 3 * D :])
        i, f, g, o = a.chunk(4, dim=-1)
        c_new = torch.mul(f, c).addcmul_(i, g)
        torch.tanh(c_new, out=tanh_c)
        return torch.mul(o, tanh_c), c_new

    def start_backward(self) -> None:
        self.d_gates, self.d_gates_steps = self.buffers.units_first(4 * self.size)

    def backward(self, t: int, c: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the gates and of ``c``."""
        D, a, tanh_c = self.size, self.activations[t], self.tanh_c[t]
        d_gates = self.d_gates_steps[t]
        if self.kernels is not None:
            dh, dc = dh.contiguous(), dc.clone(memory_format=torch.contiguous_format)
            # fmt: off
            self.kernels.lstm_backward(*tanh_c.shape, dh.data_ptr(), self.nothing.data_ptr(),
                                       self.all_active.data_ptr(), a.data_ptr(), tanh_c.data_ptr(), c.data_ptr(),
                                       c.stride(0), dc.data_ptr(), d_gates.data_ptr(), d_gates.stride(0))
            # fmt: on
            return d_gates, dc
        i, f, g, o = a.chunk(4, dim=-1)
        di, df, dg, do = d_gates.chunk(4, dim=-1)
        dh_o = dh * o
        dc_new = torch.addcmul(dc + dh_o, dh_o * tanh_c, tanh_c, value=-1)
        torch.mul(dc_new, g, out=di)
        torch.mul(dc_new, c, out=df)
        i_f, d_i_f = a[..., : 2 * D], d_gates[..., : 2 * D]
        torch.ops.aten.sigmoid_backward.grad_input(d_i_f, i_f, grad_input=d_i_f)
        torch.ops.aten.tanh_backward.grad_input(dc_new * i, g, grad_input=dg)
        torch.ops.aten.sigmoid_backward.grad_input(dh * tanh_c, o, grad_input=do)
        return d_gates, dc_new.mul_(f)


class LSTMDynamics(LSTMGates):
    """`rimrl.cores.units.UnitLSTMCell`; its bias comes with the input's part of the gates.

    Args:
        buffers: Where to keep the steps.
        weight_hidden: ``[N, D, 4 D]``.

    Attributes:
        d_gates: Gradient of the input's part of the gates, ``[N, T, B, 4 D]``, from `start_backward` on.
    """

    def __init__(self, buffers: Buffers, weight_hidden: Tensor) -> None:
        super().__init__(buffers, weight_hidden.shape[2] // 4)
        self.weight = weight_hidden

    def update(self, t: int, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The candidates for the new ``(h, c)``; ``gates [N, B, 4 D]`` holds the input's part and is overwritten."""
        return self.forward(t, gates.baddbmm_(h, self.weight), c)

    def start_backward(self) -> None:
        super().start_backward()
        self.weight_transposed = self.weight.transpose(1, 2).contiguous()

    def update_backward(self, t: int, h: Tensor, c: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the input's part of the gates, of ``h`` and of ``c``."""
        d_gates, dc = self.backward(t, c, dh, dc)
        return d_gates, torch.bmm(d_gates, self.weight_transposed), dc

    def gradients(self, h: Tensor) -> dict[str, Tensor]:
        """Gradients of the weights, by name."""
        return {"weight_hidden": weight_gradient(h, self.d_gates)}


class GRUDynamics:
    """`rimrl.cores.units.UnitGRUCell`, as `LSTMDynamics`; the input's bias comes with the input's part of the gates.

    Args:
        buffers: Where to keep the steps.
        weight_hidden: ``[N, D, 3 D]``.
        bias_hidden: ``[N, 3 D]``.
    """

    def __init__(self, buffers: Buffers, weight_hidden: Tensor, bias_hidden: Tensor) -> None:
        self.buffers = buffers
        self.weight = weight_hidden
        self.bias = bias_hidden.unsqueeze(1)
        self.size = weight_hidden.shape[2] // 3
        self.activations = buffers.steps(3 * self.size)  # r, z, n
        self.hidden_n = buffers.steps(self.size)

    def update(self, t: int, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        D, a = self.size, self.activations[t]
        hidden = torch.baddbmm(self.bias, h, self.weight)
        self.hidden_n[t].copy_(hidden[..., 2 * D :])
        torch.sigmoid(gates[..., : 2 * D].add_(hidden[..., : 2 * D]), out=a[..., : 2 * D])
        r, z, n = a.chunk(3, dim=-1)
        torch.tanh(gates[..., 2 * D :].addcmul_(r, hidden[..., 2 * D :]), out=n)
        return torch.addcmul(n, z, h - n), c

    def start_backward(self) -> None:
        self.d_gates, self.d_gates_steps = self.buffers.units_first(3 * self.size)
        self.d_hidden, self.d_hidden_steps = self.buffers.units_first(3 * self.size)
        self.weight_transposed = self.weight.transpose(1, 2).contiguous()

    def update_backward(self, t: int, h: Tensor, c: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        D, a, hidden_n = self.size, self.activations[t], self.hidden_n[t]
        r, z, n = a.chunk(3, dim=-1)
        d_gates, d_hidden = self.d_gates_steps[t], self.d_hidden_steps[t]
        dr, dz, dn = d_gates.chunk(3, dim=-1)
        dh_z = dh * z
        torch.mul(dh - dh_z, 1.0 - n * n, out=dn)
        torch.mul(dn, hidden_n, out=dr)
        torch.mul(dh, h - n, out=dz)
        rz, d_rz = a[..., : 2 * D], d_gates[..., : 2 * D]
        torch.ops.aten.sigmoid_backward.grad_input(d_rz, rz, grad_input=d_rz)
        d_hidden[..., : 2 * D] = d_rz
        torch.mul(dn, r, out=d_hidden[..., 2 * D :])
        return d_gates, torch.baddbmm(dh_z, d_hidden, self.weight_transposed), dc

    def gradients(self, h: Tensor) -> dict[str, Tensor]:
        return {"weight_hidden": weight_gradient(h, self.d_hidden), "bias_hidden": self.d_hidden.sum((1, 2))}
