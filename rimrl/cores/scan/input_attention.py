"""What a unit reads in a step: of the one element of the input, or of several elements (`rimrl.cores.scan.elements`).

Tensors of one step are ``[N, B, ...]``, of a sequence ``[N, T, B, ...]``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rimrl.cores.scan.memory import Buffers
from rimrl.cores.scan.selection import rank


class SharedInput:
    """Every unit reads the input as it is: no attention, no competition.

    Args:
        gates: What the input adds to the gates, ``[N, T, B, G D]``, bias included.
    """

    def __init__(self, gates: Tensor) -> None:
        self.gates = gates.unbind(1)

    def forward(self, t: int, h: Tensor) -> Tensor:
        """The input's part of the gates of step t, ``[N, B, G D]``, in memory of its own."""
        return self.gates[t].clone(memory_format=torch.contiguous_format)

    def start_backward(self) -> None:
        """Nothing: the gates' gradient is that of the dynamics."""

    def backward(self, t: int, h: Tensor, d_gates: Tensor) -> None:
        """The gradient of ``h``: none."""

    def gradients(self, h: Tensor, d_gates: Tensor) -> dict[str, Tensor]:
        """That of ``gates``."""
        return {"gates": d_gates.clone()}


class Competition:
    """Units compete for one input element (RIM paper, Eq. 2): a scalar per unit and head times a known vector.

    With one element the softmax over {null, element} is a sigmoid of the score, and what the element adds to a
    unit's gates is known beforehand, up to that scalar. The query moves to the other side of the product as well:
    ``h Wq k = h (Wq k)``, so that a step needs no product of matrices to read its input.

    Args:
        buffers: Where to keep the steps.
        num_active: Active units K.
        over_units: The softmax runs over the units (``competition="units"``) instead of over {null, element}.
        keys: ``Wq k / sqrt(dk)``, ``[N, T, B, H, D]``.
        gates: What the element adds to the gates if read in full, by head, ``[N, T, B, H, G D]``.
        bias: Bias of the gates, ``[N, G D]``.
        scale: What dropout multiplies the shares by that are read, ``[T, N, B, H, 1]``, or None.
    """

    def __init__(
        self,
        buffers: Buffers,
        num_active: int,
        over_units: bool,
        keys: Tensor,
        gates: Tensor,
        bias: Tensor,
        scale: Tensor | None = None,
    ) -> None:
        self.buffers = buffers
        self.num_active = num_active
        self.over_units = over_units
        self.heads = keys.shape[3]
        self.keys = keys.unbind(1)
        self.gates = gates.unbind(1)
        self.bias = bias.unsqueeze(1)
        self.dropout_steps = None if scale is None else scale.squeeze(-1).unbind(0)
        self.shape = gates.shape
        self.share_steps = buffers.steps(self.heads)
        self.mask_steps = buffers.steps(1)

    def forward(self, t: int, h: Tensor) -> Tensor:
        """The input's part of the gates of step t, ``[N, B, G D]``; `mask_steps` then says who is active."""
        share = self.share_steps[t]
        scores = torch.linalg.vecdot(h.unsqueeze(2), self.keys[t])  # [N, B, H]
        if self.over_units:
            torch.softmax(scores, dim=0, out=share)
            priority = share.mean(-1)
        else:
            torch.sigmoid(scores, out=share)
            null = torch.sigmoid(-scores)
            priority = (null[..., 0] if self.heads == 1 else null.mean(-1)).neg()
        torch.lt(rank(priority), self.num_active, out=self.mask_steps[t][..., 0])
        used = self._used(t)
        if self.heads == 1:
            return torch.addcmul(self.bias, self.gates[t][:, :, 0], used)
        return torch.add(self.bias, (self.gates[t] * used.unsqueeze(-1)).sum(2))

    def _used(self, t: int) -> Tensor:
        """The shares that are read, ``[N, B, H]``."""
        share = self.share_steps[t]
        return share if self.dropout_steps is None else share * self.dropout_steps[t]

    def start_backward(self) -> None:
        self.d_scores, self.d_scores_steps = self.buffers.units_first(self.heads)
        self.d_gates = self.gates[0].new_empty(self.shape)
        self.d_gates_steps = self.d_gates.unbind(1)

    def backward(self, t: int, h: Tensor, d_gates: Tensor) -> Tensor:
        """The gradient of ``h``, given that of the gates."""
        share, d_scores = self.share_steps[t], self.d_scores_steps[t]
        torch.mul(d_gates.unsqueeze(2), self._used(t).unsqueeze(-1), out=self.d_gates_steps[t])
        d_share = torch.linalg.vecdot(d_gates.unsqueeze(2), self.gates[t])
        if self.dropout_steps is not None:
            d_share *= self.dropout_steps[t]
        if self.over_units:
            d_scores.copy_(torch._softmax_backward_data(d_share, share, 0, share.dtype))
        else:
            torch.ops.aten.sigmoid_backward.grad_input(d_share, share, grad_input=d_scores)
        if self.heads == 1:
            return self.keys[t][:, :, 0] * d_scores
        return (self.keys[t] * d_scores.unsqueeze(-1)).sum(2)

    def trace(self) -> tuple[Tensor, Tensor]:
        """Active units ``[T, B, N]`` and attention ``[T, B, N, 2]`` to {null, element}, mean over heads."""
        active = torch.stack(self.mask_steps)[..., 0].transpose(1, 2).bool()
        share = torch.stack(self.share_steps).mean(-1).transpose(1, 2)
        null = torch.zeros_like(share) if self.over_units else 1.0 - share
        return active, torch.stack([null, share], dim=-1)

    def gradients(self, h: Tensor, d_gates: Tensor) -> dict[str, Tensor]:
        """Those of ``keys``, ``gates`` and ``bias``, given the gradient of all gates, ``[N, T, B, G D]``."""
        d_keys = h.unsqueeze(3) * self.d_scores.unsqueeze(-1)
        return {"keys": d_keys, "gates": self.d_gates, "bias": d_gates.sum((1, 2))}
