"""RIM whose units communicate through a shared workspace (Goyal et al., ICLR 2022)."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from rimrl.cores.attention import Competition, InputAttention, split_heads, top_k_mask, top_k_softmax
from rimrl.cores.base import RecurrentCore, State, require_positive
from rimrl.cores.fixed import FixedOptions
from rimrl.cores.initialization import GateBiases, Start, resolve_start
from rimrl.cores.options import (
    SelectsUnits,
    require_at_most,
    require_choice,
    require_divisible,
    require_switch,
    resolve_unit_size,
)
from rimrl.cores.rim import Dynamics
from rimrl.cores.stepwise import StepTrace, StepwiseCore
from rimrl.cores.units import UnitGRUCell, UnitLSTMCell, normal_parameter
from rimrl.errors import mismatch

Broadcast = Literal["all", "active"]


class WorkspaceRIM(SelectsUnits, StepwiseCore):
    r"""RIM's units, which talk through a few slots that all can read and only winners can write.

    One step. What the units read, which of them are active (A) and their candidates ``h~_n, c~_n`` are RIM's
    (`rimrl.cores.rim.RIM`). Then, with slots ``m_s``, s = 1 .. S, and ``h'_n = h~_n if n in A else h_{t-1,n}``:

        a_sn  = softmax over the k largest n in A of (m_s Wq) (h~_n Wk)^T / sqrt(dk)   writing, per head
        w_s   = concat over heads of (sum_n a_sn h~_n Wv) Wo
        i, f  = [w_s ; tanh(m_s)] Wg + bg                                             [R]
        m_s   = sigmoid(i) * tanh(w_s) + sigmoid(f + 1) * m_s                         [R]
        b_ns  = softmax over s of (h'_n Wq') (m_s Wk')^T / sqrt(dk)                    broadcast, per head
        h_t,n = h'_n + concat over heads of (sum_s b_ns m_s Wv') Wo'
        c_t,n = c~_n if n in A else c_{t-1,n}

    Episodes start with slots that are the rows of the S x D identity matrix, padded with zeros or cut off, so that no
    two of the first min(S, D) are the same. [R] marks our reading.

    Args:
        input_size: Width I of one input element.
        num_units: Units N. Default 6.
        num_active: Active units K per step. Default: two thirds of the units, rounded.
        num_slots: Slots S of the workspace. Default 2 [R].
        unit_size: Width D of a unit, and of a slot. Default 100; give this or ``hidden_size``.
        hidden_size: Width of all units and slots together; must divide by ``num_units + num_slots``.
        num_inputs: Input elements M per step, as in RIM. Default 1.
        dynamics: ``"lstm"`` (default) or ``"gru"``.
        competition: ``"null"`` (default) or ``"units"``; see `rimrl.cores.attention.InputAttention`.
        input_heads: Heads of the input attention. Default 1.
        input_key_size: Key width per head. Default 64.
        input_value_size: Value width for all heads together. Default ``4 * unit_size``.
        write_top_k: How many units write into a slot, per head: the k it scores highest. Default None: all active ones.
        broadcast: Who reads the slots: ``"all"`` units (default, the paper's) or the ``"active"`` ones. With
            ``"active"`` an inactive unit keeps its state unchanged, as in RIM.
        workspace_heads: Heads of writing and of reading. Default 4.
        workspace_key_size: Key width dk per head. Default 32.
        workspace_value_size: Value width dv per head. Default 32.
        learn_initial_state: Learn the state in which episodes start, of units and slots. Default False.
        initialization: A name of `rimrl.cores.initialization.STARTS`; the workspace's queries, keys and values are its
            communication. Default ``"released"``.
        forget_bias: As in RIM. Default None.
        chrono: As in RIM. Default None.

    Parameters:
        * ``input_read``, ``dynamics``, ``initial_h``, ``initial_c``: as RIM's.
        * ``workspace.write.query`` Wq, ``.key`` Wk ``[D, H dk]``, ``.value`` Wv ``[D, H dv]``,
          ``.project.weight [D, H dv]`` Wo, all shared by slots and units; ``workspace.read``: the same, Wq' to Wo'.
        * ``workspace.gate.weight [2 D, 2 D]`` Wg, ``.bias [2 D]`` bg: rows input gate, then forget gate.

    Raises:
        UsageError: If an option does not exist or sizes do not fit together.

    Shapes:
        ``x [T, B, I]`` (or ``[T, B, M, I]``) to ``y [T, B, (N + S) D]``, the units and then the slots, so that what
        reads the core reads the workspace, too; state ``(h, c)``, each ``[1, B, (N + S) D]``, of which c's last S D
        entries are zero. With ``dynamics="gru"`` c stays as it came.

        The trace is RIM's. ``communication_attention`` is how much of what each unit was told to write each unit reads,
        ``sum over s of b_ns a_sm``, each a mean over heads.

    Example:
        >>> core = WorkspaceRIM(input_size=32, num_units=6, num_active=4, num_slots=2, unit_size=20)
        >>> y, (h, c) = core(torch.randn(10, 3, 32))
        >>> tuple(y.shape), tuple(h.shape)
        ((10, 3, 160), (1, 3, 160))

    Notes:
        * The paper's equations were not at hand: this follows its three steps (active units write, slots change, all
          read), and no equation is numbered.
        * The paper lets the workspace persist from one computational stage to the next, which for RIM is a time step,
          and names gates like the RMC's, whose form ours follows (`rimrl.cores.rmc.RMC`); so does the first content.
        * Every matrix of the workspace is shared by the units, unlike those of RIM's communication.
        * Only candidates of active units are written, so that nothing is read of an inactive one and no gradient
          has to be blocked.
        * With ``broadcast="all"`` what an inactive unit receives is added to its state in every step.
        * Ties and ``competition`` are as in RIM's notes.
    """

    fixed = RecurrentCore.fixed | {"unit_size", "num_slots", "broadcast"}
    supports_sets: ClassVar[bool] = True

    def __init__(
        self,
        input_size: int,
        num_units: int = 6,
        num_active: int | None = None,
        num_slots: int = 2,
        unit_size: int | None = None,
        hidden_size: int | None = None,
        num_inputs: int = 1,
        dynamics: Dynamics = "lstm",
        competition: Competition = "null",
        input_heads: int = 1,
        input_key_size: int = 64,
        input_value_size: int | None = None,
        write_top_k: int | None = None,
        broadcast: Broadcast = "all",
        workspace_heads: int = 4,
        workspace_key_size: int = 32,
        workspace_value_size: int = 32,
        learn_initial_state: bool = False,
        initialization: str = "released",
        forget_bias: float | None = None,
        chrono: int | None = None,
    ) -> None:
        unit_size = _resolve_unit_size(num_units, num_slots, unit_size, hidden_size)
        super().__init__(input_size, (num_units + num_slots) * unit_size, num_units=num_units, num_inputs=num_inputs)
        require_choice("dynamics", dynamics, get_args(Dynamics))
        require_choice("competition", competition, get_args(Competition))
        require_choice("broadcast", broadcast, get_args(Broadcast))
        require_switch(learn_initial_state=learn_initial_state)
        value_size = 4 * unit_size if input_value_size is None else input_value_size
        require_divisible("input_value_size", value_size, "input_heads", input_heads)
        require_positive(input_key_size=input_key_size)
        start, biases = resolve_start(initialization), GateBiases(forget_bias, chrono)
        self.unit_size = unit_size
        self.num_slots = num_slots
        self.broadcast = broadcast
        self._select_units(num_active, default_share=2 / 3, selecting=True, needs="input attention")
        if write_top_k is not None:
            require_at_most("write_top_k", write_top_k, "num_active", self.num_active)
        read = partial(InputAttention, num_units, unit_size, num_inputs, input_size, dropout=0.0, start=start)
        self.input_read = read(
            heads=input_heads, key_size=input_key_size, value_size=value_size, competition=competition
        )
        cell = UnitLSTMCell if dynamics == "lstm" else UnitGRUCell
        bound_width = num_units * unit_size if start.whole_width else unit_size
        self.dynamics = cell(num_units, value_size, unit_size, bound_width=bound_width, biases=biases)
        sizes = (workspace_heads, workspace_key_size, workspace_value_size)
        self.workspace = Workspace(unit_size, *sizes, write_top_k, start)
        if learn_initial_state:
            self._learn_initial_state(cell_memory=cell.has_cell_memory)

    def initial_state(self, batch_size: int) -> State:
        """Units at zero and slots at the identity, plus what is learned; see `RecurrentCore.initial_state`."""
        h, c = super().initial_state(batch_size)
        slots = torch.eye(self.num_slots, self.unit_size, dtype=h.dtype, device=h.device).flatten()
        return h + nn.functional.pad(slots, (self.num_units * self.unit_size, 0)), c * self._of_units(c)

    def _of_units(self, like: Tensor) -> Tensor:
        """``[(N + S) D]``, one for the entries of units and zero for those of slots."""
        width = self.num_units * self.unit_size
        return nn.functional.pad(like.new_ones(width), (0, self.hidden_size - width))

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.input_read.encode(x if x.dim() == 4 else x.unsqueeze(2))

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        both = [self.num_units, self.num_slots]
        rows = (s.reshape(-1, sum(both), self.unit_size) for s in state)
        (h, slots), (c, rest) = (torch.split(s, both, dim=1) for s in rows)  # [B, N, D], [B, S, D]

        u, priority, input_attention = self.input_read(h, *inputs)
        active = top_k_mask(priority.detach(), self.num_active)
        mask = active.unsqueeze(-1)
        h_candidate, c_candidate = self.dynamics(u, h, c)
        h_new = torch.where(mask, h_candidate.to(h.dtype), h)  # h'

        broadcast = self.workspace(h_new, active, slots)
        readers = torch.ones_like(mask) if self.broadcast == "all" else mask
        h_next = torch.where(readers, (h_new + broadcast.received).to(h.dtype), h)
        c_next = torch.where(mask, c_candidate.to(c.dtype), c)

        h_next = torch.cat([h_next, broadcast.slots.to(h.dtype)], dim=1).flatten(1).unsqueeze(0)
        c_next = torch.cat([c_next, torch.zeros_like(rest)], dim=1).flatten(1).unsqueeze(0)
        if not return_trace:
            return (h_next, c_next), None
        return (h_next, c_next), StepTrace(active, input_attention.mean(dim=2), broadcast.read @ broadcast.written)


class WorkspaceOutput(NamedTuple):
    """What went through the workspace in one step.

    Attributes:
        received: What each unit reads, ``[B, N, D]``.
        slots: The slots after writing, ``[B, S, D]``.
        written: How much each slot took of each unit, ``[B, S, N]``.
        read: How much each unit took of each slot, ``[B, N, S]``.
    """

    received: Tensor
    slots: Tensor
    written: Tensor
    read: Tensor


class Workspace(nn.Module):
    """Slots that active units compete to write and that units read.

    Attributes:
        write: Slots attend to units.
        read: Units attend to slots.
        gate: ``2 D`` to ``2 D``, the input and the forget gate of a slot.
    """

    def __init__(
        self, unit_size: int, heads: int, key_size: int, value_size: int, write_top_k: int | None, start: Start
    ) -> None:
        super().__init__()
        require_positive(workspace_heads=heads, workspace_key_size=key_size, workspace_value_size=value_size)
        make = partial(_Attention, unit_size, heads, key_size, value_size, start=start)
        self.write = make(top_k=write_top_k)
        self.read = make(top_k=None)
        self.gate = nn.Linear(2 * unit_size, 2 * unit_size)

    def forward(self, h: Tensor, active: Tensor, slots: Tensor) -> WorkspaceOutput:
        """One step of ``h [B, N, D]`` and ``slots [B, S, D]``; units that are ``active``, ``[B, N]`` bool, write."""
        new, written = self.write(slots, h, active)
        i, f = self.gate(torch.cat([new, torch.tanh(slots).to(new.dtype)], dim=-1)).chunk(2, dim=-1)
        slots = torch.sigmoid(i) * torch.tanh(new) + torch.sigmoid(f + 1.0) * slots
        received, read = self.read(h, slots)
        return WorkspaceOutput(received, slots, written, read)


class _Attention(FixedOptions):
    """Multi-head attention of some rows to others, with matrices that all rows share.

    Attributes:
        query, key: ``[D, H dk]``.
        value: ``[D, H dv]``.
        project: ``H dv`` to D.
    """

    fixed = frozenset({"heads", "top_k"})

    def __init__(
        self, size: int, heads: int, key_size: int, value_size: int, *, top_k: int | None, start: Start
    ) -> None:
        super().__init__()
        self.heads = heads
        self.top_k = top_k
        widths = (heads * key_size, heads * key_size, heads * value_size)
        matrices = (normal_parameter(1, size, width, start.communication).data[0] for width in widths)
        self.query, self.key, self.value = map(nn.Parameter, matrices)
        self.project = nn.Linear(heads * value_size, size, bias=False)

    def forward(self, readers: Tensor, rows: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What ``readers [B, R, D]`` read of ``rows [B, Q, D]``, and their attention, mean over heads, ``[B, R, Q]``.

        Args:
            readers: Who attends.
            rows: To what.
            allowed: ``[B, Q]``, which rows there are to read; None: all.
        """
        parts = (readers @ self.query, rows @ self.key, rows @ self.value)
        q, k, v = (split_heads(part, self.heads).transpose(1, 2) for part in parts)  # [B, H, rows, d]
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if allowed is not None:
            scores = scores.masked_fill(~allowed[:, None, None], float("-inf"))
        attention = scores.softmax(dim=-1) if self.top_k is None else top_k_softmax(scores, self.top_k)
        received: Tensor = self.project((attention @ v).transpose(1, 2).flatten(2))
        return received, attention.mean(dim=1)


def _resolve_unit_size(num_units: int, num_slots: int, unit_size: int | None, hidden_size: int | None) -> int:
    """The width D of a unit and of a slot from either of the two ways to give it."""
    require_positive(num_units=num_units, num_slots=num_slots)
    if hidden_size is None:
        return resolve_unit_size(num_units, unit_size, None)
    rows = num_units + num_slots
    require_divisible("hidden_size", hidden_size, "num_units + num_slots", rows)
    if unit_size is not None and unit_size * rows != hidden_size:
        raise mismatch(
            "hidden_size",
            f"(num_units {num_units} + num_slots {num_slots}) * unit_size {unit_size}",
            hidden_size,
            "leave it out",
        )
    return hidden_size // rows
