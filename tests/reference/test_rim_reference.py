"""RIM computes what its equations say: outputs, states, trace and gradients agree with `rim_numpy` to 1e-9."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rimrl.cores.rim import RIM
from tests import paths
from tests.reference.agreement import (
    Case,
    CoreResult,
    Transcription,
    as_sets,
    assert_close,
    assert_gradients_agree,
    assert_joint_gradient_agrees,
    assert_values_agree,
    functional_of,
    make_case,
    run_core,
)
from tests.reference.complex_step import directional_derivative
from tests.reference.rim_numpy import Array, RimOptions, RimResult, rim

SMALL: dict[str, Any] = {
    "num_units": 4,
    "num_active": 2,
    "unit_size": 3,
    "input_key_size": 2,
    "input_value_size": 4,
    "communication_heads": 2,
    "communication_key_size": 3,
    "communication_value_size": 2,
}
ALL_ACTIVE = {"num_active": 4}

OPTION_SETS: dict[str, dict[str, Any]] = {
    "default": {},
    "competition of units": {"competition": "units"},
    "residual": {"communication": "residual"},
    "no communication": {"communication": None},
    "reads previous": {"communication_reads": "previous"},
    "gru": {"dynamics": "gru"},
    "no input attention": {"input_attention": False, **ALL_ACTIVE},
    "top 1": {"communication_top_k": 1},
    "top 2": {"communication_top_k": 2},
    "top all": {"communication_top_k": 4},
    "three elements": {"num_inputs": 3},
    "two input heads": {"input_heads": 2},
    "four input heads": {"input_heads": 4},
    "learned start": {"learn_initial_state": True},
    "one active": {"num_active": 1},
    "three active": {"num_active": 3},
    "all active": ALL_ACTIVE,
    "one unit": {"num_units": 1, "num_active": 1},
    "one communication head": {"communication_heads": 1},
    "unit of size one": {"unit_size": 1},
    "units, three elements, two heads": {"competition": "units", "num_inputs": 3, "input_heads": 2},
    "gru, previous, residual, top 2": {
        "dynamics": "gru",
        "communication_reads": "previous",
        "communication": "residual",
        "communication_top_k": 2,
    },
    "gru, learned start, units, no communication": {
        "dynamics": "gru",
        "learn_initial_state": True,
        "competition": "units",
        "communication": None,
    },
    "no input attention, gru, three elements, top 2": {
        "input_attention": False,
        **ALL_ACTIVE,
        "dynamics": "gru",
        "num_inputs": 3,
        "communication_top_k": 2,
    },
    "units, previous, learned start, top 3": {
        "competition": "units",
        "communication_reads": "previous",
        "learn_initial_state": True,
        "communication_top_k": 3,
    },
    "nothing but dynamics": {"input_attention": False, **ALL_ACTIVE, "communication": None},
    "everything": {
        "num_active": 3,
        "dynamics": "gru",
        "competition": "units",
        "num_inputs": 2,
        "input_heads": 2,
        "communication": "residual",
        "communication_reads": "previous",
        "communication_top_k": 2,
        "learn_initial_state": True,
    },
}
NOT_IN_TRANSCRIPTION = {"unit_size", "input_key_size", "input_value_size", "num_inputs", "learn_initial_state"}


def options_of(options: Mapping[str, Any]) -> RimOptions:
    return RimOptions(**{name: value for name, value in options.items() if name not in NOT_IN_TRANSCRIPTION})


def rim_case(options: Mapping[str, Any], seed: int, **sizes: Any) -> tuple[Case, RimOptions]:
    torch.manual_seed(seed)
    return make_case(RIM(input_size=2, **options), seed, **sizes), options_of(options)


def transcribe(o: RimOptions, point: Mapping[str, Array], starts: Array) -> RimResult:
    """Run the transcription; the core takes ``[T, B, I]`` for a single element, the equations ``[T, B, M, I]``."""
    return rim(o, as_sets(point), starts)


def assert_trace_agrees(found: CoreResult, expected: RimResult, o: RimOptions) -> None:
    trace = found.trace
    np.testing.assert_array_equal(trace.active.numpy(), expected.active)
    if o.input_attention:
        assert trace.input_attention is not None
        assert_close(trace.input_attention.numpy(), expected.input_attention, "input attention")
    else:
        assert trace.input_attention is None
    if o.communication is None:
        assert trace.communication_attention is None
    else:
        assert trace.communication_attention is not None
        assert_close(trace.communication_attention.numpy(), expected.communication_attention, "communication")


def as_transcription(o: RimOptions) -> Transcription:
    return lambda point, starts: transcribe(o, point, starts)


def has_a_choice(o: RimOptions) -> bool:
    return o.input_attention and o.num_active < o.num_units


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("options", OPTION_SETS.values(), ids=OPTION_SETS.keys())
def test_outputs_states_trace_and_gradients(options: dict[str, Any], seed: int, path: str) -> None:
    case, o = rim_case({**SMALL, **options}, seed)
    paths.skip_without(case.core, path)
    found, expected = run_core(case), transcribe(o, case.point, case.starts)
    at_zero_state = has_a_choice(o) and not options.get("learn_initial_state", False)
    if at_zero_state:
        assert expected.margin == 0.0, "after a reset to zero all units tie"
    else:
        assert expected.margin > 1e-7, "the drawn weights come too near to a tie to compare"
    assert_values_agree(found, expected)
    assert_trace_agrees(found, expected, o)
    if has_a_choice(o):
        assert len({tuple(row) for row in expected.active.reshape(-1, o.num_units)}) > 1, "the same units always win"
    # tests/cores/test_scan.py compares the paths with each other tensor by tensor.
    check = assert_gradients_agree if seed == 0 and path == "step" else assert_joint_gradient_agrees
    check(case, found, as_transcription(o))


def every_combination() -> list[dict[str, Any]]:
    """The whole product of the options, 360 sets."""
    communications: list[dict[str, Any]] = [{"communication": None}]
    for kind, reads, k in itertools.product(("gated", "residual"), ("candidate", "previous"), (None, 2)):
        communications.append({"communication": kind, "communication_reads": reads, "communication_top_k": k})
    inputs: list[dict[str, Any]] = [
        {"competition": competition, "input_heads": heads, "num_inputs": elements}
        for competition in ("null", "units")
        for heads in (1, 2)
        for elements in (1, 3)
    ] + [{"input_attention": False, "num_inputs": elements, **ALL_ACTIVE} for elements in (1, 3)]
    rest = [{"dynamics": d, "learn_initial_state": s} for d in ("lstm", "gru") for s in (False, True)]
    return [{**SMALL, **i, **c, **r} for i, c, r in itertools.product(inputs, communications, rest)]


@pytest.mark.parametrize("path", ["torch", "step"], indirect=True)  # the kernels know a single set
@pytest.mark.parametrize("dynamics", ["lstm", "gru"])
def test_every_combination_of_options(dynamics: str, path: str) -> None:
    sets = [options for options in every_combination() if options["dynamics"] == dynamics]
    for seed, options in enumerate(sets):
        case, o = rim_case(options, seed, num_steps=3, batch_size=1)
        if not paths.has(case.core, path):
            continue
        found, expected = run_core(case), transcribe(o, case.point, case.starts)
        try:
            assert_values_agree(found, expected)
            assert_trace_agrees(found, expected, o)
            assert_joint_gradient_agrees(case, found, as_transcription(o))
        except AssertionError as error:
            raise AssertionError(f"{options}: {error}") from None


def gradient_along(case: Case, o: RimOptions, names: tuple[str, ...]) -> float:
    rng = np.random.default_rng(3)
    direction = {name: rng.standard_normal(case.point[name].shape) for name in names}
    value = functional_of(case, as_transcription(o))
    return directional_derivative(value, case.point, direction)


def test_blocking_the_gradient_of_candidates_matters() -> None:
    case, o = rim_case(SMALL, 0)
    free = replace(o, block_gradient=False)
    np.testing.assert_array_equal(transcribe(o, case.point, case.starts).y, transcribe(free, case.point, case.starts).y)
    for name in ("dynamics.weight_input", "input_read.value", "x", "h", "c"):
        difference = gradient_along(case, o, (name,)) - gradient_along(case, free, (name,))
        assert abs(difference) > 1e-4, f"blocked and free gradient of {name} are the same"


@pytest.mark.usefixtures("path")
def test_keys_and_values_learn_from_inactive_units() -> None:
    """A unit that never wins changes nothing but what the others read, and learns its keys and values from that."""
    options = {**SMALL, "num_active": 1, "learn_initial_state": True}
    case, o = rim_case(options, 0, num_steps=1, batch_size=2)
    found, expected = run_core(case), transcribe(o, case.point, case.starts)
    never = [n for n in range(o.num_units) if not expected.active[:, :, n].any()]
    assert never
    H, dk = o.communication_heads, o.communication_key_size
    for n in never:
        query, key, value = np.split(found.gradients["communication.query_key_value"][n], [H * dk, 2 * H * dk], axis=1)
        assert np.all(query == 0)
        assert np.abs(key).max() > 1e-6
        assert np.abs(value).max() > 1e-6
        assert np.all(found.gradients["dynamics.weight_input"][n] == 0)
        assert np.all(found.gradients["input_read.query"][n] == 0)


@pytest.mark.usefixtures("path")
def test_gradient_reaches_previous_states_that_are_read() -> None:
    """Beyond the copy, an inactive unit's previous state has the gradient of being read; its candidate has none."""
    for reads in ("previous", "candidate"):
        case, o = rim_case({**SMALL, "num_active": 1, "communication_reads": reads}, 0, num_steps=1, batch_size=1)
        case.starts[:] = False
        found = run_core(case)
        copied = (case.functional[0][0] + case.functional[1][0]).reshape(o.num_units, -1)
        active = found.trace.active.numpy()[0, 0]
        beyond_the_copy = (found.gradients["h"].reshape(o.num_units, -1) - copied)[~active]
        if reads == "previous":
            assert np.abs(beyond_the_copy).min() > 1e-8
        else:
            assert_close(beyond_the_copy, np.zeros_like(beyond_the_copy), "candidate")


CHANGES: dict[str, dict[str, Any]] = {
    "competition": {"competition": "units"},
    "dynamics off by one unit": {"num_active": 3},
    "communication off": {"communication": None},
    "communication residual": {"communication": "residual"},
    "reads": {"communication_reads": "previous"},
    "top 1": {"communication_top_k": 1},
    "top 3": {"communication_top_k": 3},
    "input heads": {"input_heads": 2},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_option_changes_the_answer(change: dict[str, Any]) -> None:
    """With the same weights each option gives other outputs: no comparison above passes for want of a difference."""
    case, o = rim_case(SMALL, 0)
    before = transcribe(o, case.point, case.starts).y
    after = transcribe(replace(o, **change), case.point, case.starts).y
    assert np.abs(before - after).max() > 1e-3
