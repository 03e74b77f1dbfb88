"""What must hold for RigLSTM whatever the weights are: selection, symmetry, each switch, the limit of Grid LSTM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.base import State
from rimrl.cores.grid_lstm import GridLSTM
from rimrl.cores.registry import make_core
from rimrl.cores.riglstm import RigLSTM
from rimrl.errors import UsageError
from tests.cores.builders import INPUT_SIZE, RIGLSTM, RIGLSTM_SWITCHES, RIGLSTM_VARIANTS, randomise, sequence

T, B = 6, 3
N, D, V = RIGLSTM["num_units"], RIGLSTM["unit_size"], RIGLSTM["num_views"]
NOTHING_SELECTED = RIGLSTM_VARIANTS["nothing selected"]
ALL: dict[str, dict[str, Any]] = {"default": {}, **RIGLSTM_VARIANTS}
every_variant = pytest.mark.parametrize("options", ALL.values(), ids=ALL.keys())
COMPETING = {name: options for name, options in ALL.items() if options.get("cell_selection", True)}
every_competition = pytest.mark.parametrize("options", COMPETING.values(), ids=COMPETING.keys())


def make_rig(seed: int = 0, **options: Any) -> RigLSTM:
    torch.manual_seed(seed)
    core = RigLSTM(INPUT_SIZE, **{**RIGLSTM, **options}).double()
    randomise(core, seed)
    return core


def random_state(batch_size: int = B, width: int = N * D, seed: int = 5) -> State:
    generator = torch.Generator().manual_seed(seed)
    h, c = torch.randn(2, 1, batch_size, width, generator=generator, dtype=torch.float64)
    return h, c


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def by_unit(state: Tensor) -> Tensor:
    """``[..., N D]`` as ``[..., N, D]``."""
    return state.reshape(*state.shape[:-1], -1, D)


def copy_weights(source: RigLSTM, target: RigLSTM) -> None:
    """Give ``target`` the weights of ``source``, which has all that it needs and may have more."""
    assert not target.load_state_dict(source.state_dict(), strict=False).missing_keys


def gradients(y: Tensor, state: State, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    loss = y.square().sum() + state[0].sum() + state[1].sin().sum()
    return torch.autograd.grad(loss, leaves)


# The limit in which nothing is selected.


def test_nothing_selected_is_grid_lstm_with_the_same_weights() -> None:
    """With views that take the input apart, one entry each, the weights are copied as they are."""
    rig = make_rig(**{**NOTHING_SELECTED, "num_views": INPUT_SIZE, "view_size": 1})
    grid = GridLSTM(INPUT_SIZE, num_units=N, unit_size=D).double()
    with torch.no_grad():
        rig.views.copy_(torch.eye(INPUT_SIZE, dtype=torch.float64).unsqueeze(-1))
    grid.dynamics.load_state_dict(rig.dynamics.state_dict())
    x, starts = sequence(rig, T, B).requires_grad_(), torch.zeros(T, B, dtype=torch.bool)
    starts[2, 0] = starts[0, 1] = True
    h, c = (s.requires_grad_() for s in random_state())
    y, state = rig(x, (h, c), starts)
    y_grid, state_grid = grid(x, (h, c), starts)
    close(y, y_grid)
    close(state[0], state_grid[0])
    close(state[1], state_grid[1])
    found = gradients(y, state, [x, h, c, *rig.dynamics.parameters()])
    expected = gradients(y_grid, state_grid, [x, h, c, *grid.dynamics.parameters()])
    for a, b in zip(found, expected, strict=True):
        close(a, b)


@pytest.mark.parametrize(("num_views", "view_size"), [(1, 2), (3, 4), (6, 1)])
def test_nothing_selected_is_grid_lstm_on_the_views(num_views: int, view_size: int) -> None:
    """Whatever the views, their matrices multiply Grid LSTM's; gradients follow by the chain rule."""
    rig = make_rig(**{**NOTHING_SELECTED, "num_views": num_views, "view_size": view_size})
    grid = GridLSTM(INPUT_SIZE, num_units=N, unit_size=D).double()
    side_by_side = rig.views.detach().transpose(0, 1).flatten(1)  # [I, V F]
    weights = rig.dynamics.state_dict()
    grid.dynamics.load_state_dict({**weights, "weight_input": side_by_side @ weights["weight_input"]})
    x, (h, c) = sequence(rig, T, B).requires_grad_(), random_state()
    y, state = rig(x, (h, c))
    y_grid, state_grid = grid(x, (h, c))
    close(y, y_grid)
    close(state[1], state_grid[1])
    names = ["weight_input", "weight_hidden", "bias"]
    found = gradients(y, state, [x, *(rig.dynamics.get_parameter(n) for n in names)])
    expected = gradients(y_grid, state_grid, [x, *(grid.dynamics.get_parameter(n) for n in names)])
    close(found[0], expected[0])
    close(found[1], side_by_side.t() @ expected[1])
    close(found[2], expected[2])
    close(found[3], expected[3])


