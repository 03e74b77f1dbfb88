"""What can be taken from a core, one mechanism at a time, as in Table 4 of the RIM paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rimrl.errors import unknown_name, wrong

_RIMS = ("rim", "brims")
# Without a choice of units all are active: a smaller number would ask for what is not there.
_ALL_ACTIVE = ("num_active",)


@dataclass(frozen=True)
class Ablation:
    """A mechanism that is switched off.

    Attributes:
        summary: One line.
        cores: Names of the cores that have it.
        options: The cores' options that switch it off.
        without: Options that have no meaning then.
    """

    summary: str
    cores: tuple[str, ...]
    options: Mapping[str, Any]
    without: tuple[str, ...] = ()


ABLATIONS: Mapping[str, Ablation] = {
    "no_communication": Ablation("units do not read each other", _RIMS, {"communication": None}),
    "no_input_attention": Ablation(
        "every unit reads the whole input, and all are active", _RIMS, {"input_attention": False}, _ALL_ACTIVE
    ),
    "no_cell_selection": Ablation("all units are active", ("riglstm",), {"cell_selection": False}, _ALL_ACTIVE),
    "no_input_selection": Ablation("every unit reads all views", ("riglstm",), {"input_selection": False}),
    "no_hidden_selection": Ablation(
        "every unit's gates see all hidden vectors", ("riglstm",), {"hidden_selection": False}
    ),
    "no_soft_update": Ablation("active units take their new state as it is", ("riglstm",), {"soft_update": False}),
}


def find_ablation(name: str, core: str) -> Ablation:
    """An ablation of a core.

    Raises:
        UsageError: If there is none of that name, or the core does not have what it takes away.
    """
    if name not in ABLATIONS:
        raise unknown_name("ablation", name, ABLATIONS)
    ablation = ABLATIONS[name]
    if core not in ablation.cores:
        own = [other for other, each in ABLATIONS.items() if core in each.cores]
        raise wrong(
            f"core {core!r}",
            f"has no ablation {name!r} (of {' and '.join(ablation.cores)})",
            f"it has: {', '.join(own) or 'none'}",
            "name",
        )
    return ablation
