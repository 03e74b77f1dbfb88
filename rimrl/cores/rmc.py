"""Relational Memory Core (Santoro et al., NeurIPS 2018)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from rimrl.cores.attention import split_heads
from rimrl.cores.base import State, require_positive
from rimrl.cores.fixed import FixedOptions
from rimrl.cores.options import require_choice, require_divisible, require_finite, require_switch, resolve_unit_size
from rimrl.cores.stepwise import StepTrace, StepwiseCore

Gate = Literal["unit", "memory"]


class RMC(StepwiseCore):
    r"""Memory slots that attend to each other and to the input, then pass an LSTM's input and forget gate.

    One step, with the memory M ``[S, F]`` (one slot a row) and the input elements x_m, m = 1 .. E:

        e_m   = Wx x_m + bx                                                           the input as rows of width F
        Z     = [M_{t-1} ; e]                                                         S + E rows (Sec. 3.2)
        per block b = 1 .. num_blocks:
            q, k, v = split(LayerNorm_b(Wqkv_b z_i + bqkv_b)) of every row z_i        ``qkv_norm``
            A       = softmax over rows j of q_i k_j^T / sqrt(dk), head by head       (Eq. 1, over Eq. 2's rows)
            Z       = LayerNorm_b,1(Z + concat over heads of A v)
            Z       = LayerNorm_b,2(Z + g(Z))                                         g: MLP, the same in every block
        M~    = the first S rows of Z
        [i_s, f_s] = Wi e + Wm tanh(M_{t-1,s}) + b                                    for every slot s (Sec. 3.3)
        M_t,s = sigmoid(i_s + 0) * tanh(M~_s) + sigmoid(f_s + 1) * M_{t-1,s}
        y_t   = M_t, flat

    ``gate="unit"`` gives every entry of a slot its own gate values (i, f ``[F]``), ``"memory"`` one pair per slot, None
    leaves gates out: M_t = M~. Episodes start in the S x F identity matrix, padded with zeros or cut off where F != S,
    so that no two of the first min(S, F) slots are the same. [R] marks what is neither the paper's nor the code's.

    Args:
        input_size: Width I of one input element.
        num_slots: Memory slots S. Default 4, as the paper has on BoxWorld (App. A.3).
        slot_size: Width F of a slot; must divide by ``num_heads``. Default 64 [R], where the paper has 256 on BoxWorld;
            give this or ``hidden_size``.
        hidden_size: Width of all slots together, ``S * F``; must divide by ``num_slots``.
        num_inputs: Input elements E per step; with more than 1 the input is ``[T, B, E, I]`` and each is a row of Z.
        num_heads: Attention heads H. Default 4, as the paper has on BoxWorld.
        key_size: Key width dk per head. Default ``F / H``; the value width is always ``F / H``.
        num_blocks: Rounds of attention per step. Default 1.
        mlp_layers: Linear layers of g, each F to F, with ReLU between them. Default 2.
        gate: ``"unit"`` (default), ``"memory"`` or None.
        input_bias: Constant added to the input gate. Default 0.
        forget_bias: Constant added to the forget gate. Default 1.
        qkv_norm: LayerNorm over queries, keys and values of a row together, all heads. Default True, as released; the
            paper's equations do not have it.

    Parameters:
        * ``project.weight [F, I]`` Wx, ``project.bias [F]``.
        * ``blocks.b.query_key_value.weight [H (2 dk + dv), F]`` Wqkv_b, ``.bias``: queries of head 0, 1, .., then keys
          of all heads, then values of all heads; dv = F / H.
        * ``blocks.b.norm_qkv.weight``, ``.bias [H (2 dk + dv)]`` in the same order, with ``qkv_norm``.
        * ``blocks.b.norm_attention.weight``, ``.bias [F]``; ``blocks.b.norm_mlp.weight``, ``.bias [F]``: LayerNorm_b,1
          and LayerNorm_b,2. All norms divide by sqrt(variance + 1e-5), the variance being the mean square deviation.
        * ``mlp.2j.weight [F, F]``, ``.bias [F]``: linear layer j of g; the odd numbers are the ReLUs.
        * ``gate_input.weight [2 G, E F]`` Wi over e_1, .., e_E side by side, ``.bias [2 G]`` b, and
          ``gate_memory.weight [2 G, F]`` Wm: rows input gate, then forget gate; G is F or 1. None without gates.

    Raises:
        UsageError: If an option does not exist or sizes do not fit together.

    Shapes:
        ``x [T, B, I]`` (or ``[T, B, E, I]``) to ``y [T, B, S * F]``; state ``(h, c)``, each ``[1, B, S * F]``: h is the
        memory, slot by slot, c is zero.

        The trace has a unit per slot, always active. Its attention is that of the first block, mean over heads: to the
        input rows as input attention (the null column is zero), to the slots as communication attention, scaled up to
        one, since the rest of it went to the input.

    Example:
        >>> core = RMC(input_size=32, num_slots=4, slot_size=24)
        >>> y, (h, c) = core(torch.randn(10, 3, 32))
        >>> tuple(y.shape), tuple(h.shape)
        ((10, 3, 96), (1, 3, 96))

    Notes:
        This is what the authors' released code (Sonnet) computes, to which the paper refers for the exact form. It
        differs from the paper's equations:

        * They have an output gate, h = sigmoid(o) * tanh(M), and the gates of the next step see h (Sec. 3.3, which
          goes on to say that output gates proved unnecessary); the code has none, outputs M and lets the gates see
          tanh(M).
        * The code squashes the update, tanh(M~); the paper adds g(M~) as it is (Sec. 3.3).
        * The paper attends from M to [M ; x] (Eq. 2); the code attends from all rows and drops those of the input.
          With one block both are the same.
        * The paper starts from a random memory, the code from the identity.

        Where ours differs from the code: gates have one bias b instead of two that are added; several input elements
        are an option of the constructor. With F < S the slots from F on are equal at the start and, having the same
        weights, stay equal: they are wasted.
    """

    absent = frozenset({"num_active"})

    supports_sets: ClassVar[bool] = True

    def __init__(
        self,
        input_size: int,
        num_slots: int = 4,
        slot_size: int | None = None,
        hidden_size: int | None = None,
        num_inputs: int = 1,
        num_heads: int = 4,
        key_size: int | None = None,
        num_blocks: int = 1,
        mlp_layers: int = 2,
        gate: Gate | None = "unit",
        input_bias: float = 0.0,
        forget_bias: float = 1.0,
        qkv_norm: bool = True,
    ) -> None:
        slot_size = resolve_unit_size(num_slots, slot_size, hidden_size, 64, noun="slot")
        super().__init__(input_size, num_slots * slot_size, num_units=num_slots, num_inputs=num_inputs)
        require_divisible("slot_size", slot_size, "num_heads", num_heads)
        require_positive(num_blocks=num_blocks, mlp_layers=mlp_layers)
        require_choice("gate", gate, (*get_args(Gate), None))
        require_switch(qkv_norm=qkv_norm)
        require_finite(input_bias=input_bias, forget_bias=forget_bias)
        if key_size is None:
            key_size = slot_size // num_heads
        require_positive(key_size=key_size)
        self.num_slots = num_slots
        self.slot_size = slot_size
        self.input_bias = float(input_bias)
        self.forget_bias = float(forget_bias)

        self.project = nn.Linear(input_size, slot_size)
        self.blocks = nn.ModuleList(
            _AttentionBlock(slot_size, heads=num_heads, key_size=key_size, qkv_norm=qkv_norm) for _ in range(num_blocks)
        )
        layers: list[nn.Module] = [nn.Linear(slot_size, slot_size)]
        for _ in range(mlp_layers - 1):
            layers += [nn.ReLU(), nn.Linear(slot_size, slot_size)]
        self.mlp = nn.Sequential(*layers)
        self.gate_input: nn.Linear | None = None
        self.gate_memory: nn.Linear | None = None
        if gate is not None:
            width = slot_size if gate == "unit" else 1
            self.gate_input = nn.Linear(num_inputs * slot_size, 2 * width)
            self.gate_memory = nn.Linear(slot_size, 2 * width, bias=False)

    def initial_state(self, batch_size: int) -> State:
        """The identity, a slot a row, padded or cut off to ``[S, F]``; see `RecurrentCore.initial_state`."""
        h, c = super().initial_state(batch_size)
        identity = torch.eye(self.num_slots, self.slot_size, dtype=h.dtype, device=h.device)
        return h + identity.flatten(), c

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        rows = self.project(x if x.dim() == 4 else x.unsqueeze(2))  # [T, B, E, F]
        return (rows,) if self.gate_input is None else (rows, self.gate_input(rows.flatten(2)))

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        rows, *gate_inputs = inputs
        h, c = state
        memory = h.reshape(-1, self.num_slots, self.slot_size)  # [B, S, F]

        Z = torch.cat([memory, rows.to(memory.dtype)], dim=1)
        attentions = []
        for block in self.blocks:
            Z, attention = block(Z, self.mlp)
            attentions.append(attention)
        new = Z[:, : self.num_slots].to(memory.dtype)

        if self.gate_memory is not None:
            gates = gate_inputs[0].unsqueeze(1) + self.gate_memory(torch.tanh(memory))  # [B, S, 2 G]
            i, f = gates.to(memory.dtype).chunk(2, dim=-1)
            new = torch.sigmoid(i + self.input_bias) * torch.tanh(new) + torch.sigmoid(f + self.forget_bias) * memory

        trace = self._trace(attentions[0]) if return_trace else None
        return (new.flatten(1).unsqueeze(0), torch.zeros_like(c)), trace

    def _trace(self, attention: Tensor) -> StepTrace:
        """From the attention ``[B, H, S + E, S + E]`` of the first block."""
        S = self.num_slots
        attention = attention.mean(dim=1)[:, :S]
        slots, elements = attention[..., :S], attention[..., S:]
        active = torch.ones(attention.shape[:2], dtype=torch.bool, device=attention.device)
        null = torch.zeros_like(attention[..., :1])
        return StepTrace(active, torch.cat([null, elements], dim=-1), slots / slots.sum(dim=-1, keepdim=True))


class _AttentionBlock(FixedOptions):
    """Self-attention and a row-wise MLP, each with a residual and LayerNorm; the MLP belongs to the caller."""

    fixed = frozenset({"heads"})

    def __init__(self, slot_size: int, *, heads: int, key_size: int, qkv_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.sizes = [heads * key_size, heads * key_size, slot_size]
        self.query_key_value = nn.Linear(slot_size, sum(self.sizes))
        self.norm_qkv = nn.LayerNorm(sum(self.sizes)) if qkv_norm else nn.Identity()
        self.norm_attention = nn.LayerNorm(slot_size)
        self.norm_mlp = nn.LayerNorm(slot_size)

    def forward(self, Z: Tensor, mlp: nn.Module) -> tuple[Tensor, Tensor]:
        """New rows ``[B, R, F]`` and attention ``[B, H, R, R]`` from rows ``Z [B, R, F]``."""
        parts = torch.split(self.norm_qkv(self.query_key_value(Z)), self.sizes, dim=-1)
        queries, keys, values = (split_heads(part, self.heads).transpose(1, 2) for part in parts)  # [B, H, R, d]
        attention = (queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])).softmax(dim=-1)
        read = (attention @ values).transpose(1, 2).flatten(2)
        Z = self.norm_attention(Z + read)
        return self.norm_mlp(Z + mlp(Z)), attention
