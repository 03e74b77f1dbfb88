"""RigLSTM and Grid LSTM compute what their equations say: they agree with their transcriptions to 1e-9."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rimrl.cores.grid_lstm import GridLSTM
from rimrl.cores.riglstm import RigLSTM
from tests.reference.agreement import (
    Case,
    CoreResult,
    Transcription,
    assert_close,
    assert_gradients_agree,
    assert_joint_gradient_agrees,
    assert_values_agree,
    make_case,
    run_core,
)
from tests.reference.grid_lstm_numpy import grid_lstm
from tests.reference.riglstm_numpy import RigOptions, RigResult, riglstm

SMALL: dict[str, Any] = {
    "num_units": 4,
    "num_active": 2,
    "unit_size": 3,
    "num_views": 3,
    "view_size": 4,
    "key_size": 2,
    "hidden_value_size": 5,
    "input_top_k": 2,
    "hidden_top_k": 2,
}
SWITCHES: dict[str, dict[str, Any]] = {
    "no cell selection": {"cell_selection": False, "num_active": None},
    "no input selection": {"input_selection": False, "input_top_k": None},
    "no hidden selection": {"hidden_selection": False, "hidden_top_k": None, "hidden_value_size": None},
    "no soft update": {"soft_update": False},
}
EVERYTHING_OFF = {option: value for switch in SWITCHES.values() for option, value in switch.items()}
OPTION_SETS: dict[str, dict[str, Any]] = {
    "default": {},
    **SWITCHES,
    "own weights": {"cell_selection_weights": "own"},
    "own weights, no input selection": {"cell_selection_weights": "own", **SWITCHES["no input selection"]},
    "own weights, no hidden selection": {"cell_selection_weights": "own", **SWITCHES["no hidden selection"]},
    "own weights, no soft update": {"cell_selection_weights": "own", **SWITCHES["no soft update"]},
    "own weights, one view read": {"cell_selection_weights": "own", "input_top_k": 1},
    "one view read": {"input_top_k": 1},
    "all views read": {"input_top_k": 3},
    "one other read": {"hidden_top_k": 1},
    "all others read": {"hidden_top_k": 3},
    "default selection sizes": {"input_top_k": None, "hidden_top_k": None},
    "one view": {"num_views": 1, "input_top_k": 1},
    "many views": {"num_views": 6, "input_top_k": 4},
    "one active": {"num_active": 1},
    "three active": {"num_active": 3},
    "all active": {"num_active": 4},
    "units of size one": {"unit_size": 1},
    "two units": {"num_units": 2, "num_active": 1, "hidden_top_k": 1},
    "learned start": {"learn_initial_state": True},
    "learned start, own weights": {"learn_initial_state": True, "cell_selection_weights": "own"},
    "nothing selected": EVERYTHING_OFF,
    "nothing selected, learned start": {**EVERYTHING_OFF, "learn_initial_state": True},
    "default widths": {"view_size": None, "hidden_value_size": None},
}


def resolved(options: Mapping[str, Any]) -> RigOptions:
    """The options with the defaults that the class's documentation states."""
    N, V = options["num_units"], options["num_views"]
    active = options["num_active"] or N
    return RigOptions(
        num_units=N,
        num_active=active,
        input_top_k=options["input_top_k"] or min(active, V),
        hidden_top_k=options["hidden_top_k"] or min(active, N - 1),
        **{
            name: options[name]
            for name in (
                "cell_selection",
                "cell_selection_weights",
                "input_selection",
                "hidden_selection",
                "soft_update",
            )
            if name in options
        },
    )


def rig_case(options: Mapping[str, Any], seed: int, **sizes: Any) -> tuple[Case, RigOptions]:
    torch.manual_seed(seed)
    return make_case(RigLSTM(input_size=2, **options), seed, **sizes), resolved(options)


def as_transcription(o: RigOptions) -> Transcription:
    return lambda point, starts: riglstm(o, point, starts)


def acts_through_a_choice(case: Case) -> tuple[str, ...]:
    """The matrices that only decide who is active, and so have no gradient."""
    return tuple(name for name in ("cell_selection.query", "cell_selection.key") if name in case.point)


def assert_trace_agrees(found: CoreResult, expected: RigResult, o: RigOptions) -> None:
    trace = found.trace
    np.testing.assert_array_equal(trace.active.numpy(), expected.active)
    for on, mine, theirs, what in (
        (o.input_selection, trace.input_attention, expected.input_attention, "input attention"),
        (o.hidden_selection, trace.communication_attention, expected.communication_attention, "communication"),
    ):
        assert (mine is not None) == on
        if mine is not None:
            assert_close(mine.numpy(), theirs, what)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("options", OPTION_SETS.values(), ids=OPTION_SETS.keys())
