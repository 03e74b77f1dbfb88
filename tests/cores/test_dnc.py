"""DNC: which slots it writes to, the order of writes that it keeps, and that all weightings stay weightings."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.dnc import DNC, _linked, allocation
from tests.cores.builders import DNC as SMALL
from tests.cores.builders import randomise, sequence


def weights(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def sorted_allocation(usage: Tensor) -> Tensor:
    """As the paper has it: the slots in ascending order of usage, and a running product."""
    u, phi = usage.sort(dim=1)
    before = torch.cat([torch.ones_like(u[:, :1]), u[:, :-1].cumprod(dim=1)], dim=1)
    return torch.zeros_like(u).scatter(1, phi, (1 - u) * before)


def test_allocation_is_that_of_the_sorted_slots() -> None:
    usage = torch.rand(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    close(allocation(usage), sorted_allocation(usage))


def test_allocation_puts_all_weight_on_an_unused_slot() -> None:
    close(allocation(weights([0.9, 0.5, 0.0, 0.7])), weights([0.0, 0.0, 1.0, 0.0]))


def test_allocation_takes_slots_of_equal_usage_in_order_whatever_rounding_says() -> None:
    for noise in itertools.permutations((0.0, 1e-7, 2e-7)):
        a = allocation(weights([1.0, *noise]))
        torch.testing.assert_close(a, weights([0.0, 1.0, 0.0, 0.0]), rtol=0.0, atol=1e-6)
    close(allocation(weights([0.5, 0.5, 0.5])), weights([0.5, 0.25, 0.125]))


def test_no_slot_is_allocated_when_all_are_in_use() -> None:
    close(allocation(weights([1.0, 1.0, 1.0])), weights([0.0, 0.0, 0.0]))


def test_allocation_has_exact_gradients_where_slots_are_unused() -> None:
    usage = weights([0.3, 0.0, 0.8, 0.0001], [0.2, 0.5, 0.4, 0.9]).requires_grad_()
    assert torch.autograd.gradcheck(allocation, (usage,), eps=1e-7)


def test_links_lead_from_each_slot_to_the_one_that_was_written_next() -> None:
    order, N = [2, 0, 3, 1], 4
    link, precedence = torch.zeros(1, N, N, dtype=torch.float64), torch.zeros(1, N, dtype=torch.float64)
    for slot in order:
        write = torch.eye(N, dtype=torch.float64)[slot].unsqueeze(0)
        link = _linked(link, write, precedence)
        precedence = write
    for before, after in itertools.pairwise(order):
        at = torch.eye(N, dtype=torch.float64)[before]
        close(link[0] @ at, torch.eye(N, dtype=torch.float64)[after])
        close(link[0].t() @ torch.eye(N, dtype=torch.float64)[after], at)
    assert link.sum() == N - 1


def make(**options: Any) -> DNC:
    torch.manual_seed(0)
    core = DNC(input_size=3, **{**SMALL, **options}).double()
    randomise(core)
    return core


@pytest.mark.parametrize("steps", [1, 3, 30])
def test_everything_stays_in_its_range(steps: int) -> None:
    core = make()
    _, state = core(sequence(core, steps, 5))
    *_, write, read, usage, precedence, link = core._unpack(state)
    for weighting in (write, read, precedence, link, link.transpose(1, 2)):
        assert weighting.min() >= 0
        assert weighting.sum(dim=-1).max() <= 1 + 1e-12
    assert usage.min() >= 0
    assert usage.max() <= 1
    assert torch.all(link.diagonal(dim1=1, dim2=2) == 0)


def told(core: DNC, **biases: Tensor | float) -> DNC:
    """The core with a controller that says the same at every step."""
    W, R = core.slot_size, core.num_reads
    names = ["kr", "br", "kw", "bw", "e", "v", "free", "ga", "gw", "modes"]
    sizes = [R * W, R, W, 1, W, W, R, 1, 1, 3 * R]
    with torch.no_grad():
        core.interface.weight.zero_()
        for name, part in zip(names, torch.split(core.interface.bias, sizes), strict=True):
            part.copy_(torch.as_tensor(biases.get(name, 0.0)))
    return core


def test_allocation_writes_to_one_new_slot_at_every_step_until_freed() -> None:
    core = told(make(num_slots=4), ga=60.0, gw=60.0, free=-60.0)
    _, _, trace = core(sequence(core, 5, 1), return_trace=True)
    assert trace.input_attention is not None
    written = trace.input_attention[:, 0, :, 1]
    close(written[:4], torch.eye(4, dtype=torch.float64))
    close(written[4], torch.zeros(4, dtype=torch.float64))


def test_a_shut_write_gate_leaves_the_memory_as_it_was() -> None:
    core = told(make(), gw=-800.0)
    _, before = make()(sequence(core, 4, 2))
    _, after = core(sequence(core, 3, 2, seed=8), before)
    assert torch.equal(core._unpack(after)[2], core._unpack(before)[2])


def test_reading_forward_follows_the_order_of_writing() -> None:
    """Four slots are written in order; a head that stood on the first one then walks over them."""
    core = told(make(num_slots=4, num_reads=1), ga=60.0, gw=60.0, free=-60.0)
    _, state = core(sequence(core, 4, 1))
    parts = core._unpack(state)
    parts[5] = torch.eye(4, dtype=torch.float64)[:1].unsqueeze(0)
    state = core._pack(parts)
    told(core, gw=-800.0, free=-60.0, modes=torch.tensor([0.0, 0.0, 60.0], dtype=torch.float64))
    for slot in (1, 2, 3):
        _, state = core(sequence(core, 1, 1), state)
        close(core._unpack(state)[5][0], torch.eye(4, dtype=torch.float64)[slot : slot + 1])


def test_an_episode_starts_with_nothing() -> None:
    assert all(torch.all(each == 0) for each in make().initial_state(2))


def test_one_call_and_a_call_a_step_write_to_the_same_slots_in_single_precision() -> None:
    """At the start all slots are alike; what rounding makes of them must not decide."""
    torch.manual_seed(0)
    core = DNC(input_size=8)
    x = torch.randn(7, 3, 8)
    y, _ = core(x)
    state, outputs = None, []
    for x_t in x:
        y_t, state = core.step(x_t, state)
        outputs.append(y_t)
    torch.testing.assert_close(y, torch.stack(outputs), rtol=1e-4, atol=1e-5)
