"""NTM and DNC agree with their transcriptions to 1e-9, gradients included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from rimrl.cores.dnc import DNC
from rimrl.cores.external_memory import ExternalMemory
from rimrl.cores.ntm import NTM
from tests.reference.agreement import (
    Case,
    assert_close,
    assert_gradients_agree,
    assert_joint_gradient_agrees,
    assert_values_agree,
    make_case,
    run_core,
)
from tests.reference.dnc_numpy import dnc
from tests.reference.ntm_numpy import MemoryResult, Sizes, ntm
from tests.reference.rim_numpy import Array

CORES = {"ntm": (NTM, ntm), "dnc": (DNC, dnc)}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {"num_slots": 4, "slot_size": 2, "num_reads": 1, "controller_size": 3},
    "two reads": {"num_slots": 3, "slot_size": 3, "num_reads": 2},
    "one slot": {"num_slots": 1, "slot_size": 2, "num_reads": 1},
    "two slots": {"num_slots": 2, "slot_size": 1, "num_reads": 3},
}


def case_of(core: ExternalMemory, seed: int) -> Case:
    """With a state that the core reached by itself, so that weightings are such, and random contents."""
    case = make_case(core, seed, num_steps=5, batch_size=3)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _, state = core(torch.randn(4, 3, core.input_size, dtype=torch.float64, generator=generator))
        parts = core._unpack(state)
        for i in range(4):
            parts[i] = torch.randn(parts[i].shape, dtype=torch.float64, generator=generator)
        case.point["h"], case.point["c"] = (rows.numpy().copy() for rows in core._pack(parts))
    return case


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("name", CORES)
def test_memory(name: str, options: dict[str, Any]) -> None:
    make, transcribe = CORES[name]
    core = make(input_size=2, hidden_size=4, **options)
    z = Sizes(core.num_slots, core.slot_size, core.num_reads, core.controller_size)

    def transcription(point: Mapping[str, Array], starts: Any) -> MemoryResult:
        return transcribe(z, point, starts)

    case = case_of(core, seed=0)
    found, expected = run_core(case), transcription(case.point, case.starts)
    assert_values_agree(found, expected)
    assert found.trace.active.all()
    assert found.trace.communication_attention is None
    assert found.trace.input_attention is not None
    assert_close(found.trace.input_attention[..., 1].numpy(), expected.written, "write weighting")
    assert_close(found.trace.input_attention[..., 0].numpy(), 1 - expected.written, "what is left of it")
    if options is OPTIONS["default"]:
        assert_gradients_agree(case, found, transcription)
    else:
        assert_joint_gradient_agrees(case, found, transcription)
