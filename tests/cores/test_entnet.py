"""EntNet: its gate, update and norm in closed form, the keys it starts in, and what it refuses."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rimrl.cores.base import State
from rimrl.cores.entnet import EntNet
from rimrl.cores.registry import make_core
from rimrl.errors import UsageError
from tests.cores.builders import ENTNET as SMALL
from tests.cores.builders import randomise, sequence

T, B, S, F = 6, 3, SMALL["num_slots"], SMALL["slot_size"]
every_activation = pytest.mark.parametrize("activation", ["prelu", "identity"])


def make(seed: int = 0, **options: Any) -> EntNet:
    torch.manual_seed(seed)
    core = EntNet(input_size=3, **{**SMALL, **options}).double()
    randomise(core, seed)
    return core


def random_content(core: EntNet, batch_size: int = B, seed: int = 5) -> State:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(1, batch_size, core.hidden_size, generator=generator, dtype=torch.float64)
    return h, torch.zeros_like(h)


def slots(h: Tensor) -> Tensor:
    return h.reshape(*h.shape[:-1], S, F)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def zero(*modules: nn.Module) -> None:
    with torch.no_grad():
        for module in modules:
            for p in module.parameters():
                p.zero_()


def unit_norm(h: Tensor) -> Tensor:
    return h / h.square().sum(-1, keepdim=True).sqrt()


@every_activation
def test_every_slot_has_norm_one(activation: str) -> None:
    core = make(activation=activation)
    y, _ = core(sequence(core, T, B), random_content(core))
    close(slots(y).square().sum(-1), torch.ones(T, B, S, dtype=torch.float64))


def test_episodes_start_in_the_keys() -> None:
    core = make()
    h, c = core.initial_state(B)
    assert torch.equal(slots(h), core.keys.expand(1, B, S, F))
    assert torch.all(c == 0)
    x, starts = sequence(core, T, B), torch.zeros(T, B, dtype=torch.bool)
    starts[3, 1] = True
    y, _ = core(x, random_content(core), starts)
    close(y[3:, 1:2], core(x[3:, 1:2])[0])


def test_the_keys_learn_from_the_start_and_from_every_gate() -> None:
    core = make()
    x = sequence(core, T, B)
    (from_gates,) = torch.autograd.grad(core(x, random_content(core))[0].sum(), [core.keys])
    assert from_gates.abs().min() > 1e-8
    zero(core.key, core.encoder)  # s = 0: keys enter neither gate nor candidate
    (elsewhere,) = torch.autograd.grad(core(x, random_content(core))[0].sum(), [core.keys])
    assert torch.all(elsewhere == 0)
    (from_start,) = torch.autograd.grad(core(x)[0].sum(), [core.keys])
    assert from_start.abs().max() > 1e-8


def test_fresh_keys_have_norm_one() -> None:
    core = EntNet(input_size=3)
    assert core.keys.shape == (6, 100)
    torch.testing.assert_close(core.keys.norm(dim=-1), torch.ones(6))


def test_the_gate_in_closed_form() -> None:
    core = make()
    x, (h, c) = sequence(core, 1, B), random_content(core)
    _, _, trace = core(x, (h, c), return_trace=True)
    assert trace.active.all()
    assert trace.communication_attention is None
    assert trace.input_attention is not None
    for b in range(B):
        s = core.encoder.weight @ x[0, b] + core.encoder.bias
        for j in range(S):
            g = 1 / (1 + math.exp(-(s @ slots(h)[0, b, j] + s @ core.keys[j]).item()))
            close(trace.input_attention[0, b, j], torch.tensor([1 - g, g], dtype=torch.float64))


def test_an_input_of_zero_opens_every_gate_halfway() -> None:
    core = make()
    zero(core.encoder)
    _, _, trace = core(sequence(core, T, B), random_content(core), return_trace=True)
    assert trace.input_attention is not None
    assert torch.all(trace.input_attention == 0.5)


def test_a_shut_gate_keeps_the_direction() -> None:
    """An input far from key and content: the slot is only brought to norm one."""
    core = make()
    with torch.no_grad():
        core.encoder.weight.zero_()
        core.encoder.bias.fill_(-50.0)
        core.keys.abs_().add_(1.0)
    h, c = random_content(core)
    h = h.abs() + 0.1
    y, _ = core(sequence(core, 1, B), (h, c))
    close(slots(y[0]), unit_norm(slots(h[0])))


def test_without_weights_the_candidate_is_its_bias() -> None:
    core = make(activation="identity")
    zero(core.encoder, core.key, core.input)
    with torch.no_grad():
        core.content.weight.zero_()
    h, c = random_content(core)
    y, _ = core(sequence(core, 1, B), (h, c))
    close(slots(y[0]), unit_norm(slots(h[0]) + 0.5 * core.content.bias))


def test_the_step_in_closed_form() -> None:
    core = make()
    assert core.slope is not None
    x, (h, c) = sequence(core, 1, B), random_content(core)
    y, _, trace = core(x, (h, c), return_trace=True)
    assert trace.input_attention is not None
    U, V, W = core.content.weight, core.key.weight, core.input.weight
    for b in range(B):
        s = core.encoder.weight @ x[0, b] + core.encoder.bias
        for j in range(S):
            old, key, g = slots(h)[0, b, j], core.keys[j], trace.input_attention[0, b, j, 1]
            z = U @ old + V @ key + W @ s + core.content.bias
            new = old + g * (z.clamp(min=0) + core.slope * z.clamp(max=0))
            close(slots(y)[0, b, j], unit_norm(new))


@pytest.mark.parametrize("slope", [-0.5, 0.0, 0.25, 1.0])
def test_prelu(slope: float) -> None:
    core = make()
    assert core.slope is not None
    with torch.no_grad():
        core.slope.fill_(slope)
    z = torch.randn(B, S, F, dtype=torch.float64)
    close(core._phi(z), nn.functional.prelu(z, torch.tensor(slope, dtype=torch.float64)))


def test_a_fresh_prelu_is_the_identity() -> None:
    core = EntNet(input_size=3, **SMALL)
    plain = EntNet(input_size=3, activation="identity", **SMALL)
    plain.load_state_dict({k: v for k, v in core.state_dict().items() if k != "slope"})
    x = torch.randn(T, B, 3)
    assert torch.equal(core(x)[0], plain(x)[0])
    assert torch.all(EntNet(input_size=3, initial_slope=0.25, **SMALL).get_parameter("slope") == 0.25)


@every_activation
def test_slots_permute_with_their_keys(activation: str) -> None:
    core, other = make(activation=activation), make(activation=activation)
    order = [2, 0, 1]
    with torch.no_grad():
        other.keys.copy_(core.keys[order])
    x, (h, c) = sequence(core, T, B), random_content(core)
    starts = torch.zeros(T, B, dtype=torch.bool)
    starts[2, 0] = True
    y, _ = core(x, (h, c), starts)
    y_moved, _ = other(x, (slots(h)[..., order, :].flatten(-2), c), starts)
    close(slots(y)[..., order, :], slots(y_moved))


def test_slots_do_not_see_each_other() -> None:
    core = make()
    x, (h, c) = sequence(core, T, B), random_content(core)
    h.requires_grad_()
    for j in range(S):
        (gradient,) = torch.autograd.grad(slots(core(x, (h, c))[0])[:, :, j].sum(), h)
        reached = slots(gradient).abs().amax(dim=(0, 1, 3)) > 0
        assert reached.tolist() == [i == j for i in range(S)]


def test_a_slot_of_norm_zero_stays_zero_with_finite_gradients() -> None:
    core = make()
    zero(core.encoder, core.content, core.key, core.input)
    h = torch.zeros(1, B, core.hidden_size, dtype=torch.float64, requires_grad=True)
    y, _ = core(sequence(core, T, B), (h, torch.zeros_like(h)))
    assert torch.all(y == 0)
    for gradient in torch.autograd.grad(y.sum(), [h, *core.parameters()], allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


def test_the_cell_state_is_zero_and_ignored() -> None:
    core = make()
    h, c = random_content(core)
    x = sequence(core, T, B)
    y, (_, c_last) = core(x, (h, c + 1))
    assert torch.equal(y, core(x, (h, c))[0])
    assert torch.all(c_last == 0)


# Bad input.


def refusal(**options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        make_core("entnet", 8, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("value", [0, -1, 2.5, "2", True], ids=repr)
@pytest.mark.parametrize("option", ["num_slots", "slot_size", "hidden_size"])
def test_sizes(option: str, value: Any) -> None:
    message = refusal(**{option: value})
    assert option in message
    assert repr(value) in message


def test_widths_that_do_not_fit() -> None:
    assert re.search(r"hidden_size 100 .*num_slots 6; .*96 or 102", refusal(hidden_size=100))
    assert re.search(r"hidden_size .*slot_size 6.* 96", refusal(hidden_size=96, slot_size=6))


@pytest.mark.parametrize("value", ["relu", None, True], ids=repr)
def test_activation_lists_what_is_valid(value: Any) -> None:
    message = refusal(activation=value)
    for part in ("activation", repr(value), "'prelu'", "'identity'"):
        assert part in message


@pytest.mark.parametrize("value", [None, "1", True, math.nan, math.inf], ids=repr)
def test_the_slope_is_a_number(value: Any) -> None:
    message = refusal(initial_slope=value)
    assert "initial_slope" in message
    assert repr(value) in message
