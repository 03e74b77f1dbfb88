"""Grid LSTM (Kalchbrenner, Danihelka & Graves, 2015) along the dimension of the units."""

from __future__ import annotations

import torch
from torch import Tensor

from rimrl.cores.base import State
from rimrl.cores.initialization import GateBiases
from rimrl.cores.options import resolve_unit_size
from rimrl.cores.stepwise import StepTrace, StepwiseCore
from rimrl.cores.units import UnitLSTMCell


class GridLSTM(StepwiseCore):
    """LSTMs that share everything they show and keep apart what they remember.

    One step, for unit n of N: the transforms of the N-dimensional block of arXiv 1507.01526.

        H             = [h_{t-1,1}; ...; h_{t-1,N}]                the hidden vectors, concatenated
        (h_n, c_n)_t  = LSTM_n([x_t ; H], c_{t-1,n})               every unit its own weights and memory

    The gates of LSTM_n, columns input i, forget f, cell g, output o, each of width D, are
    ``x_t Wx_n + H Wh_n + b_n``; then ``c = sigmoid(f) * c + sigmoid(i) * tanh(g)`` and ``h = sigmoid(o) * tanh(c)``.

    Parameters:
        ``dynamics.weight_input`` Wx ``[N, I, 4 D]``; ``dynamics.weight_hidden`` Wh ``[N, N D, 4 D]``, whose rows follow
        the units in order; ``dynamics.bias`` b ``[N, 4 D]``.

    Args:
        input_size: Width I of the input.
        num_units: Units N. Default 6.
        unit_size: Width D of a unit. Default 100; give this or ``hidden_size``.
        hidden_size: Width of all units together, as an LSTM's; must divide by ``num_units``.
        forget_bias: Bias of the forget gates at the start; None (default) for torch's draw.
        chrono: Draw those biases, and the negative for the input gates, for memories of up to this many steps
            (`rimrl.cores.initialization.GateBiases`). Default None.

    Raises:
        UsageError: If sizes are not positive or do not fit together.

    Shapes:
        ``x [T, B, I]`` to ``y [T, B, N * D]``; state ``(h, c)``, each ``[1, B, N * D]``.

    Example:
        >>> core = GridLSTM(input_size=32, num_units=6, unit_size=20)
        >>> y, (h, c) = core(torch.randn(10, 3, 32))
        >>> tuple(y.shape), tuple(h.shape)
        ((10, 3, 120), (1, 3, 120))

    Notes:
        * The paper lays cells on a grid of any dimension. This is one block of it, applied at every time step: its
          dimensions are the N units, and the block's outgoing vectors are its incoming ones a step later. It is what
          `rimrl.cores.riglstm.RigLSTM` becomes with nothing selected, and so its baseline.
        * All units are computed from the same H: none is a priority dimension (Sec. 3.2), and every one has an LSTM
          (Sec. 3.3 allows for others).
        * The paper projects the input into the vectors that enter the grid along one dimension; here it stands beside
          the hidden vectors, so that every unit reads it in the step in which it arrives.
        * The paper's LSTM is reported to squash after the output gate, ``h = tanh(o * c)``; here it is the usual LSTM.
        * Written as one matrix this is an LSTM of width N D with its gates in another order. What sets it apart is
          what the other cores here build on: units that can be told apart.
    """

    absent = frozenset({"num_active"})

    def __init__(
        self,
        input_size: int,
        num_units: int = 6,
        unit_size: int | None = None,
        hidden_size: int | None = None,
        forget_bias: float | None = None,
        chrono: int | None = None,
    ) -> None:
        unit_size = resolve_unit_size(num_units, unit_size, hidden_size)
        super().__init__(input_size, num_units * unit_size, num_units=num_units)
        self.unit_size = unit_size
        biases = GateBiases(forget_bias, chrono)
        self.dynamics = UnitLSTMCell(
            num_units, input_size, unit_size, hidden_input_size=self.hidden_size, biases=biases
        )

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.dynamics.encode(x),)

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        (input_gates,) = inputs
        h, c = state[0][0], state[1][0].reshape(-1, self.num_units, self.unit_size)  # [B, N D], [B, N, D]
        everything = h.unsqueeze(1).expand(-1, self.num_units, -1)
        h_next, c_next = self.dynamics.update(input_gates, everything, c)
        next_state = (h_next.to(h.dtype).flatten(1).unsqueeze(0), c_next.to(c.dtype).flatten(1).unsqueeze(0))
        trace = StepTrace(torch.ones(c.shape[:2], dtype=torch.bool, device=c.device))
        return next_state, trace if return_trace else None
