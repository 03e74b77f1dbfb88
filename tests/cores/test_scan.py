"""The whole-sequence path of a core is its plain step, run faster: the same results, the same gradients."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from rimrl.cores.backends import use_backend
from rimrl.cores.base import RecurrentCore, State
from rimrl.cores.registry import make_core
from rimrl.cores.scan import native_units
from rimrl.cores.scan.communication import joins_values
from rimrl.cores.scan.layout import MAX_UNITS
from rimrl.cores.scan.native_units import keeps_messages
from tests import paths
from tests.cores.builders import BRIMS, RIGLSTM, RIM, SPECS, CoreSpec, build, randomise, sequence, with_every_backend

T, B = 7, 3
every_fast_core_and_path = with_every_backend()


class Problem(NamedTuple):
    """A core and everything it is run on."""

    core: RecurrentCore
    x: Tensor
    state: State | None
    starts: Tensor | None


def random_state(core: RecurrentCore, batch_size: int, seed: int = 5) -> State:
    generator = torch.Generator().manual_seed(seed)
    shape = (core.num_layers, batch_size, core.hidden_size)
    like = next(core.parameters())
    h, c = (torch.randn(shape, generator=generator, dtype=torch.float64).to(like.dtype) for _ in range(2))
    return h, c


def problem(core: RecurrentCore, num_steps: int = T, batch_size: int = B) -> Problem:
    """With resets at the first step, in the middle and at the last step."""
    starts = torch.zeros(num_steps, batch_size, dtype=torch.bool)
    starts[0, 1 % batch_size] = starts[num_steps // 2, 0] = starts[-1, -1] = True
    return Problem(core, sequence(core, num_steps, batch_size), random_state(core, batch_size), starts)


def small(spec: CoreSpec, num_steps: int = T) -> Problem:
    return problem(randomise(build(spec)), num_steps)


def loss_of(y: Tensor, state: State) -> Tensor:
    """A number with another gradient in every entry of the output and of the state."""
    generator = torch.Generator().manual_seed(6)
    tensors = (y, *state)
    weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in tensors]
    return torch.stack([(w * t).sum() for w, t in zip(weights, tensors, strict=True)]).sum()


def leaves_of(p: Problem) -> dict[str, Tensor]:
    leaves = {"x": p.x.detach().clone().requires_grad_()}
    if p.state is not None:
        leaves |= {name: s.detach().clone().requires_grad_() for name, s in zip("hc", p.state, strict=True)}
    return leaves | dict(p.core.named_parameters())


def forward(p: Problem, leaves: dict[str, Tensor]) -> tuple[Tensor, State]:
    state = None if p.state is None else (leaves["h"], leaves["c"])
    y, last = p.core(leaves["x"], state, p.starts)
    return y, last


def gradients_of(loss: Tensor, leaves: dict[str, Tensor], retain_graph: bool = False) -> dict[str, Tensor]:
    found = torch.autograd.grad(
        loss, list(leaves.values()), allow_unused=True, materialize_grads=True, retain_graph=retain_graph
    )
    return dict(zip(leaves, found, strict=True))


def everything(p: Problem) -> dict[str, Tensor]:
    """Output, state, trace and the gradient of every leaf, by name."""
    leaves = leaves_of(p)
    y, (h, c) = forward(p, leaves)
    found = {f"gradient of {name}": g for name, g in gradients_of(loss_of(y, (h, c)), leaves).items()}
    _, _, trace = p.core(p.x, p.state, p.starts, return_trace=True)
    traced = {name: value for name, value in vars(trace).items() if value is not None}
    return {"y": y.detach(), "last h": h.detach(), "last c": c.detach(), **found, **traced}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    """To a tolerance relative to the largest entry of each tensor."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.isfinite(value).all(), name
        scale = max(1.0, float(value.abs().max())) if value.is_floating_point() else 0.0
        torch.testing.assert_close(
            found[name], value, rtol=0.0, atol=tolerance * scale, msg=partial("{}: {}".format, name)
        )


def step_by_step(p: Problem) -> dict[str, Tensor]:
    with paths.on("step"):
        return everything(p)


