"""GTrXL computes what its equations say: outputs, states and gradients agree with `gtrxl_numpy` to 1e-9."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from rimrl.cores.gtrxl import GTrXL
from tests.reference.agreement import (
    Case,
    Transcription,
    assert_gradients_agree,
    assert_joint_gradient_agrees,
    assert_values_agree,
    make_case,
    run_core,
)
from tests.reference.gtrxl_numpy import GtrxlOptions, GtrxlResult, gtrxl
from tests.reference.rim_numpy import Array

SMALL: dict[str, Any] = {"hidden_size": 4, "num_layers": 2, "num_heads": 2, "memory_length": 3, "mlp_size": 5}
OPTION_SETS: dict[str, dict[str, Any]] = {
    "default": {},
    "one layer, wide heads": {"num_layers": 1, "head_size": 3},
    "odd width, one head": {"hidden_size": 5, "num_heads": 1},
    "remembers one step": {"memory_length": 1},
    "remembers more than there are": {"memory_length": 9, "num_layers": 1},
}


def gtrxl_case(options: Mapping[str, Any], seed: int) -> tuple[Case, GtrxlOptions]:
    """The layers' memories have other numbers of valid steps: all, one, none."""
    torch.manual_seed(seed)
    core = GTrXL(input_size=2, **options)
    case = make_case(core, seed)
    o = GtrxlOptions(options["num_layers"], options["memory_length"])
    place = o.memory_length * core.output_size - core.hidden_size
    assert place >= 0
    case.point["c"][..., place] = np.array([o.memory_length, 1, 0])
    return case, o


def as_transcription(o: GtrxlOptions) -> Transcription:
    def transcribe(point: Mapping[str, Array], starts: Array) -> GtrxlResult:
        return gtrxl(o, point, starts)

    return transcribe


@pytest.mark.parametrize("long", [True, False], ids=["row 0 goes on", "row 0 starts again"])
@pytest.mark.parametrize("options", OPTION_SETS.values(), ids=OPTION_SETS.keys())
def test_outputs_states_and_gradients(options: dict[str, Any], long: bool) -> None:
    case, o = gtrxl_case({**SMALL, **options}, int(long))
    if long:  # what it has seen leaves its memory
        case.starts[:, 0] = False
    found, transcription = run_core(case), as_transcription(o)
    assert_values_agree(found, transcription(case.point, case.starts))
    assert found.trace.active.all()
    if long and not options:
        assert_gradients_agree(case, found, transcription, count=1)
    else:
        assert_joint_gradient_agrees(case, found, transcription)


@pytest.mark.parametrize("weight", ["attention.position.weight", "attention.position_bias", "gate_mlp.bias"])
def test_every_weight_changes_the_answer(weight: str) -> None:
    case, o = gtrxl_case(SMALL, 0)
    before = gtrxl(o, case.point, case.starts).y
    changed = {**case.point, f"layers.0.{weight}": -case.point[f"layers.0.{weight}"]}
    assert np.abs(before - gtrxl(o, changed, case.starts).y).max() > 1e-3
