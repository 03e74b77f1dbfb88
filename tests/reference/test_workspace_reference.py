"""RIM with a shared workspace computes what its equations say: all agrees with `workspace_numpy` to 1e-9."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rimrl.cores.rim_workspace import WorkspaceRIM
from tests.reference.agreement import (
    Case,
    Transcription,
    as_sets,
    assert_close,
    assert_gradients_agree,
    assert_joint_gradient_agrees,
    assert_values_agree,
    make_case,
    run_core,
)
from tests.reference.rim_numpy import Array
from tests.reference.workspace_numpy import WorkspaceOptions, WorkspaceResult, workspace_rim

SMALL: dict[str, Any] = {
    "num_units": 4,
    "num_active": 3,
    "num_slots": 2,
    "unit_size": 3,
    "input_key_size": 2,
    "input_value_size": 4,
    "workspace_heads": 2,
    "workspace_key_size": 3,
    "workspace_value_size": 2,
    "learn_initial_state": True,
}
OPTION_SETS: dict[str, dict[str, Any]] = {
    "default": {},
    "gru, active": {"dynamics": "gru", "broadcast": "active"},
    "top 1": {"write_top_k": 1},
    "top 2, one active less, wide": {"write_top_k": 2, "num_active": 2, "num_slots": 4, "workspace_heads": 1},
    "zero start": {"learn_initial_state": False},
    "elements, heads, units, one slot": {
        "num_inputs": 2,
        "input_heads": 2,
        "competition": "units",
        "num_slots": 1,
    },
}
IN_TRANSCRIPTION = {
    "num_units",
    "num_active",
    "num_slots",
    "dynamics",
    "competition",
    "input_heads",
    "write_top_k",
    "broadcast",
    "workspace_heads",
}


def workspace_case(options: Mapping[str, Any], seed: int) -> tuple[Case, WorkspaceOptions]:
    torch.manual_seed(seed)
    case = make_case(WorkspaceRIM(input_size=2, **options), seed, num_steps=4)
    return case, WorkspaceOptions(**{name: v for name, v in options.items() if name in IN_TRANSCRIPTION})


def as_transcription(o: WorkspaceOptions) -> Transcription:
    def transcribe(point: Mapping[str, Array], starts: Array) -> WorkspaceResult:
        return workspace_rim(o, as_sets(point), starts)

    return transcribe


@pytest.mark.parametrize("options", OPTION_SETS.values(), ids=OPTION_SETS.keys())
def test_outputs_states_trace_and_gradients(options: dict[str, Any]) -> None:
    case, o = workspace_case({**SMALL, **options}, 0)
    found, transcription = run_core(case), as_transcription(o)
    expected = transcription(case.point, case.starts)
    assert isinstance(expected, WorkspaceResult)
    if options.get("learn_initial_state", True):
        assert expected.margin > 1e-7, "the drawn weights come too near to a tie to compare"
    assert_values_agree(found, expected)
    trace = found.trace
    np.testing.assert_array_equal(trace.active.numpy(), expected.active)
    assert trace.input_attention is not None
    assert trace.communication_attention is not None
    assert_close(trace.input_attention.numpy(), expected.input_attention, "input attention")
    assert_close(trace.communication_attention.numpy(), expected.communication_attention, "through the workspace")
    if options in ({}, OPTION_SETS["gru, active"]):
        assert_gradients_agree(case, found, transcription, count=1)
    else:
        assert_joint_gradient_agrees(case, found, transcription)


CHANGES: dict[str, dict[str, Any]] = {
    "one active less": {"num_active": 2},
    "competition": {"competition": "units"},
    "top 1": {"write_top_k": 1},
    "broadcast": {"broadcast": "active"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_option_changes_the_answer(change: dict[str, Any]) -> None:
    case, o = workspace_case(SMALL, 0)
    before, after = (as_transcription(options)(case.point, case.starts).y for options in (o, replace(o, **change)))
    assert np.abs(before - after).max() > 1e-3
