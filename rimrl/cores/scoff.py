"""SCOFF, object files and schemata (Goyal et al., 2020)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from rimrl.cores.attention import Communication, Competition, InputAttention, make_communication, top_k_mask
from rimrl.cores.base import RecurrentCore, State, require_positive
from rimrl.cores.fixed import FixedOptions
from rimrl.cores.initialization import GateBiases, Start, resolve_start
from rimrl.cores.options import (
    SelectsUnits,
    require_choice,
    require_divisible,
    require_finite,
    require_switch,
    resolve_unit_size,
)
from rimrl.cores.rim import CommunicationReads, Dynamics
from rimrl.cores.stepwise import StepTrace, StepwiseCore
from rimrl.cores.units import UnitGRUCell, UnitLSTMCell, normal_parameter, unit_linear
from rimrl.errors import invalid_value, mismatch

Assignment = Literal["chosen", "fixed"]


class SCOFF(SelectsUnits, StepwiseCore):
    r"""Slots that hold the state of one thing each (object files) and share a few ways to update it (schemata).

    One step, for slot n of N and schema s of S, with ``X = [0; x_t]`` (steps as in the paper's Algorithm 1):

        q_n   = h_{t-1,n} Wq;   k_m = x_m We_m;   v_m = x_m Wv_m
        P_n   = softmax over {null, m} of q_n k^T / sqrt(dk)                         step 2, null as in RIM [R]
        A     = the K slots with the least attention on null, mean over heads        [R]
        u_n   = concat over heads of sum_m P_nm v_m
        h'_ns = GRU_s(u_n, h_{t-1,n}) or LSTM_s, for every schema                    step 3
        e_ns  = <h_{t-1,n} Wq', h'_ns Wk'_s>                                         how well it suits the slot
        s_n   = argmax over s of e_ns + g_ns;   g_ns from Gumbel(0, 1), or zero
        h~_n  = h'_n,s_n
        o_n   = multi-head attention of h~_n over all slots                          step 4
        r_n   = sigmoid(Wg o_n + bg) * tanh(Wf o_n + bf)                             as in RIM [R]
        h_t,n = h~_n + r_n  if n in A  else  h_{t-1,n};   c likewise without r

    The choice of a schema is straight-through: the scores get the gradient of the mean of the h'_ns under
    ``softmax over s of (e_ns + g_ns) / tau``, and the h'_ns that of the choice as it fell. A is a constant for the
    gradient. [R] marks our reading.

    No matrix belongs to a slot: slots differ in their content alone. RIM is the opposite case, in which every unit has
    its own. With ``assignment="fixed"`` slot n always uses schema n, and SCOFF is the RIM whose attention matrices are
    the same for all units. With ``num_schemata=1`` it is that RIM with one cell for all units.

    **Randomness.** ``gumbel_noise`` acts in training mode alone, as dropout does, and is off by default. Recurrent PPO
    acts in evaluation mode and learns in training mode, so that with noise it would compare a policy that drew its
    schemata with one that did not: leave it off for agents. For supervised sequence tasks it is what the paper does.

    Args:
        input_size: Width I of one input element.
        num_units: Slots N (the paper's object files). Default 6.
        num_active: Slots K that are updated per step. Default: two thirds of the slots, rounded, as RIM's [R].
        num_schemata: Schemata S. Default 4 [R]; with ``assignment="fixed"`` ``num_units``, the only number that fits.
        unit_size: Width D of a slot. Default 100, as RIM's; give this or ``hidden_size``.
        hidden_size: Width of all slots together, as an LSTM's; must divide by ``num_units``.
        num_inputs: Input elements M per step. With more than 1 the input is ``[T, B, M, I]`` and every position has
            its own key and value matrix, as in RIM. Default 1.
        dynamics: What a schema is: ``"gru"`` (default, the paper's) or ``"lstm"``.
        assignment: ``"chosen"`` (default): by the scores e. ``"fixed"``: slot n uses schema n.
        gumbel_noise: Add the noise g to the scores in training mode. Default False, see above.
        schema_temperature: tau of the gradient. Default 0.5 [D].
        schema_key_size: Width of the queries and keys of the schemata. Default 16 [D].
        competition: ``"null"`` (default) or ``"units"``, the softmax over the slots of Algorithm 1; see
            `rimrl.cores.attention.InputAttention`.
        input_heads: Heads of the input attention. Default 1.
        input_key_size: Key width per head. Default 64.
        input_value_size: Value width for all heads together. Default ``4 * unit_size``.
        communication: ``"gated"`` (default), ``"residual"`` (Algorithm 1), or None for none.
        communication_reads: What is read of an inactive slot: its ``"candidate"`` h~ (default) or its ``"previous"``
            state.
        communication_heads: Default 4.
        communication_key_size: Key width per head. Default 32.
        communication_value_size: Value width per head. Default 32.
        learn_initial_state: Learn the state in which episodes start. Default True [R]. False: zeros, in which slots
            that are updated together stay equal (Notes).
        initialization: A name of `rimrl.cores.initialization.STARTS`; the schemata's queries and keys count among the
            scores. Default ``"released"``.
        forget_bias: Bias of the update gates (``dynamics="lstm"``: of the forget gates) at the start; None (default)
            for torch's draw.
        chrono: Draw those biases for memories of up to this many steps (`rimrl.cores.initialization.GateBiases`).
            Default None.

    Parameters:
        * ``input_read.query`` Wq ``[1, D, H dk]``, ``.key`` We ``[M, I, H dk]``, ``.value`` Wv ``[M, I, U]``.
        * ``dynamics.cells``: a `rimrl.cores.units.UnitGRUCell` or ``UnitLSTMCell`` with a group for each schema.
        * ``dynamics.query`` Wq' ``[D, dk']``, ``dynamics.key`` Wk' ``[S, D, dk']``; none with a fixed assignment or a
          single schema.
        * ``communication.query_key_value`` ``[1, D, H' (2 dk + dv)]``, ``.project``, ``.gate``: as RIM's.
        * ``initial_h``, ``initial_c`` ``[N D]``, only with ``learn_initial_state``.

    Raises:
        UsageError: If an option does not exist, sizes do not fit together, or a fixed assignment is asked for with
            another number of schemata than of slots.

    Shapes:
        ``x [T, B, I]`` (or ``[T, B, M, I]``) to ``y [T, B, N * D]``; state ``(h, c)``, each ``[1, B, N * D]``. With
        ``dynamics="gru"`` c stays as it came. The trace is RIM's, with ``schema [T, B, N]``.

    Example:
        >>> core = SCOFF(input_size=32, num_units=6, num_active=4, num_schemata=3, unit_size=20)
        >>> y, (h, c) = core(torch.randn(10, 3, 32))
        >>> tuple(y.shape), tuple(h.shape)
        ((10, 3, 120), (1, 3, 120))

    Notes:
        The paper's text was not at hand: this follows the steps of its Algorithm 1 as others retell them, and public
        code derived from the authors', which we have not seen itself [D]. Our reading:

        * *Competition.* Algorithm 1 shares out each input element among the slots (``competition="units"``) and
          updates all of them. A null element and K active slots are RIM's, on which such code builds [D]; they are
          the default, so that a comparison with RIM is one of schemata alone.
        * *Keys of the schemata.* Every schema has its own Wk'_s, and scores are not divided by the square root of the
          width [D].
        * *Communication* is RIM's, with matrices that all slots share. Algorithm 1 adds what is read as it is.
        * *LSTM.* A chosen schema gives h and c. (Derived code mixes LSTMs softly [D].)
        * *Start of an episode.* Only their content tells slots apart: slots that hold the same score the same, choose
          the same and stay the same. From the zero state slots 0 to K-1 would take every step together. So each slot
          learns a content of its own to start with.
        * Equal scores are resolved by the lowest index, of slot or schema.
    """

    fixed = RecurrentCore.fixed | {"unit_size", "communication_reads", "communication"}
    supports_sets: ClassVar[bool] = True

    def __init__(
        self,
        input_size: int,
        num_units: int = 6,
        num_active: int | None = None,
        num_schemata: int | None = None,
        unit_size: int | None = None,
        hidden_size: int | None = None,
        num_inputs: int = 1,
        dynamics: Dynamics = "gru",
        assignment: Assignment = "chosen",
        gumbel_noise: bool = False,
        schema_temperature: float = 0.5,
        schema_key_size: int = 16,
        competition: Competition = "null",
        input_heads: int = 1,
        input_key_size: int = 64,
        input_value_size: int | None = None,
        communication: Communication | None = "gated",
        communication_reads: CommunicationReads = "candidate",
        communication_heads: int = 4,
        communication_key_size: int = 32,
        communication_value_size: int = 32,
        learn_initial_state: bool = True,
        initialization: str = "released",
        forget_bias: float | None = None,
        chrono: int | None = None,
    ) -> None:
        unit_size = resolve_unit_size(num_units, unit_size, hidden_size)
        super().__init__(input_size, num_units * unit_size, num_units=num_units, num_inputs=num_inputs)
        require_choice("dynamics", dynamics, get_args(Dynamics))
        require_choice("competition", competition, get_args(Competition))
        require_choice("communication", communication, (*get_args(Communication), None))
        require_choice("communication_reads", communication_reads, get_args(CommunicationReads))
        require_switch(gumbel_noise=gumbel_noise, learn_initial_state=learn_initial_state)
        num_schemata = _resolve_schemata(num_schemata, num_units, assignment)
        value_size = 4 * unit_size if input_value_size is None else input_value_size
        require_divisible("input_value_size", value_size, "input_heads", input_heads)
        require_positive(input_key_size=input_key_size, schema_key_size=schema_key_size)
        start, biases = resolve_start(initialization), GateBiases(forget_bias, chrono)
        self.unit_size = unit_size
        self._select_units(num_active, default_share=2 / 3, selecting=True, needs="input attention")
        self.communication_reads = communication_reads
        read = partial(InputAttention, 1, unit_size, num_inputs, input_size, competition=competition, dropout=0.0)
        self.input_read = read(heads=input_heads, key_size=input_key_size, value_size=value_size, start=start)
        cell = UnitLSTMCell if dynamics == "lstm" else UnitGRUCell
        bound_width = self.hidden_size if start.whole_width else unit_size
        self.dynamics = Schemata(
            cell(num_schemata, value_size, unit_size, bound_width=bound_width, biases=biases),
            unit_size,
            key_size=schema_key_size if assignment == "chosen" else None,
            temperature=schema_temperature,
            noise=gumbel_noise,
            start=start,
        )
        head_sizes = (communication_heads, communication_key_size, communication_value_size)
        self.communication = make_communication(communication, 1, unit_size, head_sizes, None, 0.0, start)
        if learn_initial_state:
            self._learn_initial_state(cell_memory=cell.has_cell_memory)

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.input_read.encode(x if x.dim() == 4 else x.unsqueeze(2))

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        h, c = (s.reshape(-1, self.num_units, self.unit_size) for s in state)  # [B, N, D]

        u, priority, input_attention = self.input_read(h, *inputs)  # step 2
        active = top_k_mask(priority.detach(), self.num_active)
        mask = active.unsqueeze(-1)

        h_candidate, c_candidate, schema = self.dynamics(u, h, c)  # step 3

        communication_attention = None
        h_new = h_candidate
        if self.communication is not None:  # step 4
            unread = h_candidate.detach() if self.communication_reads == "candidate" else h
            received, attention = self.communication(torch.where(mask, h_candidate, unread))
            h_new, communication_attention = h_candidate + received, attention.mean(dim=2)

        h_next = torch.where(mask, h_new.to(h.dtype), h).flatten(1).unsqueeze(0)
        c_next = torch.where(mask, c_candidate.to(c.dtype), c).flatten(1).unsqueeze(0)
        trace = StepTrace(active, input_attention.mean(dim=2), communication_attention, schema)
        return (h_next, c_next), trace if return_trace else None


class Schemata(FixedOptions):
    """Recurrent cells that slots choose from, by what each cell would make of the slot (Algorithm 1, step 3).

    With ``key_size=None`` slot n uses cell n; with a single cell all slots use it.

    Attributes:
        cells: A group of weights for each schema.
        query: ``[D, dk]``, shared by the slots; None where nothing is chosen.
        key: ``[S, D, dk]``, one matrix per schema; None where nothing is chosen.
        temperature: Of the softmax whose gradient stands for that of the choice.
        noise: Whether Gumbel noise is added to the scores in training mode.
    """

    fixed = frozenset({"num_schemata", "query", "key"})

    def __init__(
        self,
        cells: UnitGRUCell | UnitLSTMCell,
        unit_size: int,
        *,
        key_size: int | None,
        temperature: float,
        noise: bool,
        start: Start,
    ) -> None:
        super().__init__()
        require_finite(schema_temperature=temperature)
        if temperature <= 0:
            raise invalid_value("schema_temperature", "a number above 0", temperature)
        self.cells = cells
        self.num_schemata = len(cells.weight_input)
        self.temperature = float(temperature)
        self.noise = noise
        query = key = None
        if key_size is not None and self.num_schemata > 1:
            query = nn.Parameter(normal_parameter(1, unit_size, key_size, start.scores).data[0])
            key = normal_parameter(self.num_schemata, unit_size, key_size, start.scores)
        self.query: nn.Parameter | None = query
        self.key: nn.Parameter | None = key

    def forward(self, u: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """New ``h`` and ``c [B, N, D]`` and the schema of each slot ``[B, N]``.

        Args:
            u: What each slot has read, ``[B, N, U]``.
            h: The state of each slot, ``[B, N, D]``.
            c: Its cell memory, ``[B, N, D]``.
        """
        if self.query is None:
            own = torch.arange(h.shape[1], device=h.device) % self.num_schemata
            return *self.cells(u, h, c), own.expand(h.shape[:2])
        assert self.key is not None
        proposals = self.cells(*(self._for_each(x) for x in (u, h, c)))  # h' and c', each [B N, S, D]
        queries = (h @ self.query).flatten(0, 1).unsqueeze(-1)  # [B N, dk, 1]
        scores = (unit_linear(proposals[0], self.key) @ queries).squeeze(-1)  # e, [B N, S]
        if self.noise and self.training:
            scores = scores - torch.empty_like(scores).exponential_().log()
        chosen = top_k_mask(scores.detach(), 1)
        soft = (scores / self.temperature).softmax(dim=-1)
        weights = (chosen + (soft - soft.detach())).unsqueeze(-1)  # exactly 0 and 1, with the gradient of soft
        h_new, c_new = ((weights * proposal).sum(dim=1).view_as(h) for proposal in proposals)
        return h_new, c_new, chosen.int().argmax(dim=-1).view(h.shape[:2])

    def _for_each(self, x: Tensor) -> Tensor:
        """Every slot's ``x [B, N, d]`` beside each schema, ``[B N, S, d]``."""
        return x.reshape(-1, 1, x.shape[-1]).expand(-1, self.num_schemata, -1)


def _resolve_schemata(num_schemata: int | None, num_units: int, assignment: Assignment) -> int:
    require_choice("assignment", assignment, get_args(Assignment))
    if num_schemata is None:
        return num_units if assignment == "fixed" else 4
    require_positive(num_schemata=num_schemata)
    if assignment == "fixed" and num_schemata != num_units:
        raise mismatch("num_schemata", f"num_units, {num_units}, for a fixed assignment", num_schemata)
    return num_schemata
