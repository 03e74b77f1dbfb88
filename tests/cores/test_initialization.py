"""Where learning starts: the scale of every attention matrix, and what gates are biased to."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.initialization import STARTS
from rimrl.cores.registry import LEGACY_OPTION_VALUES, core_options, make_core, with_legacy_options
from rimrl.errors import UsageError

I, N, D, DK = 40, 6, 24, 32  # noqa: E741
DV, CH, CK, CV = 4 * D, 4, 32, 32

# Parameters of each core by what they belong to, with rows and columns of each matrix for Xavier's scale.
RIM_GROUPS: dict[str, dict[str, Any]] = {
    "scores": {"input_read.query": (D, DK), "input_read.key": (I, DK)},
    "values": {"input_read.value": (I, DV)},
    "dynamics": {"dynamics.weight_input": D, "dynamics.weight_hidden": D, "dynamics.bias": D},
}
RIGLSTM_GROUPS: dict[str, dict[str, Any]] = {
    "scores": {
        "input_selection.query": (D, DK),
        "input_selection.key": (4 * D, DK),
        "hidden_selection.query": (D, DK),
        "hidden_selection.key": (D, DK),
        "soft_update.query": (I + 2 * D, DK),
        "soft_update.key": (D, DK),
    },
    "values": {"views": (I, 4 * D)},
    "communication": {"hidden_selection.value": (D, D)},
    "dynamics": {"dynamics.weight_input": 2 * D, "dynamics.weight_hidden": 2 * D, "dynamics.bias": 2 * D},
}
BRIMS_GROUPS: dict[str, dict[str, Any]] = {
    "scores": {
        "layers.0.input_read.query": (D, 4 * DK),
        "layers.1.input_read.key": (N * D, 4 * DK),
        "top_down.0.key": (N * D, 4 * DK),
    },
    "values": {"layers.0.input_read.value": (I, DV), "top_down.0.value": (N * D, DV)},
    "dynamics": {"layers.1.dynamics.weight_hidden": D},
}
GROUPS: dict[str, dict[str, dict[str, Any]]] = {"rim": RIM_GROUPS, "riglstm": RIGLSTM_GROUPS, "brims": BRIMS_GROUPS}
KEY = {"rim": {"input_key_size": DK}, "riglstm": {"key_size": DK}, "brims": {"input_key_size": DK}}

# Which groups start at 0.01 under each name; cores.md, section 7, has the authors'.
SMALL = {
    "xavier": set(),
    "small_scores": {"scores"},
    "small_values": {"values"},
    "small_communication": {"communication"},
    "small_attention": {"scores", "values", "communication"},
    "whole_width": set(),
    "released": {"scores", "values", "communication"},
}
WHOLE_WIDTH = {"whole_width", "released"}


def weights(core: str, initialization: str, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    made = make_core(core, I, num_units=N, unit_size=D, initialization=initialization, **KEY[core])
    return {name: parameter.detach() for name, parameter in made.named_parameters()}


def xavier(fan_in: int, fan_out: int) -> float:
    return math.sqrt(2 / (fan_in + fan_out))


@pytest.mark.parametrize("initialization", STARTS)
@pytest.mark.parametrize("core", GROUPS)
def test_every_group_has_its_scale(core: str, initialization: str) -> None:
    assert set(SMALL) == set(STARTS)
    found = weights(core, initialization)
    for group, members in GROUPS[core].items():
        for name, shape in members.items():
            parameter = found[name]
            if group == "dynamics":
                bound = 1 / math.sqrt(N * D if initialization in WHOLE_WIDTH else shape)
                assert parameter.abs().max() <= bound
                expected = bound / math.sqrt(3)  # of a uniform distribution
            else:
                small = group in SMALL[initialization]
                if name.startswith("hidden_selection.") and initialization == "small_communication":
                    small = True  # hidden selection is RigLSTM's communication
                expected = 0.01 if small else xavier(*shape)
            samples = parameter.numel()
            assert float(parameter.std()) == pytest.approx(expected, rel=5 / math.sqrt(samples)), name


@pytest.mark.parametrize("initialization", STARTS)
@pytest.mark.parametrize("core", ["rim", "brims"])
def test_communication_has_its_scale(core: str, initialization: str) -> None:
    prefix = "" if core == "rim" else "layers.1."
    found = weights(core, initialization)[f"{prefix}communication.query_key_value"]
    queries, keys, values = torch.split(found, [CH * CK, CH * CK, CH * CV], dim=-1)
    expected = 0.01 if "communication" in SMALL[initialization] else xavier(D, CH * CK)
    for part in (queries, keys, values):
        assert float(part.std()) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("core", GROUPS)
def test_names_differ_in_scale_alone(core: str) -> None:
    """The same seed draws the same numbers, so that two starts of one seed are a pair."""
    before = weights(core, "xavier", seed=3)
    for initialization in STARTS:
        for name, parameter in weights(core, initialization, seed=3).items():
            ratio = parameter / before[name]
            parts = torch.split(ratio, CH * CK, dim=-1) if name.endswith("query_key_value") else (ratio,)
            for part in parts:
                torch.testing.assert_close(part, part.flatten()[0].expand_as(part), rtol=2e-4, atol=0)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'small_scores'"):
        make_core("rim", 8, initialization="small_score")
    with pytest.raises(UsageError, match="unknown initialization 'None'"):
        make_core("riglstm", 8, initialization=None)


def gate_biases(core: str, **options: Any) -> dict[str, Tensor]:
    """Biases of the first layer by gate, one row a unit: the sum of torch's two for torch's own cores."""
    torch.manual_seed(1)
    made = make_core(core, 8, **{"hidden_size": 1200, **options})
    parameters = dict(made.named_parameters())
    if core in ("lstm", "gru"):
        bias = parameters["rnn.bias_ih_l0"] + parameters["rnn.bias_hh_l0"]
        bias = bias[None]
    elif options.get("dynamics") == "gru":
        bias = parameters["dynamics.bias_input"] + parameters["dynamics.bias_hidden"]
    else:
        bias = parameters["layers.0.dynamics.bias" if core == "brims" else "dynamics.bias"]
    gates = (
        ("reset", "keep", "new") if core == "gru" or options.get("dynamics") == "gru" else ("input", "keep", "g", "o")
    )
    return dict(zip(gates, bias.detach().chunk(len(gates), dim=-1), strict=True))


SMALL_ATTENTION = {"input_key_size": 2, "input_value_size": 12, "communication": None}
GATED: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("lstm", {}),
    "gru": ("gru", {}),
    "rim": ("rim", {"num_units": 48, **SMALL_ATTENTION}),
    "rim, gru": ("rim", {"num_units": 48, "dynamics": "gru", **SMALL_ATTENTION}),
    "brims": ("brims", {"num_units": 48, "input_heads": 1, **SMALL_ATTENTION}),
    "riglstm": ("riglstm", {"num_units": 48, "num_views": 2, "view_size": 2, "key_size": 2}),
    "grid_lstm": ("grid_lstm", {"num_units": 48, "hidden_size": 480}),
}


@pytest.mark.parametrize("name", [name for name in GATED if name != "grid_lstm"])
def test_chrono_biases_are_logarithms_of_even_spans(name: str) -> None:
    """Tallec & Ollivier (2018), Eq. 16: b_f = log U(1, T - 1), b_i = -b_f; a GRU's update gate keeps the state."""
    core, options = GATED[name]
    T = 50
    gates = gate_biases(core, **options, chrono=T)
    spans = gates["keep"].exp()
    assert 1 <= float(spans.min()) < 1.5
    assert T - 1.5 < float(spans.max()) <= T - 1 + 1e-4
    expected = torch.linspace(1, T - 1, spans.numel())
    assert (
        float((spans.flatten().sort().values - expected).abs().max()) < 1.36 / math.sqrt(spans.numel()) * (T - 2) * 1.5
    )
    if "input" in gates:
        torch.testing.assert_close(gates["input"], -gates["keep"])


