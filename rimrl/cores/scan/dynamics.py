"""The units' LSTM and GRU cells, step by step forward and backward.

Tensors of one step are ``[N, B, ...]``, of a sequence ``[N, T, B, ...]``.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rimrl.cores.scan.memory import Buffers
from rimrl.cores.scan.products import weight_gradient


class Dynamics(Protocol):
    """Recurrent cells of the units, given what the input adds to their gates.

    Attributes:
        size: Width D of a unit.
        d_gates: Gradient of the input's part of the gates, ``[N, T, B, G D]``, from `start_backward` on.
    """

    size: int
    d_gates: Tensor

    def forward(self, t: int, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The candidates for the new ``(h, c)``; ``gates [N, B, G D]`` holds the input's part and is overwritten."""

    def start_backward(self) -> None:
        """Make room for gradients."""

    def backward(self, t: int, h: Tensor, c: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the input's part of the gates, of ``h`` and of ``c``."""

    def gradients(self, h: Tensor) -> tuple[Tensor, ...]:
        """Gradients of the weights."""


class LSTMDynamics:
    """`rimrl.cores.units.UnitLSTMCell`; its bias comes with the input's part of the gates.

    Args:
        buffers: Where to keep the steps.
        weight_hidden: ``[N, G, 4 D]``.
    """

    def __init__(self, buffers: Buffers, weight_hidden: Tensor) -> None:
        self.buffers = buffers
        self.weight = weight_hidden
        self.size = weight_hidden.shape[2] // 4
        self.activations = buffers.steps(4 * self.size)
        self.tanh_c = buffers.steps(self.size)

    def forward(self, t: int, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        D, a, tanh_c = self.size, self.activations[t], self.tanh_c[t]
        gates.baddbmm_(h, self.weight)
        torch.sigmoid(gates[..., : 2 * D], out=a[..., : 2 * D])
        torch.tanh(gates[..., 2 * D : 3 * D], out=a[..., 2 * D : 3 * D])
        torch.sigmoid(gates[..., 3 * D :], out=a[..., 3 * D :])
        i, f, g, o = torch.split(a, D, dim=-1)
        c_new = torch.mul(f, c).addcmul_(i, g)
        torch.tanh(c_new, out=tanh_c)
        return torch.mul(o, tanh_c), c_new

    def start_backward(self) -> None:
        self.d_gates = self.buffers.units_first(4 * self.size)
        self.d_gates_steps = self.buffers.each(self.d_gates)
        self.weight_transposed = self.weight.transpose(1, 2).contiguous()

    def backward(self, t: int, h: Tensor, c: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        D, a, tanh_c = self.size, self.activations[t], self.tanh_c[t]
        i, f, g, o = torch.split(a, D, dim=-1)
        d_gates = self.d_gates_steps[t]
        di, df, dg, do = torch.split(d_gates, D, dim=-1)
        dh_o = dh * o
        dc_new = torch.addcmul(dc + dh_o, dh_o * tanh_c, tanh_c, value=-1)
        torch.mul(dc_new, g, out=di)
        torch.mul(dc_new, c, out=df)
        torch.ops.aten.sigmoid_backward.grad_input(
            d_gates[..., : 2 * D], a[..., : 2 * D], grad_input=d_gates[..., : 2 * D]
        )
        torch.ops.aten.tanh_backward.grad_input(dc_new * i, g, grad_input=dg)
        torch.ops.aten.sigmoid_backward.grad_input(dh * tanh_c, o, grad_input=do)
        return d_gates, torch.bmm(d_gates, self.weight_transposed), dc_new.mul_(f)

    def gradients(self, h: Tensor) -> tuple[Tensor, ...]:
        """Of ``weight_hidden``."""
        return (weight_gradient(h, self.d_gates),)


class GRUDynamics:
    """`rimrl.cores.units.UnitGRUCell`; the input's bias comes with the input's part of the gates.

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

    def forward(self, t: int, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        D, a = self.size, self.activations[t]
        hidden = torch.baddbmm(self.bias, h, self.weight)
        self.hidden_n[t].copy_(hidden[..., 2 * D :])
        torch.sigmoid(gates[..., : 2 * D].add_(hidden[..., : 2 * D]), out=a[..., : 2 * D])
        r, z, n = torch.split(a, D, dim=-1)
        torch.tanh(gates[..., 2 * D :].addcmul_(r, hidden[..., 2 * D :]), out=n)
        return torch.addcmul(n, z, h - n), c

    def start_backward(self) -> None:
        self.d_gates = self.buffers.units_first(3 * self.size)
        self.d_gates_steps = self.buffers.each(self.d_gates)
        self.d_hidden = self.buffers.units_first(3 * self.size)
        self.d_hidden_steps = self.buffers.each(self.d_hidden)
        self.weight_transposed = self.weight.transpose(1, 2).contiguous()

    def backward(self, t: int, h: Tensor, c: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        D, a, hidden_n = self.size, self.activations[t], self.hidden_n[t]
        r, z, n = torch.split(a, D, dim=-1)
        d_gates, d_hidden = self.d_gates_steps[t], self.d_hidden_steps[t]
        dr, dz, dn = torch.split(d_gates, D, dim=-1)
        dh_z = dh * z
        torch.mul(dh - dh_z, 1.0 - n * n, out=dn)
        torch.mul(dn, hidden_n, out=dr)
        torch.mul(dh, h - n, out=dz)
        rz, d_rz = a[..., : 2 * D], d_gates[..., : 2 * D]
        torch.ops.aten.sigmoid_backward.grad_input(d_rz, rz, grad_input=d_rz)
        d_hidden[..., : 2 * D] = d_rz
        torch.mul(dn, r, out=d_hidden[..., 2 * D :])
        return d_gates, torch.baddbmm(dh_z, d_hidden, self.weight_transposed), dc

    def gradients(self, h: Tensor) -> tuple[Tensor, ...]:
        """Of ``weight_hidden`` and ``bias_hidden``."""
        return weight_gradient(h, self.d_hidden), self.d_hidden.sum((1, 2))
