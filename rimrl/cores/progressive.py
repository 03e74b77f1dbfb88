"""Two columns side by side: a frozen one that was trained before, and a new one that reads from it.

Progressive networks (Rusu et al., arXiv 1606.04671, Eq. 2), for any core.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rimrl.cores.base import CoreTrace, RecurrentCore, State
from rimrl.errors import mismatch

# "A random small value" in the paper.
_LARGEST_FIRST_SCALE = 0.1


class Adapter(nn.Module):
    """The lateral connection of Rusu et al., Eq. 2: ``U relu(V (alpha h) + b)``.

    The hidden layer is as wide as the layer of the new column that is added to, and ``alpha`` is one learned number
    that starts small, at random. A zero ``U`` cuts the connection.

    Args:
        source_size: Width of the frozen column's layer.
        size: Width of the new column's layer.
    """

    def __init__(self, source_size: int, size: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(_LARGEST_FIRST_SCALE * torch.rand(()))
        self.V = nn.Linear(source_size, size)
        self.U = nn.Linear(size, size, bias=False)
        nn.init.zeros_(self.V.bias)

    def forward(self, source: Tensor) -> Tensor:
        """``[..., size]`` from ``[..., source_size]``."""
        lateral: Tensor = self.U(self.V(self.alpha * source).relu())
        return lateral


class ProgressiveCore(RecurrentCore):
    """A new core beside a frozen one, with lateral connections into its input and its output.

    With the features ``x`` and ``x'`` of the new and of the frozen column::

        h'_t = source(x'_t, h'_{t-1})                    frozen: no gradient, always in evaluation mode
        h_t  = column(x_t + Adapter_in(x'_t), h_{t-1})
        y_t  = h_t + Adapter_out(h'_t)                   the output

    The paper adds a lateral connection to what a layer computes before its nonlinearity; here it is added to what the
    layer reads, which any core allows. Where that layer begins with a linear map the two are equally rich.

    Input is ``[T, B, I + I']``, flat, the new column's features first. State is both columns' states, ``[num_layers, B,
    hidden + hidden']``, in the same order. Traces are the new column's.

    Args:
        column: The core that learns.
        source: The core that is frozen here. Both take flat input, or sets of as many elements; the input adapter then
            works on each element alone, as the paper's 1x1 convolutions do.

    Raises:
        UsageError: If the two differ in their number of layers or of input elements.
    """

    def __init__(self, column: RecurrentCore, source: RecurrentCore) -> None:
        for what in ("num_layers", "num_inputs"):
            ours, theirs = getattr(column, what), getattr(source, what)
            if ours != theirs:
                raise mismatch(f"{what} of the new column", f"{theirs}, as the source's", ours)
        self._widths = [core.num_inputs * core.input_size for core in (column, source)]
        super().__init__(
            sum(self._widths),
            column.hidden_size + source.hidden_size,
            num_layers=column.num_layers,
            num_units=column.num_units,
        )
        self.output_size = column.output_size
        self.units_per_layer = column.units_per_layer
        self.column = column
        self.source = source.requires_grad_(False).eval()
        self.adapt_input = Adapter(source.input_size, column.input_size)
        self.adapt_output = Adapter(source.output_size, column.output_size)

    @property
    def num_active(self) -> int | list[int]:
        """Active units of the new column; may be set where that column's may. The frozen one stays as it was."""
        active: int | list[int] = self.column.num_active  # type: ignore[assignment]
        return active

    @num_active.setter
    def num_active(self, value: int | list[int]) -> None:
        self.column.num_active = value

    @property
    def backends(self) -> dict[str, str | None]:
        """Those of the new column; each column runs on its own."""
        return self.column.backends

    @property
    def backend(self) -> str:
        """That of the new column."""
        return self.column.backend

    def _chosen(self, like: Tensor) -> None:
        """None: the columns choose."""

    def train(self, mode: bool = True) -> ProgressiveCore:
        """Switch everything but the frozen column, whose dropout would be noise."""
        super().train(mode)
        self.source.eval()
        return self

    def initial_state(self, batch_size: int) -> State:
        """Both columns' initial states, side by side."""
        ours, theirs = self.column.initial_state(batch_size), self.source.initial_state(batch_size)
        return _joined(ours, theirs)

    def _scan(
        self, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        features, source_features = torch.split(x, self._widths, dim=-1)
        if self.column.num_inputs > 1:
            features = features.reshape(*features.shape[:-1], self.column.num_inputs, -1)
            source_features = source_features.reshape(*source_features.shape[:-1], self.source.num_inputs, -1)
        ours, theirs = self._separated(state)
        with torch.no_grad():
            source_output, theirs = self.source(source_features.contiguous(), theirs, episode_starts)
        adapted = features + self.adapt_input(source_features)
        trace = None
        if return_trace:
            output, ours, trace = self.column(adapted, ours, episode_starts, return_trace=True)
        else:
            output, ours = self.column(adapted, ours, episode_starts)
        return output + self.adapt_output(source_output), _joined(ours, theirs), trace

    def _separated(self, state: State) -> tuple[State, State]:
        widths = [self.column.hidden_size, self.source.hidden_size]
        (h, source_h), (c, source_c) = (torch.split(part, widths, dim=-1) for part in state)
        return (h.contiguous(), c.contiguous()), (source_h.contiguous(), source_c.contiguous())


def _joined(ours: State, theirs: State) -> State:
    h, c = (torch.cat(parts, dim=-1) for parts in zip(ours, theirs, strict=True))
    return h, c
