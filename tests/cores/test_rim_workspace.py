"""RIM with a workspace: who writes, who reads, what persists, symmetry, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.backends import use_backend
from rimrl.cores.base import State
from rimrl.cores.registry import make_core
from rimrl.cores.rim import RIM
from rimrl.cores.rim_workspace import WorkspaceRIM
from rimrl.errors import UsageError
from tests.cores.builders import RIM as RIM_SIZES
from tests.cores.builders import WORKSPACE as SMALL
from tests.cores.builders import randomise, sequence

T, B, N, S, D = 6, 3, SMALL["num_units"], SMALL["num_slots"], SMALL["unit_size"]


def make(seed: int = 0, **options: Any) -> WorkspaceRIM:
    torch.manual_seed(seed)
    core = WorkspaceRIM(input_size=3, **{**SMALL, **options}).double()
    randomise(core, seed)
    return core


def random_state(core: WorkspaceRIM, seed: int = 5) -> State:
    generator = torch.Generator().manual_seed(seed)
    h, c = (torch.randn(1, B, core.hidden_size, generator=generator, dtype=torch.float64) for _ in range(2))
    return h, c


def apart(y: Tensor) -> tuple[Tensor, Tensor]:
    """Units ``[..., N, D]`` and slots ``[..., S, D]``."""
    rows = y.reshape(*y.shape[:-1], N + S, D)
    return rows[..., :N, :], rows[..., N:, :]


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dynamics", ["lstm", "gru"])
def test_a_workspace_that_says_nothing_leaves_rim_without_communication(dynamics: str) -> None:
    core = make(dynamics=dynamics)
    with torch.no_grad():
        core.workspace.read.project.weight.zero_()
    rim = RIM(input_size=3, **{**RIM_SIZES, "communication": None, "dynamics": dynamics}).double()
    rim.load_state_dict({name: p for name, p in core.state_dict().items() if not name.startswith("workspace")})
    x, (h, c) = sequence(core, T, B), random_state(core)
    y, (_, c_last) = core(x, (h, c))
    y_rim, (_, c_rim) = rim(x, (h[..., : N * D], c[..., : N * D]))
    close(apart(y)[0].flatten(2), y_rim)
    close(c_last[..., : N * D], c_rim)
    assert (c_last[..., N * D :] == 0).all()


@pytest.mark.parametrize("broadcast", ["all", "active"])
def test_who_is_told(broadcast: str) -> None:
    core = make(broadcast=broadcast)
    state = random_state(core)
    y, _, trace = core(sequence(core, 1, B), state, return_trace=True)
    changed = (apart(y[0])[0] != apart(state[0][0])[0]).any(dim=-1)
    assert torch.equal(changed, torch.ones_like(changed) if broadcast == "all" else trace.active[0])


@pytest.mark.parametrize("k", [1, 2, None])
def test_only_active_units_write(k: int | None) -> None:
    """How much of each unit goes into the slots; with k = 1 a head of a slot takes one of them alone."""
    core = make(num_active=3, write_top_k=k, workspace_heads=1)
    _, _, trace = core(sequence(core, T, B), random_state(core), return_trace=True)
    attention = trace.communication_attention
    assert attention is not None
    close(attention.sum(-1), torch.ones(T, B, N, dtype=torch.float64))
    assert (attention[~trace.active.unsqueeze(2).expand_as(attention)] == 0).all()
    writers = (attention > 0).sum(-1)
    assert writers.max() <= (3 if k is None else S * k)
    if k is None:
        assert (writers == 3).all()


def test_the_workspace_carries_what_was_written() -> None:
    """Units that forget all that they held still differ by what the slots hold."""
    core = make()
    x, (h, c) = sequence(core, 1, B), random_state(core)
    other = torch.cat([h[..., : N * D], h[..., N * D :] + 1.0], dim=-1)
    assert (apart(core(x, (h, c))[0])[0] - apart(core(x, (other, c))[0])[0]).abs().min() > 1e-6


def test_closed_gates_keep_or_drop_the_slots() -> None:
    core = make()
    x, (h, c) = sequence(core, T, B), random_state(core)
    with torch.no_grad():
        core.workspace.gate.weight.zero_()
        core.workspace.gate.bias[:D], core.workspace.gate.bias[D:] = -1e3, 1e3
    close(apart(core(x, (h, c))[0])[1], apart(h[0])[1].expand(T, -1, -1, -1))
    with torch.no_grad():
        core.workspace.gate.bias[D:] = -1e3
    assert (apart(core(x, (h, c))[0])[1] == 0).all()


def test_slots_start_at_the_identity_and_units_at_zero() -> None:
    h, c = make().initial_state(B)
    units, slots = apart(h[0])
    assert (units == 0).all()
    assert torch.equal(slots, torch.eye(S, D, dtype=torch.float64).expand(B, S, D))
    assert (c == 0).all()


def test_slots_permute_with_their_content() -> None:
    core, order = make(), torch.tensor([1, 0])
    x, (h, c) = sequence(core, T, B), random_state(core)
    units, slots = apart(h)
    moved = torch.cat([units, slots[..., order, :]], dim=-2).flatten(-2)
    (units, slots), (units_moved, slots_moved) = (apart(core(x, (each, c))[0]) for each in (h, moved))
    close(units, units_moved)
    close(slots[..., order, :], slots_moved)


def test_it_runs_on_its_plain_step_alone() -> None:
    core = make()
    assert core.backend == "step"
    assert core.backends == {"step": None}
    with use_backend("torch"), pytest.raises(UsageError, match="no backend 'torch'"):
        core(sequence(core, 1, 1))


def test_the_width_is_that_of_units_and_slots() -> None:
    assert make_core("rim_workspace", 3, num_units=4, num_slots=2, hidden_size=18).unit_size == 3
    with pytest.raises(UsageError, match=r"num_units \+ num_slots 6"):
        make_core("rim_workspace", 3, num_units=4, num_slots=2, hidden_size=16)
    with pytest.raises(UsageError, match="unit_size 4"):
        make_core("rim_workspace", 3, num_units=4, num_slots=2, hidden_size=18, unit_size=4)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_slots", 0),
        ("num_active", 7),
        ("write_top_k", 5),
        ("write_top_k", 0),
        ("broadcast", "none"),
        ("workspace_heads", 0),
        ("workspace_key_size", 0),
        ("dynamics", "rnn"),
        ("communication", "gated"),
        ("communication_top_k", 2),
    ],
)
def test_values_that_do_not_fit_and_options_of_pairwise_communication_are_refused(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option):
        make_core("rim_workspace", 3, **{option: value})


@pytest.mark.parametrize("core", ["rim", "brims"])
def test_pairwise_communication_has_no_workspace(core: str) -> None:
    for option, value in (("num_slots", 2), ("write_top_k", 1), ("communication", "workspace")):
        with pytest.raises(UsageError, match=option):
            make_core(core, 3, **{option: value})
