"""Independently Recurrent Neural Network (Li et al., CVPR 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rimrl.cores.base import State
from rimrl.cores.options import require_finite
from rimrl.cores.stepwise import StepTrace, StepwiseCore
from rimrl.errors import invalid_value


class IndRNN(StepwiseCore):
    r"""Layers of neurons each of which sees nothing of the past but its own last value.

    One step of layer l of L, with x the input for l = 0 and the new h of the layer below for the others:

        h_t = relu(W x_t + u * h_{t-1} + b)        * entry by entry                                          (Eq. 2)
        y_t = h_t of the last layer

    Neurons of a layer meet only in the W of the next one, so that it takes two layers for one to depend on the past of
    another. Entry n of a gradient over T steps is multiplied by u_n^T at most, so that a bound on abs(u_n) keeps it
    from growing: 2^(1/T) lets it double.

    Args:
        input_size: Width I of the input.
        hidden_size: Width F of each layer. Default 256.
        num_layers: Stacked layers L. Default 2.
        max_recurrent_weight: Bound m of abs(u): the step uses u cut off at -m and m. Default 1, the authors' code's
            simple choice; the paper's is 2^(1/T) for sequences of T steps. None: there is no bound.

    Parameters:
        ``inputs.l.weight [F, I or F]`` W, ``inputs.l.bias [F]`` b, ``recurrent [L, F]``: row l is u.

    Raises:
        UsageError: If sizes are not positive or the bound is not above 0.

    Shapes:
        ``x [T, B, I]`` to ``y [T, B, F]``; state ``(h, c)``, each ``[L, B, F]``: h is the layers' values, c is zero.

    Example:
        >>> core = IndRNN(input_size=32, hidden_size=96)
        >>> y, (h, c) = core(torch.randn(10, 3, 32))
        >>> tuple(y.shape), tuple(h.shape)
        ((10, 3, 96), (2, 3, 96))

    Notes:
        * u starts uniform in [0, 1], as the authors' code advises for relu, or in [0, m] if that is less; W and b start
          as torch's linear layer does.
        * The authors' code cuts u off after every update of the weights; here the step does, so that any optimiser will
          do. No gradient reaches an entry beyond the bound: it stays there, and acts as m.
        * The paper's deep networks have batch normalisation and residual connections; this core has neither.
    """

    absent = frozenset({"num_active"})

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 256,
        num_layers: int = 2,
        max_recurrent_weight: float | None = 1.0,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers=num_layers)
        if max_recurrent_weight is not None:
            require_finite(max_recurrent_weight=max_recurrent_weight)
            if max_recurrent_weight <= 0:
                raise invalid_value("max_recurrent_weight", "a number above 0", max_recurrent_weight)
        self.max_recurrent_weight = max_recurrent_weight
        self.inputs = nn.ModuleList(
            nn.Linear(hidden_size if layer else input_size, hidden_size) for layer in range(num_layers)
        )
        self.recurrent = nn.Parameter(torch.rand(num_layers, hidden_size) * min(1.0, max_recurrent_weight or 1.0))

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        drive: Tensor = self.inputs[0](x)
        return (drive,)

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        (drive,) = inputs
        h, m = state[0], self.max_recurrent_weight
        u = self.recurrent if m is None else self.recurrent.clamp(-m, m)

        layers: list[Tensor] = []
        for layer in range(self.num_layers):
            if layer > 0:
                drive = self.inputs[layer](layers[-1])
            layers.append(torch.relu(drive + u[layer] * h[layer]).to(h.dtype))  # Eq. 2

        trace = StepTrace(torch.ones(h.shape[1], 1, dtype=torch.bool, device=h.device)) if return_trace else None
        return (torch.stack(layers), torch.zeros_like(state[1])), trace
