"""BRIMs compute what their equations say: outputs, states, trace and gradients agree with `brims_numpy` to 1e-9."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from rimrl.cores.brims import BRIMs
from tests.reference.agreement import (
    Case,
    CoreResult,
    Transcription,
    as_sets,
    assert_close,
    assert_gradients_agree,
    assert_joint_gradient_agrees,
    assert_values_agree,
    make_case,
    run_core,
)
from tests.reference.brims_numpy import BrimsOptions, BrimsResult, brims
from tests.reference.rim_numpy import Array, RimOptions

SMALL: dict[str, Any] = {
    "num_units": 3,
    "num_active": 2,
    "unit_size": 2,
    "input_heads": 2,
    "input_key_size": 2,
    "input_value_size": 4,
    "communication_heads": 2,
    "communication_key_size": 3,
    "communication_value_size": 2,
}
THREE_LAYERS = {"num_layers": 3}
UNEQUAL: dict[str, Any] = {"num_units": [3, 2], "num_active": [2, 1], "unit_size": None, "hidden_size": 6}

OPTION_SETS: dict[str, dict[str, Any]] = {
    "default": {},
    "one layer": {"num_layers": 1},
    "three layers": THREE_LAYERS,
    "three layers, last to first": {**THREE_LAYERS, "top_down": "last_to_first"},
    "last to first": {"top_down": "last_to_first"},
    "bottom-up alone": {"top_down": None},
    "one layer, last to first": {"num_layers": 1, "top_down": "last_to_first"},
    "layers of unequal units": UNEQUAL,
    "one input head": {"input_heads": 1},
    "competition of units": {"competition": "units"},
    "residual, previous": {"communication": "residual", "communication_reads": "previous"},
    "no communication": {"communication": None},
    "gru": {"dynamics": "gru"},
    "no input attention": {"input_attention": False, "num_active": None},
    "three elements": {"num_inputs": 3},
    "top 1": {"communication_top_k": 1},
    "learned start": {"learn_initial_state": True},
    "all active": {"num_active": 3},
    "three elements, unequal units, gru, learned start": {
        **UNEQUAL,
        "num_inputs": 3,
        "dynamics": "gru",
        "learn_initial_state": True,
    },
    "three elements, no input attention, three layers": {
        **THREE_LAYERS,
        "num_inputs": 3,
        "input_attention": False,
        "num_active": None,
    },
}
OF_A_LAYER = (
    "dynamics",
    "input_attention",
    "competition",
    "input_heads",
    "communication",
    "communication_reads",
    "communication_heads",
    "communication_key_size",
    "communication_value_size",
    "communication_top_k",
)


def options_of(options: Mapping[str, Any]) -> BrimsOptions:
    layers = []
    for number in range(options.get("num_layers", 2)):
        N, K = (
            options[name][number] if isinstance(options[name], list) else options[name]
            for name in ("num_units", "num_active")
        )
        own = {name: options[name] for name in OF_A_LAYER if name in options}
        layers.append(RimOptions(num_units=N, num_active=N if K is None else K, **own))
    return BrimsOptions(tuple(layers), options.get("top_down", "adjacent"))


def brims_case(options: Mapping[str, Any], seed: int, **sizes: Any) -> tuple[Case, BrimsOptions]:
    torch.manual_seed(seed)
    return make_case(BRIMs(input_size=2, **options), seed, **sizes), options_of(options)


def as_transcription(o: BrimsOptions) -> Transcription:
    def transcribe(point: Mapping[str, Array], starts: Array) -> BrimsResult:
        return brims(o, as_sets(point), starts)

    return transcribe


def assert_trace_agrees(found: CoreResult, expected: BrimsResult, o: BrimsOptions) -> None:
    trace = found.trace
    np.testing.assert_array_equal(trace.active.numpy(), expected.active)
    if o.layers[0].input_attention:
        assert trace.input_attention is not None
        assert_close(trace.input_attention.numpy(), expected.input_attention, "input attention")
    else:
        assert trace.input_attention is None
    if o.layers[0].communication is None:
        assert trace.communication_attention is None
    else:
        assert trace.communication_attention is not None
        assert_close(trace.communication_attention.numpy(), expected.communication_attention, "communication")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("options", OPTION_SETS.values(), ids=OPTION_SETS.keys())
def test_outputs_states_trace_and_gradients(options: dict[str, Any], seed: int) -> None:
    case, o = brims_case({**SMALL, **options}, seed, num_steps=4)
    found, transcription = run_core(case), as_transcription(o)
    expected = transcription(case.point, case.starts)
    assert isinstance(expected, BrimsResult)
    choosing = any(layer.input_attention and layer.num_active < layer.num_units for layer in o.layers)
    if choosing and not options.get("learn_initial_state", False):
        assert expected.margin == 0.0, "after a reset to zero all units tie"
    else:
        assert expected.margin > 1e-7, "the drawn weights come too near to a tie to compare"
    if choosing:
        assert len({tuple(row) for row in expected.active.reshape(-1, expected.active.shape[2])}) > 1
    assert_values_agree(found, expected)
    assert_trace_agrees(found, expected, o)
    check = assert_gradients_agree if seed == 0 else assert_joint_gradient_agrees
    check(case, found, transcription)


def test_every_combination_of_options() -> None:
    sets: list[dict[str, Any]] = [
        {**SMALL, "num_layers": layers, "top_down": top_down, "num_inputs": elements, **inputs, **rest}
        for layers, top_down, elements in itertools.product((2, 3), ("adjacent", "last_to_first", None), (1, 2))
        for inputs in ({}, {"competition": "units"}, {"input_attention": False, "num_active": None})
        for rest in (
            {"dynamics": "gru", "communication": "residual", "communication_top_k": 2},
            {"communication_reads": "previous", "learn_initial_state": True},
        )
    ]
    for seed, options in enumerate(sets):
        case, o = brims_case(options, seed, num_steps=3, batch_size=1)
        found, transcription = run_core(case), as_transcription(o)
        expected = transcription(case.point, case.starts)
        assert isinstance(expected, BrimsResult)
        try:
            assert_values_agree(found, expected)
            assert_trace_agrees(found, expected, o)
            assert_joint_gradient_agrees(case, found, transcription)
        except AssertionError as error:
            raise AssertionError(f"{options}: {error}") from None


@pytest.mark.parametrize("top_down", ["last_to_first", None])
def test_the_source_of_top_down_input_matters(top_down: str | None) -> None:
    """With the same weights the transcription gives other outputs: no comparison passes for want of a difference."""
    case, o = brims_case({**SMALL, **THREE_LAYERS}, 0)
    other = BrimsOptions(o.layers, top_down)
    y, y_other = (as_transcription(options)(case.point, case.starts).y for options in (o, other))
    assert np.abs(y - y_other).max() > 1e-3