@every_fast_core_and_path
@pytest.mark.parametrize("num_steps", [1, 2, T])
def test_the_same_as_step_by_step(spec: CoreSpec, path: str, num_steps: int) -> None:
    p = small(spec, num_steps)
    with paths.on(path):
        assert_same(everything(p), step_by_step(p))


@every_fast_core_and_path
def test_the_same_without_resets_or_a_state(spec: CoreSpec, path: str) -> None:
    p = small(spec)
    for fewer in (p._replace(starts=None), p._replace(state=None), p._replace(state=None, starts=None)):
        with paths.on(path):
            assert_same(everything(fewer), step_by_step(fewer))


@every_fast_core_and_path
def test_the_same_with_and_without_grad(spec: CoreSpec, path: str) -> None:
    p = small(spec)
    with paths.on(path):
        y, (h, c) = p.core(p.x, p.state, p.starts)
        for quiet in (torch.no_grad(), torch.inference_mode()):
            with quiet:
                y_quiet, (h_quiet, c_quiet), trace = p.core(p.x, p.state, p.starts, return_trace=True)
            for a, b in zip((y, h, c), (y_quiet, h_quiet, c_quiet), strict=True):
                assert torch.equal(a, b)
            assert trace.active.shape == (T, B, p.core.num_units)


# Sizes.

RIM_SIZES: list[dict[str, Any]] = [
    {"num_units": 1, "num_active": 1, "unit_size": 1, "communication_key_size": 1, "communication_heads": 1},
    {"num_units": 2, "num_active": 1, "unit_size": 3, "communication_key_size": 1, "communication_value_size": 1},
    {"num_units": 3, "num_active": 3, "unit_size": 17, "communication_heads": 3, "communication_value_size": 5},
    {"num_units": 5, "num_active": 2, "unit_size": 1, "communication_value_size": 7, "input_value_size": 1},
    {"num_units": 33, "num_active": 20, "unit_size": 3},
    {"num_units": MAX_UNITS, "num_active": 43, "unit_size": 3, "communication_heads": 1},
    {"num_units": MAX_UNITS + 1, "num_active": 43, "unit_size": 2},
]


RIGLSTM_SIZES: list[dict[str, Any]] = [
    {"num_units": 2, "num_active": 1, "unit_size": 1, "key_size": 1, "view_size": 1, "hidden_value_size": 1},
    {"num_units": 3, "num_active": 2, "unit_size": 17, "num_views": 1, "key_size": 3},
    {"num_units": 33, "num_active": 20, "num_views": 5},
    {"num_units": MAX_UNITS, "num_active": 43, "num_views": MAX_UNITS},
    {"num_units": MAX_UNITS + 1, "num_active": 43, "num_views": 3},
    {"num_units": 3, "num_active": 2, "num_views": MAX_UNITS + 1},
]
BRIMS_SIZES: list[dict[str, Any]] = [
    {"num_units": 1, "num_active": 1, "unit_size": 1, "communication_key_size": 1, "input_key_size": 1},
    {"num_units": 3, "num_active": 3, "unit_size": 17, "input_heads": 3, "input_key_size": 5, "input_value_size": 21},
    {"num_units": [5, 2], "num_active": [2, 1], "unit_size": None, "hidden_size": 30, "num_inputs": 3},
    {"num_units": 33, "num_active": 20, "num_layers": 3},
    {"num_units": MAX_UNITS + 1, "num_active": 43, "unit_size": 2},
]
BRIMS_OF_DEFAULT_WIDTHS: CoreSpec = ("brims", {"num_units": 6, "num_active": 4, "hidden_size": 96})
"""Kernels have loops of their own for these."""
LSTM_SIZES: list[dict[str, Any]] = [{"hidden_size": 1}, {"hidden_size": 17, "num_layers": 2}, {"hidden_size": 33}]
SIZES: list[CoreSpec] = [
    *(("rim", {**RIM, **sizes}) for sizes in RIM_SIZES),
    *(("riglstm", {**RIGLSTM, **sizes}) for sizes in RIGLSTM_SIZES),
    *(("brims", {**BRIMS, **sizes}) for sizes in BRIMS_SIZES),
    BRIMS_OF_DEFAULT_WIDTHS,
    *((name, sizes) for name in ("lstm", "gru") for sizes in LSTM_SIZES),
]
every_size_and_path = with_every_backend({str(spec): spec for spec in SIZES})