# Cell selection.


@every_competition
@pytest.mark.parametrize("num_active", [1, 2, 3, 4])
def test_exactly_the_active_units_change(options: dict[str, Any], num_active: int) -> None:
    core = make_rig(**{**options, "num_active": num_active})
    state = random_state()
    x = sequence(core, T, B)
    seen = torch.zeros(N, dtype=torch.bool)
    for t in range(T):
        before = state
        _, state, trace = core(x[t : t + 1], before, return_trace=True)
        active = trace.active[0]
        assert torch.all(active.sum(-1) == num_active)
        for old, new in zip(before, state, strict=True):
            same = (by_unit(old[0]) == by_unit(new[0])).all(-1)
            assert torch.equal(same, ~active)
        seen |= active.any(0)
    assert seen.sum() > num_active or num_active == N


@every_competition
def test_the_units_with_the_best_scores_win(options: dict[str, Any]) -> None:
    """The mean score over the views, view by view as the paper puts it."""
    core = make_rig(**options)
    x, (h, c) = sequence(core, 1, B), random_state()
    _, _, trace = core(x, (h, c), return_trace=True)
    scores_of = core.input_selection if core.cell_selection_shared else core.cell_selection
    assert scores_of is not None
    for b in range(B):
        views = [x[0, b] @ W for W in core.views]
        scores = []
        for n in range(N):
            query = by_unit(h)[0, b, n] @ scores_of.query[n]
            scores.append(sum((query @ (view @ scores_of.key)).item() for view in views))
        best = sorted(range(N), key=lambda n: -scores[n])[: core.num_active]
        assert sorted(best) == trace.active[0, b].nonzero().flatten().tolist()


@every_competition
def test_units_that_tie_win_in_order(options: dict[str, Any]) -> None:
    if options.get("learn_initial_state"):
        pytest.skip("starts elsewhere")
    core = make_rig(**options)
    _, _, trace = core(sequence(core, 1, B), return_trace=True)
    assert torch.all(trace.active[0] == (torch.arange(N) < core.num_active))


OWN_SCORES = ["cell_selection.key", "cell_selection.query"]


@pytest.mark.parametrize(
    ("options", "still"),
    [
        ({}, []),
        ({"cell_selection_weights": "shared"}, []),
        ({"learn_initial_state": True}, []),
        ({"cell_selection_weights": "own"}, OWN_SCORES),
        ({"input_selection": False}, OWN_SCORES),
        ({"input_selection": False, "cell_selection_weights": "own"}, OWN_SCORES),
        ({"input_top_k": 1}, ["input_selection.key", "input_selection.query"]),
    ],
    ids=str,
)
def test_which_parameters_get_a_gradient(options: dict[str, Any], still: list[str]) -> None:
    """By default all of them; scores that act through a choice alone get exactly none, while all the rest learns."""
    core = make_rig(**options)
    y, _ = core(sequence(core, T, B), None if "learn_initial_state" in options else random_state())
    names = [name for name, _ in core.named_parameters()]
    found = torch.autograd.grad(y.square().sum(), list(core.parameters()), allow_unused=True, materialize_grads=True)
    assert sorted(name for name, g in zip(names, found, strict=True) if torch.all(g == 0)) == still


