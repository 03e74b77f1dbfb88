"""The RMC's backend: what a plain `rimrl.cores.rmc.RMC` becomes for a scan."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rimrl.cores.base import CoreTrace, State
from rimrl.cores.registry import BackendName
from rimrl.cores.rmc import RMC
from rimrl.cores.scan import compiled
from rimrl.cores.scan.acting import filling_cell
from rimrl.cores.scan.layout import MAX_UNITS
from rimrl.cores.scan.library import kernels, unavailable_reason
from rimrl.cores.scan.rmc_loop import NativeRMC, NativeRMCTensors, RMCPlan
from rimrl.cores.scan.threads import in_threads


class CompiledRMC:
    """`NativeRMC` where kernels know all of the core's options."""

    name: BackendName = "native"

    def unsupported_reason(self, core: RMC, like: Tensor) -> str | None:
        if kernels(like) is None:
            return unavailable_reason(like)
        if core.gate_memory is None or len(core.gate_memory.weight) != 2 * core.slot_size:
            return 'kernels know gate="unit" alone'
        if isinstance(core.blocks[0].norm_qkv, nn.Identity):
            return "kernels know qkv_norm=True alone"
        if core.num_slots + core.num_inputs > MAX_UNITS:
            return f"kernels take at most {MAX_UNITS} slots and elements together"
        return None

    def run(
        self, core: RMC, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        rows, gate_input = core._encode(x)
        with torch.autocast(x.device.type, enabled=False):
            rows, gate_input = rows.to(state[0].dtype), gate_input.to(state[0].dtype)
            constants = gate_input.new_tensor([core.input_bias, core.forget_bias]).repeat_interleave(core.slot_size)
            gate_input = gate_input + constants
            if not torch.is_grad_enabled():
                cell = filling_cell(core, None, loop_cell, (rows, gate_input), x.shape[:2], return_trace)
                return compiled.fill(cell, len(x), state, core.initial_state, episode_starts)
            make_cell, tensors = loop_cell(core, rows, gate_input)
            threaded = in_threads(make_cell, {"rows": 1, "gate_input": 1}, core.hidden_size)
            return compiled.run(threaded, tensors, len(x), state, core.initial_state, episode_starts, return_trace)


def loop_cell(core: RMC, rows: Tensor, gate_input: Tensor) -> tuple[partial[NativeRMC], NativeRMCTensors]:
    """The compiled cell of a core whose options kernels know, and what it is made from.

    Args:
        core: The core.
        rows: ``[T, B, E, F]``.
        gate_input: Constants included, ``[T, B, 2 F]``.
    """
    native = kernels(rows)
    assert native is not None
    assert core.gate_memory is not None
    maps = [[block.query_key_value for block in core.blocks], [block.norm_qkv for block in core.blocks]]
    maps += [[block.norm_attention for block in core.blocks], [block.norm_mlp for block in core.blocks]]
    maps.append([layer for layer in core.mlp if isinstance(layer, nn.Linear)])
    stacked = (torch.stack([getattr(m, part) for m in same]) for same in maps for part in ("weight", "bias"))
    tensors = NativeRMCTensors(*(rows, gate_input, *stacked, core.gate_memory.weight))
    heads: Any = core.blocks[0].heads
    return partial(NativeRMC, RMCPlan(native, core.num_slots, heads, core._trace)), tensors


BACKENDS = (CompiledRMC(),)
