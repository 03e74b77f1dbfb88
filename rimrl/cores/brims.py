"""Bidirectional Recurrent Independent Mechanisms (Mittal et al., ICML 2020)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn

from rimrl.cores.attention import Communication, Competition, FurtherElements, InputProjection, join_elements
from rimrl.cores.base import State, require_positive
from rimrl.cores.initialization import resolve_start
from rimrl.cores.options import plain, require_choice
from rimrl.cores.registry import core_options
from rimrl.cores.rim import RIM, CommunicationReads, Dynamics
from rimrl.cores.stepwise import StepTrace, StepwiseCore
from rimrl.errors import UsageError, mismatch, wrong

TopDown = Literal["adjacent", "last_to_first"]


class BRIMs(StepwiseCore):
    r"""Layers of RIM units: each attends to the layer below now, and to the layer above as it was a step ago.

    One step runs the layers l = 0 .. L-1 in turn. Layer l is a `rimrl.cores.rim.RIM` whose units attend to the elements
    (the paper's Fig. 1)

        X^l = [0 ; below ; above]
        below = x_t (all M elements) for l = 0,  else h^{l-1}_t     bottom-up; a layer's whole state is one element
        above = h^{l+1}_{t-1}                                       top-down (``top_down="adjacent"``)

    and which does everything else as RIM's equations say, n running over the layer's own units:

        q_n   = h^l_{t-1,n} Wq_n;   k_m = X_m We_m;   v_m = X_m Wv_m      each position m has matrices of its own
        P_n   = softmax over {0, below, above} of q_n k^T / sqrt(dk)
        A^l   = the K units with the least attention on 0, mean over heads, after the softmax
        u_n   = concat over heads of sum_m P_nm v_m
        h~, c~ by the dynamics, communication r among the units of layer l
        h^l_t,n = h~_n + r_n  if n in A^l  else  h^l_{t-1,n};   c likewise without r
        y_t   = h^{L-1}_t                                                 the authors' decoder reads the last layer

    ``top_down="last_to_first"`` is the authors' code: only layer 0 has an element above, and that is h^{L-1}_{t-1}.
    At two layers both are the same. With None there is no element above: RIMs stacked bottom-up.

    Args:
        input_size: Width I of one input element.
        num_layers: Layers L. Default 2. One layer is RIM.
        num_units: Units N of every layer, or a list of one number per layer. Default 6.
        num_active: Active units K of every layer, or a list. Default: two thirds of the layer's units, rounded (all of
            them without input attention).
        unit_size: Width D of a unit. Default 100; give this or ``hidden_size``.
        hidden_size: Width of a layer, the same for all of them; must divide by every layer's ``num_units``.
        num_inputs: Input elements M that layer 0 reads per step. Default 1.
        top_down: ``"adjacent"`` (default), ``"last_to_first"``, or None for none.
        dynamics: As in RIM, like all that follow, and the same in every layer.
        input_attention: False: every unit reads the mean of the projected elements below and above; all are active.
        competition: ``"null"`` (default) or ``"units"``.
        input_heads: Heads of the input attention. Default 4.
        input_key_size: Key width per head. Default 64.
        input_value_size: Value width for all heads together. Default ``4 * D`` of the layer; the same in every layer if
            given.
        input_dropout: Default 0.
        communication: ``"gated"`` (default), ``"residual"`` or None.
        communication_reads: ``"candidate"`` (default) or ``"previous"``.
        communication_heads: Default 4.
        communication_key_size: Key width per head. Default 32.
        communication_value_size: Value width per head. Default 32.
        communication_dropout: Default 0; the authors' code has 0.1.
        communication_top_k: Default None.
        learn_initial_state: Learn the state in which episodes start, in every layer. Default False.
        initialization: As in RIM; ``scores`` and ``values`` of the elements above start as those of the others.
        forget_bias: As in RIM. Default None.
        chrono: As in RIM. Default None.

    Parameters:
        ``layers.l.NAME``: layer l, with RIM's parameters under RIM's names, N and D being the layer's, I the width of
        what is below: ``input_size`` for l = 0 (and M elements), else ``hidden_size`` (one element).

        * ``layers.l.input_read.query [N, D, H dk]`` Wq; ``.key [M, I, H dk]`` We and ``.value [M, I, H dv]`` Wv of the
          elements below; head g owns the columns ``g dk`` to ``(g+1) dk`` (``dv``). Only ``.value`` without input
          attention.
        * ``layers.l.dynamics.weight_input [N, H dv, 4 D]``, ``.weight_hidden [N, D, 4 D]``, ``.bias [N, 4 D]``: columns
          input, forget, cell, output gate. GRU: ``3 D`` columns reset, update, new, and ``.bias_input``,
          ``.bias_hidden [N, 3 D]``.
        * ``layers.l.communication.query_key_value [N, D, H_c (2 dk_c + dv_c)]``: queries of all heads, then keys, then
          values; ``.project`` Wf, bf and ``.gate`` Wg, bg: ``weight [D, H_c dv_c]``, ``bias [D]``.
        * ``layers.l.initial_h``, ``layers.l.initial_c [hidden_size]`` with ``learn_initial_state``.
        * ``top_down.l.key [1, hidden_size, H dk]`` and ``top_down.l.value [1, hidden_size, H dv]``: We and Wv of the
          element above, for every layer l that has one. Only ``.value`` without input attention.

    Raises:
        UsageError: If an option does not exist, or sizes or layers do not fit together.

    Shapes:
        ``x [T, B, I]`` (or ``[T, B, M, I]``) to ``y [T, B, hidden_size]``, the last layer's h; state ``(h, c)``, each
        ``[num_layers, B, hidden_size]``, layer 0 first, units side by side. With ``dynamics="gru"`` c stays as it came.

        The trace's unit axis holds the units of layer 0, then of layer 1, and so on. Its input attention has the
        columns null, the M elements below (a layer above the first has one, in the first of these columns) and, where
        there is top-down input at all, last the element above; a column that a layer has no element for is zero.
        Units of different layers have no communication attention to each other.

    Example:
        >>> core = BRIMs(input_size=32, num_units=[6, 3], num_active=[4, 2], hidden_size=120)
        >>> y, (h, c) = core(torch.randn(10, 3, 32))
        >>> tuple(y.shape), tuple(h.shape)
        ((10, 3, 120), (2, 3, 120))

    Notes:
        * The paper's equations were not at hand: beyond its Fig. 1 this follows the authors' code, and no equation is
          numbered.
        * The authors' code connects its first layer to the last one's state even if there is only one layer, which then
          attends to its own past; here one layer is RIM exactly.
        * In the authors' code layers may differ in width; here the state is one tensor, so they may differ in units
          only.
        * The authors' code with GRU dynamics keeps a copy of h in c; here c stays as it came.
        * What RIM's notes say on ties, on gradients of inactive units and on dropout holds in every layer. Gradient
          flows through both connections between layers.
    """

    supports_sets: ClassVar[bool] = True

    def __init__(
        self,
        input_size: int,
        num_layers: int = 2,
        num_units: int | list[int] = 6,
        num_active: int | list[int] | None = None,
        unit_size: int | None = None,
        hidden_size: int | None = None,
        num_inputs: int = 1,
        top_down: TopDown | None = "adjacent",
        dynamics: Dynamics = "lstm",
        input_attention: bool = True,
        competition: Competition = "null",
        input_heads: int = 4,
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
        require_positive(num_layers=num_layers)
        require_choice("top_down", top_down, (*get_args(TopDown), None))
        units = _per_layer("num_units", num_units, num_layers)
        active = [None] * num_layers if num_active is None else _per_layer("num_active", num_active, num_layers)
        _require_equal_widths(units, unit_size, hidden_size)
        options: dict[str, Any] = {name: value for name, value in locals().items() if name in _OF_EVERY_LAYER}
        layers: list[RIM] = []
        for index, (n, k) in enumerate(zip(units, active, strict=True)):
            below = (layers[0].hidden_size, 1) if layers else (input_size, num_inputs)
            try:
                layers.append(RIM(below[0], n, k, num_inputs=below[1], **options))
            except UsageError as error:
                raise error.within(f"layer {index}: " if index else "") from None
        width = layers[0].hidden_size
        super().__init__(input_size, width, num_layers=num_layers, num_units=sum(units), num_inputs=num_inputs)
        self.units_per_layer = tuple(units)
        self.layers = nn.ModuleList(layers)
        self.above = _layers_above(top_down, num_layers)
        self.top_down = nn.ModuleDict()
        start = resolve_start(initialization)
        for layer in self.above:
            value_size = layers[layer].input_read.value.shape[-1]
            self.top_down[str(layer)] = (
                FurtherElements(
                    1, width, heads=input_heads, key_size=input_key_size, value_size=value_size, start=start
                )
                if input_attention
                else InputProjection(1, width, value_size, start)
            )

    @property
    def num_active(self) -> list[int]:
        """Active units of each layer; may be set, to one number for all or a list, for an ablation of a trained core.

        Raises:
            UsageError: For numbers that do not suit the layers.
        """
        return [layer.num_active for layer in self._rims()]

    @num_active.setter
    def num_active(self, value: int | list[int]) -> None:
        before, active = self.num_active, _per_layer("num_active", plain(value), self.num_layers)
        try:
            for layer, k in zip(self._rims(), active, strict=True):
                layer.num_active = k
        except UsageError:
            for layer, k in zip(self._rims(), before, strict=True):
                layer.num_active = k
            raise

    def initial_state(self, batch_size: int) -> State:
        """Zeros, or what each layer has learned; see `RecurrentCore.initial_state`."""
        h, c = zip(*(layer.initial_state(batch_size) for layer in self._rims()), strict=True)
        return torch.cat(h), torch.cat(c)

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        return self._rims()[0]._encode(x)

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        h, c = ([s[i : i + 1] for i in range(self.num_layers)] for s in state)  # replaced from the lowest upwards
        traces: list[StepTrace] = []
        for index, layer in enumerate(self._rims()):
            if index > 0:
                below = h[index - 1][0]  # h^{l-1}_t, [B, hidden]
                inputs = layer.input_read.encode(below.unsqueeze(1))
            if index in self.above:
                above = h[self.above[index]][0]  # h^{l+1}_{t-1}: the layers above have not been replaced yet
                inputs = join_elements(inputs, self._top_down_into(index).encode(above.unsqueeze(1)))
            (h[index], c[index]), trace = layer._step(inputs, (h[index], c[index]), return_trace)
            if trace is not None:
                traces.append(trace)
        return (torch.cat(h), torch.cat(c)), self._join_traces(traces) if return_trace else None

    def _rims(self) -> list[RIM]:
        return cast(list[RIM], list(self.layers))

    def _top_down_into(self, layer: int) -> FurtherElements | InputProjection:
        return cast(FurtherElements | InputProjection, self.top_down[str(layer)])

    def _join_traces(self, traces: list[StepTrace]) -> StepTrace:
        attention = [self._columns(a, index) for index, (_, a, *_) in enumerate(traces) if a is not None]
        communication = [trace.communication_attention for trace in traces if trace.communication_attention is not None]
        return StepTrace(
            torch.cat([trace.active for trace in traces], dim=1),
            torch.cat(attention, dim=1) if attention else None,
            _block_diagonal(communication) if communication else None,
        )

    def _columns(self, attention: Tensor, index: int) -> Tensor:
        """A layer's input attention ``[B, N, ...]`` with the columns null, M below and, if any layer has one, above."""
        num_below = self.num_inputs if index == 0 else 1
        null_and_below, above = attention[..., : 1 + num_below], attention[..., 1 + num_below :]
        columns = [nn.functional.pad(null_and_below, (0, self.num_inputs - num_below))]
        if self.above:
            columns.append(above if index in self.above else torch.zeros_like(attention[..., :1]))
        return torch.cat(columns, dim=-1)


