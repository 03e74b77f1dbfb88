"""What must hold for RIM (and LSTM) whatever the weights are: competition, symmetry, limits, dropout, learned start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rimrl.cores.attention import top_k_mask
from rimrl.cores.backends import use_backend
from rimrl.cores.base import RecurrentCore, State
from rimrl.cores.lstm import GRU, LSTM
from rimrl.cores.rim import RIM
from tests.cores.builders import RIM as SMALL
from tests.cores.builders import RIM_VARIANTS, randomise, sequence

T, B, N, D = 6, 3, SMALL["num_units"], SMALL["unit_size"]
COMPETING: dict[str, dict[str, Any]] = {"default": {}} | {
    name: options
    for name, options in RIM_VARIANTS.items()
    if options.get("input_attention", True) and options.get("num_active") != N
}
every_variant = pytest.mark.parametrize("options", [{}, *RIM_VARIANTS.values()], ids=["default", *RIM_VARIANTS.keys()])
every_competition = pytest.mark.parametrize("options", COMPETING.values(), ids=COMPETING.keys())


def make_rim(seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any) -> RIM:
    torch.manual_seed(seed)
    core = RIM(input_size=3, **{**SMALL, **options}).to(dtype)
    randomise(core, seed)
    return core


def random_state(core: RecurrentCore, batch_size: int = B, seed: int = 5) -> State:
    generator = torch.Generator().manual_seed(seed)
    shape = (core.num_layers, batch_size, core.hidden_size)
    h, c = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return h, c


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def by_unit(state: Tensor, num_units: int = N) -> Tensor:
    """``[..., N D]`` as ``[..., N, D]``."""
    return state.reshape(*state.shape[:-1], num_units, -1)


# Competition.


@every_competition
@pytest.mark.parametrize("num_active", [1, 2, 3, 4])
def test_exactly_the_active_units_change(options: dict[str, Any], num_active: int) -> None:
    core = make_rim(**{**options, "num_active": num_active})
    state = random_state(core)
    x = sequence(core, T, B)
    seen = torch.zeros(N, dtype=torch.bool)
    for t in range(T):
        before = state
        _, state, trace = core(x[t : t + 1], before, return_trace=True)
        active = trace.active[0]
        assert torch.all(active.sum(-1) == num_active)
        for index, (old, new) in enumerate(zip(before, state, strict=True)):
            same = (by_unit(old[0]) == by_unit(new[0])).all(-1)
            assert torch.all(same[~active]), "an inactive unit moved"
            if index == 0 or options.get("dynamics", "lstm") == "lstm":
                assert not torch.any(same[active]), "an active unit stood still"
        seen |= active.any(0)
    assert seen.sum() > num_active or num_active == N


@every_competition
def test_the_trace_explains_the_choice(options: dict[str, Any]) -> None:
    """The winners are those with the least attention on null, or with the largest share of the input."""
    core = make_rim(**options)
    _, _, trace = core(sequence(core, T, B), random_state(core), return_trace=True)
    attention = trace.input_attention
    assert attention is not None
    if options.get("competition") == "units":
        assert torch.all(attention[..., 0] == 0)
        close(attention[..., 1:].sum(dim=2), torch.ones(T, B, core.num_inputs, dtype=torch.float64))
        loss = -attention[..., 1:].sum(-1)
    else:
        close(attention.sum(-1), torch.ones(T, B, N, dtype=torch.float64))
        loss = attention[..., 0]
    worst_winner = loss.masked_fill(~trace.active, -torch.inf).amax(-1)
    best_loser = loss.masked_fill(trace.active, torch.inf).amin(-1)
    assert torch.all(worst_winner < best_loser)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_competition
def test_units_that_tie_win_in_order(options: dict[str, Any], dtype: torch.dtype) -> None:
    """At the zero state every query is zero: the units with the lowest index take the first step."""
    if options.get("learn_initial_state"):
        pytest.skip("starts elsewhere")
    for num_active in range(1, N + 1):
        for seed in range(3):
            core = make_rim(seed, dtype, **{**options, "num_active": num_active})
            _, _, trace = core(sequence(core, 1, 5, seed), return_trace=True)
            assert torch.all(trace.active[0] == (torch.arange(N) < num_active))


def test_top_k_mask_takes_the_lowest_index_of_equals() -> None:
    generator = torch.Generator().manual_seed(0)
    for width in (1, 2, 5, 9):
        scores = torch.randint(0, 3, (200, width), generator=generator).double()
        for k in range(1, width + 1):
            order = scores.sort(dim=-1, descending=True, stable=True).indices[:, :k]
            assert torch.equal(
                top_k_mask(scores, k), torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, True)
            )


@pytest.mark.parametrize(("num_units", "expected"), [(1, 1), (2, 1), (3, 2), (6, 4), (9, 6)])
def test_two_thirds_are_active_by_default(num_units: int, expected: int) -> None:
    core = RIM(input_size=3, num_units=num_units, unit_size=2)
    assert core.num_active == expected
    _, _, trace = core(torch.randn(4, 2, 3), return_trace=True)
    assert torch.all(trace.active.sum(-1) == expected)


def test_all_are_active_without_input_attention() -> None:
    core = RIM(input_size=3, num_units=6, unit_size=2, input_attention=False)
    _, _, trace = core(torch.randn(4, 2, 3), return_trace=True)
    assert trace.active.all()


def test_the_choice_is_a_constant_for_the_gradient() -> None:
    """With the units' values at zero the queries matter only through the choice, and so have no gradient."""
    core = make_rim(communication=None)
    assert core.input_read.value.shape == (1, 3, SMALL["input_value_size"])
    with torch.no_grad():
        core.input_read.value.zero_()
    y, _ = core(sequence(core, T, B), random_state(core))
    (gradient,) = torch.autograd.grad(y.sum(), [core.get_parameter("input_read.query")])
    assert torch.all(gradient == 0)