@pytest.mark.parametrize("name", [name for name in GATED if name != "grid_lstm"])
def test_forget_bias_sets_one_gate_and_leaves_the_others(name: str) -> None:
    core, options = GATED[name]
    gates, before = gate_biases(core, **options, forget_bias=1.5), gate_biases(core, **options)
    assert torch.equal(gates.pop("keep"), torch.full_like(before.pop("keep"), 1.5))
    for gate, values in gates.items():
        assert torch.equal(values, before[gate]), gate


def test_grid_lstm_takes_the_same_biases() -> None:
    core = make_core("grid_lstm", 4, num_units=3, unit_size=5, chrono=9)
    i, f, _, _ = dict(core.named_parameters())["dynamics.bias"].detach().chunk(4, dim=-1)
    torch.testing.assert_close(i, -f)
    assert 0 <= float(f.min()) <= float(f.max()) <= math.log(8)


def test_every_layer_is_biased() -> None:
    lstm = dict(make_core("lstm", 4, hidden_size=5, num_layers=2, forget_bias=2.0).named_parameters())
    brims = dict(make_core("brims", 4, num_units=3, unit_size=5, forget_bias=2.0).named_parameters())
    for layer in (0, 1):
        total = lstm[f"rnn.bias_ih_l{layer}"] + lstm[f"rnn.bias_hh_l{layer}"]
        assert torch.equal(total[5:10], torch.full((5,), 2.0))
        assert torch.equal(brims[f"layers.{layer}.dynamics.bias"][:, 5:10], torch.full((3, 5), 2.0))


@pytest.mark.parametrize("core", ["lstm", "gru", "rim", "riglstm", "brims", "grid_lstm"])
@pytest.mark.parametrize(
    "options",
    [{"chrono": 0}, {"chrono": 1}, {"chrono": 2.5}, {"forget_bias": math.nan}, {"chrono": 9, "forget_bias": 1}],
)
def test_biases_that_mean_nothing_are_refused(core: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        make_core(core, 8, **options)


def complete(core: str) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in core_options(core).items()}


@pytest.mark.parametrize("core", ["rim", "riglstm", "brims", "lstm", "grid_lstm"])
def test_a_complete_configuration_without_later_options_is_an_old_one(core: str) -> None:
    old = {name: value for name, value in complete(core).items() if name not in LEGACY_OPTION_VALUES}
    found = with_legacy_options(core, old)
    assert found == old | {
        name: LEGACY_OPTION_VALUES[name] for name in complete(core).keys() & LEGACY_OPTION_VALUES.keys()
    }


@pytest.mark.parametrize("core", ["rmc", "scoff", "rim_workspace"])
def test_cores_that_always_had_them_keep_their_defaults(core: str) -> None:
    without = {name: value for name, value in complete(core).items() if name not in LEGACY_OPTION_VALUES}
    assert with_legacy_options(core, without) == without


@pytest.mark.parametrize("core", ["rim", "riglstm", "brims", "rmc"])
def test_any_other_configuration_keeps_its_options(core: str) -> None:
    assert with_legacy_options(core, {"hidden_size": 96}) == {"hidden_size": 96}
    assert with_legacy_options(core, complete(core)) == complete(core)