def test_outputs_states_trace_and_gradients(options: dict[str, Any], seed: int, path: str) -> None:
    case, o = rig_case({**SMALL, **options}, seed)
    found, expected = run_core(case), riglstm(o, case.point, case.starts)
    choices = (
        o.cell_selection and o.num_active < o.num_units,
        o.input_selection and o.input_top_k < {**SMALL, **options}["num_views"],
        o.hidden_selection and o.hidden_top_k < o.num_units - 1,
    )
    for choosing, margin in zip(choices, expected.margins, strict=True):
        if not choosing:
            assert margin == np.inf
        elif options.get("learn_initial_state", False):
            assert margin > 1e-7, "the drawn weights come too near to a tie to compare"
        else:
            assert margin == 0.0, "after a reset to zero all scores tie"
    assert_values_agree(found, expected)
    assert_trace_agrees(found, expected, o)
    if choices[0]:
        assert len({tuple(row) for row in expected.active.reshape(-1, o.num_units)}) > 1, "the same units always win"
    without_gradient = acts_through_a_choice(case)
    for name in without_gradient:
        assert np.all(found.gradients[name] == 0)
    if seed == 0 and path == "step":
        # A softmax over a single view or unit is 1 whatever its score.
        if o.input_top_k == 1 and o.input_selection:
            without_gradient += ("input_selection.query", "input_selection.key")
        if o.hidden_top_k == 1 and o.hidden_selection:
            without_gradient += ("hidden_selection.query", "hidden_selection.key")
        assert_gradients_agree(case, found, as_transcription(o), skip=without_gradient)
    assert_joint_gradient_agrees(case, found, as_transcription(o))


@pytest.mark.usefixtures("path")
def test_nothing_is_tied_away_from_the_zero_state() -> None:
    """Without resets every choice is clear, so that the comparison above is of choices made by score."""
    case, o = rig_case(SMALL, 0)
    case.starts[:] = False
    expected = riglstm(o, case.point, case.starts)
    assert min(expected.margins) > 1e-7
    found = run_core(case)
    assert_values_agree(found, expected)
    assert_trace_agrees(found, expected, o)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("path", ["torch", "step"], indirect=True)
def test_every_combination_of_options() -> None:
    """All sixteen sets of mechanisms, with either source of the cell scores and either start, and several sizes."""
    switches = list(SWITCHES.values())
    off = [
        {
            option: value
            for switch, is_off in zip(switches, which, strict=True)
            if is_off
            for option, value in switch.items()
        }
        for which in itertools.product((False, True), repeat=len(switches))
    ]
    rest = [
        {"cell_selection_weights": weights, "learn_initial_state": start, **sizes}
        for weights in ("own", "shared")
        for start in (False, True)
        for sizes in ({}, {"num_units": 3, "num_active": 2, "num_views": 4, "unit_size": 2})
    ]
    sets = [{**SMALL, **more, **without} for without, more in itertools.product(off, rest)]
    assert len(sets) == 128
    for seed, options in enumerate(sets):
        case, o = rig_case(options, seed, num_steps=3, batch_size=1)
        found, expected = run_core(case), riglstm(o, case.point, case.starts)
        try:
            assert_values_agree(found, expected)
            assert_trace_agrees(found, expected, o)
            assert_joint_gradient_agrees(case, found, as_transcription(o))
        except AssertionError as error:
            raise AssertionError(f"{options}: {error}") from None


CHANGES: dict[str, dict[str, Any]] = {
    "three active": {"num_active": 3},
    "cell selection": {"cell_selection": False},
    "shared weights": {"cell_selection_weights": "shared"},
    "one view": {"input_top_k": 1},
    "three views": {"input_top_k": 3},
    "one other": {"hidden_top_k": 1},
    "three others": {"hidden_top_k": 3},
    "soft update": {"soft_update": False},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_option_changes_the_answer(change: dict[str, Any]) -> None:
    """With the same weights each option gives other outputs: no comparison above passes for want of a difference."""
    case, o = rig_case({**SMALL, "cell_selection_weights": "own"}, 0)
    before = riglstm(o, case.point, case.starts).y
    after = riglstm(replace(o, **change), case.point, case.starts).y
    assert np.abs(before - after).max() > 1e-3


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("num_units", "unit_size"), [(1, 3), (3, 1), (3, 2), (4, 3)])
def test_grid_lstm(num_units: int, unit_size: int, seed: int) -> None:
    torch.manual_seed(seed)
    core = GridLSTM(input_size=2, num_units=num_units, unit_size=unit_size)
    case = make_case(core, seed)
    found = run_core(case)
    assert_values_agree(found, grid_lstm(num_units, case.point, case.starts))
    assert_gradients_agree(case, found, lambda point, starts: grid_lstm(num_units, point, starts))
    assert found.trace.active.all()
    assert found.trace.active.shape == (5, 3, num_units)
    assert found.trace.input_attention is None
    assert found.trace.communication_attention is None


def test_the_transcriptions_meet() -> None:
    """RigLSTM's with everything off is Grid LSTM's on the concatenated views."""
    case, o = rig_case({**SMALL, **EVERYTHING_OFF}, 0)
    views = np.concatenate([case.point["x"] @ view for view in case.point["views"]], axis=-1)
    rig = riglstm(o, case.point, case.starts)
    grid = grid_lstm(o.num_units, {**case.point, "x": views}, case.starts)
    assert_close(rig.y, grid.y, "y")
    assert_close(rig.c, grid.c, "c")
