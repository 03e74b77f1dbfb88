"""Small cores, sequences and states that the tests in this folder share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rimrl.cores.base import RecurrentCore, State
from rimrl.cores.registry import CORES, core_options, make_core
from tests import paths

INPUT_SIZE = 3
RIM: dict[str, Any] = {
    "num_units": 4,
    "num_active": 2,
    "unit_size": 3,
    "input_key_size": 2,
    "input_value_size": 4,
    "communication_heads": 2,
    "communication_key_size": 3,
    "communication_value_size": 2,
}
RIM_VARIANTS: dict[str, dict[str, Any]] = {
    "competition of units": {"competition": "units"},
    "residual, previous": {"communication": "residual", "communication_reads": "previous"},
    "no communication": {"communication": None},
    "gru, top 2": {"dynamics": "gru", "communication_top_k": 2},
    "no input attention": {"input_attention": False, "num_active": None},
    "two heads": {"input_heads": 2},
    "previous": {"communication_reads": "previous"},
    "gru, residual, two heads, competition of units": {
        "dynamics": "gru",
        "communication": "residual",
        "input_heads": 2,
        "competition": "units",
    },
    "three elements, two heads": {"num_inputs": 3, "input_heads": 2},
    "three elements, no input attention": {"num_inputs": 3, "input_attention": False, "num_active": None},
    "three elements, gru, competition of units, no communication": {
        "num_inputs": 3,
        "dynamics": "gru",
        "competition": "units",
        "communication": None,
        "learn_initial_state": True,
    },
    "learned start": {"learn_initial_state": True},
    "all active": {"num_active": 4},
    # Kernels join what makes values and what projects them where units are this much narrower than values.
    "wide values": {"communication_value_size": 6, "learn_initial_state": True},
}
WORKSPACE: dict[str, Any] = {
    "num_units": 4,
    "num_active": 2,
    "num_slots": 2,
    "unit_size": 3,
    "input_key_size": 2,
    "input_value_size": 4,
    "workspace_heads": 2,
    "workspace_key_size": 3,
    "workspace_value_size": 2,
}
WORKSPACE_VARIANTS: dict[str, dict[str, Any]] = {
    "gru, top 1, active, learned start": {
        "dynamics": "gru",
        "write_top_k": 1,
        "broadcast": "active",
        "learn_initial_state": True,
    },
    "three elements, units, one slot, learned start": {
        "num_inputs": 3,
        "competition": "units",
        "num_slots": 1,
        "learn_initial_state": True,
    },
}
RIGLSTM: dict[str, Any] = {
    "num_units": 4,
    "num_active": 2,
    "unit_size": 3,
    "num_views": 3,
    "view_size": 4,
    "key_size": 2,
    "hidden_value_size": 2,
}
RIGLSTM_SWITCHES: dict[str, dict[str, Any]] = {
    "no cell selection": {"cell_selection": False, "num_active": None},
    "no input selection": {"input_selection": False},
    "no hidden selection": {"hidden_selection": False},
    "no soft update": {"soft_update": False},
}
RIGLSTM_VARIANTS: dict[str, dict[str, Any]] = {
    **RIGLSTM_SWITCHES,
    "own weights": {"cell_selection_weights": "own"},
    "top 1": {"input_top_k": 1, "hidden_top_k": 1},
    "top all": {"input_top_k": 3, "hidden_top_k": 3},
    "learned start": {"learn_initial_state": True},
    "one active": {"num_active": 1},
    "all active": {"num_active": 4},
    "nothing selected": {option: value for switch in RIGLSTM_SWITCHES.values() for option, value in switch.items()},
}
SCOFF: dict[str, Any] = {
    "num_units": 4,
    "num_active": 2,
    "num_schemata": 3,
    "unit_size": 3,
    "schema_key_size": 2,
    "input_key_size": 2,
    "input_value_size": 4,
    "communication_heads": 2,
    "communication_key_size": 3,
    "communication_value_size": 2,
}
SCOFF_VARIANTS: dict[str, dict[str, Any]] = {
    "lstm, units, residual, previous": {
        "dynamics": "lstm",
        "competition": "units",
        "communication": "residual",
        "communication_reads": "previous",
    },
    "fixed, three elements, zero start": {
        "assignment": "fixed",
        "num_schemata": 4,
        "num_inputs": 3,
        "learn_initial_state": False,
    },
    "one schema, no communication": {"num_schemata": 1, "communication": None},
}
GRID_LSTM: dict[str, Any] = {"num_units": 4, "unit_size": 3}
BRIMS: dict[str, Any] = {**RIM, "num_layers": 2, "input_heads": 2}
BRIMS_VARIANTS: dict[str, dict[str, Any]] = {
    "three layers": {"num_layers": 3},
    "three layers, last to first": {"num_layers": 3, "top_down": "last_to_first"},
    "no top-down": {"top_down": None},
    "wide values": {"communication_value_size": 6},
    "one layer": {"num_layers": 1},
    "units of each layer": {"num_units": [4, 3], "num_active": [3, 1], "unit_size": None, "hidden_size": 12},
    "three elements": {"num_inputs": 3},
    "competition of units": {"competition": "units"},
    "gru, residual, previous, top 2": {
        "dynamics": "gru",
        "communication": "residual",
        "communication_reads": "previous",
        "communication_top_k": 2,
    },
    "no communication": {"communication": None},
    "no input attention": {"input_attention": False, "num_active": None},
    "no input attention, three elements": {"input_attention": False, "num_active": None, "num_inputs": 3},
    "learned start": {"learn_initial_state": True},
}
RMC: dict[str, Any] = {"num_slots": 3, "slot_size": 4, "num_heads": 2, "key_size": 3}
RMC_VARIANTS: dict[str, dict[str, Any]] = {
    "gate of memory": {"gate": "memory"},
    "no gate": {"gate": None},
    "two blocks, deep": {"num_blocks": 2, "mlp_layers": 3},
    "three elements": {"num_inputs": 3},
    "more slots than width": {"num_slots": 5, "slot_size": 2},
    "no norm of queries": {"qkv_norm": False},
}
GTRXL: dict[str, Any] = {"hidden_size": 4, "num_layers": 2, "num_heads": 2, "memory_length": 3, "mlp_size": 5}
GTRXL_VARIANTS: dict[str, dict[str, Any]] = {
    "one layer, wide heads, long memory": {"num_layers": 1, "head_size": 3, "memory_length": 8},
}
ENTNET: dict[str, Any] = {"num_slots": 3, "slot_size": 4}
ENTNET_VARIANTS: dict[str, dict[str, Any]] = {
    "identity": {"activation": "identity"},
    "leaky": {"initial_slope": 0.2},
}
RNN: dict[str, Any] = {"hidden_size": 12}
RNN_VARIANTS: dict[str, dict[str, Any]] = {"relu": {"nonlinearity": "relu"}, "two layers": {"num_layers": 2}}
NTM: dict[str, Any] = {"hidden_size": 6, "num_slots": 4, "slot_size": 3, "controller_size": 5}
NTM_VARIANTS: dict[str, dict[str, Any]] = {"three reads, two slots": {"num_reads": 3, "num_slots": 2}}
DNC: dict[str, Any] = {**NTM, "num_reads": 2}
DNC_VARIANTS: dict[str, dict[str, Any]] = {"one read, one slot": {"num_reads": 1, "num_slots": 1}}

CoreSpec = tuple[str, dict[str, Any]]


def small_options(name: str) -> dict[str, Any]:
    """Options that keep a registered core small; a core that is added later needs no entry here."""
    if name in SMALL:
        return SMALL[name]
    return {"hidden_size": 12} if "hidden_size" in core_options(name) else {}


SMALL: dict[str, dict[str, Any]] = {
    "rim": RIM,
    "rim_workspace": WORKSPACE,
    "riglstm": RIGLSTM,
    "scoff": SCOFF,
    "grid_lstm": GRID_LSTM,
    "brims": BRIMS,
    "rmc": RMC,
    "gtrxl": GTRXL,
    "entnet": ENTNET,
    "rnn": RNN,
    "ntm": NTM,
    "dnc": DNC,
}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "rim": RIM_VARIANTS,
    "rim_workspace": WORKSPACE_VARIANTS,
    "riglstm": RIGLSTM_VARIANTS,
    "scoff": SCOFF_VARIANTS,
    "brims": BRIMS_VARIANTS,
    "rmc": RMC_VARIANTS,
    "gtrxl": GTRXL_VARIANTS,
    "entnet": ENTNET_VARIANTS,
    "rnn": RNN_VARIANTS,
    "ntm": NTM_VARIANTS,
    "dnc": DNC_VARIANTS,
}


SPECS: dict[str, CoreSpec] = {name: (name, small_options(name)) for name in CORES}
SPECS |= {
    f"{name}, {label}": (name, {**SMALL[name], **options})
    for name, variants in VARIANTS.items()
    for label, options in variants.items()
}
SPECS |= {f"{name}, two layers": (name, {"hidden_size": 12, "num_layers": 2}) for name in ("lstm", "gru")}


def build(spec: CoreSpec, seed: int = 0, dtype: torch.dtype = torch.float64) -> RecurrentCore:
    torch.manual_seed(seed)
    name, options = spec
    return make_core(name, INPUT_SIZE, **options).to(dtype)


def with_every_backend(specs: dict[str, CoreSpec] | None = None, *, step: bool = False) -> pytest.MarkDecorator:
    """For a test of ``spec`` and ``path``: every core, by default of `SPECS`, on every backend that it has."""
    specs = SPECS if specs is None else specs
    cases = paths.with_every_backend({name: build(spec) for name, spec in specs.items()}, step)
    found = [pytest.param(specs[name], path, id=f"{name}-{path}") for name, path in cases]
    return pytest.mark.parametrize(("spec", "path"), found)


def sequence(core: RecurrentCore, T: int, B: int, seed: int = 1) -> Tensor:
    """Random input of the width, number of elements and dtype that the core takes."""
    elements = () if core.num_inputs == 1 else (core.num_inputs,)
    generator = torch.Generator().manual_seed(seed)
    dtype = next(core.parameters()).dtype
    return torch.randn(T, B, *elements, core.input_size, generator=generator, dtype=torch.float64).to(dtype)


def reached_state(core: RecurrentCore, B: int, seed: int = 2) -> State:
    """A state that the core reaches by itself after a few steps, so that it is valid for every core."""
    with torch.no_grad():
        _, (h, c) = core(sequence(core, 4, B, seed))
    return h.clone(), c.clone()


def randomise(core: RecurrentCore, seed: int = 3, scale: float = 0.7) -> RecurrentCore:
    """Give every parameter, biases included, random values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return core