# Symmetry.

PER_UNIT = ("input_read.query", "dynamics.", "communication.query_key_value")


@every_variant
@pytest.mark.parametrize("seed", [0, 1])
def test_units_permute_with_their_weights(options: dict[str, Any], seed: int) -> None:
    """No unit is special but for its weights; shared weights (keys and values of the input, Wf, Wg) stay in place."""
    core, other = make_rim(seed, **options), make_rim(seed, **options)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for (name, mine), theirs in zip(core.named_parameters(), other.parameters(), strict=True):
            if name.startswith(PER_UNIT):
                theirs.copy_(mine[order])
            elif name in ("initial_h", "initial_c"):
                theirs.copy_(by_unit(mine)[order].flatten())
            else:
                theirs.copy_(mine)
    h, c = random_state(core)
    moved = tuple(by_unit(s)[..., order, :].flatten(-2) for s in (h, c))
    x = sequence(core, T, B)
    starts = torch.zeros(T, B, dtype=torch.bool)
    if options.get("learn_initial_state"):  # at the zero state the tie rule does tell units apart
        starts[3, 0] = True
    y, state, trace = core(x, (h, c), starts, return_trace=True)
    y_moved, state_moved, trace_moved = other(x, (moved[0], moved[1]), starts, return_trace=True)
    close(by_unit(y)[..., order, :], by_unit(y_moved))
    for s, s_moved in zip(state, state_moved, strict=True):
        close(by_unit(s)[..., order, :], by_unit(s_moved))
    assert torch.equal(trace.active[..., order], trace_moved.active)
    if trace.input_attention is not None and trace_moved.input_attention is not None:
        close(trace.input_attention[..., order, :], trace_moved.input_attention)
    if trace.communication_attention is not None and trace_moved.communication_attention is not None:
        close(trace.communication_attention[..., order, :][..., order], trace_moved.communication_attention)


# Limits in which RIM is something known.


