"""Progressive columns: what they compute, what stays frozen, and when they are nothing but a new column."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from numpy.typing import NDArray

from rimrl.cores.base import RecurrentCore
from rimrl.cores.progressive import ProgressiveCore
from rimrl.cores.registry import CORES, make_core
from rimrl.errors import UsageError

Floats = NDArray[np.float64]
T, B, WIDTH = 5, 3, 6


def columns(name: str, **options: object) -> tuple[RecurrentCore, RecurrentCore]:
    return make_core(name, WIDTH, hidden_size=48, **options), make_core(name, WIDTH, hidden_size=48, **options)


def cut(core: ProgressiveCore) -> None:
    """Zero what lateral connections end in."""
    for adapter in (core.adapt_input, core.adapt_output):
        th.nn.init.zeros_(adapter.U.weight)


def starts() -> th.Tensor:
    flags = th.zeros(T, B)
    flags[0] = 1
    flags[3, 1] = 1
    return flags


@pytest.mark.parametrize("name", CORES)
def test_without_lateral_connections_it_is_the_new_column_alone(name: str) -> None:
    column, source = columns(name)
    core = ProgressiveCore(column, source)
    cut(core)
    assert core.units_per_layer == column.units_per_layer
    column.eval()
    core.eval()
    x = th.randn(T, B, 2 * WIDTH)
    y, (h, c) = core(x, None, starts())
    alone, (h_alone, c_alone) = column(x[..., :WIDTH].contiguous(), None, starts())
    assert th.equal(y, alone)
    assert th.equal(h[..., : column.hidden_size], h_alone)
    assert th.equal(c[..., : column.hidden_size], c_alone)
    before, (h_source, c_source) = source(x[..., WIDTH:].contiguous(), None, starts())
    assert th.equal(h[..., column.hidden_size :], h_source)
    assert th.equal(c[..., column.hidden_size :], c_source)
    assert not th.equal(before, alone)


def sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def lstm_in_numpy(lstm: RecurrentCore, x: Floats) -> Floats:
    """Hochreiter & Schmidhuber with torch's gates i, f, g, o, from zero states; [T, B, I] to [T, B, D]."""
    weights = {
        key.rpartition(".")[2]: value.detach().numpy().astype(np.float64) for key, value in lstm.named_parameters()
    }
    D = lstm.hidden_size
    h = c = np.zeros((x.shape[1], D))
    outputs = []
    for x_t in x:
        gates = x_t @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        gates = gates + h @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]
        i, f, g, o = (gates[:, k * D : (k + 1) * D] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


def test_lateral_connections_equal_the_equation_of_the_paper() -> None:
    column, source = columns("lstm")
    core = ProgressiveCore(column, source)
    for adapter in (core.adapt_input, core.adapt_output):
        th.nn.init.constant_(adapter.alpha, 0.7)
        th.nn.init.uniform_(adapter.V.bias, -0.5, 0.5)
    x = th.randn(T, B, 2 * WIDTH)
    y, _ = core(x)

    def adapted(adapter: th.nn.Module, z: Floats) -> Floats:
        alpha, V, b, U = (
            dict(adapter.named_parameters())[key].detach().numpy().astype(np.float64)
            for key in ("alpha", "V.weight", "V.bias", "U.weight")
        )
        return np.asarray(np.maximum(alpha * z @ V.T + b, 0.0) @ U.T)

    new, old = x[..., :WIDTH].numpy().astype(np.float64), x[..., WIDTH:].numpy().astype(np.float64)
    h_source = lstm_in_numpy(source, old)
    expected = lstm_in_numpy(column, new + adapted(core.adapt_input, old)) + adapted(core.adapt_output, h_source)
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-6)


def test_the_input_adapter_works_on_each_element_of_a_set_alone() -> None:
    column, source = columns("rim", num_units=3, num_active=2, num_inputs=4)
    core = ProgressiveCore(column, source)
    x = th.randn(T, B, 2 * 4 * WIDTH)
    y, _ = core(x)
    ours, theirs = x[..., : 4 * WIDTH].reshape(T, B, 4, WIDTH), x[..., 4 * WIDTH :].reshape(T, B, 4, WIDTH)
    lateral = th.stack([core.adapt_input(theirs[:, :, m]) for m in range(4)], dim=2)
    expected, _ = column(ours + lateral)
    old, _ = source(theirs)
    assert th.allclose(y, expected + core.adapt_output(old), atol=1e-6)


@pytest.mark.parametrize("name", CORES)
def test_gradients_reach_the_new_column_and_the_adapters_alone(name: str) -> None:
    column, source = columns(name)
    core = ProgressiveCore(column, source)
    y, _ = core(th.randn(T, B, 2 * WIDTH), None, starts())
    y.square().sum().backward()
    for key, parameter in core.named_parameters():
        if key.startswith("source."):
            assert parameter.grad is None
        elif key.startswith("adapt"):
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0, key
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in column.parameters())


@pytest.mark.parametrize("name", CORES)
def test_one_step_after_the_other_equals_the_whole_sequence(name: str) -> None:
    core = ProgressiveCore(*columns(name)).eval()
    x = th.randn(T, B, 2 * WIDTH)
    whole, last = core(x, None, starts())
    state, outputs = core.initial_state(B), []
    for x_t, start in zip(x, starts(), strict=True):
        y, state = core(x_t[None], state, start[None])
        outputs.append(y[0])
    assert th.allclose(whole, th.stack(outputs), atol=1e-6)
    assert all(th.allclose(a, b, atol=1e-6) for a, b in zip(last, state, strict=True))
    assert last[0].shape == (core.num_layers, B, core.hidden_size)


def test_the_frozen_column_stays_in_evaluation_mode() -> None:
    core = ProgressiveCore(*columns("lstm"))
    core.train()
    assert core.training
    assert core.column.training
    assert not core.source.training


def test_columns_that_do_not_fit() -> None:
    one = make_core("brims", WIDTH, hidden_size=12)
    with pytest.raises(UsageError, match="num_layers") as caught:
        ProgressiveCore(make_core("lstm", WIDTH, hidden_size=12), one)
    assert (caught.value.kind, caught.value.found) == ("mismatch", "1")
