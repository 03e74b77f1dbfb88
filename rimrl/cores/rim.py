"""Recurrent Independent Mechanisms (Goyal et al., ICLR 2021)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from rimrl.cores.attention import (
    Communication,
    Competition,
    InputAttention,
    InputProjection,
    make_communication,
    top_k_mask,
)
from rimrl.cores.base import RecurrentCore, State, require_positive
from rimrl.cores.initialization import GateBiases, resolve_start
from rimrl.cores.options import (
    SelectsUnits,
    require_at_most,
    require_choice,
    require_divisible,
    require_probability,
    require_switch,
    resolve_unit_size,
)
from rimrl.cores.stepwise import StepTrace, StepwiseCore
from rimrl.cores.units import UnitGRUCell, UnitLSTMCell
from rimrl.errors import wrong

Dynamics = Literal["lstm", "gru"]
CommunicationReads = Literal["candidate", "previous"]


class RIM(SelectsUnits, StepwiseCore):
    r"""Units with their own dynamics that compete for the input and talk through attention.

    One step, for unit n of N, with ``X = [0; x_t]`` (Eq. 1):

        q_n   = h_{t-1,n} Wq_n;   k_m = x_m We_m;   v_m = x_m Wv_m
        P_n   = softmax over {null, m} of q_n k^T / sqrt(dk)                        (Eq. 2)
        A     = the K units with the least attention on null, mean over heads       (Sec. 2.2)
        u_n   = concat over heads of sum_m P_nm v_m
        h~_n  = LSTM_n(u_n, h_{t-1,n}) or GRU_n                                     (Sec. 2.3)
        o_n   = multi-head attention of h~_n over all units                         (Sec. 2.4)
        r_n   = sigmoid(Wg o_n + bg) * tanh(Wf o_n + bf)                            (released code)
        h_t,n = h~_n + r_n  if n in A  else  h_{t-1,n};   c likewise without r

    The choice of A is a constant for the gradient; an inactive unit passes gradient through its unchanged state.

    Args:
        input_size: Width I of one input element.
        num_units: Units N (the paper's kT). Default 6.
        num_active: Active units K per step (kA). Default: two thirds of the units, rounded (the paper's 4 of 6); all
            of them without input attention, which leaves nothing to select by.
        unit_size: Width D of a unit. Default 100, the paper's 600 over 6; give this or ``hidden_size``.
        hidden_size: Width of all units together, as an LSTM's; must divide by ``num_units``.
        num_inputs: Input elements M per step. With more than 1 the input is ``[T, B, M, I]`` and every position has
            its own key and value matrix (Eq. 3). Default 1.
        dynamics: ``"lstm"`` (default) or ``"gru"``.
        input_attention: False is the paper's ablation: every unit reads the whole input, and all are active.
        competition: ``"null"`` (default) or ``"units"``; see `rimrl.cores.attention.InputAttention`.
        input_heads: Heads of the input attention. Default 1 (App. D.1); Table 3 says 4.
        input_key_size: Key width per head. Default 64 (Table 3).
        input_value_size: Value width for all heads together. Default ``4 * unit_size`` (Table 3).
        input_dropout: Dropout on the input attention's weights. Default 0; Table 3 has 0.1 for sequence tasks.
        communication: ``"gated"`` (default), ``"residual"``, or None for the ablation without (Table 4).
        communication_reads: What is read of an inactive unit: its ``"candidate"`` h~ (default; released code, App. G)
            or its ``"previous"`` state (text of Sec. 2.4).
        communication_heads: Default 4 (Table 3).
        communication_key_size: Key width per head. Default 32.
        communication_value_size: Value width per head. Default 32.
        communication_dropout: Dropout on what is received. Default 0; Table 3 has 0.1 for sequence tasks.
        communication_top_k: Each unit and head reads only the k units it scores highest (end of Sec. 2.4). Default
            None: all.
        learn_initial_state: Learn the state in which episodes start, instead of zeros. Default False.
        initialization: Where learning starts, a name of `rimrl.cores.initialization.STARTS`: ``"released"`` (default;
            the authors' code: attention matrices of standard deviation 0.01), ``"xavier"``, or one of those that differ
            from ``"xavier"`` in one respect.
        forget_bias: Bias of the forget gates (``dynamics="gru"``: of the update gates) at the start; None (default)
            for torch's draw.
        chrono: Draw those biases for memories of up to this many steps (`rimrl.cores.initialization.GateBiases`).
            Default None.

    Raises:
        UsageError: If an option does not exist or sizes do not fit together.

    Shapes:
        ``x [T, B, I]`` (or ``[T, B, M, I]``) to ``y [T, B, N * D]``; state ``(h, c)``, each ``[1, B, N * D]``. With
        ``dynamics="gru"`` c stays as it came.

    Example:
        >>> core = RIM(input_size=32, num_units=6, num_active=4, unit_size=20)
        >>> y, (h, c) = core(torch.randn(10, 3, 32))
        >>> tuple(y.shape), tuple(h.shape)
        ((10, 3, 120), (1, 3, 120))

    Notes:
        Defaults follow the authors' released code for copying and MNIST where it differs from the paper; each
        difference is an option above. Where neither says, this is our reading:

        * Equal scores are resolved by the lowest unit index. At the zero state all null scores are equal, so units
          0 to K-1 take the first step, and a unit that has not won yet keeps its zero state and so wins only where
          others prefer null. ``learn_initial_state`` breaks these ties.
        * With several input elements ``competition="units"`` ranks units by the sum of their shares, mean over heads.
          It has no null element, and the shares of the winners are not scaled up to one.
        * Without input attention a unit reads the mean of the projected input elements.
        * With ``communication_reads="candidate"`` the value of an inactive unit's h~ is read, but no gradient flows
          back into it, as in App. G (``block_gradient``). With ``"previous"`` the state that is read belongs to the
          unit's real history, so gradient flows.
        * ``communication_top_k`` renormalises the softmax over the units that are kept.
        * ``input_dropout`` acts on the weights that read the values, not on those that decide the competition.
    """

    fixed = RecurrentCore.fixed | {"unit_size", "communication_reads", "communication", "has_cell_memory"}
    supports_sets: ClassVar[bool] = True

    def __init__(
        self,
        input_size: int,
        num_units: int = 6,
        num_active: int | None = None,
        unit_size: int | None = None,
        hidden_size: int | None = None,
        num_inputs: int = 1,
        dynamics: Dynamics = "lstm",
        input_attention: bool = True,
        competition: Competition = "null",
        input_heads: int = 1,
        input_key_size: int = 64,
        input_value_size: int | None = None,
        input_dropout: float = 0.0,
        communication: Communication | None = "gated",
        communication_reads: CommunicationReads = "candidate",
        communication_heads: int = 4,
        communication_key_size: int = 32,
        communication_value_size: int = 32,
        communication_dropout: float = 0.0,
        communication_top_k: int | None = None,
        learn_initial_state: bool = False,
        initialization: str = "released",
        forget_bias: float | None = None,
        chrono: int | None = None,
    ) -> None:
        unit_size = resolve_unit_size(num_units, unit_size, hidden_size)
        super().__init__(input_size, num_units * unit_size, num_units=num_units, num_inputs=num_inputs)
        _check_choices(dynamics, competition, communication, communication_reads)
        require_switch(input_attention=input_attention, learn_initial_state=learn_initial_state)
        require_positive(input_key_size=input_key_size)
        require_probability(input_dropout=input_dropout, communication_dropout=communication_dropout)
        if communication_top_k is not None:
            require_at_most("communication_top_k", communication_top_k, "num_units", num_units)
        start, biases = resolve_start(initialization), GateBiases(forget_bias, chrono)
        self.unit_size = unit_size
        self._select_units(num_active, default_share=2 / 3, selecting=input_attention, needs="input attention")
        self.communication_reads = communication_reads
        self.has_cell_memory = dynamics == "lstm"
        self._dropout = max(input_dropout, communication_dropout)
        value_size = 4 * unit_size if input_value_size is None else input_value_size
        require_divisible("input_value_size", value_size, "input_heads", input_heads)
        read = partial(InputAttention, num_units, unit_size, num_inputs, input_size, dropout=input_dropout, start=start)
        self.input_read = (
            read(heads=input_heads, key_size=input_key_size, value_size=value_size, competition=competition)
            if input_attention
            else InputProjection(num_inputs, input_size, value_size, start)
        )
        cell = UnitLSTMCell if self.has_cell_memory else UnitGRUCell
        bound_width = self.hidden_size if start.whole_width else unit_size
        self.dynamics = cell(num_units, value_size, unit_size, bound_width=bound_width, biases=biases)
        head_sizes = (communication_heads, communication_key_size, communication_value_size)
        options = (communication_top_k, communication_dropout, start)
        self.communication = make_communication(communication, num_units, unit_size, head_sizes, *options)
        if learn_initial_state:
            self._learn_initial_state(cell_memory=self.has_cell_memory)

    @property
    def drops_out(self) -> bool:
        """Whether something is left out at random: there is dropout, and the core is in training mode."""
        return self.training and self._dropout > 0

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.input_read.encode(x if x.dim() == 4 else x.unsqueeze(2))

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        h, c = (s.reshape(-1, self.num_units, self.unit_size) for s in state)  # [B, N, D]

        if isinstance(self.input_read, InputAttention):
            u, priority, input_attention = self.input_read(h, *inputs)  # Eq. 2
            active = top_k_mask(priority.detach(), self.num_active)  # Sec. 2.2
        else:
            (values,) = inputs
            u = values.mean(dim=-2, keepdim=True).expand(-1, self.num_units, -1)
            active, input_attention = torch.ones(h.shape[:2], dtype=torch.bool, device=h.device), None
        mask = active.unsqueeze(-1)

        h_candidate, c_candidate = self.dynamics(u, h, c)  # Sec. 2.3

        communication_attention = None
        h_new = h_candidate
        if self.communication is not None:  # Sec. 2.4
            unread = h_candidate.detach() if self.communication_reads == "candidate" else h
            received, communication_attention = self.communication(torch.where(mask, h_candidate, unread))
            h_new = h_candidate + received

        h_next = torch.where(mask, h_new.to(h.dtype), h).flatten(1).unsqueeze(0)
        c_next = torch.where(mask, c_candidate.to(c.dtype), c).flatten(1).unsqueeze(0)
        trace = StepTrace(active, _head_mean(input_attention), _head_mean(communication_attention))
        return (h_next, c_next), trace if return_trace else None


def _head_mean(attention: Tensor | None) -> Tensor | None:
    return None if attention is None else attention.mean(dim=2)


def _check_choices(dynamics: str, competition: str, communication: str | None, communication_reads: str) -> None:
    require_choice("dynamics", dynamics, get_args(Dynamics))
    require_choice("competition", competition, get_args(Competition))
    if communication == "workspace":
        raise wrong("communication 'workspace'", "is a core of its own", "use 'rim_workspace'")
    require_choice("communication", communication, (*get_args(Communication), None))
    require_choice("communication_reads", communication_reads, get_args(CommunicationReads))