def torch_layer(core: RIM, n: int, kind: str) -> nn.LSTM | nn.GRU:
    """Unit n of a core as a layer of torch's own."""
    dynamics = {name: p.detach()[n] for name, p in core.dynamics.named_parameters()}
    width = dynamics["weight_input"].shape[0]
    layer = (nn.LSTM if kind == "lstm" else nn.GRU)(width, core.unit_size).double()
    bias_input = dynamics["bias"] if kind == "lstm" else dynamics["bias_input"]
    bias_hidden = torch.zeros_like(bias_input) if kind == "lstm" else dynamics["bias_hidden"]
    layer.load_state_dict(
        {
            "weight_ih_l0": dynamics["weight_input"].t(),
            "weight_hh_l0": dynamics["weight_hidden"].t(),
            "bias_ih_l0": bias_input,
            "bias_hh_l0": bias_hidden,
        }
    )
    return layer


@pytest.mark.parametrize("input_attention", [True, False])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_all_active_and_silent_is_separate_torch_layers(kind: str, input_attention: bool) -> None:
    """With attention that is the same for all: queries of zero put one half on the input; none puts all of it."""
    core = make_rim(dynamics=kind, num_active=N, communication=None, input_attention=input_attention)
    share = 1.0
    if input_attention:
        with torch.no_grad():
            core.get_parameter("input_read.query").zero_()
        share = 0.5
    x, (h, c) = sequence(core, T, B), random_state(core)
    y, (h_last, c_last) = core(x, (h, c))
    u = share * x @ core.get_parameter("input_read.value")[0]
    for n in range(N):
        layer = torch_layer(core, n, kind)
        h_n, c_n = by_unit(h)[:, :, n].contiguous(), by_unit(c)[:, :, n].contiguous()
        if kind == "lstm":
            y_n, (h_n, c_n) = layer(u, (h_n, c_n))
        else:
            y_n, h_n = layer(u, h_n)
        close(by_unit(y)[:, :, n], y_n)
        close(by_unit(h_last)[:, :, n], h_n)
        close(by_unit(c_last)[:, :, n], c_n)


class Recorder:
    """Keeps what a module was called with and what it returned, call by call; for the plain step."""

    def __init__(self, module: nn.Module) -> None:
        self.inputs: list[tuple[Tensor, ...]] = []
        self.outputs: list[Any] = []
        module.register_forward_hook(self._record)

    def _record(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        self.inputs.append(inputs)
        self.outputs.append(output)


def test_attention_to_one_element_is_a_sigmoid_gate() -> None:
    core = make_rim()
    dynamics = Recorder(core.dynamics)
    x, (h, c) = sequence(core, 1, B), random_state(core)
    with use_backend("step"):
        _, _, trace = core(x, (h, c), return_trace=True)
    query = torch.einsum("bnd,ndk->bnk", by_unit(h[0]), core.get_parameter("input_read.query"))
    key = x[0] @ core.get_parameter("input_read.key")[0]
    gate = torch.sigmoid(torch.einsum("bnk,bk->bn", query, key) / SMALL["input_key_size"] ** 0.5)
    assert trace.input_attention is not None
    close(trace.input_attention[0, ..., 1], gate)
    close(trace.input_attention[0, ..., 0], 1 - gate)
    value = x[0] @ core.get_parameter("input_read.value")[0]
    close(dynamics.inputs[0][0], gate[..., None] * value[:, None])


@every_variant
def test_flat_input_is_a_set_of_one(options: dict[str, Any]) -> None:
    core = make_rim(**{**options, "num_inputs": 1})
    x, state = sequence(core, T, B), random_state(core)
    assert torch.equal(core(x, state)[0], core(x[:, :, None], state)[0])


def test_a_zero_input_looks_like_the_null_element() -> None:
    core = make_rim()
    x = torch.zeros(1, B, 3, dtype=torch.float64)
    dynamics = Recorder(core.dynamics)
    with use_backend("step"):
        _, _, trace = core(x, random_state(core), return_trace=True)
    assert trace.input_attention is not None
    assert torch.all(trace.input_attention == 0.5)
    assert torch.all(dynamics.inputs[0][0] == 0)


def test_communication_leaves_the_cell_state_alone() -> None:
    """One step with and without communication gives the same c."""
    core, silent = make_rim(), make_rim(communication=None)
    missing = silent.load_state_dict(core.state_dict(), strict=False)
    assert not missing.missing_keys
    x, state = sequence(core, 1, B), random_state(core)
    (_, (h, c)), (_, (h_silent, c_silent)) = core(x, state), silent(x, state)
    close(c, c_silent)
    assert (h - h_silent).abs().max() > 1e-3


# Sparse communication.


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_each_reader_reads_k_units(k: int) -> None:
    core = make_rim(communication_top_k=k, communication_heads=1)
    everything = make_rim(communication_heads=1)
    x, state = sequence(core, 1, B), random_state(core)
    _, _, trace = core(x, state, return_trace=True)
    _, _, full = everything(x, state, return_trace=True)
    attention, full_attention = trace.communication_attention, full.communication_attention
    assert attention is not None
    assert full_attention is not None
    assert torch.all((attention > 0).sum(-1) == k)
    kept = torch.where(attention > 0, full_attention, 0.0)
    close(attention, kept / kept.sum(-1, keepdim=True))
    assert torch.all(kept.sum(-1) >= full_attention.topk(k, dim=-1).values.sum(-1) - 1e-12)


def test_equal_scores_read_the_lowest_units() -> None:
    core = make_rim(communication_top_k=2)
    with torch.no_grad():
        core.get_parameter("communication.query_key_value").zero_()
    _, _, trace = core(sequence(core, 1, B), random_state(core), return_trace=True)
    assert trace.communication_attention is not None
    assert torch.all(trace.communication_attention == torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64))


