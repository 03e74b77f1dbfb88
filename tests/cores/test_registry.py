"""Whatever is asked of `make_core` that does not exist or fit is refused in one line that says what would."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rimrl.cores.base import RecurrentCore
from rimrl.cores.registry import CORES, core_class, core_options, make_core
from rimrl.errors import UsageError


def refusal(core: str, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        make_core(core, options.pop("input_size", 8), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", CORES)
def test_every_core_builds_with_its_defaults(name: str) -> None:
    core = make_core(name, 8)
    assert type(core) is core_class(name)
    assert isinstance(core, RecurrentCore)
    assert "input_size" not in core_options(name)
    assert CORES[name].summary
    assert "\n" not in CORES[name].summary + CORES[name].paper
    y, _ = core(torch.zeros(2, 1, 8))
    assert torch.isfinite(y).all()


def test_a_class_of_ones_own_needs_no_name() -> None:
    core = make_core(core_class("lstm"), 8, hidden_size=4)
    assert core.hidden_size == 4
    with pytest.raises(UsageError, match=r"'hidden_size'"):
        make_core(core_class("lstm"), 8, hidden_sise=4)


@pytest.mark.parametrize(
    ("asked", "meant"), [("lsmt", "lstm"), ("rimm", "rim"), ("gruu", "gru"), ("feed_forward", "feedforward")]
)
def test_an_unknown_core_names_the_nearest(asked: str, meant: str) -> None:
    message = refusal(asked)
    assert repr(asked) in message
    assert f"did you mean {meant!r}?" in message


def test_a_core_unlike_any_lists_all() -> None:
    message = refusal("zzzzzz")
    for name in CORES:
        assert name in message


@pytest.mark.parametrize("name", CORES)
def test_every_misspelt_option_names_the_option(name: str) -> None:
    for option in core_options(name):
        misspelt = option[:-1] + "xx"
        message = refusal(name, **{misspelt: 1})
        assert repr(misspelt) in message
        assert f"did you mean {option!r}?" in message
        assert repr(name) in message


def test_an_option_of_another_core_is_refused() -> None:
    assert "num_active" in refusal("lstm", num_active=2)


SIZES = (
    "num_units",
    "num_active",
    "unit_size",
    "num_inputs",
    "input_heads",
    "input_key_size",
    "input_value_size",
    "communication_heads",
    "communication_key_size",
    "communication_value_size",
    "communication_top_k",
)
NO_SIZE: tuple[Any, ...] = (0, -1, 2.5, "2", True)


@pytest.mark.parametrize("value", NO_SIZE, ids=repr)
@pytest.mark.parametrize("option", SIZES)
def test_rim_sizes(option: str, value: Any) -> None:
    message = refusal("rim", **{option: value})
    assert option in message
    assert repr(value) in message
    assert "'rim'" in message


@pytest.mark.parametrize("value", NO_SIZE, ids=repr)
@pytest.mark.parametrize(
    ("core", "option"),
    [(core, "input_size") for core in ("rim", "lstm", "gru", "feedforward")]
    + [(core, "hidden_size") for core in ("rim", "lstm", "gru", "feedforward")]
    + [(core, "num_layers") for core in ("lstm", "gru")],
)
def test_sizes_of_every_core(core: str, option: str, value: Any) -> None:
    message = refusal(core, **{option: value})
    assert option in message
    assert repr(value) in message


@pytest.mark.parametrize(
    ("option", "valid"),
    [
        ("dynamics", ["'lstm'", "'gru'"]),
        ("competition", ["'null'", "'units'"]),
        ("communication", ["'gated'", "'residual'", "None"]),
        ("communication_reads", ["'candidate'", "'previous'"]),
    ],
)
@pytest.mark.parametrize("value", ["nul", 3, ["gated"]], ids=repr)
def test_choices_list_what_is_valid(option: str, valid: list[str], value: Any) -> None:
    message = refusal("rim", **{option: value})
    assert option in message
    assert repr(value) in message
    for choice in valid:
        assert choice in message


@pytest.mark.parametrize("option", ["input_dropout", "communication_dropout"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 2, float("nan"), "0.1", None], ids=repr)
def test_dropout_is_a_probability(option: str, value: Any) -> None:
    message = refusal("rim", **{option: value})
    assert option in message
    assert repr(value) in message


@pytest.mark.parametrize("option", ["input_attention", "learn_initial_state"])
@pytest.mark.parametrize("value", ["false", 2, None], ids=repr)
def test_switches_are_true_or_false(option: str, value: Any) -> None:
    """A quoted ``"false"`` from a configuration is true to Python; it must not switch something on in silence."""
    message = refusal("rim", **{option: value})
    assert option in message
    assert repr(value) in message


def test_more_active_than_there_are() -> None:
    message = refusal("rim", num_units=4, num_active=5)
    for part in ("num_active", "1 to num_units 4", "got 5"):
        assert part in message


def test_fewer_active_without_input_attention() -> None:
    message = refusal("rim", num_units=4, num_active=2, input_attention=False)
    assert "num_active 2" in message
    assert "4" in message
    assert make_core("rim", 8, num_units=4, unit_size=2, num_active=4, input_attention=False).hidden_size == 8


def test_more_read_than_there_are() -> None:
    message = refusal("rim", num_units=4, communication_top_k=5)
    assert "communication_top_k" in message
    assert "1 to" in message
    assert "4" in message


def test_a_width_that_does_not_divide() -> None:
    message = refusal("rim", hidden_size=256)
    assert "hidden_size 256" in message
    assert "num_units 6" in message
    assert "252 or 258" in message
    assert make_core("rim", 8, hidden_size=252).hidden_size == 252
    message = refusal("rim", hidden_size=4, num_units=6)
    assert "use 6" in message


def test_a_value_width_that_does_not_divide_by_the_heads() -> None:
    message = refusal("rim", unit_size=2, input_heads=3)
    assert "input_value_size 8" in message
    assert "input_heads 3" in message
    assert "6 or 9" in message


def test_two_widths_that_disagree() -> None:
    message = refusal("rim", hidden_size=24, num_units=4, unit_size=5)
    for part in ("hidden_size", "num_units 4", "unit_size 5", "got 24"):
        assert part in message
    assert make_core("rim", 8, hidden_size=24, num_units=4, unit_size=6).hidden_size == 24
