"""RMC: where its memory starts, what its gates and attention are in closed form, and what it refuses."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rimrl.cores.base import State
from rimrl.cores.registry import make_core
from rimrl.cores.rmc import RMC
from rimrl.errors import UsageError
from tests.cores.builders import RMC as SMALL
from tests.cores.builders import randomise, sequence

T, B, S, F = 6, 3, SMALL["num_slots"], SMALL["slot_size"]


def make(seed: int = 0, **options: Any) -> RMC:
    torch.manual_seed(seed)
    core = RMC(input_size=3, **{**SMALL, **options}).double()
    randomise(core, seed)
    return core


def random_memory(core: RMC, batch_size: int = B, seed: int = 5) -> State:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(1, batch_size, core.hidden_size, generator=generator, dtype=torch.float64)
    return h, torch.zeros_like(h)


def slots(h: Tensor, core: RMC) -> Tensor:
    return h.reshape(*h.shape[:-1], core.num_slots, core.slot_size)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def zero(*modules: nn.Module | None) -> None:
    for module in modules:
        assert module is not None
        with torch.no_grad():
            for p in module.parameters():
                p.zero_()


# The initial memory.


@pytest.mark.parametrize(("num_slots", "slot_size"), [(3, 3), (3, 7), (5, 2), (1, 4), (4, 1)])
def test_episodes_start_in_the_padded_identity(num_slots: int, slot_size: int) -> None:
    core = RMC(input_size=3, num_slots=num_slots, slot_size=slot_size, num_heads=1)
    h, c = core.initial_state(B)
    expected = torch.zeros(num_slots, slot_size)
    for i in range(min(num_slots, slot_size)):
        expected[i, i] = 1
    assert torch.equal(slots(h, core), expected.expand(1, B, num_slots, slot_size))
    assert torch.all(c == 0)


def test_a_reset_goes_back_to_the_identity() -> None:
    core = make()
    x, starts = sequence(core, T, B), torch.zeros(T, B, dtype=torch.bool)
    starts[3, 1] = True
    y, _ = core(x, random_memory(core), starts)
    close(y[3:, 1:2], core(x[3:, 1:2])[0])


def test_slots_beyond_the_width_stay_equal() -> None:
    core = make(num_slots=5, slot_size=2, num_heads=1)
    y, _ = core(sequence(core, T, B))
    late = slots(y, core)[..., 2:, :]
    close(late, late[..., :1, :].expand_as(late))
    early = slots(y, core)[..., :2, :]
    assert (early[..., 0, :] - early[..., 1, :]).abs().min() > 1e-6


def test_the_cell_state_is_zero_and_ignored() -> None:
    core = make()
    h, c = random_memory(core)
    x = sequence(core, T, B)
    y, (_, c_last) = core(x, (h, c + 1))
    assert torch.equal(y, core(x, (h, c))[0])
    assert torch.all(c_last == 0)


# Gates.


@pytest.mark.parametrize("gate", ["unit", "memory"])
@pytest.mark.parametrize(("input_bias", "forget_bias"), [(0.0, 1.0), (-2.0, 3.0)])
def test_gates_without_weights_are_constants(gate: str, input_bias: float, forget_bias: float) -> None:
    """And what passes them is the update of the core that has none."""
    biases: dict[str, Any] = {"input_bias": input_bias, "forget_bias": forget_bias}
    core, ungated = make(gate=gate, **biases), make(gate=None)
    ungated.load_state_dict({k: v for k, v in core.state_dict().items() if not k.startswith("gate")})
    zero(core.gate_input, core.gate_memory)
    x, (h, c) = sequence(core, 1, B), random_memory(core)
    update = ungated(x, (h, c))[0][0]
    i, f = (1 / (1 + math.exp(-bias)) for bias in (input_bias, forget_bias))
    close(core(x, (h, c))[0][0], i * torch.tanh(update) + f * h[0])


def test_default_biases() -> None:
    core = RMC(input_size=3)
    assert (core.input_bias, core.forget_bias) == (0.0, 1.0)


def test_an_open_forget_and_a_shut_input_gate_keep_the_memory() -> None:
    core = make(input_bias=-800.0, forget_bias=800.0)
    state = random_memory(core)
    y, _ = core(sequence(core, T, B), state)
    close(y, state[0].expand(T, -1, -1))


@pytest.mark.parametrize(("gate", "width"), [("unit", F), ("memory", 1)])
def test_how_finely_gates_decide(gate: str, width: int) -> None:
    """What is left of the memory behind a shut input gate: one factor per entry, or one per slot."""
    core = make(gate=gate, input_bias=-800.0)
    x, (h, c) = sequence(core, 1, B), random_memory(core)
    kept = slots(core(x, (h, c))[0][0] / h[0], core)
    assert torch.all((kept > 0) & (kept < 1))
    assert core.gate_memory is not None
    assert core.gate_memory.weight.shape == (2 * width, F)
    spread = (kept - kept[..., :1]).abs().amax(-1)
    assert torch.all(spread < 1e-12) if gate == "memory" else torch.all(spread > 1e-6)
    assert (kept[:, 0] - kept[:, 1]).abs().min() > 1e-6


def test_what_the_forget_gate_sees() -> None:
    """The input as a row of the memory, and the slot's own content, squashed."""
    core = make(input_bias=-800.0)
    assert core.gate_input is not None
    assert core.gate_memory is not None
    x, (h, c) = sequence(core, 1, B), random_memory(core)
    memory = slots(h[0], core)
    from_input = core.gate_input(core.project(x[0]))[:, None, F:]
    kept = torch.sigmoid(1.0 + from_input + torch.tanh(memory) @ core.gate_memory.weight[F:].t())
    close(slots(core(x, (h, c))[0][0], core), kept * memory)


