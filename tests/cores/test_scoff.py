"""SCOFF: the RIM that it is where nothing is chosen, how schemata are chosen, symmetry, noise, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.base import RecurrentCore, State
from rimrl.cores.registry import make_core
from rimrl.cores.rim import RIM
from rimrl.cores.scoff import SCOFF
from rimrl.errors import UsageError
from tests.cores.builders import RIM as RIM_SIZES
from tests.cores.builders import SCOFF as SMALL
from tests.cores.builders import randomise, sequence

T, B, N, D = 6, 3, SMALL["num_units"], SMALL["unit_size"]
FIXED: dict[str, Any] = {"assignment": "fixed", "num_schemata": N}


def make(seed: int = 0, **options: Any) -> SCOFF:
    torch.manual_seed(seed)
    core = SCOFF(input_size=3, **{**SMALL, **options}).double()
    randomise(core, seed)
    return core


def random_state(core: RecurrentCore, seed: int = 5) -> State:
    generator = torch.Generator().manual_seed(seed)
    h, c = (torch.randn(1, B, core.hidden_size, generator=generator, dtype=torch.float64) for _ in range(2))
    return h, c


def some_starts() -> Tensor:
    starts = torch.zeros(T, B, dtype=torch.bool)
    starts[2, 0] = starts[0, 1] = True
    return starts


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# The RIM that it is where nothing is chosen.


def as_rim(core: SCOFF, **options: Any) -> RIM:
    """The RIM every unit of which has SCOFF's attention matrices and the cell that its slot uses."""
    rim = RIM(input_size=3, **{**RIM_SIZES, "learn_initial_state": True, **options}).double()
    weights = {name.replace("dynamics.cells.", "dynamics."): p for name, p in core.state_dict().items()}
    with torch.no_grad():
        for name, p in rim.named_parameters():
            p.copy_(weights[name])  # a group of one is for every unit
    return rim


@pytest.mark.parametrize("how", [FIXED, {"num_schemata": 1}], ids=["fixed", "one schema"])
@pytest.mark.parametrize(
    "options",
    [
        {"dynamics": "gru"},
        {"dynamics": "lstm"},
        {"dynamics": "lstm", "competition": "units", "communication": "residual", "communication_reads": "previous"},
        {"dynamics": "gru", "num_inputs": 2, "input_heads": 2, "communication": None, "learn_initial_state": False},
    ],
    ids=["gru", "lstm", "units, residual, previous", "elements, no communication"],
)
def test_without_a_choice_it_is_rim_with_tied_matrices(how: dict[str, Any], options: dict[str, Any]) -> None:
    """Outputs, states, traces and gradients; that of a matrix that units share is the sum over RIM's units."""
    core = make(**how, **options)
    rim = as_rim(core, **options)
    x = sequence(core, T, B).requires_grad_()
    x_rim = x.detach().clone().requires_grad_()
    state, starts = random_state(core), some_starts()
    y, (h, c), trace = core(x, state, starts, return_trace=True)
    y_rim, (h_rim, c_rim), trace_rim = rim(x_rim, state, starts, return_trace=True)
    close(y, y_rim)
    close(h, h_rim)
    close(c, c_rim)
    assert torch.equal(trace.active, trace_rim.active)
    own = torch.arange(N) if how is FIXED else torch.zeros(N, dtype=torch.long)
    assert trace.schema is not None
    assert torch.equal(trace.schema, own.expand(T, B, N))
    for output, inner in ((y, c), (y_rim, c_rim)):
        (output.square().sum() + inner.sum()).backward()
    assert x.grad is not None
    assert x_rim.grad is not None
    close(x.grad, x_rim.grad)
    for name, p in core.named_parameters():
        theirs = dict(rim.named_parameters())[name.replace("dynamics.cells.", "dynamics.")].grad
        assert p.grad is not None
        assert theirs is not None
        close(p.grad, theirs if theirs.shape == p.shape else theirs.sum(dim=0, keepdim=True))


# The choice.


def test_a_slot_takes_the_state_that_its_schema_proposes() -> None:
    """Without communication an active slot's new state is that of the chosen cell, to the last bit."""
    core = make(communication=None)
    x, (h, c) = sequence(core, 1, B), random_state(core)
    y, _, trace = core(x, (h, c), return_trace=True)
    slots = h.view(B, N, D)
    u, _, _ = core.input_read(slots, *(part[0] for part in core._encode(x)))
    every_u, every_h = (core.dynamics._for_each(part) for part in (u, slots))
    proposals = core.dynamics.cells(every_u, every_h, every_h)[0].view(B, N, -1, D)
    assert trace.schema is not None
    taken = proposals[torch.arange(B)[:, None], torch.arange(N), trace.schema[0]]
    assert torch.equal(y.view(B, N, D), torch.where(trace.active[0, ..., None], taken, slots))


def test_the_temperature_scales_the_gradient_alone() -> None:
    core = make(communication=None)
    x, state = sequence(core, T, B), random_state(core)
    y = core(x, state)[0]
    assert core.dynamics.query is not None
    (gradient,) = torch.autograd.grad(y.sum(), core.dynamics.query)
    core.dynamics.temperature = 1e6
    other = core(x, state)[0]
    assert torch.equal(y, other)
    (faint,) = torch.autograd.grad(other.sum(), core.dynamics.query)
    assert 0 < faint.abs().max() < 1e-3 * gradient.abs().max()


