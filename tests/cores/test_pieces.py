"""Without kernels pieces of episodes run side by side: fewer steps, the same results."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rimrl.cores.base import CoreTrace, State
from rimrl.cores.scan import library, pieces
from rimrl.cores.scan.pieces import lay_out, run_side_by_side
from tests import paths
from tests.cores.builders import SPECS, CoreSpec, build, randomise, sequence
from tests.cores.test_scan import Problem, assert_same, everything, random_state, step_by_step

WITH_TORCH = {name: spec for name, spec in SPECS.items() if paths.has(build(spec), "torch")}


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if rimrl had been installed without a compiler."""
    monkeypatch.setattr(library, "_library", lambda: "there are none in this test")
    monkeypatch.setattr(library, "_warn_if_missing", lambda: None)
    library._kernels.cache_clear()
    yield
    library._kernels.cache_clear()


def flags(T: int, B: int, seed: int, often: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(T, B, generator=generator) < often


def longest(starts: Tensor) -> int:
    """Steps of the longest piece, counted one step after the other."""
    length = reached = 0
    for row in starts.t().tolist():
        reached = 0
        for t, begins in enumerate(row):
            reached = 1 if begins or t == 0 else reached + 1
            length = max(length, reached)
    return length


def counter(x: Tensor, state: State, starts: Tensor | None, trace: bool) -> tuple[Tensor, State, CoreTrace | None]:
    """Adds up what it sees: h from 0 and c from 100, where an episode starts. Whole numbers, so that it is exact."""
    h, c = state
    outputs = []
    for t in range(len(x)):
        if starts is not None:
            row = starts[t][None, :, None]
            h, c = torch.where(row, 0.0, h), torch.where(row, 100.0, c)
        h, c = h + x[t], c - 2 * x[t]
        outputs.append(h[0])
    y = torch.stack(outputs)
    return y, (h, c), CoreTrace(y > 50, y.unsqueeze(-1)) if trace else None


@given(
    T=st.integers(1, 40), B=st.integers(1, 6), seed=st.integers(0, 2**16), often=st.sampled_from([0.05, 0.2, 0.5, 1.0])
)
@settings(max_examples=150, deadline=None)
def test_any_sequence_gives_what_it_gives_as_it_is(T: int, B: int, seed: int, often: float) -> None:
    starts = flags(T, B, seed, often)
    x = torch.arange(1.0, T * B + 1).view(T, B, 1)
    state = (1000.0 * torch.arange(1, B + 1).view(1, B, 1), -1000.0 * torch.arange(1, B + 1).view(1, B, 1))
    expected_y, expected_last, expected_trace = counter(x, state, starts, True)
    steps = []

    def run(x: Tensor, state: State, starts: Tensor | None, trace: bool) -> tuple[Tensor, State, CoreTrace | None]:
        steps.append(len(x))
        return counter(x, state, starts, trace)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "kernels", lambda like: None)
        y, last, trace = run_side_by_side(run, x, state, starts, True)
    assert torch.equal(y, expected_y)
    assert all(torch.equal(a, b) for a, b in zip(last, expected_last, strict=True))
    assert trace is not None
    assert expected_trace is not None
    assert torch.equal(trace.active, expected_trace.active)
    assert trace.input_attention is not None
    assert expected_trace.input_attention is not None
    assert torch.equal(trace.input_attention, expected_trace.input_attention)
    assert trace.communication_attention is None
    assert steps == [longest(starts) if 4 * longest(starts) <= 3 * T else T]


@pytest.mark.parametrize("often", [0.03, 0.1, 0.5])
def test_little_is_computed_for_nothing(often: float) -> None:
    starts = flags(512, 8, 0, often)
    layout = lay_out(starts)
    assert layout is not None
    assert layout.starts.numel() <= 1.3 * starts.numel()


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize("name", WITH_TORCH)
@pytest.mark.parametrize("often", [0.3, 1.0])
def test_the_same_as_step_by_step(name: str, often: float) -> None:
    """Output, state, trace and every gradient; the first row goes on with the state that it is given."""
    spec: CoreSpec = WITH_TORCH[name]
    core = randomise(build(spec))
    starts = flags(12, 3, 4, often)
    starts[0, 0] = False
    starts[1, 0] = starts[6] = True
    p = Problem(core, sequence(core, 12, 3), random_state(core, 3), starts)
    assert lay_out(starts) is not None
    assert core.backend == "torch"
    assert_same(everything(p), step_by_step(p))


def test_with_kernels_nothing_is_laid_out_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that results of a seed stay as they are, of a GRU too, which has no kernels of its own."""
    if not paths.compiled():
        pytest.skip("no kernels were compiled")
    monkeypatch.setattr(pieces, "lay_out", lambda starts: pytest.fail("laid out anew"))
    core = build(SPECS["gru"])
    core(sequence(core, 12, 3), None, flags(12, 3, 4, 1.0))
