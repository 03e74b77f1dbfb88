"""Every core refuses what does not fit before anything runs, and reports NaN instead of spreading it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.backends import use_backend
from rimrl.cores.base import RecurrentCore
from rimrl.cores.checks import require_finite_output
from rimrl.errors import UsageError
from tests import paths
from tests.cores.builders import RIM, SPECS, CoreSpec, build, randomise, reached_state, sequence, with_every_backend

T, B = 4, 3
every_core = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
every_core_and_path = with_every_backend(step=True)
every_path = pytest.mark.parametrize("path", paths.PATHS)
WITHOUT_EFFECT_ON_VALUES = ("cell_selection.query", "cell_selection.key")
"""Parameters that act through a choice alone, which has no room for NaN."""


def no_starts() -> Tensor:
    return torch.zeros(T, B, dtype=torch.bool)


def refusal(core: RecurrentCore, *arguments: Any) -> UsageError:
    """The error with which a call is refused, in one line."""
    with pytest.raises(UsageError) as caught:
        core(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value


def fields(core: RecurrentCore, *arguments: Any) -> tuple[str, str, str]:
    """Kind, key and what was found of the error with which a call is refused."""
    error = refusal(core, *arguments)
    assert error.key is not None
    assert error.found is not None
    return error.kind, error.key, error.found


@cache
def classes() -> frozenset[type[RecurrentCore]]:
    return frozenset(type(build(spec)) for spec in SPECS.values())


@pytest.fixture
def nothing_may_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def run(*_: object) -> None:
        raise AssertionError("ran in spite of bad input")

    for core in classes():
        monkeypatch.setattr(core, "_scan", run)
    with use_backend("step"):
        yield


@every_core
@pytest.mark.usefixtures("nothing_may_run")
@pytest.mark.parametrize(
    ("core_dtype", "dtype"),
    [
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.int64),
        (torch.float32, torch.bool),
    ],
)
def test_another_dtype_is_refused(spec: CoreSpec, core_dtype: torch.dtype, dtype: torch.dtype) -> None:
    core = build(spec, dtype=core_dtype)
    x, (h, c) = sequence(core, T, B), core.initial_state(B)
    for what, arguments in (
        ("input", (x.to(dtype),)),
        ("state h", (x, (h.to(dtype), c))),
        ("state c", (x, (h, c.to(dtype)))),
    ):
        assert fields(core, *arguments) == ("mismatch", f"the {what} of {type(core).__name__}", str(dtype))
        assert str(core_dtype) in str(refusal(core, *arguments).valid)


@every_core
@pytest.mark.usefixtures("nothing_may_run")
def test_another_device_is_refused(spec: CoreSpec) -> None:
    core = build(spec)
    x, (h, c), starts = sequence(core, T, B), core.initial_state(B), no_starts()
    for what, arguments in (
        ("input", (x.to("meta"),)),
        ("state h", (x, (h.to("meta"), c))),
        ("state c", (x, (h, c.to("meta")))),
        ("episode_starts", (x, None, starts.to("meta"))),
    ):
        assert fields(core, *arguments) == ("mismatch", f"the {what} of {type(core).__name__}", "meta")
        assert "cpu" in str(refusal(core, *arguments).valid)


@every_core
@pytest.mark.usefixtures("nothing_may_run")
@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, math.nan, math.inf])
def test_starts_other_than_true_and_false_are_refused(spec: CoreSpec, value: float) -> None:
    core = build(spec)
    starts = no_starts().float()
    starts[1, 2] = value
    assert fields(core, sequence(core, T, B), None, starts) == ("value", "episode_starts", str(value))


@every_core
@pytest.mark.usefixtures("nothing_may_run")
def test_what_is_no_tensor_is_refused(spec: CoreSpec) -> None:
    core = build(spec)
    x = sequence(core, T, B)
    name = type(core).__name__
    assert fields(core, x.numpy()) == ("mismatch", f"the input of {name}", "ndarray")
    assert fields(core, x, None, no_starts().tolist()) == ("mismatch", f"the episode_starts of {name}", "list")


@every_core
def test_autocast_takes_what_it_converts(spec: CoreSpec) -> None:
    core = build(spec, dtype=torch.float32)
    x, (h, c) = sequence(core, T, B), reached_state(core, B)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16):
            y, last = core(x.to(dtype), (h.to(dtype), c.to(dtype)), no_starts())
        assert torch.isfinite(y).all()
        assert last[0].dtype == last[1].dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert "input" in str(refusal(core, x.double()).key)
        assert "state c" in str(refusal(core, x, (h, c.double())).key)


@every_core_and_path
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_input_that_is_not_finite_is_named(spec: CoreSpec, value: float, path: str) -> None:
    """The first such entry; an infinite one may also saturate a gate, and then nothing is wrong."""
    core = randomise(build(spec))
    x = sequence(core, T, B)
    x[2:, 1, ..., 1] = value
    x[3, 0] = value
    with paths.on(path):
        if not math.isnan(value):
            try:
                y, _ = core(x)
            except UsageError:
                pass
            else:
                assert torch.isfinite(y).all()
                return
        expected = f"{type(core).__name__} got an input that is not finite: {value} at time step 2 of row 1"
        for starts in (None, no_starts()):
            assert str(refusal(core, x, None, starts)) == expected
            with torch.no_grad():
                assert str(refusal(core, x, reached_state(core, B), starts)) == expected


@every_core_and_path
def test_a_state_that_is_not_finite_is_named(spec: CoreSpec, path: str) -> None:
    core = randomise(build(spec))
    with_memory = [label for label, s in zip("hc", reached_state(core, B), strict=True) if s.abs().max() > 0]
    for label in with_memory:
        state = dict(zip("hc", reached_state(core, B), strict=True))
        state[label][-1, 1] = math.nan
        pair = state["h"], state["c"]
        with paths.on(path):
            error = refusal(core, sequence(core, T, B), pair)
            assert (error.kind, error.key) == ("not_finite", f"state {label}")
            assert str(error).endswith("row 1")
            starts = no_starts()
            starts[0, 1] = True
            y, _ = core(sequence(core, T, B), pair, starts)
        assert torch.isfinite(y).all(), "the row starts afresh and never sees it"


@every_core_and_path
def test_a_parameter_that_is_not_finite_is_named(spec: CoreSpec, path: str) -> None:
    core = randomise(build(spec))
    x = sequence(core, T, B)
    for name, parameter in core.named_parameters():
        if name in WITHOUT_EFFECT_ON_VALUES:
            continue
        flat = parameter.detach().view(-1)
        before = float(flat[0])
        flat[0] = math.nan
        with paths.on(path):
            error = refusal(core, x)
        assert (error.kind, error.key) == ("not_finite", name)
        flat[0] = before
    core(x)


@every_path
def test_overflow_is_named(path: str) -> None:
    core = build(("rim", RIM | {"initialization": "xavier"}), dtype=torch.float32)  # small weights would not overflow
    x = torch.full((T, B, core.input_size), 3e38)
    with paths.on(path):
        assert str(refusal(core, x)).startswith("RIM overflows torch.float32")


def test_a_sum_that_overflows_is_no_fault() -> None:
    y = torch.full((T, B, 2), 3e38)
    assert not y.sum().isfinite()
    require_finite_output("core", y, torch.zeros(T, B, 1), (), [])
    y[0, 0, 0] = math.inf
    with pytest.raises(UsageError, match="core overflows"):
        require_finite_output("core", y, torch.zeros(T, B, 1), (), [])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_core
def test_on_a_gpu(spec: CoreSpec) -> None:
    core = randomise(build(spec)).cuda()
    x = sequence(core, T, B).cuda()
    assert "cuda:0" in str(refusal(core, x.cpu()).valid)
    assert "cuda:0" in str(refusal(core, x, None, no_starts()).valid)
    x[2, 1] = math.nan
    assert re.search(r"nan .*step 2 .*row 1", str(refusal(core, x)))
    core(x[2:3])  # a single step does not wait for the device
