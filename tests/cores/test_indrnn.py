"""IndRNN: the bound on its recurrent weights, neurons that do not see each other, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rimrl.cores.indrnn import IndRNN
from rimrl.errors import UsageError
from tests.cores.builders import randomise, sequence

T, B, F = 5, 3, 6


def make(**options: Any) -> IndRNN:
    torch.manual_seed(0)
    core = IndRNN(input_size=3, hidden_size=F, **options).double()
    randomise(core)
    return core


def test_a_bound_is_what_cutting_off_the_weights_gives() -> None:
    bounded, cut = make(max_recurrent_weight=0.5), make(max_recurrent_weight=None)
    with torch.no_grad():
        cut.recurrent.clamp_(-0.5, 0.5)
    x = sequence(bounded, T, B)
    assert bounded.recurrent.abs().max() > 0.5
    assert torch.equal(bounded(x)[0], cut(x)[0])
    bounded(x)[0].sum().backward()
    assert bounded.recurrent.grad is not None
    assert torch.all(bounded.recurrent.grad[bounded.recurrent.abs() > 0.5] == 0)


def test_two_to_the_power_of_one_over_t_lets_a_value_double_in_t_steps() -> None:
    core = make(num_layers=1, max_recurrent_weight=2 ** (1 / T))
    (below,) = core.inputs
    assert isinstance(below, torch.nn.Linear)
    with torch.no_grad():
        core.recurrent.fill_(100.0)
        below.bias.zero_()
    h = torch.rand(1, B, F, dtype=torch.float64)
    y, _ = core(torch.zeros(T, B, 3, dtype=torch.float64), (h, torch.zeros_like(h)))
    torch.testing.assert_close(y[-1], 2 * h[0])


def test_neurons_of_a_layer_do_not_see_each_other() -> None:
    core = make(num_layers=1)
    h = torch.rand(1, B, F, dtype=torch.float64, requires_grad=True)
    y, _ = core(sequence(core, T, B), (h, torch.zeros_like(h)))
    for n in range(F):
        (gradient,) = torch.autograd.grad(y[..., n].sum(), h, retain_graph=True)
        assert torch.all(gradient[..., torch.arange(F) != n] == 0)


def test_recurrent_weights_start_between_zero_and_one_or_the_bound() -> None:
    for bound, largest in ((None, 1.0), (1.1, 1.0), (0.3, 0.3)):
        u = IndRNN(input_size=3, hidden_size=200, max_recurrent_weight=bound).recurrent
        assert u.min() >= 0
        assert 0.9 * largest < u.max() <= largest


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan, True, "1"])
def test_a_bound_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="max_recurrent_weight"):
        IndRNN(input_size=3, max_recurrent_weight=value)
