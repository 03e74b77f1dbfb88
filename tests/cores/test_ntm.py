"""NTM: where a head that shifts, stays or looks for content ends up, and how an episode starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.ntm import NTM, _address
from tests.cores.builders import NTM as SMALL
from tests.cores.builders import randomise, sequence

N, W, LARGE = 5, 3, 60.0
SHIFTS = {-1: [LARGE, 0.0, 0.0], 0: [0.0, LARGE, 0.0], 1: [0.0, 0.0, LARGE]}


def parameters(*, strength: float = 0.0, gate: float = 0.0, shift: int = 0, sharpness: float = -LARGE) -> Tensor:
    """Of one head with the key (1, 0, 0), before they are brought into their ranges."""
    values = [1.0, 0.0, 0.0, strength, gate, *SHIFTS[shift], sharpness]
    return torch.tensor([[values]], dtype=torch.float64)


def one_hot(slot: int) -> Tensor:
    return torch.eye(N, dtype=torch.float64)[slot].reshape(1, 1, N)


def some_memory() -> Tensor:
    return torch.randn(1, N, W, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shift", [-1, 0, 1])
@pytest.mark.parametrize("slot", range(N))
def test_a_shift_moves_a_focus_around_the_ring(slot: int, shift: int) -> None:
    """The gate is shut, so that content does not matter."""
    w = _address(parameters(gate=-LARGE, shift=shift), some_memory(), one_hot(slot))
    close(w, one_hot((slot + shift) % N))


def test_an_open_gate_forgets_where_the_head_was() -> None:
    memory = some_memory()
    p = parameters(strength=3.0, gate=LARGE)
    close(_address(p, memory, one_hot(0)), _address(p, memory, one_hot(3)))


def test_sharpening_makes_the_largest_weight_larger_and_keeps_the_order() -> None:
    previous = torch.tensor([[[0.1, 0.3, 0.25, 0.2, 0.15]]], dtype=torch.float64)
    plain, sharp = (_address(parameters(gate=-LARGE, sharpness=s), some_memory(), previous) for s in (-LARGE, 3.0))
    close(plain, previous)
    assert sharp.max() > plain.max() + 0.1
    assert torch.equal(sharp.argsort(), plain.argsort())
    gamma = 1 + torch.nn.functional.softplus(torch.tensor(3.0, dtype=torch.float64))
    close(sharp, previous**gamma / (previous**gamma).sum())


def test_a_weighting_of_zeros_has_finite_gradients() -> None:
    p = parameters(gate=-LARGE, shift=1).requires_grad_()
    w = _address(p, some_memory(), one_hot(2))
    (gradient,) = torch.autograd.grad(w.square().sum(), p)
    assert gradient.isfinite().all()


def make(**options: Any) -> NTM:
    torch.manual_seed(0)
    core = NTM(input_size=3, **{**SMALL, **options}).double()
    randomise(core)
    return core


def test_every_weighting_is_one() -> None:
    core = make(num_reads=2)
    _, state = core(sequence(core, 20, 3))
    *_, write, read = core._unpack(state)
    for weighting in (write, read):
        assert weighting.min() >= 0
        close(weighting.sum(dim=2), torch.ones(weighting.shape[:2], dtype=torch.float64))


def test_an_episode_starts_with_small_constants_and_learned_weightings() -> None:
    core = make(num_reads=2)
    hidden, reads, memory, cell, write, read = core._unpack(core.initial_state(3))
    assert torch.all(memory == 1e-6)
    for part in (hidden, reads, cell):
        assert torch.all(part == 0)
    close(torch.cat([write, read], dim=1), core.initial_focus.softmax(dim=1).expand(3, -1, -1))
    core(sequence(core, 4, 3))[0].square().sum().backward()
    assert core.initial_focus.grad is not None
    assert core.initial_focus.grad.abs().min() > 0
