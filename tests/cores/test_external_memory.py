"""What NTM and DNC share: how the state is packed, the memory in closed form, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rimrl.cores.external_memory import ExternalMemory, content_weighting, erase_and_add
from rimrl.cores.registry import make_core
from rimrl.errors import UsageError
from tests.cores.builders import SMALL, randomise, sequence

every_core = pytest.mark.parametrize("name", ["ntm", "dnc"])


def make(name: str, **options: Any) -> ExternalMemory:
    torch.manual_seed(0)
    core = make_core(name, 3, **{**SMALL[name], **options}).double()
    assert isinstance(core, ExternalMemory)
    randomise(core)
    return core


@every_core
@pytest.mark.parametrize("width", [1, 2, 7, 100])
def test_the_state_has_as_many_rows_as_it_takes(name: str, width: int) -> None:
    """Half of it in h and half in c; zeros fill the last rows."""
    core = make(name, hidden_size=width)
    N, W, R, C = core.num_slots, core.slot_size, core.num_reads, core.controller_size
    size = 2 * C + R * W + N * W + ((1 + R) * N if name == "ntm" else (3 + R) * N + N * N)
    half = (size + 1) // 2
    assert core.num_layers == math.ceil(half / width)
    _, state = core(sequence(core, 4, 2))
    for rows, used in zip(state, (half, size - half), strict=True):
        flat = rows.transpose(0, 1).flatten(1)
        assert torch.all(flat[:, used:] == 0)
        assert torch.any(flat[:, :used] != 0)


@every_core
def test_what_was_packed_is_unpacked(name: str) -> None:
    core = make(name)
    _, state = core(sequence(core, 4, 2))
    parts = core._unpack(state)
    assert [tuple(part.shape[1:]) for part in parts[:4]] == [(5,), (core.num_reads, 3), (4, 3), (5,)]
    for again, before in zip(core._pack(parts), state, strict=True):
        assert torch.equal(again, before)


@every_core
def test_the_output_is_a_map_of_hidden_and_reads(name: str) -> None:
    core = make(name)
    y, state = core(sequence(core, 4, 2))
    hidden, reads, *_ = core._unpack(state)
    torch.testing.assert_close(y[-1], core.output(torch.cat([hidden, reads.flatten(1)], dim=1)))


@every_core
def test_the_controller_is_an_lstm_cell(name: str) -> None:
    """What it has read is a part of its input."""
    core = make(name)
    _, state = core(sequence(core, 4, 2))
    x = sequence(core, 1, 2, seed=9)
    hidden, reads, _, cell, *_ = core._unpack(state)
    lstm = torch.nn.LSTMCell(3 + reads[0].numel(), core.controller_size).double()
    seen = core.controller_hidden.weight
    with torch.no_grad():
        lstm.weight_ih.copy_(torch.cat([core.controller_input.weight, seen[:, core.controller_size :]], dim=1))
        lstm.weight_hh.copy_(seen[:, : core.controller_size])
        lstm.bias_ih.copy_(core.controller_input.bias)
        lstm.bias_hh.zero_()
    expected = lstm(torch.cat([x[0], reads.flatten(1)], dim=1), (hidden, cell))
    _, state = core(x, state)
    hidden, _, _, cell, *_ = core._unpack(state)
    torch.testing.assert_close((hidden, cell), expected)


def test_content_finds_the_slot_that_points_the_same_way() -> None:
    memory = torch.tensor([[[3.0, 0.0], [0.0, 0.1], [-2.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    keys = torch.tensor([[[0.0, 5.0], [1.0, 0.0]]], dtype=torch.float64)
    w = content_weighting(keys, torch.full((1, 2, 1), 50.0, dtype=torch.float64), memory)
    assert w[0].argmax(dim=1).tolist() == [1, 0]
    torch.testing.assert_close(w[0].amax(dim=1), torch.ones(2, dtype=torch.float64))
    even = content_weighting(keys, torch.zeros(1, 2, 1, dtype=torch.float64), memory)
    torch.testing.assert_close(even, torch.full((1, 2, 4), 0.25, dtype=torch.float64))


def test_content_has_finite_gradients_for_an_empty_memory_and_key() -> None:
    memory, keys = torch.zeros(1, 3, 2, requires_grad=True), torch.zeros(1, 1, 2, requires_grad=True)
    w = content_weighting(keys, torch.ones(1, 1, 1), memory)
    for gradient in torch.autograd.grad(w.square().sum(), (memory, keys)):
        assert gradient.isfinite().all()


def test_writing_with_all_weight_replaces_what_is_erased() -> None:
    memory = torch.arange(6.0).reshape(1, 3, 2)
    new = erase_and_add(memory, torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[9.0, 9.0]]))
    assert new[0].tolist() == [[0.0, 1.0], [9.0, 12.0], [4.0, 5.0]]


@every_core
@pytest.mark.parametrize("option", ["hidden_size", "num_slots", "slot_size", "num_reads", "controller_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True])
def test_sizes_that_are_none_are_refused(name: str, option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option) as caught:
        make_core(name, 3, **{option: value})
    assert "\n" not in str(caught.value)


@every_core
def test_the_forget_gates_start_open(name: str) -> None:
    core = make_core(name, 3, controller_size=5)
    assert isinstance(core, ExternalMemory)
    assert torch.all(core.controller_input.bias[5:10] == 1)


@every_core
def test_sizes_cannot_be_assigned(name: str) -> None:
    core = make(name)
    for option in ("num_slots", "slot_size", "num_reads", "controller_size", "num_layers"):
        with pytest.raises(AttributeError, match=option):
            setattr(core, option, 2)
