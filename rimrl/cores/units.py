"""Per-unit building blocks: every unit has its own weights and sees only its own slice.

Inputs and outputs are ``[B, N, width]``; a weight is ``[N, width_in, width_out]``. Letters as in `rimrl.cores.base`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rimrl.cores.initialization import GateBiases

DRAWN_BY_TORCH = GateBiases()


def unit_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply each unit's row by that unit's own matrix, or by the one that all units share.

    Args:
        x: ``[B, N, in]``.
        weight: ``[N, in, out]``, or ``[1, in, out]`` for all units.

    Returns:
        ``[B, N, out]``.
    """
    if len(weight) < x.shape[1]:
        return x @ weight[0]
    return torch.bmm(x.transpose(0, 1), weight).transpose(0, 1)


def normal_parameter(groups: int, fan_in: int, fan_out: int, std: float | None = None) -> nn.Parameter:
    """A ``[groups, fan_in, fan_out]`` weight of normal entries.

    Args:
        groups: Matrices side by side.
        fan_in: Rows of each.
        fan_out: Columns of each.
        std: Standard deviation; None for Xavier's, that of each matrix alone.
    """
    std = math.sqrt(2.0 / (fan_in + fan_out)) if std is None else std
    return nn.Parameter(torch.randn(groups, fan_in, fan_out) * std)


def _uniform_parameter(bound: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class UnitLSTMCell(nn.Module):
    """N independent LSTM cells (RIM paper, Sec. 2.3); gates in `torch.nn.LSTM`'s order and initialisation.

    Args:
        num_units: Units N.
        input_size: Width U of what a unit reads.
        unit_size: Width D of a unit.
        hidden_input_size: Hidden entries G that the gates see. Default: the unit's own D.
        bound_width: Weights are drawn from ``U(-b, b)``, ``b = 1/sqrt(bound_width)``. Default: G, as torch has it for
            one LSTM.
        biases: What the forget gates are biased to; with ``chrono``, the input gates too.

    Attributes:
        weight_input: ``[N, U, 4 D]``, columns input, forget, cell, output gate.
        weight_hidden: ``[N, G, 4 D]``; the gates see G hidden entries, by default the unit's own D.
        bias: ``[N, 4 D]``, the sum of torch's two biases.
    """

    has_cell_memory = True

    def __init__(
        self,
        num_units: int,
        input_size: int,
        unit_size: int,
        hidden_input_size: int | None = None,
        bound_width: int | None = None,
        biases: GateBiases = DRAWN_BY_TORCH,
    ) -> None:
        super().__init__()
        hidden_input_size = unit_size if hidden_input_size is None else hidden_input_size
        bound = 1.0 / math.sqrt(hidden_input_size if bound_width is None else bound_width)
        self.weight_input = _uniform_parameter(bound, num_units, input_size, 4 * unit_size)
        self.weight_hidden = _uniform_parameter(bound, num_units, hidden_input_size, 4 * unit_size)
        self.bias = _uniform_parameter(bound, num_units, 4 * unit_size)
        forget = biases.draw(num_units, unit_size)
        if forget is not None:
            self.bias.data[:, unit_size : 2 * unit_size] = forget
            if biases.chrono is not None:
                self.bias.data[:, :unit_size] = -forget

    def forward(self, u: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One step: ``u [B, N, U]``, ``h [B, N, G]`` and ``c [B, N, D]`` to the new ``(h, c)``, each ``[B, N, D]``."""
        return self.update(unit_linear(u, self.weight_input), h, c)

    def encode(self, x: Tensor) -> Tensor:
        """What an input that all units share, ``[T, B, U]``, adds to their gates: ``[T, B, N, 4 D]`` for `update`."""
        return torch.einsum("tbu,nug->tbng", x, self.weight_input)

    def update(self, input_gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """`forward`, given what the input adds to the gates, ``[B, N, 4 D]``."""
        gates = input_gates + unit_linear(h, self.weight_hidden) + self.bias
        i, f, g, o = gates.chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class UnitGRUCell(nn.Module):
    """N independent GRU cells (RIM paper, Sec. 2.3); gates in `torch.nn.GRU`'s order and initialisation.

    Args:
        num_units: Units N.
        input_size: Width U of what a unit reads.
        unit_size: Width D of a unit.
        bound_width: Weights are drawn from ``U(-b, b)``, ``b = 1/sqrt(bound_width)``. Default: D.
        biases: What the update gates, which keep the state, are biased to.

    Attributes:
        weight_input: ``[N, U, 3 D]``, columns reset, update, new.
        weight_hidden: ``[N, D, 3 D]``.
        bias_input, bias_hidden: ``[N, 3 D]``; they stay apart because the reset gate multiplies only the hidden one.
    """

    has_cell_memory = False

    def __init__(
        self,
        num_units: int,
        input_size: int,
        unit_size: int,
        bound_width: int | None = None,
        biases: GateBiases = DRAWN_BY_TORCH,
    ) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(unit_size if bound_width is None else bound_width)
        self.weight_input = _uniform_parameter(bound, num_units, input_size, 3 * unit_size)
        self.weight_hidden = _uniform_parameter(bound, num_units, unit_size, 3 * unit_size)
        self.bias_input = _uniform_parameter(bound, num_units, 3 * unit_size)
        self.bias_hidden = _uniform_parameter(bound, num_units, 3 * unit_size)
        update = biases.draw(num_units, unit_size)
        if update is not None:
            self.bias_input.data[:, unit_size : 2 * unit_size] = update
            self.bias_hidden.data[:, unit_size : 2 * unit_size] = 0.0

    def forward(self, u: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One step: ``u [B, N, U]`` and ``h [B, N, D]`` to the new ``h``; ``c`` passes through untouched."""
        input_r, input_z, input_n = (unit_linear(u, self.weight_input) + self.bias_input).chunk(3, dim=-1)
        hidden_r, hidden_z, hidden_n = (unit_linear(h, self.weight_hidden) + self.bias_hidden).chunk(3, dim=-1)
        r = torch.sigmoid(input_r + hidden_r)
        z = torch.sigmoid(input_z + hidden_z)
        n = torch.tanh(input_n + r * hidden_n)
        return (1.0 - z) * n + z * h, c