def test_without_input_selection_there_is_nothing_to_share() -> None:
    own, shared = (make_rig(cell_selection_weights=w, input_selection=False) for w in ("own", "shared"))
    x, state = sequence(own, T, B), random_state()
    y, _, trace = own(x, state, return_trace=True)
    y_shared, _, trace_shared = shared(x, state, return_trace=True)
    assert torch.equal(y, y_shared)
    assert torch.equal(trace.active, trace_shared.active)


def test_shared_weights_are_own_weights_that_are_equal() -> None:
    own, shared = make_rig(cell_selection_weights="own"), make_rig(cell_selection_weights="shared")
    assert shared.cell_selection is None
    with torch.no_grad():
        for part in ("query", "key"):
            own.get_parameter(f"cell_selection.{part}").copy_(own.get_parameter(f"input_selection.{part}"))
    copy_weights(own, shared)
    x, state = sequence(own, T, B), random_state()
    y, _, trace = own(x, state, return_trace=True)
    y_shared, _, trace_shared = shared(x, state, return_trace=True)
    close(y, y_shared)
    assert torch.equal(trace.active, trace_shared.active)


@pytest.mark.parametrize(("num_units", "expected"), [(2, 2), (3, 2), (4, 3), (6, 5), (12, 10)])
def test_sizes_of_the_selections_by_default(num_units: int, expected: int) -> None:
    core = RigLSTM(INPUT_SIZE, num_units=num_units, unit_size=2)
    _, _, trace = core(torch.randn(4, 2, INPUT_SIZE), return_trace=True)
    assert trace.input_attention is not None
    assert trace.communication_attention is not None
    assert torch.all(trace.active.sum(-1) == expected)
    assert torch.all((trace.input_attention > 0).sum(-1) == min(expected, 6))
    assert torch.all((trace.communication_attention > 0).sum(-1) == min(expected, num_units - 1))


# Selection of views and of other units.


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_every_unit_reads_its_best_views(top_k: int) -> None:
    core, everything = make_rig(input_top_k=top_k), make_rig(input_top_k=V)
    everything.load_state_dict(core.state_dict())
    x, state = sequence(core, 1, B), random_state()
    attention = core(x, state, return_trace=True)[2].input_attention
    full = everything(x, state, return_trace=True)[2].input_attention
    assert attention is not None
    assert full is not None
    assert torch.all(attention[..., 0] == 0)
    assert torch.all((attention[..., 1:] > 0).sum(-1) == top_k)
    kept = torch.where(attention > 0, full, 0.0)
    close(attention, kept / kept.sum(-1, keepdim=True))
    close(kept.sum(-1), full.topk(top_k, dim=-1).values.sum(-1))


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_every_unit_reads_the_best_others(top_k: int) -> None:
    core, everything = make_rig(hidden_top_k=top_k), make_rig(hidden_top_k=N - 1)
    everything.load_state_dict(core.state_dict())
    x, state = sequence(core, 1, B), random_state()
    attention = core(x, state, return_trace=True)[2].communication_attention
    full = everything(x, state, return_trace=True)[2].communication_attention
    assert attention is not None
    assert full is not None
    assert torch.all(attention.diagonal(dim1=-2, dim2=-1) == 0)
    assert torch.all((attention > 0).sum(-1) == top_k)
    kept = torch.where(attention > 0, full, 0.0)
    close(attention, kept / kept.sum(-1, keepdim=True))
    close(kept.sum(-1), full.topk(top_k, dim=-1).values.sum(-1))


def test_equal_scores_read_the_lowest() -> None:
    """At the zero state views 0 to Kx-1 and the first other units, evenly."""
    core = make_rig(input_top_k=2, hidden_top_k=2)
    _, _, trace = core(sequence(core, 1, B), return_trace=True)
    assert trace.input_attention is not None
    assert trace.communication_attention is not None
    assert torch.all(trace.input_attention == torch.tensor([0.0, 0.5, 0.5, 0.0]).double())
    expected = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]]).double() / 2
    assert torch.all(trace.communication_attention == expected)


