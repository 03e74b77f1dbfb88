"""BRIMs: what it reduces to, what flows where between its layers, and which layers do not fit together."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.backends import use_backend
from rimrl.cores.base import State
from rimrl.cores.brims import BRIMs
from rimrl.cores.registry import make_core
from rimrl.cores.rim import RIM
from rimrl.errors import UsageError
from tests.cores.builders import BRIMS as SMALL
from tests.cores.builders import RIM as SMALL_RIM
from tests.cores.builders import RIM_VARIANTS, randomise, sequence

T, B, N = 6, 3, SMALL["num_units"]
HIDDEN = N * SMALL["unit_size"]
CONNECTIONS = ("adjacent", "last_to_first", None)


def make(seed: int = 0, **options: Any) -> BRIMs:
    torch.manual_seed(seed)
    core = BRIMs(input_size=3, **{**SMALL, **options}).double()
    randomise(core, seed)
    return core


def random_state(core: RIM | BRIMs, batch_size: int = B, seed: int = 5) -> State:
    generator = torch.Generator().manual_seed(seed)
    shape = (core.num_layers, batch_size, core.hidden_size)
    h, c = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return h, c


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# Reductions.


@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize("options", [{}, *RIM_VARIANTS.values()], ids=["default", *RIM_VARIANTS.keys()])
@pytest.mark.parametrize("step_by_step", [True, False])
def test_one_layer_is_rim(options: dict[str, Any], connection: str | None, step_by_step: bool) -> None:
    """The same weights under the same names, and with them outputs, states, trace and gradients.

    To the last bit if both run step by step.
    """
    options = {**SMALL_RIM, **options}
    core = make(num_layers=1, top_down=connection, **{"input_heads": 1, **options})
    rim = RIM(input_size=3, **options).double()
    rim.load_state_dict({name.removeprefix("layers.0."): p for name, p in core.state_dict().items()})
    x, state = sequence(rim, T, B), random_state(rim)
    starts = torch.zeros(T, B, dtype=torch.bool)
    starts[3, 0] = True

    results, gradients = [], []
    for either in (core, rim):
        with use_backend("step") if step_by_step else nullcontext():
            y, (h, c), trace = either(x, state, starts, return_trace=True)
        results.append((y, h, c, trace.active, trace.input_attention, trace.communication_attention))
        loss = (y**2).sum() + h.sum() + (c**3).sum()
        gradients.append(torch.autograd.grad(loss, list(either.parameters()), allow_unused=True))
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            close(a, b)
            assert torch.equal(a, b) or not step_by_step
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            close(a, b)


def test_one_layer_is_rim_from_the_same_seed() -> None:
    torch.manual_seed(3)
    core = BRIMs(input_size=3, num_layers=1, input_heads=1)
    torch.manual_seed(3)
    rim = RIM(input_size=3)
    for a, b in zip(core.parameters(), rim.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("competition", ["null", "units"])
def test_without_top_down_layers_are_stacked_rims(competition: str) -> None:
    core = make(num_layers=3, top_down=None, num_inputs=2, competition=competition)
    h, c = random_state(core)
    y, (h_last, c_last) = core(sequence(core, T, B), (h, c))
    below = sequence(core, T, B)
    options: dict[str, Any] = {**SMALL_RIM, "competition": competition, "input_heads": 2}
    for layer in range(3):
        rim = RIM(below.shape[-1], num_inputs=2 if layer == 0 else 1, **options).double()
        rim.load_state_dict(
            {
                name.removeprefix(f"layers.{layer}."): p
                for name, p in core.state_dict().items()
                if name.startswith(f"layers.{layer}.")
            }
        )
        below, (h_layer, c_layer) = rim(below, (h[layer : layer + 1], c[layer : layer + 1]))
        close(h_last[layer], h_layer[0])
        close(c_last[layer], c_layer[0])
    close(y, below)


@pytest.mark.parametrize("input_attention", [True, False])
def test_both_connections_coincide_at_two_layers(input_attention: bool) -> None:
    active: dict[str, Any] = {} if input_attention else {"num_active": None}
    one, other = (
        make(num_layers=2, top_down=connection, input_attention=input_attention, **active)
        for connection in ("adjacent", "last_to_first")
    )
    assert list(one.state_dict()) == list(other.state_dict())
    x, state = sequence(one, T, B), random_state(one)
    assert torch.equal(one(x, state)[0], other(x, state)[0])


def test_both_connections_differ_at_three_layers() -> None:
    shapes = {}
    for connection in CONNECTIONS:
        core = make(num_layers=3, top_down=connection)
        shapes[connection] = sorted({name.split(".")[1] for name in core.state_dict() if name.startswith("top_down")})
    assert shapes == {"adjacent": ["0", "1"], "last_to_first": ["0"], None: []}


def test_top_down_without_values_only_takes_attention_away() -> None:
    """With key and value of the element above at zero it is a second null element that nobody counts as one."""
    core, without = make(num_active=N), make(num_active=N, top_down=None)
    with torch.no_grad():
        for name, p in core.named_parameters():
            if name.startswith("top_down"):
                p.zero_()
    x, state = sequence(core, 1, B), random_state(core)
    _, _, trace = core(x, state, return_trace=True)
    _, _, trace_without = without(x, state, return_trace=True)
    assert trace.input_attention is not None
    assert trace_without.input_attention is not None
    null, below, above = trace.input_attention[:, :, :N].unbind(-1)
    close(null, above)  # mean over heads of equal shares
    assert torch.all(below < trace_without.input_attention[:, :, :N, 1])


# What flows where.


def influence(core: BRIMs, num_steps: int) -> list[list[bool]]:
    """``[from layer][to layer]``: does the state before the first step reach the state after the last."""
    x = sequence(core, num_steps, 1)
    h, c = random_state(core, 1)
    h.requires_grad_()
    _, (h_last, _) = core(x, (h, c))
    reached = []
    for to in range(core.num_layers):
        (gradient,) = torch.autograd.grad(h_last[to].sum(), h, retain_graph=True)
        reached.append((gradient.abs().amax(dim=(1, 2)) > 1e-12).tolist())
    return [list(column) for column in zip(*reached, strict=True)]


def test_one_step_carries_all_the_way_up_and_one_layer_down() -> None:
    full = {"num_layers": 3, "num_active": N}
    assert influence(make(**full, top_down="adjacent"), 1) == [
        [True, True, True],
        [True, True, True],
        [False, True, True],
    ]
    assert influence(make(**full, top_down="last_to_first"), 1) == [
        [True, True, True],
        [False, True, True],
        [True, True, True],
    ]
    assert influence(make(**full, top_down=None), 1) == [[True, True, True], [False, True, True], [False, False, True]]


def test_two_steps_carry_two_layers_down() -> None:
    full = {"num_layers": 3, "num_active": N}
    assert influence(make(**full, top_down="adjacent"), 2) == [[True] * 3] * 3
    assert influence(make(**full, top_down="last_to_first"), 2)[1] == [True] * 3
    assert influence(make(**full, top_down=None), 2) == [[True, True, True], [False, True, True], [False, False, True]]


def test_the_output_is_the_last_layer() -> None:
    core = make(num_layers=3)
    y, (h, _) = core(sequence(core, T, B), random_state(core))
    assert torch.equal(y[-1], h[-1])


# Units.


@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize("units", [[4, 4, 4], [4, 3, 6]])
@pytest.mark.parametrize("active", [[1, 1, 1], [2, 1, 3], [3, 3, 2]])
def test_exactly_the_active_units_of_every_layer_change(
    units: list[int], active: list[int], connection: str | None
) -> None:
    core = make(num_layers=3, num_units=units, num_active=active, unit_size=None, hidden_size=12, top_down=connection)
    state, x = random_state(core), sequence(core, T, B)
    assert core.num_units == sum(units)
    for t in range(T):
        before = state
        _, state, trace = core(x[t : t + 1], before, return_trace=True)
        of_layers = trace.active[0].split(units, dim=-1)
        for layer, (mask, k) in enumerate(zip(of_layers, active, strict=True)):
            assert torch.all(mask.sum(-1) == k)
            for old, new in zip(before, state, strict=True):
                same = (old[layer] == new[layer]).reshape(B, units[layer], -1)
                assert torch.equal(same.all(-1), ~mask)
                assert torch.equal(same.any(-1), ~mask)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_units_of_a_layer_permute_with_their_weights(connection: str | None) -> None:
    """Whoever reads a layer as one element sees its entries in another order, and so must read in that order."""
    core, other = make(num_layers=3, top_down=connection), make(num_layers=3, top_down=connection)
    order = torch.tensor([2, 0, 3, 1])
    entries = torch.arange(HIDDEN).reshape(N, -1)[order].flatten()
    moved = 1
    per_unit = tuple(f"layers.{moved}.{part}" for part in ("input_read.query", "dynamics", "communication.query"))
    readers = {"adjacent": ("top_down.0.",), "last_to_first": (), None: ()}[connection]
    readers += (f"layers.{moved + 1}.input_read.key", f"layers.{moved + 1}.input_read.value")
    with torch.no_grad():
        for (name, mine), theirs in zip(core.named_parameters(), other.parameters(), strict=True):
            if name.startswith(per_unit):
                theirs.copy_(mine[order])
            elif name.startswith(readers):
                theirs.copy_(mine[:, entries])
    h, c = random_state(core)
    h_moved, c_moved = h.clone(), c.clone()
    h_moved[moved], c_moved[moved] = h[moved][:, entries], c[moved][:, entries]
    x = sequence(core, T, B)
    y, (h, c), trace = core(x, (h, c), return_trace=True)
    y_moved, (h_moved, c_moved), trace_moved = other(x, (h_moved, c_moved), return_trace=True)
    close(y, y_moved)
    h[moved], c[moved] = h[moved][:, entries], c[moved][:, entries]
    close(h, h_moved)
    close(c, c_moved)
    all_units = torch.arange(3 * N)
    all_units[moved * N : (moved + 1) * N] = moved * N + order
    assert torch.equal(trace.active[..., all_units], trace_moved.active)


def test_units_that_tie_win_in_order_in_every_layer() -> None:
    core = make(num_layers=3, num_active=[1, 2, 3])
    _, _, trace = core(sequence(core, 1, B), return_trace=True)
    expected = [n < k for k in (1, 2, 3) for n in range(N)]
    assert torch.all(trace.active[0] == torch.tensor(expected))


# The trace.


def test_trace_columns() -> None:
    core = make(num_layers=3, num_inputs=2)
    _, _, trace = core(sequence(core, T, B), random_state(core), return_trace=True)
    attention = trace.input_attention
    assert attention is not None
    assert attention.shape == (T, B, 3 * N, 1 + 2 + 1)
    close(attention.sum(-1), torch.ones(T, B, 3 * N, dtype=torch.float64))
    absent = (attention == 0).all(dim=(0, 1))
    first, middle, last = absent.reshape(3, N, 4)
    assert not first.any()
    assert torch.equal(middle, torch.tensor([False, False, True, False]).expand(N, 4))
    assert torch.equal(last, torch.tensor([False, False, True, True]).expand(N, 4))


@pytest.mark.parametrize(("connection", "columns"), [("last_to_first", 3), (None, 2)])
def test_trace_columns_of_other_connections(connection: str | None, columns: int) -> None:
    core = make(num_layers=3, top_down=connection)
    _, _, trace = core(sequence(core, T, B), random_state(core), return_trace=True)
    assert trace.input_attention is not None
    assert trace.input_attention.shape == (T, B, 3 * N, columns)
    if connection is not None:
        assert torch.all(trace.input_attention[:, :, N:, -1] == 0)
        assert torch.all(trace.input_attention[:, :, :N, -1] > 0)


def test_units_communicate_within_their_layer() -> None:
    core = make(num_units=[4, 3], unit_size=None, hidden_size=12)
    _, _, trace = core(sequence(core, T, B), random_state(core), return_trace=True)
    attention = trace.communication_attention
    assert attention is not None
    assert torch.all(attention[..., :4, :4] > 0)
    assert torch.all(attention[..., 4:, 4:] > 0)
    assert torch.all(attention[..., :4, 4:] == 0)
    assert torch.all(attention[..., 4:, :4] == 0)


# Bad input.


def refusal(**options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        make_core("brims", 8, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("value", [0, -1, 2.5, "2", True, None], ids=repr)
def test_num_layers(value: Any) -> None:
    message = refusal(num_layers=value)
    assert "num_layers" in message
    assert repr(value) in message


@pytest.mark.parametrize("option", ["num_units", "num_active"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "2", True, [2, 0], [2, "2"], [2, [2]]], ids=repr)
def test_numbers_of_units(option: str, value: Any) -> None:
    message = refusal(**{option: value})
    assert option in message
    bad = value[1] if isinstance(value, list) else value
    assert repr(bad) in message


@pytest.mark.parametrize("option", ["num_units", "num_active"])
@pytest.mark.parametrize("value", [[], [4], [4, 4, 4]], ids=repr)
def test_a_list_for_other_layers(option: str, value: list[int]) -> None:
    message = refusal(**{option: value})
    for part in (option, "num_layers 2", f"got {value}"):
        assert part in message


@pytest.mark.parametrize("value", ["up", True, 1], ids=repr)
def test_top_down_lists_what_is_valid(value: Any) -> None:
    message = refusal(top_down=value)
    for part in ("top_down", repr(value), "'adjacent'", "'last_to_first'", "None"):
        assert part in message


@pytest.mark.parametrize("widths", [{}, {"unit_size": 10}, {"unit_size": 10, "hidden_size": 60}], ids=str)
def test_layers_whose_widths_do_not_fit(widths: dict[str, int]) -> None:
    message = refusal(num_units=[4, 6], **widths)
    for part in ("layers", "[4, 6]", "hidden_size", "12"):
        assert part in message


def test_a_width_that_one_layer_cannot_split() -> None:
    message = refusal(num_units=[4, 6], hidden_size=100)
    for part in ("hidden_size 100", "[4, 6]", "96 or 108"):
        assert part in message
    assert "use 12" in refusal(num_units=[4, 6], hidden_size=4)
    assert make_core("brims", 8, num_units=[4, 6], hidden_size=96).hidden_size == 96


@pytest.mark.parametrize("value", [0, 2.5, "96"], ids=repr)
def test_a_width_that_is_none(value: Any) -> None:
    message = refusal(num_units=[4, 6], hidden_size=value)
    assert "hidden_size" in message
    assert repr(value) in message


def test_what_rim_refuses_names_the_layer() -> None:
    message = refusal(num_units=[6, 3], num_active=[4, 4], hidden_size=96)
    for part in ("layer 1", "num_active", "1 to num_units 3", "got 4"):
        assert part in message
    assert "layer 1" in refusal(num_units=[6, 3], communication_top_k=4, hidden_size=96)


def test_equal_layers_are_refused_as_rim_refuses() -> None:
    assert "252 or 258" in refusal(hidden_size=256)
    assert re.search(r"hidden_size .*unit_size 20.* 96", refusal(hidden_size=96, unit_size=20))
    assert re.search(r"num_active .*1 to num_units 6.* 7", refusal(num_active=7))
