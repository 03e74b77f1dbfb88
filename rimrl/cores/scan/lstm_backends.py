"""Backends of LSTM and GRU, for sequences with resets inside, which torch's own layers cannot run at once.

On the CPU torch runs the pieces between resets, as a packed sequence, without its fused kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from rimrl.cores.base import CoreTrace, State
from rimrl.cores.lstm import GRU, LSTM
from rimrl.cores.registry import BackendName
from rimrl.cores.scan import compiled, loop
from rimrl.cores.scan.library import kernels, unavailable_reason, warn_if_missing
from rimrl.cores.scan.lstm_native import LSTMTensors, NativeLSTM
from rimrl.cores.scan.pieces import run_side_by_side
from rimrl.cores.scan.rim import RIMCell, RIMScanConfig, RIMTensors
from rimrl.cores.scan.threads import in_threads

RunLayer: TypeAlias = Callable[
    [int, State, Callable[[int], State], Tensor | None, bool], tuple[Tensor, State, CoreTrace | None]
]
"""`compiled.run` or `loop.run`, given all but steps, state, initial state, starts, and whether to return a trace."""


class _Layers:
    """Layer after layer as a scan; a sequence without a reset inside is torch's own layer's."""

    def run(
        self, core: LSTM | GRU, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        if episode_starts is None or len(x) == 1:
            return core._scan(x, state, episode_starts, return_trace)
        h, c = core.reset(state, episode_starts[0])
        state = (h, c) if isinstance(core, LSTM) else (h, torch.zeros_like(c))  # a GRU has no cell memory
        if not bool(episode_starts[1:].any()):
            return core._scan(x, state, None, return_trace)
        return run_side_by_side(partial(self._run, core), x, state, episode_starts, return_trace)

    def _run(
        self, core: LSTM | GRU, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        y, after = x, []
        for layer in range(core.num_layers):
            weight_input, weight_hidden, bias_input, bias_hidden = core.rnn.all_weights[layer]
            bias = bias_input if isinstance(core, GRU) else bias_input + bias_hidden
            of_unit = (nn.functional.linear(y, weight_input, bias), weight_hidden.t(), bias_hidden)
            run_layer = self._layer(core, *(part.unsqueeze(0).to(state[0].dtype) for part in of_unit))
            with torch.autocast(x.device.type, enabled=False):
                at_start = partial(_initial_of_layer, core, layer)
                y, end, _ = run_layer(len(x), _of_layer(state, layer), at_start, episode_starts, False)
            after.append(end)
        ends = torch.cat([h for h, _ in after]), torch.cat([c for _, c in after])
        return y, ends, CoreTrace.of_one_unit(x) if return_trace else None

    def _layer(self, core: LSTM | GRU, gates: Tensor, weight_hidden: Tensor, bias_hidden: Tensor) -> RunLayer:
        """What runs a layer.

        ``gates [1, T, B, G D]`` is what the input adds to the gates, and includes both biases of an LSTM.
        """
        raise NotImplementedError


class NativeLayers(_Layers):
    """`NativeLSTM`."""

    name: BackendName = "native"

    def unsupported_reason(self, core: LSTM, like: Tensor) -> str | None:
        return unavailable_reason(like) if kernels(like) is None else None

    def _layer(self, core: LSTM | GRU, gates: Tensor, weight_hidden: Tensor, bias_hidden: Tensor) -> RunLayer:
        native = kernels(gates)
        assert native is not None
        make_cell: compiled.MakeCell = partial(NativeLSTM, native)
        if native.gemm is None:  # torch's BLAS uses threads itself
            make_cell = in_threads(partial(NativeLSTM, native), {"input_gates": 2}, core.hidden_size)
        return partial(compiled.run, make_cell, LSTMTensors(gates, weight_hidden))


class TorchLayers(_Layers):
    """`RIMCell` of one unit without competition or communication."""

    name: BackendName = "torch"

    def unsupported_reason(self, core: LSTM | GRU, like: Tensor) -> str | None:
        return None if like.device.type == "cpu" else f"on {like.device} torch's own layer is faster"

    def _layer(self, core: LSTM | GRU, gates: Tensor, weight_hidden: Tensor, bias_hidden: Tensor) -> RunLayer:
        if isinstance(core, LSTM):
            warn_if_missing(gates)
        tensors = RIMTensors(gates, weight_hidden, bias_hidden=bias_hidden if isinstance(core, GRU) else None)
        return partial(loop.run, partial(RIMCell, RIMScanConfig()), tensors, 1)


def _of_layer(state: State, layer: int) -> State:
    return state[0][layer : layer + 1], state[1][layer : layer + 1]


def _initial_of_layer(core: LSTM | GRU, layer: int, batch_size: int) -> State:
    return _of_layer(core.initial_state(batch_size), layer)


LSTM_BACKENDS = (NativeLayers(), TorchLayers())
GRU_BACKENDS = (TorchLayers(),)