def test_equal_scores_take_the_first_schema() -> None:
    core = make()
    assert core.dynamics.query is not None
    with torch.no_grad():
        core.dynamics.query.zero_()
    trace = core(sequence(core, T, B), random_state(core), return_trace=True)[2]
    assert trace.schema is not None
    assert (trace.schema == 0).all()


# Symmetry.


def test_slots_permute_with_their_content() -> None:
    core, order = make(), torch.tensor([2, 0, 3, 1])
    x, (h, c) = sequence(core, T, B), random_state(core)
    moved = tuple(s.view(1, B, N, D)[:, :, order].flatten(2) for s in (h, c))
    y, _, trace = core(x, (h, c), return_trace=True)
    y_moved, _, trace_moved = core(x, (moved[0], moved[1]), return_trace=True)
    close(y.view(T, B, N, D)[:, :, order], y_moved.view(T, B, N, D))
    assert trace.schema is not None
    assert trace_moved.schema is not None
    assert torch.equal(trace.schema[..., order], trace_moved.schema)


def test_schemata_permute_with_their_weights() -> None:
    core, other, order = make(), make(), torch.tensor([2, 0, 1])
    with torch.no_grad():
        for (name, mine), theirs in zip(core.named_parameters(), other.parameters(), strict=True):
            if name.startswith("dynamics.") and name != "dynamics.query":
                theirs.copy_(mine[order])
    x, state = sequence(core, T, B), random_state(core)
    y, _, trace = core(x, state, return_trace=True)
    y_other, _, trace_other = other(x, state, return_trace=True)
    close(y, y_other)
    assert trace.schema is not None
    assert trace_other.schema is not None
    assert torch.equal(trace.schema, order[trace_other.schema])


def test_from_zeros_slots_that_act_together_stay_equal() -> None:
    core = make(learn_initial_state=False)
    y, _, trace = core(sequence(core, T, B), return_trace=True)
    first, second = y.view(T, B, N, D)[:, :, 0], y.view(T, B, N, D)[:, :, 1]
    assert trace.active[0, :, :2].all()
    assert torch.equal(first[0], second[0])


def test_learned_contents_tell_slots_apart() -> None:
    y = SCOFF(input_size=3, **SMALL)(torch.randn(2, 1, 3))[0].view(2, N, D)
    assert all(not torch.equal(y[1, i], y[1, j]) for i in range(N) for j in range(i))


# Noise.


def test_noise_acts_in_training_alone() -> None:
    core, silent = make(gumbel_noise=True), make()
    x, state = sequence(core, T, 50), None
    core.eval()
    assert torch.equal(core(x, state)[0], silent(x, state)[0])
    core.train()
    torch.manual_seed(0)
    first = core(x, state)[0]
    assert not torch.equal(first, core(x, state)[0])
    torch.manual_seed(0)
    assert torch.equal(first, core(x, state)[0])


def test_noise_draws_schemata_by_the_softmax_of_their_scores() -> None:
    """The Gumbel-max trick: scores of ln 1, ln 2, ln 5 are chosen one, two and five times in eight."""
    core = make(gumbel_noise=True, num_units=1, num_active=1)
    dynamics = core.dynamics
    assert dynamics.query is not None
    assert dynamics.key is not None
    with torch.no_grad():
        for weight in core.dynamics.parameters():
            weight.zero_()
        dynamics.get_parameter("cells.bias_input")[:, 2 * D] = 100.0  # h' = h for h = (1, 0, ...)
        dynamics.query[0, 0] = 1.0
        dynamics.key[:, 0, 0] = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log()
    n = 20_000
    h = torch.zeros(n, 1, D, dtype=torch.float64)
    h[..., 0] = 1.0
    schema = core.dynamics(torch.zeros(n, 1, SMALL["input_value_size"], dtype=torch.float64), h, h)[2]
    shares = torch.bincount(schema.flatten(), minlength=3) / n
    torch.testing.assert_close(shares, torch.tensor([1 / 8, 2 / 8, 5 / 8]), atol=0.02, rtol=0)  # five standard errors


# Refusals.


@pytest.mark.parametrize("schemata", [N - 1, N + 1])
def test_a_fixed_assignment_needs_a_schema_for_every_slot(schemata: int) -> None:
    with pytest.raises(UsageError) as caught:
        make_core("scoff", 3, num_units=N, num_schemata=schemata, assignment="fixed")
    assert (caught.value.key, caught.value.found) == ("num_schemata", str(schemata))
    assert SCOFF(3, num_units=N, assignment="fixed").dynamics.num_schemata == N


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_schemata", 0),
        ("num_active", 7),
        ("dynamics", "rnn"),
        ("assignment", "free"),
        ("gumbel_noise", 1),
        ("schema_temperature", 0.0),
        ("schema_temperature", float("inf")),
        ("schema_key_size", 0),
        ("competition", "slots"),
        ("communication", "workspace"),
        ("communication_heads", 0),
    ],
)
def test_values_that_do_not_fit_are_refused(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option):
        make_core("scoff", 3, **{option: value})
