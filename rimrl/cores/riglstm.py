"""RigLSTM, Recurrent Independent Grid LSTM (Wang et al., 2023), reconstructed."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from rimrl.cores.attention import top_k_mask, top_k_softmax
from rimrl.cores.base import RecurrentCore, State, require_positive
from rimrl.cores.fixed import FixedOptions
from rimrl.cores.initialization import GateBiases, Start, resolve_start
from rimrl.cores.options import SelectsUnits, require_at_most, require_choice, require_switch, resolve_unit_size
from rimrl.cores.stepwise import StepTrace, StepwiseCore
from rimrl.cores.units import UnitLSTMCell, normal_parameter, unit_linear
from rimrl.errors import needs

CellSelectionWeights = Literal["own", "shared"]


class RigLSTM(SelectsUnits, StepwiseCore):
    r"""Grid LSTM whose units are selected, select what they read, and are updated softly.

    **A reconstruction.** The repository that the paper (arXiv 2311.02123) names holds no code, and this was written
    from the paper's abstract and a summary, which state the mechanisms but no equation. Every formula below is our
    reading, marked [R]; Notes say why.

    One step, for unit n of N, with ``h = h_{t-1}``, ``c = c_{t-1}`` and V views of the input:

        x^j      = x_t W_j,  j = 1..V                                               input transformation      [R]
        e_nj     = <h_n Wq'_n, x^j Wk'> / sqrt(dk)                                  how well view j suits unit n
        s_n      = mean over j of e_nj                                              ``"shared"``, the default
                   mean over j of <h_n Wq_n, x^j Wk> / sqrt(dk)                     ``"own"``
        A        = the Ka units with the largest s_n                                cell selection           [R]
        a_n      = softmax over the Kx largest j of e_nj
        u_n      = sum_j a_nj x^j                                                   input feature selection  [R]
        b_n      = softmax over the Kh largest m != n of <h_n Wq"_n, h_m Wk"> / sqrt(dk)
        r_n      = sum_m b_nm h_m Wv                                                hidden state selection   [R]
        h~_n,c~_n = LSTM_n([u_n ; h_n ; r_n], c_n)                                  Grid LSTM step
        q        = [x_t ; mean over n of h~_n ; mean over n of h_n] Wqs
        g_n      = softmax over {new, old} of <q, h~_n Wks> / sqrt(dk), <q, h_n Wks> / sqrt(dk)
        h_t,n    = g_n,new h~_n + g_n,old h_n  if n in A  else  h_n                 soft state updating      [R]
        c_t,n    = c~_n  if n in A  else  c_n

    All matrices act from the right and have no bias, but for the LSTM's. Its gates, columns input i, forget f, cell g,
    output o, each of width D, are ``u_n Wu_n + [h_n ; r_n] Wh_n + b_n``; then ``c~ = sigmoid(f) * c + sigmoid(i) *
    tanh(g)`` and ``h~ = sigmoid(o) * tanh(c~)``. The three choices (A, the Kx views, the Kh units) are constants for
    the gradient, which otherwise flows everywhere; the means in q run over all units, active or not.

    ``cell_selection_weights`` chooses between the two s_n. The second, with matrices of its own, acts through the
    choice A alone: **no gradient ever reaches Wq and Wk**, and views and states learn to suit a projection that stays
    as it was drawn. It is what the mechanisms say if each is to have its own scores. The default is the first, so that
    a unit learns when to be active, by the scores that a_n learns.

    Each mechanism can be switched off alone:

    * ``cell_selection=False``: all units are active.
    * ``input_selection=False``: every unit reads all views, concatenated and ungated, ``u_n = [x^1 ; ... ; x^V]``.
    * ``hidden_selection=False``: the gates see the hidden vectors of all units, ``[h_1 ; ... ; h_N]`` in the place of
      ``[h_n ; r_n]``.
    * ``soft_update=False``: ``h_t,n = h~_n`` for n in A.

    With all four off this is `rimrl.cores.grid_lstm.GridLSTM` on the concatenated views.

    Parameters (F = ``view_size``, dv = ``hidden_value_size``; a mechanism that is off has none):
        * ``views`` W ``[V, I, F]``.
        * ``cell_selection.query`` Wq ``[N, D, dk]``, ``cell_selection.key`` Wk ``[F, dk]``; only with ``"own"`` or
          without input selection.
        * ``input_selection.query`` Wq' ``[N, D, dk]``, ``input_selection.key`` Wk' ``[F, dk]``.
        * ``hidden_selection.query`` Wq" ``[N, D, dk]``, ``hidden_selection.key`` Wk" ``[D, dk]``,
          ``hidden_selection.value`` Wv ``[D, dv]``.
        * ``dynamics.weight_input`` Wu ``[N, F, 4 D]``, or ``[N, V F, 4 D]`` without input selection, rows by view.
        * ``dynamics.weight_hidden`` Wh ``[N, D + dv, 4 D]``, rows ``h_n`` then ``r_n``; or ``[N, N D, 4 D]`` without
          hidden selection, rows by unit.
        * ``dynamics.bias`` b ``[N, 4 D]``.
        * ``soft_update.query`` Wqs ``[I + 2 D, dk]``, rows ``x_t``, then the mean of ``h~``, then the mean of ``h``.
        * ``soft_update.key`` Wks ``[D, dk]``.
        * ``initial_h``, ``initial_c`` ``[N D]``, only with ``learn_initial_state``.

    Args:
        input_size: Width I of the input.
        num_units: Units N. Default 6 (the paper's, on sequential MNIST).
        num_active: Active units Ka per step. Default: five sixths of the units, rounded (the paper's 5 of 6); all of
            them without cell selection.
        unit_size: Width D of a unit. Default 100, as RIM's; give this or ``hidden_size``.
        hidden_size: Width of all units together, as an LSTM's; must divide by ``num_units``.
        num_views: Views V of the input (the paper's K). Default 6 (the paper's).
        view_size: Width F of a view. Default ``4 * unit_size``: what a unit of the RIM reads.
        key_size: Width dk of all queries and keys. Default 32.
        hidden_value_size: Width dv of what a unit reads of the others. Default ``unit_size``.
        input_top_k: Views Kx that a unit reads, at most V. Default: ``num_active`` (the paper's), but at most V.
        hidden_top_k: Other units Kh that a unit reads, at most N - 1. Default: ``num_active``, but at most N - 1.
        cell_selection: False: all units are active.
        cell_selection_weights: ``"shared"`` (default): cell selection averages the scores of input feature selection,
            which learn (unless ``input_top_k`` is 1: the one view then weighs 1 whatever its score). ``"own"``: it has
            Wq and Wk, which get no gradient. Without input selection nothing can be shared, and both mean ``"own"``.
        input_selection: False: every unit reads all views.
        hidden_selection: False: every unit's gates see all hidden vectors.
        soft_update: False: an active unit takes its new state as it is.
        learn_initial_state: Learn the state in which episodes start, instead of zeros. Default False.
        initialization: Where learning starts, a name of `rimrl.cores.initialization.STARTS`. Default ``"released"``: as
            the authors of RIM let theirs start.
        forget_bias: Bias of the forget gates at the start; None (default) for torch's draw.
        chrono: Draw those biases, and the negative for the input gates, for memories of up to this many steps
            (`rimrl.cores.initialization.GateBiases`). Default None.

    Raises:
        UsageError: If an option does not exist, sizes do not fit together, or more is to be selected than there is.

    Shapes:
        ``x [T, B, I]`` to ``y [T, B, N * D]``; state ``(h, c)``, each ``[1, B, N * D]``. In the trace
        ``input_attention`` is a, ``[T, B, N, 1 + V]`` with column 0 zero (there is no null element), and
        ``communication_attention`` is b, ``[T, B, N, N]`` with a zero diagonal; None where the mechanism is off.

    Example:
        >>> core = RigLSTM(input_size=32, num_units=6, num_active=5, unit_size=20)
        >>> y, (h, c) = core(torch.randn(10, 3, 32))
        >>> tuple(y.shape), tuple(h.shape)
        ((10, 3, 120), (1, 3, 120))

    Notes:
        Why this reading of each mechanism:

        * *Views.* "Input features are transformed into K different views": one matrix a view, linear.
        * *Cell selection* by "similarity scores between input features and hidden states of all cells": scaled dot
          products, as everywhere in this family of models, averaged over the views because a cell gets one score. No
          null element is mentioned. "Similarity" is said of cell and of feature selection alike, which allows one
          score for both as much as two; of the two readings the default is the one that can learn.
        * *Feature and hidden selection* take "the top Kx (Kh)"; a softmax over those that are kept weights them, so
          that the scores learn. What is read of a view is the view itself.
        * *Hidden selection* reads "other cells", so never the unit itself, whose own vector the gates see anyway.
        * *Soft updating* combines the new and the previous state "after regular LSTM update" by "attention weights
          computed from current inputs and states of all cells": the query is made of the input and the mean of all
          states, old and new, which does not depend on the order of the units. It is the *hidden* states that are
          updated so, and "of the activated cells"; c is left as the LSTM makes it.
        * Equal scores are resolved by the lowest index, of unit or view. At the zero state all scores are equal, so
          units 0 to Ka-1 take the first step and views 0 to Kx-1 are read evenly; ``learn_initial_state`` breaks these
          ties.
    """

    fixed = RecurrentCore.fixed | {
        "unit_size",
        "num_views",
        "input_top_k",
        "cell_selection",
        "cell_selection_shared",
        "input_selection",
        "hidden_selection",
        "soft_update",
    }

    def __init__(
        self,
        input_size: int,
        num_units: int = 6,
        num_active: int | None = None,
        unit_size: int | None = None,
        hidden_size: int | None = None,
        num_views: int = 6,
        view_size: int | None = None,
        key_size: int = 32,
        hidden_value_size: int | None = None,
        input_top_k: int | None = None,
        hidden_top_k: int | None = None,
        cell_selection: bool = True,
        cell_selection_weights: CellSelectionWeights = "shared",
        input_selection: bool = True,
        hidden_selection: bool = True,
        soft_update: bool = True,
        learn_initial_state: bool = False,
        initialization: str = "released",
        forget_bias: float | None = None,
        chrono: int | None = None,
    ) -> None:
        unit_size = resolve_unit_size(num_units, unit_size, hidden_size)
        super().__init__(input_size, num_units * unit_size, num_units=num_units)
        require_switch(
            cell_selection=cell_selection,
            input_selection=input_selection,
            hidden_selection=hidden_selection,
            soft_update=soft_update,
            learn_initial_state=learn_initial_state,
        )
        require_choice("cell_selection_weights", cell_selection_weights, get_args(CellSelectionWeights))
        view_size = 4 * unit_size if view_size is None else view_size
        value_size = unit_size if hidden_value_size is None else hidden_value_size
        require_positive(num_views=num_views, view_size=view_size, key_size=key_size, hidden_value_size=value_size)
        self.unit_size = unit_size
        self.num_views = num_views
        self._select_units(num_active, default_share=5 / 6, selecting=cell_selection, needs="cell_selection")
        start, biases = resolve_start(initialization), GateBiases(forget_bias, chrono)
        self.views = normal_parameter(num_views, input_size, view_size, start.values)
        self.cell_selection_shared = cell_selection and input_selection and cell_selection_weights == "shared"
        scores = partial(ViewScores, num_units, unit_size, view_size, key_size, start)
        self.cell_selection = scores() if cell_selection and not self.cell_selection_shared else None
        self.input_top_k = _resolve_top_k("input", input_top_k, self.num_active, "num_views", num_views)
        self.input_selection = scores() if input_selection else None
        self.hidden_selection = (
            self._make_hidden_selection(key_size, value_size, hidden_top_k, start) if hidden_selection else None
        )
        self.dynamics = UnitLSTMCell(
            num_units,
            view_size if input_selection else num_views * view_size,
            unit_size,
            hidden_input_size=unit_size + value_size if hidden_selection else self.hidden_size,
            bound_width=self.hidden_size if start.whole_width else None,
            biases=biases,
        )
        self.soft_update = SoftUpdate(input_size, unit_size, key_size, start) if soft_update else None
        if learn_initial_state:
            self._learn_initial_state(cell_memory=True)

    def _make_hidden_selection(
        self, key_size: int, value_size: int, top_k: int | None, start: Start
    ) -> HiddenSelection:
        if self.num_units == 1:
            raise needs("hidden_selection", "other units to select", "num_units 1", "switch it off")
        others = self.num_units - 1
        top_k = _resolve_top_k("hidden", top_k, self.num_active, "the number of other units", others)
        return HiddenSelection(self.num_units, self.unit_size, key_size, value_size, top_k, start)

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        side_by_side = self.views.transpose(0, 1).flatten(1)  # [I, V F]: one product for all views
        views = (x @ side_by_side).view(*x.shape[:2], self.num_views, -1)  # x^j
        nothing = x[..., :0]
        cell_keys = input_keys = input_gates = soft_query = nothing
        if self.cell_selection is not None:
            # Scores are linear in the view: their mean over the views is the score of the mean view.
            cell_keys = self.cell_selection.encode(views.mean(dim=2, keepdim=True))
        if self.input_selection is not None:
            input_keys = self.input_selection.encode(views)
        else:
            input_gates = self.dynamics.encode(views.flatten(2))
        if self.soft_update is not None:
            soft_query = self.soft_update.encode(x)
        return views, cell_keys, input_keys, input_gates, soft_query

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        views, cell_keys, input_keys, input_gates, soft_query = inputs
        h, c = (s.reshape(-1, self.num_units, self.unit_size) for s in state)  # [B, N, D]

        input_attention = input_scores = None
        if self.input_selection is not None:  # input feature selection
            input_scores = self.input_selection(h, input_keys)
            input_attention = top_k_softmax(input_scores, self.input_top_k)  # a, [B, N, V]
            input_gates = unit_linear(input_attention @ views, self.dynamics.weight_input)

        if self.cell_selection is not None:  # cell selection
            scores = self.cell_selection(h, cell_keys).mean(dim=-1)
        elif self.cell_selection_shared:
            assert input_scores is not None
            scores = input_scores.mean(dim=-1)
        else:
            scores = h.new_zeros(h.shape[:2])
        active = top_k_mask(scores.detach(), self.num_active)
        mask = active.unsqueeze(-1)

        communication_attention = None
        if self.hidden_selection is not None:  # hidden state selection
            r, communication_attention = self.hidden_selection(h)
            seen = torch.cat([h, r.to(h.dtype)], dim=-1)
        else:
            seen = h.flatten(1).unsqueeze(1).expand(-1, self.num_units, -1)

        h_new, c_new = self.dynamics.update(input_gates, seen, c)  # Grid LSTM step
        if self.soft_update is not None:  # soft state updating
            h_new = self.soft_update(h_new, h, soft_query)

        h_next = torch.where(mask, h_new.to(h.dtype), h).flatten(1).unsqueeze(0)
        c_next = torch.where(mask, c_new.to(c.dtype), c).flatten(1).unsqueeze(0)
        if not return_trace:
            return (h_next, c_next), None
        if input_attention is not None:
            input_attention = nn.functional.pad(input_attention, (1, 0))
        return (h_next, c_next), StepTrace(active, input_attention, communication_attention)


class ViewScores(nn.Module):
    """How well each view of the input suits each unit: ``<h_n Wq_n, x^j Wk> / sqrt(dk)``.

    Attributes:
        query: ``[N, D, dk]``, one matrix per unit (Wq).
        key: ``[F, dk]``, shared by the views (Wk).
    """

    def __init__(self, num_units: int, unit_size: int, view_size: int, key_size: int, start: Start) -> None:
        super().__init__()
        self.query = normal_parameter(num_units, unit_size, key_size, start.scores)
        self.key = nn.Parameter(normal_parameter(1, view_size, key_size, start.scores).data[0])

    def encode(self, views: Tensor) -> Tensor:
        """Scaled keys ``[T, B, dk, V]`` of the views ``[T, B, V, F]``."""
        return (views @ self.key / math.sqrt(self.key.shape[1])).transpose(-1, -2).contiguous()

    def forward(self, h: Tensor, keys: Tensor) -> Tensor:
        """Scores ``[B, N, V]`` of the states ``h [B, N, D]`` and one step's keys ``[B, dk, V]``."""
        return unit_linear(h, self.query) @ keys


class HiddenSelection(FixedOptions):
    """Every unit reads the k other units whose hidden vectors suit it best.

    Attributes:
        query: ``[N, D, dk]``, one matrix per unit (Wq").
        key: ``[D, dk]``, shared by the units (Wk").
        value: ``[D, dv]``, shared by the units (Wv).
    """

    fixed = frozenset({"top_k"})

    def __init__(
        self, num_units: int, unit_size: int, key_size: int, value_size: int, top_k: int, start: Start
    ) -> None:
        super().__init__()
        scores = start.communication if start.scores is None else start.scores
        self.query = normal_parameter(num_units, unit_size, key_size, scores)
        self.key = nn.Parameter(normal_parameter(1, unit_size, key_size, scores).data[0])
        self.value = nn.Parameter(normal_parameter(1, unit_size, value_size, start.communication).data[0])
        self.top_k = top_k

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """What each unit reads, r ``[B, N, dv]``, and its attention b ``[B, N, N]``, from states ``h [B, N, D]``."""
        scores = unit_linear(h, self.query) @ (h @ self.key).transpose(-1, -2) / math.sqrt(self.key.shape[1])
        itself = torch.eye(h.shape[1], dtype=torch.bool, device=h.device)
        attention = top_k_softmax(scores.masked_fill(itself, float("-inf")), self.top_k)
        return attention @ (h @ self.value), attention


class SoftUpdate(nn.Module):
    """Mix a unit's new with its old hidden vector, by weights that see the input and the mean of all units.

    Attributes:
        query: ``[I + 2 D, dk]`` (Wqs): rows for the input, the mean new and the mean old hidden vector.
        key: ``[D, dk]`` (Wks).
    """

    def __init__(self, input_size: int, unit_size: int, key_size: int, start: Start) -> None:
        super().__init__()
        self.query = nn.Parameter(normal_parameter(1, input_size + 2 * unit_size, key_size, start.scores).data[0])
        self.key = nn.Parameter(normal_parameter(1, unit_size, key_size, start.scores).data[0])

    def encode(self, x: Tensor) -> Tensor:
        """The input's part of the query, ``[T, B, dk]``, of a whole sequence ``x [T, B, I]``."""
        return x @ self.query[: x.shape[-1]]

    def forward(self, new: Tensor, old: Tensor, input_query: Tensor) -> Tensor:
        """Mix ``new`` and ``old``, each ``[B, N, D]``, given the input's part of the query, ``[B, dk]``."""
        dk = self.key.shape[1]
        means = torch.cat([new.mean(dim=1), old.mean(dim=1).to(new.dtype)], dim=-1)
        query = input_query + means @ self.query[-means.shape[-1] :]
        # The softmax over {new, old} is a sigmoid of the difference of their scores.
        difference = (new - old) @ (query @ self.key.t() / math.sqrt(dk)).unsqueeze(-1)
        g_new = torch.sigmoid(difference)  # [B, N, 1]
        return g_new * new + (1.0 - g_new) * old


def _resolve_top_k(prefix: str, top_k: int | None, num_active: int, of: str, available: int) -> int:
    if top_k is None:
        return min(num_active, available)
    require_at_most(f"{prefix}_top_k", top_k, of, available)
    return top_k
