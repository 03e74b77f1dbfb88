"""Where learning starts: how large the first weights of a modular core are, and what its gates are biased to.

With equal equations and gradients, these decide whether RIM and RigLSTM learn at all; `docs/results/initialization.md`
has the study behind the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from rimrl.cores.base import require_positive
from rimrl.cores.options import require_finite
from rimrl.errors import conflict, invalid_value, unknown_name

SMALL = 0.01
"""Standard deviation of the attention matrices in the authors' released code of RIM and BRIMs."""


@dataclass(frozen=True)
class Start:
    """Standard deviations of the first attention matrices; None for Xavier's, ``sqrt(2 / (fan_in + fan_out))``.

    Attributes:
        scores: Queries and keys of what reads the input: RIM's and BRIMs' input attention, BRIMs' top-down elements;
            in RigLSTM of all selections and of soft updating.
        values: Values that are read of the input; RigLSTM's views.
        communication: Queries, keys and values of communication; RigLSTM's hidden selection.
        whole_width: Draw the dynamics' weights from ``U(-b, b)`` with ``b = 1/sqrt(N D)``, N D the width of all units
            together, as one dense LSTM of that width starts; otherwise ``b = 1/sqrt(fan_in)`` of one unit's recurrence.
    """

    scores: float | None = None
    values: float | None = None
    communication: float | None = None
    whole_width: bool = False


STARTS: Mapping[str, Start] = MappingProxyType(
    {
        "xavier": Start(),
        "small_scores": Start(scores=SMALL),
        "small_values": Start(values=SMALL),
        "small_communication": Start(communication=SMALL),
        "small_attention": Start(SMALL, SMALL, SMALL),
        "whole_width": Start(whole_width=True),
        "released": Start(SMALL, SMALL, SMALL, whole_width=True),
    }
)


def resolve_start(initialization: str) -> Start:
    """The scales behind a name of `STARTS`.

    Raises:
        UsageError: If there is no such initialisation; names the nearest one.
    """
    if not isinstance(initialization, str) or initialization not in STARTS:
        raise unknown_name("initialization", str(initialization), STARTS)
    return STARTS[initialization]


@dataclass(frozen=True)
class GateBiases:
    """What the gates that keep memory are biased to at the start: the options of that name of every gated core.

    An LSTM keeps ``sigmoid(f)`` of its cell in a step and a GRU ``sigmoid(z)`` of its state (torch's update gate), so
    that a bias b lets a memory last about ``1 + exp(b)`` steps. Torch draws b close to 0, which halves it every step.

    Attributes:
        forget_bias: The bias of every forget gate; 1 is the usual advice (Jozefowicz et al., 2015). None: as torch
            draws it.
        chrono: Longest span T in steps that is to be bridged: biases are drawn as ``log U(1, T - 1)``, and the input
            gates of an LSTM get the negative (Tallec & Ollivier, 2018, Eq. 16). None for none.

    Raises:
        UsageError: If both are given, ``forget_bias`` is not finite, or ``chrono`` is not an integer of at least 2.
    """

    forget_bias: float | None = None
    chrono: int | None = None

    def __post_init__(self) -> None:
        if self.forget_bias is not None:
            require_finite(forget_bias=self.forget_bias)
        if self.chrono is not None:
            require_positive(chrono=self.chrono)
            if self.chrono < 2:
                raise invalid_value("chrono", "a span of at least 2 steps", self.chrono)
        if self.forget_bias is not None and self.chrono is not None:
            raise conflict("forget_bias", "chrono, which sets the forget gates, too")

    def draw(self, *shape: int) -> Tensor | None:
        """Biases of forget gates, of a given shape; None where they stay as torch draws them."""
        if self.chrono is not None:
            return torch.log(1.0 + torch.rand(shape) * (self.chrono - 2))
        return None if self.forget_bias is None else torch.full(shape, float(self.forget_bias))
