"""Rows that several threads share give what one thread gives."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from rimrl.cores.scan import calls, library, memory, threads
from tests import paths
from tests.cores.builders import SPECS, CoreSpec, build, randomise
from tests.cores.test_scan import assert_same, everything, problem, step_by_step

pytestmark = [
    pytest.mark.skipif(not paths.compiled(), reason="no kernels were compiled"),
    pytest.mark.skipif(not calls.can_run_together(), reason="torch brings another OpenMP than GNU's"),
]
COMPILED = {
    name: spec
    for name, spec in SPECS.items()
    if spec[0] in ("rim", "brims", "lstm", "riglstm", "rmc") and paths.has(build(spec), "native")
}
every_compiled_core = pytest.mark.parametrize("spec", COMPILED.values(), ids=COMPILED)


@pytest.fixture(autouse=True)
def always_in_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """However little there is to do; how many calls ran together, each time."""
    together: list[int] = []

    def run(kernel_calls: Any) -> None:
        together.append(len(kernel_calls))
        calls.run_together(kernel_calls)

    monkeypatch.setattr(threads, "SMALLEST", 0)
    monkeypatch.setattr(threads, "run_together", run)
    before = torch.get_num_threads()
    yield together
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def without_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which has threads of its own."""
    for dtype in library._DTYPES:
        monkeypatch.setattr(library._kernels(dtype), "gemm", None)


@pytest.fixture
def freed_memory_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So that a group of rows that lets go of its memory too early finds it overwritten by the next."""
    monkeypatch.setattr(memory, "SMALLEST", 1)
    gc.collect()
    memory._free.clear()
    yield
    memory._free.clear()


@every_compiled_core
@pytest.mark.parametrize("num_threads", [2, 3, 8])
@pytest.mark.usefixtures("freed_memory_is_taken_at_once")
def test_the_same_as_step_by_step(spec: CoreSpec, num_threads: int, always_in_threads: list[int]) -> None:
    p = problem(randomise(build(spec)), num_steps=9, batch_size=5)
    expected = step_by_step(p)
    torch.set_num_threads(num_threads)
    with paths.on("native"):
        assert_same(everything(p), expected)
    assert set(always_in_threads) <= {min(num_threads, 5)}


@pytest.mark.parametrize("name", ["rim", "brims", "lstm", "riglstm"])
def test_threads_are_used(name: str, always_in_threads: list[int]) -> None:
    torch.set_num_threads(2)
    p = problem(randomise(build(SPECS[name])), batch_size=4)
    starts = torch.zeros(p.x.shape[:2], dtype=torch.bool)
    starts[-1] = True  # without one, torch's own layer is the LSTM
    y, _ = p.core(p.x, None, starts)
    y.sum().backward()
    assert always_in_threads == [2, 2]


def test_one_after_the_other_where_torch_has_another_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(randomise(build(SPECS["rim"])), batch_size=4)
    torch.set_num_threads(2)
    expected = everything(p)
    monkeypatch.setattr(calls, "_openmp", lambda: None)
    assert_same(everything(p), expected)


def test_a_second_run_is_the_first_bit_for_bit() -> None:
    p = problem(randomise(build(SPECS["rim"])), num_steps=40, batch_size=6)
    torch.set_num_threads(3)
    first = everything(p)
    for name, value in everything(p).items():
        assert torch.equal(value, first[name]), name
