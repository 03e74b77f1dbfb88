"""What is assigned to a core that was built takes effect on every path, or is refused."""

from __future__ import annotations

import itertools
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from rimrl.cores.base import RecurrentCore
from rimrl.cores.progressive import ProgressiveCore
from rimrl.cores.registry import make_core
from rimrl.errors import UsageError
from tests import paths
from tests.cores.builders import BRIMS, RIGLSTM, RIM, SCOFF, SPECS, CoreSpec, build, randomise, with_every_backend
from tests.cores.test_scan import assert_same, everything, problem, step_by_step


def other_values(value: object) -> list[Any]:
    """Values that someone might assign in the place of this one."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [value / 2]
    if value is None:
        return [1, 2]
    if isinstance(value, str):
        return [x for x in ("null", "units", "candidate", "previous", "gated", "residual") if x != value]
    return [None] if isinstance(value, nn.Module) else []


def assignable(core: RecurrentCore) -> list[tuple[str, str, Any]]:
    """Path of a module of rimrl's, name of an attribute, another value."""
    found = []
    for path, module in core.named_modules():
        if not type(module).__module__.startswith("rimrl"):
            continue
        names = {n for n in vars(module) if not n.startswith("_")} | set(module._modules)
        names |= {n for n in dir(type(module)) if isinstance(getattr(type(module), n), property) and n[0] != "_"}
        for name in sorted(names - {"training", "supports_sets", "initial_h", "initial_c"}):
            found += [(path, name, value) for value in other_values(getattr(module, name))]
    return found


@with_every_backend()
def test_an_assignment_means_the_same_on_every_path(spec: CoreSpec, path: str) -> None:
    original = randomise(build(spec))
    for where, name, value in assignable(original):
        core = deepcopy(original)
        try:
            setattr(core.get_submodule(where), name, value)
        except (AttributeError, UsageError):
            continue
        try:
            p = problem(core)
            expected = step_by_step(p)
        except (RuntimeError, TypeError, AttributeError, AssertionError, IndexError, StopIteration, UsageError):
            continue  # the plain step cannot do it either
        if paths.has(core, path):
            with paths.on(path):
                assert_same(everything(p), expected)


@pytest.mark.parametrize(
    ("name", "path"), [*itertools.product(["rim", "riglstm"], paths.PATHS), ("brims", "step"), ("scoff", "step")]
)
def test_fewer_units_work_when_num_active_is_set(name: str, path: str) -> None:
    """As many as asked for, and the same ones as in a core that was built with so many and has these weights."""
    options = {"rim": RIM, "riglstm": {**RIGLSTM, "input_top_k": 2, "hidden_top_k": 2}, "brims": BRIMS, "scoff": SCOFF}[
        name
    ]
    core = randomise(build((name, {**options, "num_active": 3})))
    built = make_core(name, core.input_size, **{**options, "num_active": 1}).double()
    built.load_state_dict(core.state_dict())
    x = problem(core).x
    with paths.on(path):
        before = core(x)[0]
        core.num_active = 1
        y, _, trace = core(x, return_trace=True)
        expected, _, _ = built(x, return_trace=True)
    torch.testing.assert_close(y, expected)
    assert not torch.equal(y, before)
    for layer in trace.active.split(core.units_per_layer, dim=-1):
        assert (layer.sum(-1) == 1).all()


@pytest.mark.parametrize("value", [0, 5, -1, 1.5, True, "2"])
@pytest.mark.parametrize("name", ["rim", "riglstm", "brims"])
def test_a_num_active_that_does_not_fit_changes_nothing(name: str, value: Any) -> None:
    core = build(SPECS[name])
    before = core.num_active
    with pytest.raises(UsageError, match="num_active"):
        core.num_active = value
    assert core.num_active == before


@pytest.mark.parametrize("name", ["rim, no input attention", "riglstm, no cell selection"])
def test_where_nothing_selects_num_active_stays(name: str) -> None:
    core = build(SPECS[name])
    with pytest.raises(UsageError, match="num_active"):
        core.num_active = 2


@pytest.mark.parametrize(
    ("name", "where", "attribute", "value"),
    [
        ("rim", "", "communication", None),
        ("rim", "", "communication_reads", "previous"),
        ("rim", "", "num_units", 3),
        ("rim", "input_read", "competition", "units"),
        ("rim", "communication", "top_k", 1),
        ("riglstm", "", "input_top_k", 1),
        ("riglstm", "", "soft_update", None),
        ("riglstm", "hidden_selection", "top_k", 1),
        ("lstm", "", "hidden_size", 3),
    ],
)
def test_what_is_copied_at_construction_cannot_be_assigned(name: str, where: str, attribute: str, value: Any) -> None:
    module = build(SPECS[name]).get_submodule(where)
    with pytest.raises(AttributeError, match=attribute):
        setattr(module, attribute, value)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "indrnn", "feedforward", "rmc", "gtrxl", "entnet", "grid_lstm"])
def test_a_core_without_selection_takes_no_number_of_active_units(name: str) -> None:
    with pytest.raises(AttributeError, match="num_active"):
        build(SPECS[name]).num_active = 1


def test_a_progressive_core_selects_in_its_new_column() -> None:
    column, source = build(SPECS["rim"]), build(SPECS["rim"], seed=1)
    core = ProgressiveCore(column, source).double()
    core.num_active = 1
    _, _, trace = core(torch.randn(3, 2, 2 * column.input_size, dtype=torch.float64), return_trace=True)
    assert (trace.active.sum(-1) == 1).all()
    assert source.num_active == 2
    lstm = ProgressiveCore(build(SPECS["lstm"]), build(SPECS["lstm"]))
    with pytest.raises(AttributeError, match="num_active"):
        lstm.num_active = 1