def of_size(spec: CoreSpec, batch_size: int, dtype: torch.dtype, **options: Any) -> Problem:
    name, sizes = spec
    core = build((name, {**sizes, **options}), dtype=dtype)
    return problem(randomise(core, scale=0.3), 4, batch_size)


@every_size_and_path
@pytest.mark.parametrize("batch_size", [1, 5])
def test_sizes_that_fit_no_vector(spec: CoreSpec, batch_size: int, path: str) -> None:
    p = of_size(spec, batch_size, torch.float64)
    with paths.on(path):
        assert_same(everything(p), step_by_step(p))


@every_size_and_path
def test_sizes_that_fit_no_vector_in_single_precision(spec: CoreSpec, path: str) -> None:
    """With nothing left to choose, so that rounding cannot hand a step to another unit."""
    name, sizes = spec
    everyone: dict[str, Any] = {"num_active": sizes["num_units"]} if "num_units" in sizes else {}
    if name == "riglstm":
        everyone |= {"input_top_k": sizes["num_views"], "hidden_top_k": sizes["num_units"] - 1}
    p = of_size(spec, 3, torch.float32, **everyone)
    with paths.on(path):
        assert_same(everything(p), step_by_step(p), 1e-5)


def paper_size(**options: Any) -> Problem:
    torch.manual_seed(0)
    return problem(make_core("rim", 512, num_units=6, unit_size=100, **options), 32, 8)


@pytest.mark.parametrize(("dynamics", "path"), [("lstm", "native"), ("lstm", "torch"), ("gru", "torch")])
def test_single_precision_at_the_size_of_the_paper(path: str, dynamics: str) -> None:
    p = paper_size(num_active=6, dynamics=dynamics)
    with paths.on(path):
        assert_same(everything(p), step_by_step(p), 2e-5)


@paths.every_fast_path
def test_single_precision_with_competition(path: str) -> None:
    """Rounding may decide a near tie the other way; the rows where it did not are the same throughout."""
    p = paper_size()
    with paths.on(path):
        found = everything(p)
    expected = step_by_step(p)
    same = (found["active"] == expected["active"]).all(-1).all(0)  # [B]
    assert same.sum() >= 6
    for name in ("y", "last h", "last c", "gradient of x", "gradient of h", "gradient of c"):
        a, b = (result[name][:, same] for result in (found, expected))
        torch.testing.assert_close(a, b, rtol=0.0, atol=2e-5, msg=partial("{}: {}".format, name))


