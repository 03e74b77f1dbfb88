"""One place decides what runs a core, says so, and refuses what a core or the machine does not have."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.backends import use_backend
from rimrl.cores.base import RecurrentCore, State
from rimrl.cores.progressive import ProgressiveCore
from rimrl.cores.registry import CORES, make_core
from rimrl.cores.rim import RIM
from rimrl.cores.scan.layout import MAX_UNITS
from rimrl.cores.stepwise import StepTrace
from rimrl.errors import UsageError
from tests import paths
from tests.cores.builders import BRIMS, RIGLSTM, SPECS, build, sequence
from tests.cores.builders import RIM as SMALL_RIM

needs_kernels = pytest.mark.skipif(not paths.compiled(), reason="no kernels were compiled")
FASTER = {
    "rim": ["native", "torch"],
    "riglstm": ["native", "torch"],
    "brims": ["native", "torch"],
    "lstm": ["native", "torch"],
    "gru": ["torch"],
    "rmc": ["native"],
}


class Plain(RIM):
    """Changes nothing."""


class Doubling(RIM):
    """Has a step of its own."""

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        (h, c), trace = super()._step(inputs, state, return_trace)
        return (2 * h, c), trace


def refusal(core: RecurrentCore) -> str:
    with pytest.raises(UsageError) as caught:
        core(sequence(core, 3, 2))
    message = str(caught.value)
    assert "\n" not in message
    with pytest.raises(UsageError) as seen:
        _ = core.backend
    assert str(seen.value) == message
    return message


@pytest.mark.parametrize("name", CORES)
def test_every_core_says_what_it_has_fastest_first(name: str) -> None:
    assert list(build(SPECS[name]).backends) == [*FASTER.get(name, []), "step"]


@pytest.mark.parametrize("name", CORES)
def test_the_default_is_the_fastest_that_can_run(name: str) -> None:
    core = build(SPECS[name])
    assert core.backend == next(
        backend for backend, unsupported_reason in core.backends.items() if unsupported_reason is None
    )


@needs_kernels
def test_with_kernels_the_default_is_native() -> None:
    assert [build(SPECS[name]).backend for name in ("rim", "riglstm", "brims", "lstm", "gru")] == ["native"] * 4 + [
        "torch"
    ]


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("backend", paths.PATHS)
def test_what_is_asked_for_runs_or_is_refused_by_name(name: str, backend: str) -> None:
    core = build(SPECS[name])
    with use_backend(backend):
        if paths.has(core, backend):
            assert core.backend == backend
            core(sequence(core, 3, 2))
            return
        message = refusal(core)
    for part in (type(core).__name__, repr(backend)):
        assert part in message
    if backend not in core.backends:
        for part in core.backends:
            assert part in message


def test_an_unknown_backend_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'torch'"), use_backend("troch"):
        pass


OPTIONS: list[dict[str, Any]] = [
    {},
    {"competition": "units"},
    {"input_heads": 2},
    {"input_attention": False, "num_active": None},
    {"communication": None},
    {"communication": "residual"},
    {"communication_reads": "previous"},
    {"communication_top_k": 2},
    {"dynamics": "gru"},
    {"input_dropout": 0.5},
    {"communication_dropout": 0.5},
    {"num_inputs": 2},
    {"num_inputs": 2, "input_attention": False, "num_active": None},
]


@needs_kernels
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_of_a_rim_is_compiled(options: dict[str, Any]) -> None:
    assert build(("rim", {**SMALL_RIM, **options})).backends == {"native": None, "torch": None, "step": None}


@needs_kernels
@pytest.mark.parametrize("options", [o for o in OPTIONS if "input_attention" not in o], ids=str)
def test_every_option_of_brims_with_input_attention_is_compiled(options: dict[str, Any]) -> None:
    assert build(("brims", {**BRIMS, **options})).backends == {"native": None, "torch": None, "step": None}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rim", {**SMALL_RIM, "num_units": MAX_UNITS + 1}),
        ("brims", {**BRIMS, "num_units": [4, MAX_UNITS + 4], "unit_size": None, "hidden_size": 68}),
    ],
)
def test_more_units_than_kernels_take_are_run_in_torch(name: str, options: dict[str, Any]) -> None:
    core = build((name, options))
    assert core.backend == "torch"
    assert str(MAX_UNITS) in str(core.backends["native"]) or not paths.compiled()


def test_brims_without_input_attention_run_step_by_step() -> None:
    core = build(("brims", {**BRIMS, "input_attention": False, "num_active": None}))
    assert core.backend == "step"
    with use_backend("torch"):
        assert "input_attention" in refusal(core)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kernels_know_two_dtypes(dtype: torch.dtype) -> None:
    core = build(("riglstm", RIGLSTM), dtype=dtype)
    assert core.backend == "torch"
    with use_backend("native"):
        refusal(core)
    assert str(dtype) in str(core.backends["native"]) or not paths.compiled()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CORES)
def test_on_a_gpu_nothing_is_native(name: str) -> None:
    core = build(SPECS[name]).cuda()
    assert core.backend == ("torch" if name in ("rim", "riglstm", "brims") else "step")
    assert "cuda:0" in str(core.backends.get("native", "cuda:0"))


def test_the_choice_ends_with_its_block() -> None:
    core = build(SPECS["rim"])
    before = core.backend

    def fail_inside() -> None:
        with use_backend("step"):
            assert core.backend == "step"
            with use_backend("torch"):
                assert core.backend == "torch"
            assert core.backend == "step"
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert core.backend == before


def test_the_choice_is_that_of_one_thread() -> None:
    core, seen = build(SPECS["rim"]), []
    with use_backend("step"):
        thread = threading.Thread(target=lambda: seen.append(core.backend))
        thread.start()
        thread.join()
    assert seen == [core.backend] != ["step"]


def test_a_subclass_has_the_backends_of_its_parent_unless_its_step_is_its_own() -> None:
    torch.manual_seed(0)
    plain = make_core(Plain, 3, **SMALL_RIM)
    assert plain.backends == build(SPECS["rim"]).backends
    doubling = make_core(Doubling, 3, **SMALL_RIM)
    doubling.load_state_dict(plain.state_dict())
    assert list(doubling.backends) == ["step"]
    x = sequence(plain, 1, 2)
    active = plain(x, return_trace=True)[2].active[0, :, :, None]
    once, twice = (core(x)[0].view(2, 4, 3) for core in (plain, doubling))
    torch.testing.assert_close(twice, 2 * once)
    assert active.any()


def test_columns_of_a_progressive_core_run_each_on_its_own() -> None:
    core = ProgressiveCore(build(SPECS["rim"]), build(SPECS["rim"], seed=1)).double()
    x = torch.randn(3, 2, 6, dtype=torch.float64)
    assert core.backend == core.column.backend
    assert core.backends == core.column.backends
    with use_backend("torch"):
        assert core.backend == "torch"
        expected = core(x)[0]
    torch.testing.assert_close(core(x)[0], expected)
    mixed = ProgressiveCore(build(SPECS["rim"]), build(SPECS["grid_lstm"])).double()
    with use_backend("torch"), pytest.raises(UsageError, match=r"GridLSTM.*'torch'"):
        mixed(x)


def test_a_graph_is_recorded_of_steps_alone() -> None:
    """With what `torch.jit.trace` looks at while it records."""
    core = build(SPECS["rim"]).eval()
    seen: list[str] = []
    core.register_forward_pre_hook(lambda module, _: seen.append(module.backend))
    with torch.no_grad():
        torch.jit.trace(core, (sequence(core, 2, 2),), check_trace=False)  # type: ignore[no-untyped-call]
        with use_backend("torch"), pytest.raises(UsageError, match="graph"):
            torch.jit.trace(core, (sequence(core, 2, 2),), check_trace=False)  # type: ignore[no-untyped-call]
    assert seen == ["step"]
