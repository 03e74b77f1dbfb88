"""Every registered core keeps the contract of `rimrl.cores.base`, whatever it computes."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor

from rimrl.cores.base import RecurrentCore, State
from rimrl.errors import UsageError
from tests import paths
from tests.cores.builders import INPUT_SIZE, RIM, SPECS, CoreSpec, build, randomise, reached_state, sequence

T, B = 6, 3
every_core = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def close_states(a: State, b: State) -> None:
    close(a[0], b[0])
    close(a[1], b[1])


def some_starts(num_steps: int = T, batch_size: int = B) -> Tensor:
    starts = torch.zeros(num_steps, batch_size, dtype=torch.bool)
    starts[2, 0] = starts[0, 1] = starts[num_steps // 2, 1] = starts[num_steps - 1, 1] = True
    return starts


@every_core
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_attributes_and_dtype(spec: CoreSpec, dtype: torch.dtype) -> None:
    core = build(spec, dtype=dtype)
    assert core.input_size == INPUT_SIZE
    assert sum(core.units_per_layer) == core.num_units
    state_shape = (core.num_layers, B, core.hidden_size)
    y, (h, c) = core(sequence(core, T, B))
    assert y.shape == (T, B, core.output_size)
    assert h.shape == c.shape == state_shape
    assert y.dtype == h.dtype == c.dtype == dtype
    h0, c0 = core.initial_state(B)
    assert h0.shape == c0.shape == state_shape
    assert h0.dtype == c0.dtype == dtype
    y, (h, c) = core.step(sequence(core, 1, B)[0])
    assert y.shape == (B, core.output_size)
    assert h.shape == c.shape == state_shape


@every_core
def test_takes_the_call_of_torch_lstm(spec: CoreSpec) -> None:
    """Positionally ``core(x, (h, c))``; the layers of the core are those of the state, the input is left alone."""
    core = build(spec)
    x, (h, c) = sequence(core, T, B), reached_state(core, B)
    before = x.clone(), h.clone(), c.clone()
    y, state = core(x, (h, c))
    y_named, state_named = core(x=x, state=(h, c), episode_starts=torch.zeros(T, B, dtype=torch.bool))
    close(y, y_named)
    close_states(state, state_named)
    for now, then in zip((x, h, c), before, strict=True):
        assert torch.equal(now, then)


@every_core
def test_no_state_is_the_initial_state(spec: CoreSpec) -> None:
    core = build(spec)
    x = sequence(core, T, B)
    y, state = core(x)
    y_explicit, state_explicit = core(x, core.initial_state(B))
    close(y, y_explicit)
    close_states(state, state_explicit)


@every_core
def test_resets_equal_separate_episodes(spec: CoreSpec) -> None:
    core = randomise(build(spec))
    x, state, starts = sequence(core, T, B), reached_state(core, B), some_starts()
    y, (h, c) = core(x, state, starts)
    for b in range(B):
        begins = sorted({0, *starts[:, b].nonzero().flatten().tolist()})
        last: State = state
        for begin, end in zip(begins, [*begins[1:], T], strict=True):
            fresh = bool(starts[begin, b])
            came_in = (state[0][:, b : b + 1], state[1][:, b : b + 1])
            y_alone, last = core(x[begin:end, b : b + 1], None if fresh else came_in)
            close(y[begin:end, b], y_alone[:, 0])
        close(h[:, b], last[0][:, 0])
        close(c[:, b], last[1][:, 0])


@every_core
def test_a_start_everywhere_forgets_everything(spec: CoreSpec) -> None:
    core = build(spec)
    x, starts = sequence(core, T, B), torch.ones(T, B, dtype=torch.bool)
    y, _ = core(x, reached_state(core, B), starts)
    for t in range(T):
        close(y[t], core.step(x[t])[0])


@every_core
def test_resets_matter_to_a_core_with_memory(spec: CoreSpec) -> None:
    core = randomise(build(spec))
    x, state, starts = sequence(core, T, B), reached_state(core, B), some_starts()
    difference = (core(x, state, starts)[0] - core(x, state)[0]).abs().amax(dim=(0, 2))
    if spec[0] == "feedforward":
        assert difference.max() == 0
    else:
        assert (difference > 1e-6).tolist() == starts.any(0).tolist()


@every_core
def test_resets_stop_the_gradient(spec: CoreSpec) -> None:
    core = randomise(build(spec))
    x, starts = sequence(core, T, B).requires_grad_(), some_starts()
    h, c = (s.requires_grad_() for s in reached_state(core, B))
    y, _ = core(x, (h, c), starts)
    gx, gh, gc = torch.autograd.grad(y[T - 1].sum(), (x, h, c), allow_unused=True, materialize_grads=True)
    assert torch.all(gx[:2, 0] == 0)
    assert torch.all(gx[: T - 1, 1] == 0)
    for g in (gh, gc):
        assert torch.all(g[:, :2] == 0)
    if spec[0] != "feedforward":
        assert gx[2, 0].abs().max() > 0
        assert gh[:, 2].abs().max() > 0


@every_core
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_two_halves_equal_the_whole(spec: CoreSpec, cut: int) -> None:
    core = randomise(build(spec))
    x, starts = sequence(core, T, B), some_starts()
    y, state = core(x, None, starts)
    y_first, middle = core(x[:cut], None, starts[:cut])
    y_second, last = core(x[cut:], middle, starts[cut:])
    close(y, torch.cat([y_first, y_second]))
    close_states(state, last)


@every_core
def test_forward_equals_steps(spec: CoreSpec) -> None:
    core = randomise(build(spec))
    x, starts = sequence(core, T, B), some_starts()
    state = first = reached_state(core, B)
    for with_resets in (False, True):
        state = first
        outputs = []
        for t in range(T):
            if with_resets:
                state = core.reset(state, starts[t])
            output, state = core.step(x[t], state)
            outputs.append(output)
        y, last = core(x, first, starts if with_resets else None)
        close(y, torch.stack(outputs))
        close_states(state, last)


@every_core
def test_batch_rows_are_independent(spec: CoreSpec) -> None:
    core = randomise(build(spec))
    x, (h, c), starts = sequence(core, T, B), reached_state(core, B), some_starts()
    y, _ = core(x, (h, c), starts)
    order = [2, 0, 1]
    y_permuted, _ = core(x[:, order], (h[:, order], c[:, order]), starts[:, order])
    close(y[:, order], y_permuted)
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(core(x, (h, c), starts)[0][:, 1].sum(), x)
    assert gradient[:, 1].abs().max() > 0
    assert torch.all(gradient[:, [0, 2]] == 0)


@every_core
def test_later_input_cannot_change_earlier_output(spec: CoreSpec) -> None:
    core = build(spec)
    x = sequence(core, T, B)
    changed = x.clone()
    changed[3:] += 1.0
    y, y_changed = core(x)[0], core(changed)[0]
    close(y[:3], y_changed[:3])
    assert (y[3:] - y_changed[3:]).abs().max() > 1e-6


@every_core
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float64, torch.uint8, torch.int64])
def test_episode_starts_in_any_dtype(spec: CoreSpec, dtype: torch.dtype) -> None:
    core = build(spec)
    x, starts = sequence(core, T, B), some_starts()
    close(core(x, None, starts)[0], core(x, None, starts.to(dtype))[0])


@every_core
def test_wrong_shapes_are_refused(spec: CoreSpec) -> None:
    core = build(spec)
    x, (h, c) = sequence(core, T, B), core.initial_state(B)
    starts = some_starts()
    wrong: list[tuple[Tensor, State | None, Tensor | None]] = [
        (x[:, :0], None, None),
        (x[:0], None, None),
        (x[..., :-1], None, None),
        (torch.cat([x, x], dim=-1), None, None),
        (x[0, 0], None, None),
        (x[None, None], None, None),
        (x, (h[:, :-1], c[:, :-1]), None),
        (x, (h[..., :-1], c), None),
        (x, (h, c[..., :-1]), None),
        (x, (h[0], c[0]), None),
        (x, (torch.cat([h, h]), torch.cat([c, c])), None),
        (x, None, starts[:-1]),
        (x, None, starts[:, :-1]),
        (x, None, starts[0]),
        (x, None, starts[..., None]),
        (x, None, starts.t()),
    ]
    for arguments in wrong:
        with pytest.raises(UsageError) as caught:
            core(*arguments)
        assert "\n" not in str(caught.value)


@every_core
def test_wrong_number_of_elements_is_refused(spec: CoreSpec) -> None:
    core = build(spec)
    for elements in (2, 4):
        with pytest.raises(UsageError):
            core(torch.zeros(T, B, elements, INPUT_SIZE, dtype=torch.float64))
    if core.num_inputs > 1:
        with pytest.raises(UsageError):
            core(torch.zeros(T, B, INPUT_SIZE, dtype=torch.float64))


@every_core
def test_a_state_that_is_no_pair_is_refused(spec: CoreSpec) -> None:
    core = build(spec)
    x, (h, c) = sequence(core, T, B), core.initial_state(B)
    for state in ((h,), (h, c, c)):
        with pytest.raises(UsageError):
            core(x, state)


@every_core
@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_runs_under_autocast(spec: CoreSpec, dtype: torch.dtype) -> None:
    core = build(spec, dtype=torch.float32)
    x, state = sequence(core, T, B), reached_state(core, B)
    exact, _ = core(x, state, some_starts())
    for starts in (None, some_starts()):
        core.zero_grad()
        with torch.autocast("cpu", dtype):
            y, last = core(x, state, starts)
            y_more, _ = core(x, last, starts)
        (y.float().sum() + y_more.float().sum()).backward()
        assert torch.isfinite(y_more).all()
        for parameter in core.parameters():
            if parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all()
    # Rounding can hand a step to another unit; most of the output is still near.
    assert (y.float() - exact).abs().median() < 0.02


@every_core
def test_copy_pickle_and_state_dict(spec: CoreSpec) -> None:
    core = build(spec)
    x, state, starts = sequence(core, T, B), reached_state(core, B), some_starts()
    expected = core(x, state, starts)[0]
    buffer = io.BytesIO()
    torch.save(core, buffer)
    buffer.seek(0)
    fresh = build(spec, seed=99)
    assert not torch.equal(fresh(x, state, starts)[0], expected)
    fresh.load_state_dict(core.state_dict())
    copies: list[RecurrentCore] = [
        copy.deepcopy(core),
        pickle.loads(pickle.dumps(core)),
        torch.load(buffer, weights_only=False),
        fresh,
    ]
    for other in copies:
        assert torch.equal(other(x, state, starts)[0], expected)
    with torch.no_grad():
        for parameter in copies[0].parameters():
            parameter.add_(1.0)
    assert torch.equal(core(x, state, starts)[0], expected), "the copy shares weights with the original"


def gradcheck_spec(spec: CoreSpec) -> CoreSpec:
    """Blocking the gradient of candidates departs from the true derivative on purpose; take that one option away.

    So does the gradient of a choice of schemata; let SCOFF use a single one.
    """
    name, options = spec
    if name == "scoff":
        one = {"num_schemata": 1} if options.get("assignment") != "fixed" else {}
        return name, {**options, **one, "communication_reads": "previous"}
    if name in ("rim", "brims") and options.get("communication", "gated") is not None:
        return name, {**options, "communication_reads": "previous"}
    return spec


def gradcheck(core: RecurrentCore) -> bool:
    """Against central differences, with respect to the input, the state and every parameter."""
    randomise(core)
    x = sequence(core, 3, 2).requires_grad_()
    h, c = reached_state(core, 2)
    # A unit that never won is still at zero; move it away, for at a tie there is no derivative.
    h = h + 0.3 * torch.randn(h.shape, generator=torch.Generator().manual_seed(4), dtype=h.dtype)
    h, c = h.requires_grad_(), c.requires_grad_()
    starts = some_starts(3, 2)
    names = [name for name, _ in core.named_parameters()]

    def run(x: Tensor, h: Tensor, c: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        weights = dict(zip(names, parameters, strict=True))
        y, (h, c) = torch.func.functional_call(core, weights, (x, (h, c), starts))
        return y, h, c

    parameters = [p.detach().clone().requires_grad_() for p in core.parameters()]
    return torch.autograd.gradcheck(run, (x, h, c, *parameters), fast_mode=True, raise_exception=False)


@every_core
@pytest.mark.parametrize("path", ["torch", "step"])  # the kernels always block the gradient of candidates
def test_gradcheck(spec: CoreSpec, path: str) -> None:
    core = build(gradcheck_spec(spec))
    paths.skip_without(core, path)
    with paths.on(path):
        assert gradcheck(core)


@pytest.mark.parametrize("path", paths.PATHS)
def test_gradcheck_of_rim_where_nothing_is_blocked(path: str) -> None:
    """With all units active there is no candidate of an inactive unit: this one the kernels run as well."""
    with paths.on(path):
        assert gradcheck(build(("rim", {**RIM, "num_active": RIM["num_units"]})))


@pytest.mark.parametrize("path", paths.PATHS)
def test_gradcheck_sees_the_blocked_gradient(path: str) -> None:
    sizes = {"num_units": 2, "num_active": 1, "unit_size": 1, "input_value_size": 1}
    with paths.on(path):
        assert not gradcheck(build(("rim", {**RIM, **sizes})))


@every_core
def test_same_input_same_output(spec: CoreSpec) -> None:
    core = build(spec)
    x, state, starts = sequence(core, T, B), reached_state(core, B), some_starts()
    first = core(x, state, starts)[0]
    assert torch.equal(first, core(x, state, starts)[0])
    assert torch.equal(first, build(spec)(x, state, starts)[0]), "the same seed builds another core"
    core.eval()
    assert torch.equal(first, core(x, state, starts)[0]), "without dropout training and evaluation are the same"
    with torch.inference_mode():
        assert torch.equal(first, core(x, state, starts)[0])


@every_core
def test_trace_shapes(spec: CoreSpec) -> None:
    core = randomise(build(spec))
    x, state, starts = sequence(core, T, B).requires_grad_(), reached_state(core, B), some_starts()
    y, last = core(x, state, starts)
    y_traced, last_traced, trace = core(x, state, starts, return_trace=True)
    assert torch.equal(y, y_traced)
    close_states(last, last_traced)
    N, M = core.num_units, core.num_inputs
    assert trace.active.shape == (T, B, N)
    assert trace.active.dtype == torch.bool
    if trace.input_attention is not None:
        assert trace.input_attention.shape[:3] == (T, B, N)
        assert trace.input_attention.shape[3] >= 1 + M
        assert not trace.input_attention.requires_grad
        assert trace.input_attention.min() >= 0
    if trace.communication_attention is not None:
        assert trace.communication_attention.shape == (T, B, N, N)
        assert not trace.communication_attention.requires_grad
        close(trace.communication_attention.sum(-1), torch.ones(T, B, N, dtype=torch.float64))


def gradients_of(y: Tensor, core: RecurrentCore) -> tuple[Tensor, ...]:
    """Of every parameter; zero for those that act through a choice alone."""
    return torch.autograd.grad(y.square().sum(), list(core.parameters()), allow_unused=True, materialize_grads=True)


@every_core
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu(spec: CoreSpec) -> None:
    core = randomise(build(spec))
    x, state, starts = sequence(core, T, B), reached_state(core, B), some_starts()
    y, (h, c) = core(x, state, starts)
    gradients = gradients_of(y, core)
    there = copy.deepcopy(core).cuda()
    y_there, (h_there, c_there) = there(x.cuda(), (state[0].cuda(), state[1].cuda()), starts.cuda())
    gradients_there = gradients_of(y_there, there)
    assert y_there.is_cuda
    close(y_there.cpu(), y)
    close_states((h_there.cpu(), c_there.cpu()), (h, c))
    for g, g_there in zip(gradients, gradients_there, strict=True):
        close(g_there.cpu(), g)
    assert all(s.is_cuda for s in there.initial_state(B))
    single = copy.deepcopy(core).float().cuda()
    with torch.autocast("cuda", torch.bfloat16):
        y_half, _ = single(x.float().cuda(), None, starts.cuda())
    assert torch.isfinite(y_half).all()
