"""torch's own LSTM and GRU under the contract of `RecurrentCore`: the baselines."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rimrl.cores.base import CoreTrace, RecurrentCore, State
from rimrl.cores.initialization import GateBiases
from rimrl.cores.tracing import is_traced


class TorchRNN(RecurrentCore):
    """A torch recurrent layer that starts afresh in the middle of a sequence without a loop of autograd nodes.

    Without a reset inside the sequence torch's layer runs it. With one, every row is cut where an episode starts; the
    pieces become the rows of one `PackedSequence`, so that a single call of torch's layer runs all of them and no step
    is spent on padding.
    """

    absent = frozenset({"num_active"})

    rnn: nn.LSTM | nn.GRU | nn.RNN

    def _bias_gates(self, biases: GateBiases, *, negative_before: bool) -> None:
        """Bias the second gate in torch's order: an LSTM's forget gate, a GRU's update gate.

        Args:
            biases: To what; torch's other bias of the same gate becomes 0.
            negative_before: With chrono, give the gate before it, an LSTM's input gate, the negative.
        """
        D = self.hidden_size
        for _, _, bias_input, bias_hidden in self.rnn.all_weights:
            keep = biases.draw(D)
            if keep is None:
                return
            bias_input.data[D : 2 * D], bias_hidden.data[D : 2 * D] = keep, 0.0
            if negative_before and biases.chrono is not None:
                bias_input.data[:D], bias_hidden.data[:D] = -keep, 0.0

    def _call(self, x: Tensor | PackedSequence, state: State) -> tuple[Tensor | PackedSequence, State]:
        """Torch's layer on a state of which it knows ``h`` alone; ``c`` is zero."""
        y, h = self.rnn(x, state[0].contiguous())
        return y, (h, torch.zeros_like(h))

    def _scan(
        self, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        trace = CoreTrace.of_one_unit(x) if return_trace else None
        if episode_starts is not None and is_traced():
            return *self._traceable(x, state, episode_starts), trace
        if episode_starts is not None:
            state = self.reset(state, episode_starts[0])
        if episode_starts is None or len(x) == 1 or not bool(episode_starts[1:].any()):
            y, new_state = self._call(x, state)
            assert isinstance(y, Tensor)
            return y.to(state[0].dtype), _cast(new_state, state), trace

        cut = _cut_at_resets(episode_starts)
        packed = PackedSequence(x.flatten(0, 1)[cut.order], cut.batch_sizes)
        h0, c0 = self.initial_state(len(cut.row))
        first = cut.is_first[None, :, None]
        piece_state = (torch.where(first, state[0][:, cut.row], h0), torch.where(first, state[1][:, cut.row], c0))
        y, piece_state = self._call(packed, piece_state)
        assert isinstance(y, PackedSequence)
        output = y.data[cut.order.argsort()].view(*x.shape[:2], -1).to(state[0].dtype)
        last = (piece_state[0][:, cut.last_piece], piece_state[1][:, cut.last_piece])
        return output, _cast(last, state), trace

    def _traceable(self, x: Tensor, state: State, episode_starts: Tensor) -> tuple[Tensor, State]:
        """Step after step, which holds wherever episodes start."""
        outputs = []
        for x_t, starts in zip(x.unbind(0), episode_starts.unbind(0), strict=True):
            y, state = self._call(x_t.unsqueeze(0), self.reset(state, starts))
            assert isinstance(y, Tensor)
            outputs.append(y)
        return torch.cat(outputs), state


class LSTM(TorchRNN):
    """`torch.nn.LSTM` with resets inside a sequence.

    Args:
        input_size: Width I of the input.
        hidden_size: Width of each layer. Default 256, as in sb3-contrib.
        num_layers: Stacked layers. Default 1.
        forget_bias: Bias of the forget gates at the start; None (default) for torch's draw.
        chrono: Draw those biases, and the negative for the input gates, for memories of up to this many steps
            (`rimrl.cores.initialization.GateBiases`). Default None.

    Raises:
        UsageError: If sizes are not positive, or both ``forget_bias`` and ``chrono`` are given.

    Shapes:
        ``x [T, B, I]`` to ``y [T, B, hidden_size]``; state ``(h, c)``, each ``[num_layers, B, hidden_size]``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 256,
        num_layers: int = 1,
        forget_bias: float | None = None,
        chrono: int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers=num_layers)
        self.rnn = nn.LSTM(input_size, hidden_size, num_layers)
        self._bias_gates(GateBiases(forget_bias, chrono), negative_before=True)

    def _call(self, x: Tensor | PackedSequence, state: State) -> tuple[Tensor | PackedSequence, State]:
        h, c = (s.contiguous() for s in state)
        if isinstance(x, Tensor) and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # Processors without bfloat16 have no such LSTM, and torch fails there instead of falling back.
            with torch.autocast("cpu", enabled=False):
                y, (h, c) = self.rnn(x.to(h.dtype), (h, c))
        else:
            y, (h, c) = self.rnn(x, (h, c))
        return y, (h, c)


class GRU(TorchRNN):
    """`torch.nn.GRU` with resets inside a sequence.

    Args:
        input_size: Width I of the input.
        hidden_size: Width of each layer. Default 256.
        num_layers: Stacked layers. Default 1.
        forget_bias: Bias of the update gates, which keep the state, at the start; None (default) for torch's draw.
        chrono: Draw those biases for memories of up to this many steps (`rimrl.cores.initialization.GateBiases`).
            Default None.

    Raises:
        UsageError: If sizes are not positive, or both ``forget_bias`` and ``chrono`` are given.

    Shapes:
        ``x [T, B, I]`` to ``y [T, B, hidden_size]``; state ``(h, c)``, each ``[num_layers, B, hidden_size]``; a GRU has
        no cell memory, so ``c`` is zero.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 256,
        num_layers: int = 1,
        forget_bias: float | None = None,
        chrono: int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers=num_layers)
        self.rnn = nn.GRU(input_size, hidden_size, num_layers)
        self._bias_gates(GateBiases(forget_bias, chrono), negative_before=False)


