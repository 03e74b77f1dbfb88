"""Features that are one vector, or a set of positions (RIM paper, Eq. 3), and the core that reads them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rimrl.cores.base import RecurrentCore
from rimrl.cores.registry import core_options, make_core
from rimrl.errors import mismatch, needs


def core_for(
    core: str | type[RecurrentCore], features_dim: int, num_positions: int, core_kwargs: dict[str, Any]
) -> RecurrentCore:
    """The core that reads features which are one vector, or a set of positions (RIM paper, Eq. 3)."""
    label = core if isinstance(core, str) else core.__name__
    options = dict(core_kwargs)
    if num_positions > 1:
        if "num_inputs" not in core_options(core):
            raise needs(
                f"core {label!r}",
                "features without positions",
                f"{num_positions} positions",
                "use a core such as 'rim'",
            )
        if options.get("num_inputs", 1) == 1:
            options["num_inputs"] = num_positions
    asked = options.get("num_inputs", 1)
    if asked != num_positions:
        raise mismatch(
            f"num_inputs of core {label!r}", f"{num_positions}, the positions of the features", asked, "leave it out"
        )
    return make_core(core, features_dim // num_positions, **options)


def elements(core: RecurrentCore, features: Tensor) -> Tensor:
    """Flat features ``[T, B, M * I]`` as what the core reads: the same, or ``[T, B, M, I]``."""
    return features if core.num_inputs == 1 else features.reshape(*features.shape[:-1], core.num_inputs, -1)