# Each switch alone.


def test_without_cell_selection_all_are_active() -> None:
    options = {"input_top_k": 2, "hidden_top_k": 2}
    on, off = make_rig(num_active=N, **options), make_rig(num_active=None, cell_selection=False, **options)
    copy_weights(on, off)
    x, state = sequence(off, T, B), random_state()
    y, _, trace = off(x, state, return_trace=True)
    assert trace.active.all()
    close(y, on(x, state)[0])


def test_without_input_selection_the_only_view_is_read_all_the_same() -> None:
    """With one view there is nothing to select from: its weight is one."""
    on, off = (make_rig(num_views=1, cell_selection_weights="own", input_selection=i) for i in (True, False))
    copy_weights(on, off)
    x, state = sequence(on, T, B), random_state()
    y, _, trace = off(x, state, return_trace=True)
    assert trace.input_attention is None
    close(y, on(x, state)[0])


def test_without_input_selection_views_are_read_side_by_side() -> None:
    """Moving the views and the rows that read them changes nothing."""
    core, other = make_rig(input_selection=False), make_rig(input_selection=False)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        other.views.copy_(core.views[order])
        rows = core.dynamics.weight_input.reshape(N, V, -1, 4 * D)[:, order].flatten(1, 2)
        other.dynamics.weight_input.copy_(rows)
    x, state = sequence(core, T, B), random_state()
    close(core(x, state)[0], other(x, state)[0])


def test_without_hidden_selection_the_only_other_unit_is_read_all_the_same() -> None:
    """Two units, values as they are: ``[h_n ; h_m]`` is everything, in another order for the second unit."""
    options = {"num_units": 2, "num_active": 1, "hidden_value_size": D}
    on, off = make_rig(**options), make_rig(**options, hidden_selection=False)
    with torch.no_grad():
        on.get_parameter("hidden_selection.value").copy_(torch.eye(D))
    copy_weights(on, off)
    with torch.no_grad():
        off.dynamics.weight_hidden[1] = on.dynamics.weight_hidden[1].roll(D, 0)
    x, state = sequence(on, T, B), random_state(width=2 * D)
    y, _, trace = off(x, state, return_trace=True)
    assert trace.communication_attention is None
    close(y, on(x, state)[0])


@pytest.mark.parametrize("part", ["query", "key"])
def test_without_soft_update_an_active_unit_moves_all_the_way(part: str) -> None:
    """Soft updating with weights of zero goes half the way; c does not notice."""
    soft, hard = make_rig(), make_rig(soft_update=False)
    with torch.no_grad():
        soft.get_parameter(f"soft_update.{part}").zero_()
    copy_weights(soft, hard)
    x, (h, c) = sequence(soft, 1, B), random_state()
    _, (h_soft, c_soft) = soft(x, (h, c))
    _, (h_hard, c_hard) = hard(x, (h, c))
    close(h_soft, (h + h_hard) / 2)
    close(c_soft, c_hard)


def test_soft_update_weighs_new_against_old() -> None:
    """Both scores and their softmax, unit by unit; the query sees the mean over all units."""
    soft, hard = make_rig(), make_rig(soft_update=False)
    all_new = make_rig(soft_update=False, cell_selection=False, num_active=None, input_top_k=2, hidden_top_k=2)
    for core in (hard, all_new):
        copy_weights(soft, core)
    x, (h, c) = sequence(soft, 1, B), random_state()
    _, (h_soft, _), trace = soft(x, (h, c), return_trace=True)
    new, old = by_unit(all_new(x, (h, c))[1][0][0]), by_unit(h[0])
    Wq, Wk = soft.get_parameter("soft_update.query"), soft.get_parameter("soft_update.key")
    for b in range(B):
        query = torch.cat([x[0, b], new[b].mean(0), old[b].mean(0)]) @ Wq
        for n in range(N):
            scores = torch.stack([query @ (new[b, n] @ Wk), query @ (old[b, n] @ Wk)]) / RIGLSTM["key_size"] ** 0.5
            weights = scores.softmax(0)
            mixed = weights[0] * new[b, n] + weights[1] * old[b, n]
            close(by_unit(h_soft[0])[b, n], mixed if trace.active[0, b, n] else old[b, n])


