"""What a core keeps while weights do not change is what it would make anew, and no longer kept when one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.base import RecurrentCore, State
from rimrl.cores.scan import memory, rim_native
from rimrl.cores.unchanging import unchanging_weights, weights_are_unchanging
from tests import paths
from tests.cores.builders import INPUT_SIZE, SPECS, CoreSpec, build, randomise

NATIVE = {name: spec for name, spec in SPECS.items() if spec[0] in ("rim", "brims", "riglstm", "lstm", "rmc")}
every_core = pytest.mark.parametrize("spec", NATIVE.values(), ids=NATIVE)


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[rim_native.NativeRIM]:
    """Compiled cells, as they are made."""
    made: list[rim_native.NativeRIM] = []
    original = rim_native.NativeRIM.__init__

    def init(self: rim_native.NativeRIM, *args: Any) -> None:
        original(self, *args)
        made.append(self)

    monkeypatch.setattr(rim_native.NativeRIM, "__init__", init)
    return made


def inputs(core: RecurrentCore, num_steps: int, batch_size: int) -> Tensor:
    elements = () if core.num_inputs == 1 else (core.num_inputs,)
    like = next(core.parameters())
    return torch.randn(num_steps, batch_size, *elements, INPUT_SIZE, dtype=like.dtype)


@torch.no_grad()
def act(core: RecurrentCore, x: Tensor, starts: Tensor | None = None) -> Tensor:
    """Outputs and last state of one step after the other."""
    state: State | None = None
    outputs = []
    for t in range(len(x)):
        y, state = core(x[t : t + 1], state, None if starts is None else starts[t : t + 1])
        outputs.append(y)
    assert state is not None
    return torch.cat([*outputs, *state])


@every_core
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_acts_as_without(spec: CoreSpec, dtype: torch.dtype) -> None:
    core = randomise(build(spec)).to(dtype)
    starts = torch.rand(6, 5) < 0.4
    sequences = [(inputs(core, 6, rows), starts[:, :rows]) for rows in (5, 1, 5)]
    expected = [act(core, *sequence) for sequence in sequences]
    with unchanging_weights():
        found = [act(core, *sequence) for sequence in sequences]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def optimise(core: RecurrentCore, fused: bool = False) -> None:
    for parameter in core.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam(core.parameters(), lr=0.1, fused=fused).step()


def load(core: RecurrentCore) -> None:
    core.load_state_dict({name: 1.5 * value for name, value in core.state_dict().items()})


def activate_fewer(core: RecurrentCore) -> None:
    core.num_active -= 1  # type: ignore[operator]


CHANGES: dict[str, Callable[[RecurrentCore], object]] = {
    "optimiser": optimise,
    "fused optimiser": lambda core: optimise(core, fused=True),
    "loaded": load,
    "dtype": lambda core: core.float(),
    "units": activate_fewer,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("gradient", ["no_grad", "inference_mode"])
@pytest.mark.parametrize("name", ["rim", "riglstm", "rmc"])
def test_a_change_is_noticed(name: str, change: Callable[[RecurrentCore], object], gradient: str) -> None:
    core = randomise(build(SPECS[name]))
    if name == "rmc" and change is activate_fewer:
        pytest.skip("an RMC has no active units")
    x = inputs(core, 4, 3)
    with unchanging_weights():
        with getattr(torch, gradient)():
            before = act(core, x)
        change(core)
        x = x.to(next(core.parameters()).dtype)
        with getattr(torch, gradient)():
            found = act(core, x)
    assert torch.equal(found, act(core, x))
    assert not torch.equal(found, before.to(found.dtype))


def test_learning_inside_is_as_outside() -> None:
    """Gradients are wanted there, so nothing kept is used."""
    core = randomise(build(SPECS["rim"]))
    x = inputs(core, 1, 3)
    gradients = []
    for _ in range(2):
        with unchanging_weights():
            act(core, x)
            core.zero_grad()
            core(x)[0].square().sum().backward()
            gradients.append([parameter.grad for parameter in core.parameters()])
    core.zero_grad()
    core(x)[0].square().sum().backward()
    for parameter, *found in zip(core.parameters(), *gradients, strict=True):
        assert parameter.grad is not None
        assert all(torch.equal(parameter.grad, gradient) for gradient in found)


@pytest.mark.skipif(not paths.compiled(), reason="no kernels were compiled")
def test_a_cell_serves_all_steps_of_as_many_rows(cells: list[rim_native.NativeRIM]) -> None:
    core = build(SPECS["rim"])
    act(core, inputs(core, 4, 3))
    assert len(cells) == 4
    cells.clear()
    with unchanging_weights():
        for rows in (3, 2, 3):
            act(core, inputs(core, 4, rows))
        assert len(cells) == 2
        with torch.no_grad():
            core(inputs(core, 1, 3), return_trace=True)  # which needs what acting does not keep
        assert len(cells) == 3


@pytest.mark.parametrize("name", ["rim", "riglstm", "rmc"])
def test_a_kept_cell_takes_no_more_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes goes back to the pool only with itself."""
    core, taken = build(SPECS[name]), []
    if not paths.has(core, "native"):
        pytest.skip("no kernels were compiled")
    original = memory.empty
    monkeypatch.setattr(memory, "empty", lambda *args: taken.append(args) or original(*args))  # type: ignore[func-returns-value]
    with unchanging_weights():
        act(core, inputs(core, 2, 3))
        first = len(taken)
        act(core, inputs(core, 20, 3))
    assert len(taken) == first > 0


def test_blocks_nest_and_end() -> None:
    assert not weights_are_unchanging()
    with unchanging_weights():
        with unchanging_weights():
            assert weights_are_unchanging()
        assert weights_are_unchanging()
    assert not weights_are_unchanging()
