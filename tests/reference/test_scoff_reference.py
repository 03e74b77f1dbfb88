"""SCOFF computes what its equations say: outputs, states, trace and gradients agree with `scoff_numpy` to 1e-9."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rimrl.cores.scoff import SCOFF
from tests.cores.builders import SCOFF as SMALL
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
from tests.reference.scoff_numpy import ScoffOptions, ScoffResult, scoff

OPTION_SETS: dict[str, dict[str, Any]] = {
    "default": {},
    "lstm": {"dynamics": "lstm"},
    "fixed": {"assignment": "fixed", "num_schemata": 4},
    "one schema": {"num_schemata": 1},
    "more schemata than slots": {"num_units": 2, "num_active": 1, "num_schemata": 4},
    "temperature": {"schema_temperature": 2.0},
    "zero start": {"learn_initial_state": False},
    "as in Algorithm 1": {"competition": "units", "num_active": 4, "communication": "residual"},
    "everything": {
        "dynamics": "lstm",
        "competition": "units",
        "num_inputs": 2,
        "input_heads": 2,
        "communication": None,
    },
    "reads previous": {"communication_reads": "previous"},
}
NOT_IN_TRANSCRIPTION = {
    "unit_size",
    "schema_key_size",
    "input_key_size",
    "input_value_size",
    "num_inputs",
    "learn_initial_state",
}


def scoff_case(options: Mapping[str, Any], seed: int) -> tuple[Case, ScoffOptions]:
    torch.manual_seed(seed)
    case = make_case(SCOFF(input_size=2, **options), seed, num_steps=4)
    return case, ScoffOptions(**{name: v for name, v in options.items() if name not in NOT_IN_TRANSCRIPTION})


def as_transcription(o: ScoffOptions) -> Transcription:
    def transcribe(point: Mapping[str, Array], starts: Array) -> ScoffResult:
        return scoff(o, as_sets(point), starts)

    return transcribe


@pytest.mark.parametrize("options", OPTION_SETS.values(), ids=OPTION_SETS.keys())
def test_outputs_states_trace_and_gradients(options: dict[str, Any]) -> None:
    case, o = scoff_case({**SMALL, **options}, 0)
    found, transcription = run_core(case), as_transcription(o)
    expected = transcription(case.point, case.starts)
    assert isinstance(expected, ScoffResult)
    if options.get("learn_initial_state", True):
        assert expected.margin > 1e-7, "the drawn weights come too near to a tie to compare"
    assert_values_agree(found, expected)
    trace = found.trace
    np.testing.assert_array_equal(trace.active.numpy(), expected.active)
    assert trace.schema is not None
    np.testing.assert_array_equal(trace.schema.numpy(), expected.schema)
    assert trace.input_attention is not None
    assert_close(trace.input_attention.numpy(), expected.input_attention, "input attention")
    if o.communication is not None:
        assert trace.communication_attention is not None
        assert_close(trace.communication_attention.numpy(), expected.communication_attention, "communication")
    if options in ({}, OPTION_SETS["lstm"], OPTION_SETS["fixed"]):
        assert_gradients_agree(case, found, transcription, count=1)
    else:
        assert_joint_gradient_agrees(case, found, transcription)


CHANGES: dict[str, dict[str, Any]] = {
    "dynamics off by one slot": {"num_active": 3},
    "competition": {"competition": "units"},
    "communication residual": {"communication": "residual"},
    "reads": {"communication_reads": "previous"},
    "one schema": {"num_schemata": 1},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_option_changes_the_answer(change: dict[str, Any]) -> None:
    case, o = scoff_case(SMALL, 0)
    before, after = (as_transcription(options)(case.point, case.starts).y for options in (o, replace(o, **change)))
    assert np.abs(before - after).max() > 1e-3


def test_several_schemata_are_chosen() -> None:
    case, o = scoff_case(SMALL, 0)
    expected = as_transcription(o)(case.point, case.starts)
    assert isinstance(expected, ScoffResult)
    assert set(expected.schema[expected.active]) == {0, 1, 2}