# What a layer is given as it is; the rest is counted in layers, or is the core's own.
_OF_EVERY_LAYER = (core_options(BRIMs).keys() & core_options(RIM).keys()) - {"num_units", "num_active", "num_inputs"}


def _layers_above(top_down: TopDown | None, num_layers: int) -> dict[int, int]:
    """From every layer that has top-down input to the layer which that comes from."""
    if top_down is None or num_layers == 1:
        return {}
    if top_down == "last_to_first":
        return {0: num_layers - 1}
    return {layer: layer + 1 for layer in range(num_layers - 1)}


def _block_diagonal(blocks: list[Tensor]) -> Tensor:
    """``[B, N_l, N_l]`` of every layer as one ``[B, N, N]``."""
    widths = [block.shape[-1] for block in blocks]
    rows = []
    for index, block in enumerate(blocks):
        before, after = sum(widths[:index]), sum(widths[index + 1 :])
        rows.append(nn.functional.pad(block, (before, after)))
    return torch.cat(rows, dim=1)


def _per_layer(name: str, value: int | list[int], num_layers: int) -> list[int]:
    values = list(value) if isinstance(value, list | tuple) else [value] * num_layers
    if len(values) != num_layers:
        raise mismatch(name, f"one number, or one for each of num_layers {num_layers}", values)
    for number in values:
        require_positive(**{name: number})
    return values


def _require_equal_widths(units: list[int], unit_size: int | None, hidden_size: int | None) -> None:
    if len(set(units)) == 1:
        return  # RIM's own checks say all there is to say
    common = math.lcm(*units)
    if hidden_size is None or unit_size is not None:
        raise wrong(
            "num_units", f"{units} make layers of different width", f"give hidden_size alone, a multiple of {common}"
        )
    require_positive(hidden_size=hidden_size)
    if hidden_size % common:
        below = hidden_size // common * common
        nearest = f"{below} or {below + common}" if below else f"{common}"
        raise wrong("hidden_size", f"{hidden_size} does not divide by every one of num_units {units}", f"use {nearest}")