# Dropout.


@pytest.mark.parametrize("options", [{"input_dropout": 0.5}, {"communication_dropout": 0.5}], ids=str)
def test_dropout_acts_in_training_alone(options: dict[str, Any]) -> None:
    core, plain = make_rim(**options), make_rim()
    plain.load_state_dict(core.state_dict())
    x, state = sequence(core, T, B), random_state(core)
    core.eval()
    assert torch.equal(core(x, state)[0], plain(x, state)[0])
    core.train()
    torch.manual_seed(0)
    first = core(x, state)[0]
    assert not torch.equal(first, core(x, state)[0])
    torch.manual_seed(0)
    assert torch.equal(first, core(x, state)[0])


@pytest.mark.parametrize("num_active", [1, 2])
def test_input_dropout_does_not_decide_the_competition(num_active: int) -> None:
    core = make_rim(input_dropout=0.5, num_active=num_active)
    x, state = sequence(core, 1, B), random_state(core)
    active = [core(x, state, return_trace=True)[2].active for _ in range(10)]
    core.eval()
    expected = core(x, state, return_trace=True)[2].active
    assert all(torch.equal(a, expected) for a in active)


def test_input_dropout_drops_or_doubles_what_is_read() -> None:
    core = make_rim(input_dropout=0.5, num_active=N)
    dynamics = Recorder(core.dynamics)
    x, state = sequence(core, 1, 50), random_state(core, 50)
    with use_backend("step"):
        core(x, state)
        core.eval()
        core(x, state)
    dropped, kept = dynamics.inputs[0][0], dynamics.inputs[1][0]
    zero = (dropped == 0).all(-1)
    close(dropped, torch.where(zero[..., None], 0.0, 2 * kept))
    assert 0.3 < zero.double().mean() < 0.7


@pytest.mark.parametrize("kind", ["gated", "residual"])
def test_communication_dropout_acts_before_the_gate(kind: str) -> None:
    """``sigmoid(Wg o + bg) * tanh(dropout(Wf o + bf))``, entry by entry."""
    core = make_rim(communication=kind, communication_dropout=0.5)
    assert core.communication is not None
    received, project = Recorder(core.communication), Recorder(core.communication.project)
    gate = Recorder(core.communication.gate) if core.communication.gate is not None else None
    with use_backend("step"):
        core(sequence(core, 1, 50), random_state(core, 50))
    r, before = received.outputs[0][0], project.outputs[0]
    full = 2 * before if gate is None else torch.sigmoid(gate.outputs[0]) * torch.tanh(2 * before)
    close(r, torch.where(r == 0, 0.0, full))
    assert 0.3 < (r == 0).double().mean() < 0.7