def test_soft_update_sees_inactive_units() -> None:
    core = make_rig(num_active=1)
    x, state = sequence(core, 1, 1), random_state(1)
    y, _, trace = core(x, state, return_trace=True)
    inactive = (~trace.active[0, 0]).nonzero().flatten()
    (gradient,) = torch.autograd.grad(y.square().sum(), core.dynamics.bias)
    assert gradient[inactive].abs().amax(-1).min() > 1e-8


@pytest.mark.parametrize("options", RIGLSTM_SWITCHES.values(), ids=RIGLSTM_SWITCHES.keys())
def test_every_switch_changes_the_answer(options: dict[str, Any]) -> None:
    core, other = make_rig(), make_rig(**options)
    for name, parameter in other.named_parameters():
        if name in core.state_dict() and parameter.shape == core.get_parameter(name).shape:
            parameter.data.copy_(core.get_parameter(name))
    x, state = sequence(core, T, B), random_state()
    assert (core(x, state)[0] - other(x, state)[0]).abs().max() > 1e-3


# Symmetry.

PER_UNIT = ("cell_selection.query", "input_selection.query", "hidden_selection.query", "dynamics.")


@every_variant
@pytest.mark.parametrize("seed", [0, 1])
def test_units_permute_with_their_weights(options: dict[str, Any], seed: int) -> None:
    """Views, keys, values and soft updating are shared and stay; rows that read a certain unit move with it."""
    core, other = make_rig(seed, **options), make_rig(seed, **options)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for (name, mine), theirs in zip(core.named_parameters(), other.parameters(), strict=True):
            if name.startswith(PER_UNIT):
                theirs.copy_(mine[order])
                if name == "dynamics.weight_hidden" and core.hidden_selection is None:
                    theirs.copy_(theirs.reshape(N, N, D, 4 * D)[:, order].flatten(1, 2))
            elif name in ("initial_h", "initial_c"):
                theirs.copy_(by_unit(mine)[order].flatten())
            else:
                theirs.copy_(mine)
    h, c = random_state()
    moved = tuple(by_unit(s)[..., order, :].flatten(-2) for s in (h, c))
    x = sequence(core, T, B)
    y, state, trace = core(x, (h, c), return_trace=True)
    y_moved, state_moved, trace_moved = other(x, (moved[0], moved[1]), return_trace=True)
    close(by_unit(y)[..., order, :], by_unit(y_moved))
    for s, s_moved in zip(state, state_moved, strict=True):
        close(by_unit(s)[..., order, :], by_unit(s_moved))
    assert torch.equal(trace.active[..., order], trace_moved.active)
    if trace.input_attention is not None and trace_moved.input_attention is not None:
        close(trace.input_attention[..., order, :], trace_moved.input_attention)
    if trace.communication_attention is not None and trace_moved.communication_attention is not None:
        close(trace.communication_attention[..., order, :][..., order], trace_moved.communication_attention)


def test_the_order_of_the_views_does_not_matter() -> None:
    core, other = make_rig(), make_rig()
    other.load_state_dict(core.state_dict())
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        other.views.copy_(core.views[order])
    x, state = sequence(core, T, B), random_state()
    y, _, trace = core(x, state, return_trace=True)
    y_moved, _, trace_moved = other(x, state, return_trace=True)
    close(y, y_moved)
    assert trace.input_attention is not None
    assert trace_moved.input_attention is not None
    close(trace.input_attention[..., 1:][..., order], trace_moved.input_attention[..., 1:])


# The learned initial state.