def test_without_gates_the_memory_is_normalised() -> None:
    """The last thing a step does is LayerNorm: with its own scale 1 and shift 0 every slot has mean 0, variance 1."""
    core = make(gate=None)
    with torch.no_grad():
        core.get_parameter("blocks.0.norm_mlp.weight").fill_(1)
        core.get_parameter("blocks.0.norm_mlp.bias").zero_()
    y = slots(core(sequence(core, T, B), random_memory(core))[0], core)
    assert y.mean(-1).abs().max() < 1e-12
    assert (y.var(-1, unbiased=False) - 1).abs().max() < 1e-3


# Attention.


def test_slots_permute() -> None:
    """All slots have the same weights: they differ by their content alone."""
    core = make(num_blocks=2)
    order = [2, 0, 1]
    x, (h, c) = sequence(core, T, B), random_memory(core)
    moved = slots(h, core)[..., order, :].flatten(-2)
    y, _, trace = core(x, (h, c), return_trace=True)
    y_moved, _, trace_moved = core(x, (moved, c), return_trace=True)
    close(slots(y, core)[..., order, :], slots(y_moved, core))
    attention, attention_moved = trace.communication_attention, trace_moved.communication_attention
    assert attention is not None
    assert attention_moved is not None
    close(attention[..., order, :][..., order], attention_moved)


def test_attention_without_queries_is_even() -> None:
    """Each of S slots and E elements gets 1 / (S + E); among themselves the slots share evenly."""
    core = make(num_inputs=2, qkv_norm=False)
    zero(core.get_submodule("blocks.0.query_key_value"))
    _, _, trace = core(sequence(core, T, B), random_memory(core), return_trace=True)
    assert trace.active.all()
    assert trace.input_attention is not None
    assert trace.communication_attention is not None
    close(trace.input_attention[..., 1:], torch.full((T, B, S, 2), 1 / (S + 2), dtype=torch.float64))
    assert torch.all(trace.input_attention[..., 0] == 0)
    close(trace.communication_attention, torch.full((T, B, S, S), 1 / S, dtype=torch.float64))


@pytest.mark.parametrize("qkv_norm", [True, False])
def test_the_norm_of_queries_takes_their_scale_away(qkv_norm: bool) -> None:
    core = make(qkv_norm=qkv_norm)
    x, state = sequence(core, T, B), random_memory(core)
    before = core(x, state)[0]
    with torch.no_grad():
        for p in core.get_submodule("blocks.0.query_key_value").parameters():
            p.mul_(10)
    difference = (core(x, state)[0] - before).abs().max()
    assert difference < 1e-3 if qkv_norm else difference > 1e-2