# The learned initial state.


@pytest.mark.parametrize("dynamics", ["lstm", "gru"])
def test_episodes_start_in_the_learned_state(dynamics: str) -> None:
    core = make_rim(learn_initial_state=True, dynamics=dynamics)
    learned_h = core.get_parameter("initial_h")
    h, c = core.initial_state(B)
    assert torch.equal(h, learned_h.expand(1, B, -1))
    if dynamics == "lstm":
        assert torch.equal(c, core.get_parameter("initial_c").expand(1, B, -1))
    else:
        assert "initial_c" not in dict(core.named_parameters())
        assert torch.all(c == 0)
    x, starts = sequence(core, T, B), torch.zeros(T, B, dtype=torch.bool)
    starts[3, 1] = True
    y, _ = core(x, random_state(core), starts)
    close(y[3:, 1:2], core(x[3:, 1:2])[0])


@pytest.mark.parametrize("dynamics", ["lstm", "gru"])
def test_only_resets_train_the_learned_state(dynamics: str) -> None:
    core = make_rim(learn_initial_state=True, dynamics=dynamics)
    learned = [p for name, p in core.named_parameters() if name.startswith("initial_")]
    assert len(learned) == (2 if dynamics == "lstm" else 1)
    x, starts = sequence(core, T, B), torch.zeros(T, B, dtype=torch.bool)

    def gradients(state: State | None) -> tuple[Tensor, ...]:
        y, _ = core(x, state, starts)
        return torch.autograd.grad(y.sum(), learned, allow_unused=True, materialize_grads=True)

    for g in gradients(random_state(core)):
        assert torch.all(g == 0)
    for g in gradients(None):
        assert g.abs().max() > 1e-4
    starts[3, 1] = True
    for g in gradients(random_state(core)):
        assert g.abs().max() > 1e-4


def test_the_learned_state_breaks_the_tie() -> None:
    first = {
        tuple(core(sequence(core, 1, 1, seed), return_trace=True)[2].active[0, 0].tolist())
        for seed in range(20)
        for core in [make_rim(seed, learn_initial_state=True)]
    }
    assert len(first) > 1


def test_a_fresh_learned_state_is_not_zero() -> None:
    core = RIM(input_size=3, learn_initial_state=True)
    assert (core.get_parameter("initial_h") != 0).all()


# The baselines are torch's.


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_baseline_is_the_torch_layer(kind: str, num_layers: int) -> None:
    """Without resets in one call; with them, a loop over torch's layer that zeroes the state of the rows that start."""
    core: RecurrentCore = {"lstm": LSTM, "gru": GRU}[kind](3, hidden_size=5, num_layers=num_layers)
    core.double()
    layer = (nn.LSTM if kind == "lstm" else nn.GRU)(3, 5, num_layers).double()
    layer.load_state_dict({name.removeprefix("rnn."): p for name, p in core.state_dict().items()})
    generator = torch.Generator().manual_seed(0)
    for trial in range(30):
        num_steps, rows = trial % 7 + 1, trial % 4 + 1
        x = torch.randn(num_steps, rows, 3, generator=generator, dtype=torch.float64)
        h, c = random_state(core, rows, trial)
        if kind == "gru":
            c = torch.zeros_like(c)
        starts = torch.rand(num_steps, rows, generator=generator) < [0.0, 0.2, 0.6][trial % 3]

        def run(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            if kind == "lstm":
                y, (h, c) = layer(x, (h, c))
                return y, h, c
            y, h = layer(x, h)
            return y, h, c

        y, (h_last, c_last) = core(x, (h, c), starts)
        outputs = []
        for t in range(num_steps):
            keep = (~starts[t]).double()[None, :, None]
            output, h, c = run(x[t : t + 1], keep * h, keep * c)
            outputs.append(output)
        close(y, torch.cat(outputs))
        close(h_last, h)
        close(c_last, c)
