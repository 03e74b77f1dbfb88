"""RigLSTM's backends: what a plain `rimrl.cores.riglstm.RigLSTM` becomes for a scan."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace, State
from rimrl.cores.registry import BackendName
from rimrl.cores.riglstm import RigLSTM
from rimrl.cores.scan import compiled, loop
from rimrl.cores.scan.acting import filling_cell
from rimrl.cores.scan.layout import MAX_UNITS
from rimrl.cores.scan.library import Kernels, kernels, unavailable_reason, warn_if_missing
from rimrl.cores.scan.pieces import run_side_by_side
from rimrl.cores.scan.riglstm import RigLSTMCell, RigLSTMScanConfig, RigLSTMTensors
from rimrl.cores.scan.riglstm_loop import NativeRigLSTM, NativeRigLSTMTensors, RigLSTMPlan
from rimrl.cores.scan.riglstm_native import NativeRigLSTMCell
from rimrl.cores.scan.threads import in_threads


class TorchRigLSTM:
    """`RigLSTMCell` on torch's operations."""

    name: BackendName = "torch"

    def unsupported_reason(self, core: RigLSTM, like: Tensor) -> str | None:
        return None

    def run(
        self, core: RigLSTM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        warn_if_missing(state[0])
        return run_side_by_side(partial(self._run, core), x, state, episode_starts, return_trace)

    def _run(
        self, core: RigLSTM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        encoded = core._encode(x)
        # Under autocast only the products of the input take a lower precision; the recurrence keeps the state's.
        with torch.autocast(x.device.type, enabled=False):
            tensors = tensors_of(core, *(tensor.to(state[0].dtype) for tensor in encoded))
            make_cell, initial = self._cell(core, state[0]), core.initial_state
            return loop.run(make_cell, tensors, core.num_units, len(x), state, initial, episode_starts, return_trace)

    def _cell(self, core: RigLSTM, like: Tensor) -> loop.MakeCell:
        return partial(RigLSTMCell, _scan_config(core, None))


class CompiledRigLSTM(TorchRigLSTM):
    """`NativeRigLSTM` with the usual mechanisms, `NativeRigLSTMCell` without some of them.

    For sets that are too large for kernels it is `RigLSTMCell` with those of its gates.
    """

    name: BackendName = "native"

    def unsupported_reason(self, core: RigLSTM, like: Tensor) -> str | None:
        return unavailable_reason(like) if kernels(like) is None else None

    def _run(
        self, core: RigLSTM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        if not runs_in_one_loop(core):
            return super()._run(core, x, state, episode_starts, return_trace)
        encoded = core._encode(x)
        with torch.autocast(x.device.type, enabled=False):
            views, _, keys, _, soft_query = (tensor.to(state[0].dtype) for tensor in encoded)
            of_input = views, keys.transpose(2, 3), soft_query
            if not torch.is_grad_enabled():
                cell = filling_cell(core, core.num_active, loop_cell, of_input, x.shape[:2], return_trace)
                return compiled.fill(cell, len(x), state, core.initial_state, episode_starts)
            make_cell, tensors = loop_cell(core, *of_input)
            rows = {"views": 1, "keys": 1, "soft_input": 1}
            threaded = in_threads(make_cell, rows, core.hidden_size)
            return compiled.run(threaded, tensors, len(x), state, core.initial_state, episode_starts, return_trace)

    def run(
        self, core: RigLSTM, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        if runs_in_one_loop(core):
            return self._run(core, x, state, episode_starts, return_trace)
        return super().run(core, x, state, episode_starts, return_trace)

    def _cell(self, core: RigLSTM, like: Tensor) -> loop.MakeCell:
        largest = core.num_units if core.input_selection is None else max(core.num_units, core.num_views)
        cell = NativeRigLSTMCell if largest <= MAX_UNITS else RigLSTMCell
        return partial(cell, _scan_config(core, kernels(like)))


def runs_in_one_loop(core: RigLSTM) -> bool:
    """Whether the whole loop over time is compiled: if all mechanisms are on, and cell selection has no weights."""
    mechanisms = (core.input_selection, core.hidden_selection, core.soft_update)
    return None not in mechanisms and core.cell_selection is None and max(core.num_units, core.num_views) <= MAX_UNITS


def loop_cell(
    core: RigLSTM, views: Tensor, keys: Tensor, soft_input: Tensor
) -> tuple[partial[NativeRigLSTM], NativeRigLSTMTensors]:
    """The compiled cell of a core, and what it is made from.

    Args:
        core: A core that `runs_in_one_loop`.
        views: ``[T, B, V, F]``.
        keys: ``[T, B, V, dk]``.
        soft_input: ``[T, B, dk]``.
    """
    native, hidden, soft, dynamics = kernels(views), core.hidden_selection, core.soft_update, core.dynamics
    assert native is not None
    assert core.input_selection is not None
    assert hidden is not None
    assert soft is not None
    shared = torch.cat([hidden.key, hidden.value], dim=1).expand(core.num_units, -1, -1)
    own, others = dynamics.weight_hidden[:, : core.unit_size], dynamics.weight_hidden[:, core.unit_size :]
    tensors = NativeRigLSTMTensors(
        *(views, keys, soft_input, core.input_selection.query, dynamics.weight_input, dynamics.bias, own, others),
        *(torch.cat([hidden.query, shared], dim=2), soft.query[core.input_size :], soft.key),
    )
    num_active = core.num_active if core.cell_selection_shared else core.num_units
    return partial(NativeRigLSTM, RigLSTMPlan(native, num_active, core.input_top_k, hidden.top_k)), tensors


def _scan_config(core: RigLSTM, native: Kernels | None) -> RigLSTMScanConfig:
    selects = core.cell_selection_shared or core.cell_selection is not None
    hidden = core.hidden_selection
    return RigLSTMScanConfig(core.num_active, selects, core.input_top_k, 0 if hidden is None else hidden.top_k, native)


def tensors_of(
    core: RigLSTM, views: Tensor, cell_keys: Tensor, input_keys: Tensor, input_gates: Tensor, soft_query: Tensor
) -> RigLSTMTensors:
    """What the cell of a core is made from; the arguments are what the core made of its input."""
    dynamics = core.dynamics
    tensors = RigLSTMTensors(dynamics.weight_hidden)
    if core.input_selection is not None:
        tensors.views, tensors.keys, tensors.query = views, input_keys.transpose(2, 3), core.input_selection.query
        tensors.weight_input, tensors.bias = dynamics.weight_input, dynamics.bias
    else:
        tensors.input_gates = (input_gates + dynamics.bias).permute(2, 0, 1, 3)
    if core.cell_selection is not None:
        tensors.cell_keys, tensors.cell_query = cell_keys, core.cell_selection.query
    hidden = core.hidden_selection
    if hidden is not None:
        tensors.hidden_query, tensors.hidden_key_value = hidden.query, torch.cat([hidden.key, hidden.value], dim=1)
    soft = core.soft_update
    if soft is not None:
        tensors.soft_input, tensors.soft_matrix = soft_query, soft.query[core.input_size :]
        tensors.soft_key = soft.key
    return tensors


BACKENDS = (CompiledRigLSTM(), TorchRigLSTM())