def _cast(state: State, like: State) -> State:
    """Keep the state's dtype under autocast, where torch runs a packed sequence in another one than a plain one."""
    return state[0].to(like[0].dtype), state[1].to(like[1].dtype)


class _Cut(NamedTuple):
    """Rows cut into pieces at every reset; S pieces, longest first, as `PackedSequence` wants them.

    Attributes:
        order: ``[T * B]``, for each packed entry its index in the flat ``[T, B]`` sequence.
        batch_sizes: Pieces still running at each step of the packed sequence, on the CPU.
        row: ``[S]``, the batch row that a piece was cut from.
        is_first: ``[S]``, whether a piece continues the state that came in.
        last_piece: ``[B]``, the piece that ends each row.
    """

    order: Tensor
    batch_sizes: Tensor
    row: Tensor
    is_first: Tensor
    last_piece: Tensor


def _cut_at_resets(episode_starts: Tensor) -> _Cut:
    T, B = episode_starts.shape
    starts = episode_starts.t().clone()
    starts[:, 0] = True
    row, begin = starts.nonzero(as_tuple=True)  # by row, then by time
    end = torch.cat([begin[1:], begin.new_tensor([T])])
    end = torch.where(end > begin, end, T)  # the next piece belongs to the next row
    length, rank = torch.sort(end - begin, descending=True, stable=True)
    row, begin, end = row[rank], begin[rank], end[rank]

    offset = torch.arange(int(length[0]), device=starts.device)
    running = offset[:, None] < length[None, :]
    order = ((begin[None, :] + offset[:, None]) * B + row[None, :])[running]
    ends_row = end == T
    last_piece = row.new_empty(B)
    last_piece[row[ends_row]] = ends_row.nonzero().squeeze(1)
    return _Cut(order, running.sum(1).cpu(), row, begin == 0, last_piece)
