"""Recurrent Entity Network (Henaff et al., ICLR 2017)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from rimrl.cores.base import State
from rimrl.cores.options import require_choice, require_finite, resolve_unit_size
from rimrl.cores.stepwise import StepTrace, StepwiseCore

Activation = Literal["prelu", "identity"]


class EntNet(StepwiseCore):
    r"""Memory slots with learned keys; a slot opens to inputs that resemble its key or its content.

    One step, for slot j of S with content h_j and key w_j, both of width F:

        s_t  = A x_t + a                                       the input in the slots' space, for Eq. 1 [R]
        g_j  = sigmoid(s_t . h_j + s_t . w_j)                                                        (Eq. 2)
        h~_j = phi(U h_j + V w_j + W s_t + b)                  U, V, W shared by the slots           (Eq. 3)
        h_j  = h_j + g_j h~_j                                                                        (Eq. 4)
        h_j  = h_j / |h_j|                                     forgets by scaling down what was there (Eq. 5)
        y_t  = h, flat                                         in place of Eq. 6 [R]

    On the right of Eq. 2 to 4 h_j is the content before the step. phi is a PReLU, phi(z)_d = max(z_d, 0) + alpha_d
    min(z_d, 0), or the identity. Every episode starts with h_j = w_j, which is learned and not scaled to norm one. [R]
    marks what is neither the paper's nor its authors' code's.

    Args:
        input_size: Width I of the input.
        num_slots: Slots S. Default 6, as many as RIM has units [R]; the paper has 20 for bAbI.
        slot_size: Width F of a slot. Default 100, the paper's for bAbI; give this or ``hidden_size``.
        hidden_size: Width of all slots together, ``S * F``; must divide by ``num_slots``.
        activation: phi: ``"prelu"`` (default) or ``"identity"``.
        initial_slope: What the alpha_d start at. Default 1, as in the authors' code: phi starts as the identity.

    Parameters:
        * ``encoder.weight [F, I]`` A, ``encoder.bias [F]`` a.
        * ``keys [S, F]``: row j is w_j.
        * ``content.weight [F, F]`` U, ``content.bias [F]`` b; ``key.weight [F, F]`` V; ``input.weight [F, F]`` W, all
          multiplied from the left, U h_j.
        * ``slope [F]`` alpha, with ``activation="prelu"``.

    Raises:
        UsageError: If an option does not exist or sizes do not fit together.

    Shapes:
        ``x [T, B, I]`` to ``y [T, B, S * F]``; state ``(h, c)``, each ``[1, B, S * F]``: h is the slots side by side, c
        is zero.

        The trace has a unit per slot, always active. Its input attention is the gate: g_j to the input, 1 - g_j to
        null. There is no communication.

    Example:
        >>> core = EntNet(input_size=32, num_slots=6, slot_size=16)
        >>> y, (h, c) = core(torch.randn(10, 3, 32))
        >>> tuple(y.shape), tuple(h.shape)
        ((10, 3, 96), (1, 3, 96))

    Notes:
        * The paper's input encoder (Sec. 2.1) is for sentences, a sum of word embeddings under a learned mask; here
          features come in, and a linear map takes its place [R].
        * The paper's output module (Sec. 2.3) answers a query. A policy has none: the output is the memory, and the
          policy's heads read it [R].
        * The authors' code may tie keys to word embeddings; here they are free parameters.
        * Starting in the keys, the bias b and a slope for every entry are the authors' code's; the paper's equations
          leave them open. That code also adds a learned bias for each slot to the gate; Eq. 2 and this core do not.
        * A slot of norm zero, which Eq. 5 does not cover, stays zero.
    """

    absent = frozenset({"num_active"})

    def __init__(
        self,
        input_size: int,
        num_slots: int = 6,
        slot_size: int | None = None,
        hidden_size: int | None = None,
        activation: Activation = "prelu",
        initial_slope: float = 1.0,
    ) -> None:
        slot_size = resolve_unit_size(num_slots, slot_size, hidden_size, 100, noun="slot")
        super().__init__(input_size, num_slots * slot_size, num_units=num_slots)
        require_choice("activation", activation, get_args(Activation))
        require_finite(initial_slope=initial_slope)
        self.num_slots = num_slots
        self.slot_size = slot_size
        self.encoder = nn.Linear(input_size, slot_size)
        self.keys = nn.Parameter(nn.functional.normalize(torch.randn(num_slots, slot_size), dim=-1))
        self.content = nn.Linear(slot_size, slot_size)
        self.key = nn.Linear(slot_size, slot_size, bias=False)
        self.input = nn.Linear(slot_size, slot_size, bias=False)
        self.slope: nn.Parameter | None = None
        if activation == "prelu":
            self.slope = nn.Parameter(torch.full((slot_size,), float(initial_slope)))

    def initial_state(self, batch_size: int) -> State:
        """Every slot holds its key; see `RecurrentCore.initial_state`."""
        h, c = super().initial_state(batch_size)
        return h + self.keys.flatten(), c

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        s = self.encoder(x)  # [T, B, F]
        by_key = s @ self.keys.t()  # s_t . w_j, [T, B, S]
        drive = self.input(s).unsqueeze(2) + self.key(self.keys)  # V w_j + W s_t, [T, B, S, F]
        return s, by_key, drive

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        s, by_key, drive = inputs
        h = state[0].reshape(-1, self.num_slots, self.slot_size)  # [B, S, F]

        by_content = (h @ s.unsqueeze(-1)).squeeze(-1)  # s_t . h_j, [B, S]
        g = torch.sigmoid(by_content + by_key).unsqueeze(-1)  # Eq. 2
        candidate = self._phi(self.content(h) + drive)  # Eq. 3
        h = h + (g * candidate).to(h.dtype)  # Eq. 4
        norm = torch.linalg.vector_norm(h, dim=-1, keepdim=True)
        h = h / torch.where(norm > 0, norm, 1.0)  # Eq. 5

        trace = None
        if return_trace:
            active = torch.ones(h.shape[:2], dtype=torch.bool, device=h.device)
            trace = StepTrace(active, torch.cat([1 - g, g], dim=-1))
        return (h.flatten(1).unsqueeze(0), torch.zeros_like(state[1])), trace

    def _phi(self, z: Tensor) -> Tensor:
        return z if self.slope is None else torch.where(z > 0, z, self.slope * z)
