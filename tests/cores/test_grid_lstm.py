"""Grid LSTM is one torch LSTM with its gates in another order, and its units are symmetric."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rimrl.cores.grid_lstm import GridLSTM
from rimrl.cores.registry import make_core
from rimrl.errors import UsageError
from tests.cores.builders import GRID_LSTM, INPUT_SIZE, randomise, sequence

T, B, N, D = 6, 3, GRID_LSTM["num_units"], GRID_LSTM["unit_size"]


def make_grid(seed: int = 0, **options: Any) -> GridLSTM:
    core = GridLSTM(INPUT_SIZE, **{**GRID_LSTM, **options}).double()
    randomise(core, seed)
    return core


def random_state(width: int = N * D, seed: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h, c = torch.randn(2, 1, B, width, generator=generator, dtype=torch.float64)
    return h, c


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def by_unit(state: Tensor) -> Tensor:
    """``[..., N D]`` as ``[..., N, D]``."""
    return state.reshape(*state.shape[:-1], N, D)


def gate_major(weight: Tensor) -> Tensor:
    """``[N, in, 4 D]``, every unit's gates side by side, as torch's ``[4 N D, in]``, every gate's units together."""
    units, width = weight.shape[:2]
    return weight.reshape(units, width, 4, -1).permute(2, 0, 3, 1).reshape(-1, width)


@pytest.mark.parametrize("num_units", [1, 2, 4])
def test_is_torchs_lstm_with_its_gates_reordered(num_units: int) -> None:
    """Every unit's gates see every hidden vector: outputs, states and gradients are those of one wide LSTM."""
    core = make_grid(num_units=num_units)
    layer = nn.LSTM(INPUT_SIZE, core.hidden_size).double()
    weights = dict(core.dynamics.named_parameters())
    bias = gate_major(weights["bias"].unsqueeze(1)).squeeze(1)
    layer.load_state_dict(
        {
            "weight_ih_l0": gate_major(weights["weight_input"]),
            "weight_hh_l0": gate_major(weights["weight_hidden"]),
            "bias_ih_l0": bias,
            "bias_hh_l0": torch.zeros_like(bias),
        }
    )
    x = sequence(core, T, B).requires_grad_()
    h, c = (s.requires_grad_() for s in random_state(core.hidden_size))
    y, (h_last, c_last) = core(x, (h, c))
    y_torch, (h_torch, c_torch) = layer(x, (h, c))
    close(y, y_torch)
    close(h_last, h_torch)
    close(c_last, c_torch)

    mine = [x, h, c, weights["weight_input"], weights["weight_hidden"], weights["bias"]]
    theirs = [x, h, c, *(layer.get_parameter(name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"))]
    found = torch.autograd.grad(y.square().sum() + c_last.sum(), mine)
    expected = torch.autograd.grad(y_torch.square().sum() + c_torch.sum(), theirs)
    *of_sequence, of_input, of_hidden, of_bias = found
    reordered = [*of_sequence, gate_major(of_input), gate_major(of_hidden), gate_major(of_bias.unsqueeze(1)).squeeze(1)]
    for gradient, gradient_torch in zip(reordered, expected, strict=True):
        close(gradient, gradient_torch)


def test_units_permute_with_their_weights() -> None:
    """Rows of the hidden weights belong to units, too: they move with them."""
    core, other = make_grid(), make_grid()
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for name, weight in other.dynamics.named_parameters():
            weight.copy_(core.get_parameter(f"dynamics.{name}")[order])
            if name == "weight_hidden":
                weight.copy_(weight.reshape(N, N, D, 4 * D)[:, order].flatten(1, 2))
    state = random_state()
    moved = tuple(by_unit(s)[..., order, :].flatten(-2) for s in state)
    x = sequence(core, T, B)
    y, _ = core(x, state)
    y_moved, _ = other(x, (moved[0], moved[1]))
    close(by_unit(y)[..., order, :], by_unit(y_moved))


def test_every_unit_hears_every_other_and_remembers_alone() -> None:
    """Within one step h reaches all units, a unit's c only its own."""
    core = make_grid()
    x = sequence(core, 1, B)
    for n in range(N):
        h, c = (s.requires_grad_() for s in random_state())
        y, _ = core(x, (h, c))
        from_h, from_c = torch.autograd.grad(y[..., n * D : (n + 1) * D].sum(), (h, c))
        assert torch.all(from_h != 0)
        assert torch.equal((by_unit(from_c) != 0).all(-1)[0, 0], torch.arange(N) == n)


def test_all_units_are_active() -> None:
    core = make_grid()
    _, _, trace = core(sequence(core, T, B), return_trace=True)
    assert trace.active.shape == (T, B, N)
    assert trace.active.all()
    assert trace.input_attention is None
    assert trace.communication_attention is None


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"num_units": 0}, ["num_units", "0"]),
        ({"unit_size": -1}, ["unit_size", "-1"]),
        ({"hidden_size": 256}, ["hidden_size 256", "num_units 6", "252 or 258"]),
        ({"hidden_size": 24, "num_units": 4, "unit_size": 5}, ["hidden_size", "num_units 4", "unit_size 5", "got 24"]),
        ({"num_active": 2}, ["num_active", "grid_lstm"]),
    ],
    ids=str,
)
def test_bad_input(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        make_core("grid_lstm", 8, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
