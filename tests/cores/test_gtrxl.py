"""GTrXL: what its memory holds and how far it reaches, its gates, gradients across calls, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.base import State
from rimrl.cores.gtrxl import GTrXL
from rimrl.cores.registry import make_core
from rimrl.errors import UsageError
from tests.cores.builders import GTRXL as SMALL
from tests.cores.builders import randomise, sequence

B, F, M, L = 2, SMALL["hidden_size"], SMALL["memory_length"], SMALL["num_layers"]


def make(seed: int = 0, **options: Any) -> GTrXL:
    torch.manual_seed(seed)
    core = GTrXL(input_size=3, **{**SMALL, **options}).double()
    randomise(core, seed)
    return core


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def apart(state: State) -> tuple[Tensor, Tensor, Tensor]:
    """Memory ``[L, B, M, F]``, count ``[L, B]`` and what is left over."""
    flat = torch.cat(state, dim=-1)
    return flat[..., : M * F].reshape(*flat.shape[:-1], M, F), flat[..., M * F], flat[..., M * F + 1 :]


# The memory.


@pytest.mark.parametrize("num_steps", [1, 2, M, M + 2])
def test_the_state_holds_the_last_inputs_newest_first(num_steps: int) -> None:
    core = make()
    x = sequence(core, num_steps, B)
    y, state = core(x)
    memory, count, rest = apart(state)
    kept = min(num_steps, M)
    assert (count == kept).all()
    assert (rest == 0).all()
    assert (memory[:, :, kept:] == 0).all()
    close(memory[0, :, :kept], core.embed(x).flip(0).transpose(0, 1)[:, :kept])
    one_layer = make(num_layers=1)
    one_layer.load_state_dict({n: p for n, p in core.state_dict().items() if not n.startswith("layers.1")})
    close(memory[1, :, :kept], one_layer(x)[0].flip(0).transpose(0, 1)[:, :kept])
    assert y.shape == (num_steps, B, F)


def test_a_start_empties_the_memory() -> None:
    core = make()
    starts = torch.zeros(M + 2, B, dtype=torch.bool)
    starts[-2, 1] = True
    _, state = core(sequence(core, M + 2, B), None, starts)
    assert apart(state)[1].tolist() == [[M, 2]] * L


def test_it_cannot_count() -> None:
    """A weighted mean of equal values is that value, whatever the weights: equal inputs have equal outputs."""
    core = make()
    x = sequence(core, 1, B).expand(2 * M, -1, -1)
    y, _ = core(x)
    close(y, y[:1].expand_as(y))
    other = x.clone()
    other[0] += 1.0
    y, _ = core(other)
    assert not torch.allclose(y[1 : M + 1], y[-1], atol=1e-3), "a first input that differs shows how long ago it was"


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_every_layer_reaches_as_far_back_as_the_memory(num_layers: int) -> None:
    core = make(num_layers=num_layers)
    x = sequence(core, num_layers * M + 4, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(core(x)[0][-1].sum(), x)
    reached = gradient.abs().amax(dim=(1, 2)) > 0
    assert reached.tolist() == [False] * 3 + [True] * (num_layers * M + 1)


def test_what_is_not_valid_is_not_seen() -> None:
    core = make()
    _, (h, c) = core(sequence(core, 1, B))
    memory, count, rest = apart((h, c))
    filled = torch.cat([memory.index_fill(2, torch.arange(1, M), 7.0).flatten(2), count[..., None], rest], dim=-1)
    x = sequence(core, 3, B, seed=8)
    for a, b in zip(core(x, (h, c)), core(x, filled.chunk(2, dim=-1)), strict=True):
        for part, other in zip(a, b, strict=True):
            assert torch.equal(part, other)


def test_only_distances_matter() -> None:
    """With a full memory, the same steps give the same output whenever they come."""
    core = make(num_layers=1)
    x = sequence(core, M + 1, B)
    before = sequence(core, 5, B, seed=9)
    close(core(x)[0][-1], core(torch.cat([before, x]))[0][-1])


def test_the_order_of_what_is_seen_matters() -> None:
    core = make(num_layers=1)
    x = sequence(core, 3, B)
    assert (core(x)[0][-1] - core(x[[1, 0, 2]])[0][-1]).abs().max() > 1e-3


# Gates.


def test_a_closed_gate_leaves_the_input_as_it_is() -> None:
    core = make(gate_bias=0.0)
    with torch.no_grad():
        for name, p in core.named_parameters():
            if name.endswith(("gate_attention.bias", "gate_mlp.bias")):
                p.fill_(1e3)
    x = sequence(core, 4, B)
    close(core(x)[0], core.embed(x))


def test_gates_start_at_their_bias_and_learn_it() -> None:
    core = GTrXL(input_size=3, **SMALL, gate_bias=1.5)
    biases = [p for name, p in core.named_parameters() if name.endswith(("gate_attention.bias", "gate_mlp.bias"))]
    assert len(biases) == 2 * L
    assert all(torch.equal(p, torch.full((F,), 1.5)) and p.requires_grad for p in biases)
    fresh, wide = GTrXL(3, 64, memory_length=4), GTrXL(3, 64, memory_length=4, gate_bias=-2.0)
    wide.load_state_dict({n: p if "gate" not in n or "bias" not in n else -p for n, p in fresh.state_dict().items()})
    x = torch.randn(6, 2, 3)
    changed = [(core(x)[0] - core.embed(x)).abs().mean() for core in (fresh, wide)]
    assert changed[0] < changed[1]


# Calls.


def test_gradients_cross_calls_unless_the_state_is_detached() -> None:
    core, cut = make(), M
    x = sequence(core, 2 * M, B).requires_grad_()
    whole = torch.autograd.grad(core(x)[0][cut:].sum(), x)[0]
    _, state = core(x[:cut])
    halves = torch.autograd.grad(core(x[cut:], state)[0].sum(), x)[0]
    close(halves, whole)
    detached = torch.autograd.grad(core(x[cut:], (state[0].detach(), state[1].detach()))[0].sum(), x)[0]
    assert (detached[:cut] == 0).all()
    assert whole[:cut].abs().max() > 0


# Refusals.


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("hidden_size", 0),
        ("num_layers", 0),
        ("num_heads", 3),
        ("head_size", -1),
        ("memory_length", 0),
        ("memory_length", 2.0),
        ("mlp_size", 0),
        ("gate_bias", float("nan")),
        ("gate_bias", "open"),
    ],
)
def test_values_that_do_not_fit_are_refused(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option):
        make_core("gtrxl", 3, **{option: value})


def test_heads_of_a_size_of_their_own_need_not_divide_the_width() -> None:
    core = make_core("gtrxl", 3, hidden_size=8, num_heads=3, head_size=5, memory_length=2)
    assert core(torch.randn(3, 1, 3))[0].shape == (3, 1, 8)
