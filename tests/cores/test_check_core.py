"""`rimrl.check_core` accepts every core of the package and names the clause that a broken one breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rimrl
from rimrl.cores.base import CoreTrace, State
from rimrl.cores.registry import CORES, core_class, make_core, register_core
from rimrl.cores.stepwise import StepTrace, StepwiseCore
from rimrl.errors import UsageError


class Leaky(StepwiseCore):
    """Keeps the contract; its width is called so."""

    def __init__(self, input_size: int, width: int = 6) -> None:
        super().__init__(input_size, width)
        self.read = nn.Linear(input_size, width)

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        h = 0.5 * state[0] + torch.tanh(self.read(inputs[0]))
        active = torch.ones(h.shape[1], self.num_units, dtype=torch.bool)
        return (h, state[1]), StepTrace(active) if return_trace else None


class Forward(Leaky):
    """Changes what `_scan` of the sound one gives."""

    def _scan(self, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool) -> Any:
        return self.changed(x, *super()._scan(x, state, episode_starts, return_trace))

    def changed(self, x: Tensor, y: Tensor, state: State, trace: CoreTrace | None) -> Any:
        return y, state, trace


class Narrow(Forward):
    def changed(self, x: Tensor, y: Tensor, state: State, trace: CoreTrace | None) -> Any:
        return y[..., :-1], state, trace


class OneState(Forward):
    def changed(self, x: Tensor, y: Tensor, state: State, trace: CoreTrace | None) -> Any:
        return y, state[0], trace


class Wide(Forward):
    def changed(self, x: Tensor, y: Tensor, state: State, trace: CoreTrace | None) -> Any:
        return y, (state[0][..., :-1], state[1]), trace


class Double(Forward):
    def changed(self, x: Tensor, y: Tensor, state: State, trace: CoreTrace | None) -> Any:
        return y.double(), state, trace


class Noisy(Forward):
    def changed(self, x: Tensor, y: Tensor, state: State, trace: CoreTrace | None) -> Any:
        return y + torch.rand_like(y), state, trace


class Peeking(Forward):
    def changed(self, x: Tensor, y: Tensor, state: State, trace: CoreTrace | None) -> Any:
        return y + y.mean(dim=0), state, trace


class Mixing(Forward):
    def changed(self, x: Tensor, y: Tensor, state: State, trace: CoreTrace | None) -> Any:
        return y + x.mean(dim=(1, 2))[:, None, None], state, trace


class Unresetting(Leaky):
    def _scan(self, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool) -> Any:
        return super()._scan(x, state, None, return_trace)


class Traceless(Forward):
    def changed(self, x: Tensor, y: Tensor, state: State, trace: CoreTrace | None) -> Any:
        return y, state, None


class WrongTrace(Forward):
    def changed(self, x: Tensor, y: Tensor, state: State, trace: CoreTrace | None) -> Any:
        return y, state, None if trace is None else CoreTrace(trace.active.float())


class Detached(Forward):
    def changed(self, x: Tensor, y: Tensor, state: State, trace: CoreTrace | None) -> Any:
        return y.detach(), (state[0].detach(), state[1].detach()), trace


class WithoutInput(Leaky):
    def __init__(self) -> None:
        super().__init__(8)


@pytest.mark.parametrize("name", CORES)
def test_the_cores_of_the_package_keep_it(name: str) -> None:
    rimrl.check_core(core_class(name), input_size=5)


def test_a_core_of_ones_own_keeps_it_with_its_options() -> None:
    rimrl.check_core(Leaky, input_size=3, width=4)


@pytest.mark.parametrize(
    ("core", "clause"),
    [
        (nn.LSTM, "class"),
        (nn.Linear(2, 2), "class"),
        (WithoutInput, "class"),
        (Narrow, "output"),
        (OneState, "state"),
        (Wide, "state"),
        (Double, "dtype"),
        (Noisy, "deterministic"),
        (Peeking, "sequence"),
        (Unresetting, "episode starts"),
        (Mixing, "batch"),
        (Traceless, "trace"),
        (WrongTrace, "trace"),
        (Detached, "gradient"),
    ],
)
def test_a_broken_clause_is_named(core: Any, clause: str) -> None:
    with pytest.raises(UsageError, match=rf"clause '{clause}'"):
        rimrl.check_core(core)


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [lambda: Leaky, lambda: f"{__name__}:Leaky"], ids=["class", "path"])
def test_a_registered_core_is_made_by_its_name(given: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    register_core("own-leaky", given())
    try:
        made = make_core("own-leaky", 3, width=4)
        assert isinstance(made, Leaky)
        assert made.hidden_size == 4
    finally:
        CORES.pop("own-leaky")


def test_a_notebook_may_register_a_class_again() -> None:
    register_core("own-leaky", Leaky)
    try:
        again = type("Leaky", (Leaky,), {"__module__": __name__, "__init__": Leaky.__init__})
        register_core("own-leaky", again)
        assert core_class("own-leaky") is again
        with pytest.raises(UsageError, match="taken"):
            register_core("own-leaky", Narrow)
    finally:
        CORES.pop("own-leaky")


@pytest.mark.parametrize(
    ("name", "core"),
    [("rim", Leaky), ("own", nn.LSTM), ("own", "nowhere"), ("own", "a b:C"), ("", Leaky), ("own", WithoutInput)],
)
def test_what_does_not_fit_is_not_registered(name: str, core: Any) -> None:
    before = dict(CORES)
    with pytest.raises(UsageError):
        register_core(name, core)
    assert before == CORES