@with_every_backend({name: SPECS[name] for name in ("rim", "riglstm", "brims", "lstm", "gru")})
@pytest.mark.parametrize("layout", ["strided", "expanded", "transposed"])
def test_any_layout_of_memory(spec: CoreSpec, layout: str, path: str) -> None:
    """Input, state and the gradient of the output need not be contiguous."""
    core = randomise(build(spec))
    p = problem(core, T, 4)
    x, starts = p.x, p.starts
    assert p.state is not None
    assert starts is not None
    if layout == "strided":
        x, starts = x[:, ::2], starts[:, ::2]
        h, c = (s[:, ::2] for s in p.state)
    elif layout == "expanded":
        x, starts = x[:, :1].expand_as(x), starts[:, :1].expand_as(starts)
        h, c = (s[:, :1].expand_as(s) for s in p.state)
    else:
        x, starts = x.transpose(0, 1).contiguous().transpose(0, 1), starts.t().contiguous().t()
        h, c = (s.transpose(1, 2).contiguous().transpose(1, 2) for s in p.state)
    weights = torch.randn(core.output_size, len(x), x.shape[1], dtype=torch.float64).permute(1, 2, 0)
    results = []
    for one in (path, "step"):
        with paths.on(one):
            y, (h_last, c_last) = core(x, (h, c), starts)
        loss = (y * weights).sum() + h_last.sum() + (2 * c_last[:, 0]).sum()
        results.append((y, h_last, c_last, *torch.autograd.grad(loss, list(core.parameters()), allow_unused=True)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@paths.every_fast_path
def test_half_precision_under_autocast_keeps_the_state(path: str) -> None:
    core = randomise(build(("rim", RIM), dtype=torch.float32))
    p = problem(core)
    with paths.on(path), torch.autocast("cpu", torch.bfloat16):
        y, (h, c) = core(p.x, p.state, p.starts)
    assert y.dtype == h.dtype == c.dtype == torch.float32
    exact, _ = core(p.x, p.state, p.starts)
    assert (y - exact).abs().median() < 0.02


# What the graph promises.


@every_fast_core_and_path
def test_backward_twice_gives_the_same(spec: CoreSpec, path: str) -> None:
    p = small(spec)
    with paths.on(path):
        leaves = leaves_of(p)
        loss = loss_of(*forward(p, leaves))
        first = gradients_of(loss, leaves, retain_graph=True)
        kept = {name: g.clone() for name, g in first.items()}
        second = gradients_of(loss, leaves)
    assert_same(second, kept, 0.0)
    assert_same(first, kept, 0.0)


@every_fast_core_and_path
def test_two_graphs_at_once(spec: CoreSpec, path: str) -> None:
    """Two forwards, then their backwards in the same order, and in the other."""
    p, q = small(spec), small(spec)
    q = q._replace(x=-q.x)
    with paths.on(path):
        alone = [gradients_of(loss_of(*forward(one, leaves)), leaves) for one in (p, q) for leaves in [leaves_of(one)]]
        for order in ((0, 1), (1, 0)):
            leaves = [leaves_of(one) for one in (p, q)]
            losses = [loss_of(*forward(one, own)) for one, own in zip((p, q), leaves, strict=True)]
            for i in order:
                assert_same(gradients_of(losses[i], leaves[i]), alone[i], 0.0)


@paths.every_fast_path
def test_a_part_of_the_outputs_is_enough(path: str) -> None:
    """The gradient of one output alone, be it the sequence or either half of the state."""
    p = small(("rim", RIM))
    for which in range(3):
        results = []
        for one in (path, "step"):
            with paths.on(one):
                leaves = leaves_of(p)
                y, (h, c) = forward(p, leaves)
                results.append(gradients_of((y, h, c)[which].square().sum(), leaves))
        assert_same(results[0], results[1])


@paths.every_fast_path
def test_frozen_weights_and_a_frozen_input(path: str) -> None:
    p = small(("rim", RIM))
    frozen = [name for name, _ in p.core.named_parameters()][::2]
    for name in frozen:
        p.core.get_parameter(name).requires_grad_(False)
    results = []
    for one in (path, "step"):
        with paths.on(one):
            p.core.zero_grad()
            y, last = p.core(p.x, p.state, p.starts)
            torch.autograd.backward(loss_of(y, last))
        results.append({name: w.grad for name, w in p.core.named_parameters() if w.grad is not None})
        assert not set(frozen) & set(results[-1])
        assert results[-1]
    assert_same(results[0], results[1])


@every_fast_core_and_path
def test_a_weight_changed_before_backward_never_goes_unnoticed(spec: CoreSpec, path: str) -> None:
    """The gradient is that of the weights as they were, or there is an error."""
    p = small(spec)
    refused: dict[str, str] = {}
    with paths.on(path):
        leaves = leaves_of(p)
        expected = gradients_of(loss_of(*forward(p, leaves)), leaves)
        for name, weight in p.core.named_parameters():
            loss = loss_of(*forward(p, leaves))
            before = weight.detach().clone()
            with torch.no_grad():
                weight.mul_(2.0)
            try:
                found = gradients_of(loss, leaves)
            except RuntimeError as error:
                refused[name] = str(error)
            else:
                assert_same(found, expected, 0.0)
            with torch.no_grad():
                weight.copy_(before)
    assert all(re.search("modified (by an )?inplace", text) for text in refused.values())
    if spec[0] == "rim":
        assert "dynamics.weight_hidden" in refused


@paths.every_fast_path
def test_the_second_derivative_is_refused_and_there_step_by_step(path: str) -> None:
    p = small(("rim", {**RIM, "num_active": RIM["num_units"]}), 2)  # no gradient is blocked

    def penalty() -> Tensor:
        x = p.x.clone().requires_grad_()
        y, _ = p.core(x, p.state, p.starts)
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return gradient.square().sum()

    with paths.on(path), pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(penalty())
    with use_backend("step"):
        p.core.zero_grad()
        torch.autograd.backward(penalty())
    weight = p.core.get_parameter("dynamics.weight_hidden")
    assert weight.grad is not None
    direction = torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(0))
    values = []
    with use_backend("step"):
        for distance in (1e-5, -2e-5):
            with torch.no_grad():
                weight.add_(direction, alpha=distance)
            values.append(penalty().item())
    slope = (values[0] - values[1]) / 2e-5
    assert float((weight.grad * direction).sum()) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("name", ["rim", "rim, previous", "rim, wide values", "brims", "brims, no communication"])
def test_messages_are_kept_where_units_are_wide(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels are told so, and either way does what the step does."""
    kept: list[bool] = []

    def keeps(*sizes: int) -> bool:
        kept.append(keeps_messages(*sizes))
        return kept[-1]

    monkeypatch.setattr(native_units, "keeps_messages", keeps)
    core = randomise(build(SPECS[name]))
    with paths.on("native"):
        for batch_size in (1, 3):
            assert_same(everything(problem(core, T, batch_size)), step_by_step(problem(core, T, batch_size)))
            assert set(kept) == {batch_size == 1}
            kept.clear()


@paths.every_fast_path
@pytest.mark.parametrize("options", [{}, {"input_heads": 2}, {"num_inputs": 2}], ids=str)
def test_units_that_all_but_ignore_null_are_ranked_by_what_is_left_for_it(path: str, options: dict[str, Any]) -> None:
    """Where scores are so large that most shares are rounded to 1."""
    core = randomise(build(("rim", {**RIM, **options})))
    with torch.no_grad():
        for name in ("query", "key"):
            core.get_parameter(f"input_read.{name}").abs_().mul_(8.0)
    x, (h, c) = sequence(core, 1, 40).abs(), random_state(core, 40)
    active, nulls = [], []
    for one in ("step", path):
        with paths.on(one):
            trace = core(x, (h.abs(), c), return_trace=True)[2]
        active.append(trace.active)
        nulls.append(trace.input_attention[..., 0])
    assert float((nulls[0] < 1e-17).double().mean()) > 0.4
    assert not torch.equal(active[0][0, 0].expand_as(active[0]), active[0])
    assert torch.equal(*active)


@pytest.mark.parametrize("name", ["rim", "brims"])
def test_values_are_joined_where_that_is_less_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels are told so, and either way does what the step does."""
    joined: list[bool] = []

    def joins(*sizes: int) -> bool:
        joined.append(joins_values(*sizes))
        return joined[-1]

    monkeypatch.setattr(native_units, "joins_values", joins)
    core = randomise(build(SPECS[f"{name}, wide values"]))
    with paths.on("native"):
        for num_steps in (1, 9):
            assert_same(everything(problem(core, num_steps, 5)), step_by_step(problem(core, num_steps, 5)))
            assert set(joined) == {num_steps == 9}
            joined.clear()


@paths.every_fast_path
def test_a_learned_start_without_an_episode_start_has_no_gradient(path: str) -> None:
    core = build(SPECS["rim, learned start"])
    p = problem(core)
    with paths.on(path):
        core(p.x, p.state)[0].sum().backward()
    assert core.initial_h is not None
    assert core.initial_h.grad is None
    with paths.on(path):
        core(p.x, p.state, torch.ones(p.x.shape[:2], dtype=torch.bool))[0].sum().backward()
    assert core.initial_h.grad is not None
