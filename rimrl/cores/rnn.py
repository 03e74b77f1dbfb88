"""torch's own RNN, the plain one, under the contract of `rimrl.cores.base.RecurrentCore`."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from rimrl.cores.lstm import TorchRNN
from rimrl.cores.options import require_choice

Nonlinearity = Literal["tanh", "relu"]


class RNN(TorchRNN):
    """`torch.nn.RNN` (Elman, 1990) with resets inside a sequence: the control without gates.

    One step of layer l, with x the output of the layer below it, for the first one the input:

        h_t = phi(W x_t + b + U h_{t-1} + d)        y_t = h_t of the last layer

    Args:
        input_size: Width I of the input.
        hidden_size: Width F of each layer. Default 256.
        num_layers: Stacked layers. Default 1.
        nonlinearity: phi: ``"tanh"`` (default) or ``"relu"``.

    Parameters:
        ``rnn.weight_ih_l{l} [F, I or F]`` W, ``rnn.bias_ih_l{l} [F]`` b, ``rnn.weight_hh_l{l} [F, F]`` U,
        ``rnn.bias_hh_l{l} [F]`` d.

    Raises:
        UsageError: If sizes are not positive, or there is no such nonlinearity.

    Shapes:
        ``x [T, B, I]`` to ``y [T, B, hidden_size]``; state ``(h, c)``, each ``[num_layers, B, hidden_size]``; there is
        no cell memory, so ``c`` is zero.
    """

    def __init__(
        self, input_size: int, hidden_size: int = 256, num_layers: int = 1, nonlinearity: Nonlinearity = "tanh"
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers=num_layers)
        require_choice("nonlinearity", nonlinearity, get_args(Nonlinearity))
        self.rnn = nn.RNN(input_size, hidden_size, num_layers, nonlinearity=nonlinearity)
