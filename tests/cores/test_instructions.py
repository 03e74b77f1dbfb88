"""The kernels are compiled for several sets of instructions. All that this processor has agree with the plain step."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.backends import use_backend
from rimrl.cores.registry import make_core
from rimrl.cores.scan import library
from tests import paths

SETS = ["baseline", "avx2", "avx512"]
"""From the oldest processor on."""
CORES: dict[str, tuple[str, dict[str, Any]]] = {
    "wide vectors": ("rim", {"hidden_size": 96}),
    "remainders": ("rim", {"num_units": 5, "num_active": 3, "unit_size": 7, "input_value_size": 9}),
    "lstm": ("lstm", {"hidden_size": 21}),
    "lstm, torch's BLAS": ("lstm", {"hidden_size": 21}),
    "riglstm": ("riglstm", {"hidden_size": 30}),
    "brims": ("brims", {"hidden_size": 72}),
    "rmc": ("rmc", {"hidden_size": 60, "num_slots": 3, "num_blocks": 2}),
}


@pytest.fixture(params=SETS)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the kernels of one set."""
    compiled = library._library()
    if not isinstance(compiled, ctypes.CDLL):
        pytest.skip("no kernels were compiled")
    here = compiled.rimrl_instructions().decode()
    if SETS.index(request.param) > SETS.index(here):
        pytest.skip(f"this processor has {here} at most")
    kernels = cache(lambda dtype: library.Kernels(compiled, library._DTYPES[dtype], request.param))
    monkeypatch.setattr(library, "_kernels", kernels)
    return str(request.param)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("batch_size", [3, 13])
@pytest.mark.parametrize("case", CORES)
def test_outputs_and_gradients_are_those_of_the_step(
    case: str, dtype: torch.dtype, batch_size: int, instructions: str
) -> None:
    name, options = CORES[case]
    compiled = library._kernels(dtype)
    assert compiled is not None
    compiled.gemm = library._gemm("sgemm_" if dtype == torch.float32 else "dgemm_") if "BLAS" in case else None
    if "BLAS" in case and compiled.gemm is None:
        pytest.skip("torch hides its BLAS")
    torch.manual_seed(0)
    core = make_core(name, 11, **options).to(dtype)
    x = torch.randn(9, batch_size, 11, dtype=dtype)
    starts = (torch.rand(9, batch_size) < 0.2).to(dtype)

    def outputs_and_gradients(backend: str) -> list[Tensor]:
        inputs = x.clone().requires_grad_()
        with use_backend(backend):
            y, state = core(inputs, core.initial_state(batch_size), starts)[:2]
        loss = (y * torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)).sum() + sum(part.sum() for part in state)
        return [y, *state, *torch.autograd.grad(loss, [inputs, *core.parameters()], allow_unused=True)]

    paths.skip_without(core, "native")
    rtol, atol = (1e-9, 1e-10) if dtype == torch.float64 else (1e-3, 2e-4)
    for native, plain in zip(outputs_and_gradients("native"), outputs_and_gradients("step"), strict=True):
        torch.testing.assert_close(native, plain, rtol=rtol, atol=atol)