def test_step_by_torch_modules() -> None:
    """One head, one linear layer, no norm of queries: torch's own multi-head attention gives the same step."""
    core = make(num_heads=1, key_size=None, mlp_layers=1, qkv_norm=False, gate=None)
    mha = nn.MultiheadAttention(F, 1, batch_first=True).double()
    source = core.get_submodule("blocks.0.query_key_value")
    mha.load_state_dict(
        {
            "in_proj_weight": source.weight,
            "in_proj_bias": source.bias,
            "out_proj.weight": torch.eye(F, dtype=torch.float64),
            "out_proj.bias": torch.zeros(F, dtype=torch.float64),
        }
    )
    x, (h, c) = sequence(core, 1, B), random_memory(core)
    Z = torch.cat([slots(h, core)[0], core.project(x[0]).unsqueeze(1)], dim=1)
    Z = core.get_submodule("blocks.0.norm_attention")(Z + mha(Z, Z, Z)[0])
    Z = core.get_submodule("blocks.0.norm_mlp")(Z + core.mlp(Z))
    close(core(x, (h, c))[0][0], Z[:, :S].flatten(1))


def test_flat_input_is_a_set_of_one() -> None:
    core = make()
    x, state = sequence(core, T, B), random_memory(core)
    assert torch.equal(core(x, state)[0], core(x[:, :, None], state)[0])


def test_input_elements_have_no_order_before_the_gates() -> None:
    core = make(num_inputs=3, gate=None)
    x, state = sequence(core, T, B), random_memory(core)
    close(core(x, state)[0], core(x[:, :, [2, 0, 1]], state)[0])
    gated = make(num_inputs=3)
    assert (gated(x, state)[0] - gated(x[:, :, [2, 0, 1]], state)[0]).abs().max() > 1e-4


def test_blocks_share_the_mlp_and_nothing_else() -> None:
    names = set(make(num_blocks=2).state_dict())
    assert {name for name in names if name.startswith("mlp")} == {
        f"mlp.{i}.{p}" for i in (0, 2) for p in ("weight", "bias")
    }
    first = {name.removeprefix("blocks.0.") for name in names if name.startswith("blocks.0.")}
    assert first == {name.removeprefix("blocks.1.") for name in names if name.startswith("blocks.1.")}


# Bad input.


def refusal(**options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        make_core("rmc", 8, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


SIZES = ("num_slots", "slot_size", "hidden_size", "num_inputs", "num_heads", "key_size", "num_blocks", "mlp_layers")


@pytest.mark.parametrize("value", [0, -1, 2.5, "2", True], ids=repr)
@pytest.mark.parametrize("option", SIZES)
def test_sizes(option: str, value: Any) -> None:
    message = refusal(**{option: value})
    assert option in message
    assert repr(value) in message


def test_widths_that_do_not_divide() -> None:
    assert re.search(r"hidden_size 90 .*num_slots 4; .*88 or 92", refusal(hidden_size=90))
    assert re.search(r"slot_size 30 .*num_heads 4; .*28 or 32", refusal(slot_size=30))
    message = refusal(hidden_size=96, num_slots=4, slot_size=20)
    for part in ("hidden_size", "num_slots 4", "slot_size 20", "got 96"):
        assert part in message


@pytest.mark.parametrize("value", ["units", True, 1], ids=repr)
def test_gate_lists_what_is_valid(value: Any) -> None:
    message = refusal(gate=value)
    for part in ("gate", repr(value), "'unit'", "'memory'", "None"):
        assert part in message


@pytest.mark.parametrize("option", ["input_bias", "forget_bias"])
@pytest.mark.parametrize("value", [None, "1", True, math.nan, math.inf], ids=repr)
def test_biases_are_numbers(option: str, value: Any) -> None:
    message = refusal(**{option: value})
    assert option in message
    assert repr(value) in message


@pytest.mark.parametrize("value", ["false", None, 1], ids=repr)
def test_qkv_norm_is_a_switch(value: Any) -> None:
    assert "qkv_norm" in refusal(qkv_norm=value)