def test_episodes_start_in_the_learned_state() -> None:
    core = make_rig(learn_initial_state=True)
    for state, name in zip(core.initial_state(B), ("initial_h", "initial_c"), strict=True):
        assert torch.equal(state, core.get_parameter(name).expand(1, B, -1))
    first = {
        tuple(rig(sequence(rig, 1, 1, seed), return_trace=True)[2].active[0, 0].tolist())
        for seed in range(20)
        for rig in [make_rig(seed, learn_initial_state=True)]
    }
    assert len(first) > 1


# What the docstring says of the parameters.


def test_parameters_are_those_of_the_docstring() -> None:
    F, dk, dv = RIGLSTM["view_size"], RIGLSTM["key_size"], RIGLSTM["hidden_value_size"]
    I = INPUT_SIZE  # noqa: E741
    expected = {
        "views": (V, I, F),
        "cell_selection.query": (N, D, dk),
        "cell_selection.key": (F, dk),
        "input_selection.query": (N, D, dk),
        "input_selection.key": (F, dk),
        "hidden_selection.query": (N, D, dk),
        "hidden_selection.key": (D, dk),
        "hidden_selection.value": (D, dv),
        "dynamics.weight_input": (N, F, 4 * D),
        "dynamics.weight_hidden": (N, D + dv, 4 * D),
        "dynamics.bias": (N, 4 * D),
        "soft_update.query": (I + 2 * D, dk),
        "soft_update.key": (D, dk),
    }
    own = make_rig(cell_selection_weights="own")
    assert {name: tuple(p.shape) for name, p in own.named_parameters()} == expected
    del expected["cell_selection.query"], expected["cell_selection.key"]
    assert {name: tuple(p.shape) for name, p in make_rig().named_parameters()} == expected
    nothing = {name: tuple(p.shape) for name, p in make_rig(**NOTHING_SELECTED).named_parameters()}
    assert nothing == {
        "views": (V, I, F),
        "dynamics.weight_input": (N, V * F, 4 * D),
        "dynamics.weight_hidden": (N, N * D, 4 * D),
        "dynamics.bias": (N, 4 * D),
    }


# Bad input.

SIZES = (
    "num_units",
    "num_active",
    "unit_size",
    "hidden_size",
    "num_views",
    "view_size",
    "key_size",
    "hidden_value_size",
    "input_top_k",
    "hidden_top_k",
)
SWITCHES = ("cell_selection", "input_selection", "hidden_selection", "soft_update", "learn_initial_state")


def refusal(**options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        make_core("riglstm", 8, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "'riglstm'" in message
    return message


@pytest.mark.parametrize("value", [0, -1, 2.5, "2", True], ids=repr)
@pytest.mark.parametrize("option", SIZES)
def test_sizes_are_positive_integers(option: str, value: Any) -> None:
    message = refusal(**{option: value})
    assert option in message
    assert repr(value) in message


@pytest.mark.parametrize("value", ["false", 2, None], ids=repr)
@pytest.mark.parametrize("option", SWITCHES)
def test_switches_are_true_or_false(option: str, value: Any) -> None:
    message = refusal(**{option: value})
    assert option in message
    assert repr(value) in message


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"num_units": 4, "num_active": 5}, ["num_active", "1 to num_units 4", "got 5"]),
        ({"num_units": 4, "num_active": 2, "cell_selection": False}, ["num_active 2", "cell_selection", "4"]),
        ({"num_views": 3, "input_top_k": 4}, ["input_top_k", "1 to num_views 3", "got 4"]),
        ({"num_units": 4, "hidden_top_k": 4}, ["hidden_top_k", "1 to the number of other units 3", "got 4"]),
        ({"num_units": 1}, ["hidden_selection", "num_units 1", "switch it off"]),
        ({"cell_selection_weights": "none"}, ["cell_selection_weights", "'own'", "'shared'", "'none'"]),
        ({"hidden_size": 256}, ["hidden_size 256", "num_units 6", "252 or 258"]),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_with_the_fix(options: dict[str, Any], parts: list[str]) -> None:
    message = refusal(**options)
    for part in parts:
        assert part in message


def test_one_unit_without_others_to_select() -> None:
    assert make_core("riglstm", 8, num_units=1, unit_size=4, hidden_selection=False).hidden_size == 4
