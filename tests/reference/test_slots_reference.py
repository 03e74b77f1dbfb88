"""RMC and EntNet agree with their transcriptions to 1e-9, gradients included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rimrl.cores.entnet import Activation, EntNet
from rimrl.cores.rmc import RMC
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
from tests.reference.entnet_numpy import EntNetResult, entnet
from tests.reference.rim_numpy import Array
from tests.reference.rmc_numpy import RmcOptions, RmcResult, rmc

SMALL: dict[str, Any] = {"num_slots": 3, "slot_size": 4, "num_heads": 2}

RMC_OPTION_SETS: dict[str, dict[str, Any]] = {
    "default": {},
    "gate of a slot": {"gate": "memory"},
    "no gates": {"gate": None},
    "two blocks": {"num_blocks": 2},
    "no norm": {"qkv_norm": False},
    "keys of their own width": {"key_size": 3},
    "one head": {"num_heads": 1},
    "one layer of the MLP": {"mlp_layers": 1},
    "three layers of the MLP": {"mlp_layers": 3},
    "other constants": {"input_bias": -0.5, "forget_bias": 2.0},
    "three elements": {"num_inputs": 3},
    "more slots than entries": {"num_slots": 5},
    "one slot": {"num_slots": 1},
    "everything": {
        "gate": "memory",
        "num_blocks": 2,
        "qkv_norm": False,
        "key_size": 3,
        "mlp_layers": 3,
        "num_inputs": 2,
        "forget_bias": 0.5,
    },
}


def rmc_case(options: Mapping[str, Any], seed: int) -> tuple[Case, RmcOptions]:
    torch.manual_seed(seed)
    case = make_case(RMC(input_size=2, **options), seed, num_steps=4, batch_size=2, memory=False)
    heads = options["num_heads"]
    known = {"key_size": options["slot_size"] // heads, **options}
    return case, RmcOptions(**{name: v for name, v in known.items() if name not in ("slot_size", "num_inputs")})


def rmc_transcription(o: RmcOptions) -> Transcription:
    def transcribe(point: Mapping[str, Array], starts: Array) -> RmcResult:
        return rmc(o, as_sets(point), starts)

    return transcribe


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("options", RMC_OPTION_SETS.values(), ids=RMC_OPTION_SETS.keys())
def test_rmc(options: dict[str, Any], seed: int) -> None:
    case, o = rmc_case({**SMALL, **options}, seed)
    found, transcription = run_core(case), rmc_transcription(o)
    expected = transcription(case.point, case.starts)
    assert isinstance(expected, RmcResult)
    assert_values_agree(found, expected)
    trace = found.trace
    assert trace.active.all()
    assert trace.input_attention is not None
    assert trace.communication_attention is not None
    assert_close(trace.input_attention.numpy(), expected.input_attention, "input attention")
    assert_close(trace.communication_attention.numpy(), expected.communication_attention, "attention among slots")
    if seed == 0:
        assert_gradients_agree(case, found, transcription, skip=("c",))
    else:
        assert_joint_gradient_agrees(case, found, transcription)


RMC_CHANGES: dict[str, dict[str, Any]] = {
    "no gates": {"gate": None},
    "no norm": {"qkv_norm": False},
    "input bias": {"input_bias": 1.0},
    "forget bias": {"forget_bias": 0.0},
}


@pytest.mark.parametrize("change", RMC_CHANGES.values(), ids=RMC_CHANGES.keys())
def test_every_option_of_rmc_changes_the_answer(change: dict[str, Any]) -> None:
    case, o = rmc_case(SMALL, 0)
    y, y_changed = (rmc_transcription(options)(case.point, case.starts).y for options in (o, replace(o, **change)))
    assert np.abs(y - y_changed).max() > 1e-3


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("activation", ["prelu", "identity"])
def test_entnet(activation: Activation, seed: int) -> None:
    torch.manual_seed(seed)
    case = make_case(EntNet(input_size=2, num_slots=3, slot_size=4, activation=activation), seed, memory=False)
    found = run_core(case)

    def transcription(point: Mapping[str, Array], starts: Array) -> EntNetResult:
        return entnet(activation, point, starts)

    expected = transcription(case.point, case.starts)
    assert_values_agree(found, expected)
    trace = found.trace
    assert trace.active.all()
    assert trace.communication_attention is None
    assert trace.input_attention is not None
    assert_close(trace.input_attention[..., 1].numpy(), expected.gate, "gate")
    assert_close(trace.input_attention[..., 0].numpy(), 1 - expected.gate, "what is left of the gate")
    if seed == 0:
        assert_gradients_agree(case, found, transcription, skip=("c",))
    else:
        assert_joint_gradient_agrees(case, found, transcription)
