"""A traced core computes what the core computes, for inputs, states and starts that it was not traced with."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from rimrl.cores.base import RecurrentCore
from rimrl.cores.registry import CORES
from tests.cores.builders import SPECS, CoreSpec, build, randomise
from tests.cores.test_scan import problem, random_state

T, B = 4, 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("num_steps", [1, T])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_a_traced_core_is_the_core(spec: CoreSpec, num_steps: int) -> None:
    core = randomise(build(spec)).eval()
    p = problem(core, num_steps, B)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # of shapes that are checked
        given = (p.x, p.state, no_starts(num_steps))
        traced = torch.jit.trace(core, given, check_trace=False)  # type: ignore[no-untyped-call]
    assert_same_on_others(traced, core, num_steps)


@pytest.mark.parametrize("name", CORES)
def test_an_exported_core_is_the_core(name: str) -> None:
    core = randomise(build(SPECS[name])).eval()
    p = problem(core, 1, B)
    assert_same_on_others(torch.export.export(core, (p.x, p.state, no_starts(1))).module(), core, 1)


def no_starts(num_steps: int) -> torch.Tensor:
    return torch.zeros(num_steps, B, dtype=torch.bool)


def assert_same_on_others(graph: Any, core: RecurrentCore, num_steps: int) -> None:
    generator = torch.Generator().manual_seed(4)
    like = problem(core, num_steps, B).x
    for seed in range(3):
        x = torch.randn(like.shape, generator=generator, dtype=like.dtype)
        state = random_state(core, B, seed)
        starts = torch.rand(num_steps, B, generator=generator) < 0.4
        with torch.no_grad():
            y, (h, c) = core(x, state, starts)
            found_y, (found_h, found_c) = graph(x, state, starts)
        for found, expected in ((found_y, y), (found_h, h), (found_c, c)):
            torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-9)
