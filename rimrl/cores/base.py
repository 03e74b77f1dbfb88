"""The contract that every recurrent core keeps.

Letters used in every file of this folder:

    T  time steps            B  batch rows (environments)     I  width of an input element
    M  input elements a step N  units (the paper's kT)        K  active units (kA)
    D  width of one unit     H  attention heads               L  layers

Sequences are time-major, ``[T, B, ...]``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar, Literal, TypeAlias, overload

import torch
from torch import Tensor, nn

from rimrl.cores.backends import STEP, Backend, backends_of, chosen
from rimrl.cores.checks import as_flags, require_finite_output, require_like, require_tensor
from rimrl.cores.fixed import FixedOptions
from rimrl.errors import invalid_value, mismatch

_LARGEST_SIZE = 2**31 - 1

State: TypeAlias = tuple[Tensor, Tensor]
"""Recurrent state ``(h, c)``, each ``[num_layers, B, hidden_size]``: the shape that `torch.nn.LSTM` uses."""


@dataclass(frozen=True)
class CoreTrace:
    """What each unit did during a `RecurrentCore.forward`; everything is detached from the graph.

    Attributes:
        active: ``[T, B, N]`` bool, true where a unit was updated. A core without units reports one, always active.
        input_attention: ``[T, B, N, 1 + M]``, mean over heads, of each unit to the null element (column 0; zero if
            the core has none) and to the M input elements; None for a core without input attention. A core that
            makes V views of its one input element (RigLSTM) reports those in their place, ``[T, B, N, 1 + V]``; one
            that attends to more than its input (BRIMs) has further columns, which its docstring names.
        communication_attention: ``[T, B, N, N]``, mean over heads, reader by read unit; None without communication.
            Rows of inactive readers are filled too, although those units ignore what they would have received.
        schema: ``[T, B, N]`` integers, which of several cells each unit would update its state by, inactive units
            included (SCOFF); None where every unit has its own cell.
    """

    active: Tensor
    input_attention: Tensor | None = None
    communication_attention: Tensor | None = None
    schema: Tensor | None = None

    @classmethod
    def of_one_unit(cls, x: Tensor) -> CoreTrace:
        """One unit that is always active, for input ``[T, B, ...]``."""
        return cls(torch.ones(*x.shape[:2], 1, dtype=torch.bool, device=x.device))


class RecurrentCore(FixedOptions, ABC):
    """A recurrent network over ``[T, B, I]`` that can stand wherever `torch.nn.LSTM` stands.

    A new core subclasses this, or `rimrl.cores.stepwise.StepwiseCore` if it is written as one step after the other,
    and adds one entry to `rimrl.cores.registry`.

    Args:
        input_size: Width I of one input element.
        hidden_size: Width of the flat state, for all units together.
        num_layers: Leading axis of the state.
        num_units: How many units the trace reports on.
        num_inputs: Input elements M per step. With 1 the core takes flat input ``[T, B, I]``; with more it takes
            ``[T, B, M, I]``.

    Attributes:
        output_size: Width of the output; ``hidden_size`` for every core here but GTrXL, whose state is wider.
        units_per_layer: How many units of the trace belong to each layer that selects its own, one layer after the
            other; ``(num_units,)`` for all cores but BRIMs.
    """

    fixed = frozenset({"input_size", "hidden_size", "num_layers", "num_units", "num_inputs"})

    supports_sets: ClassVar[bool] = False
    """Whether the core reads a set of input elements, ``[T, B, M, I]``."""

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int = 1, num_units: int = 1, num_inputs: int = 1
    ) -> None:
        super().__init__()
        require_positive(
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_units=num_units,
            num_inputs=num_inputs,
        )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = hidden_size
        self.num_layers = num_layers
        self.num_units = num_units
        self.units_per_layer: tuple[int, ...] = (num_units,)
        self.num_inputs = num_inputs
        self.initial_h: nn.Parameter | None = None
        self.initial_c: nn.Parameter | None = None

    def _learn_initial_state(self, *, cell_memory: bool) -> None:
        """Let episodes start in a learned state instead of zeros, for a core of one layer.

        Args:
            cell_memory: Whether to learn ``initial_c [hidden_size]`` too, besides ``initial_h [hidden_size]``.
        """
        self.initial_h = nn.Parameter(0.1 * torch.randn(self.hidden_size))
        if cell_memory:
            self.initial_c = nn.Parameter(0.1 * torch.randn(self.hidden_size))

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step of an episode: zeros, or what the core has learned it to be.

        Args:
            batch_size: Number of rows B.

        Returns:
            ``(h, c)``, each ``[num_layers, B, hidden_size]``, on the device and in the dtype of the parameters.
        """
        like = self._like()
        shape = (self.num_layers, batch_size, self.hidden_size)
        h, c = like.new_zeros(shape), like.new_zeros(shape)
        if self.initial_h is not None:
            h = h + self.initial_h  # a copy: a view would change under the optimiser
        if self.initial_c is not None:
            c = c + self.initial_c
        return h, c

    @overload
    def forward(
        self,
        x: Tensor,
        state: State | None = ...,
        episode_starts: Tensor | None = ...,
        return_trace: Literal[False] = ...,
    ) -> tuple[Tensor, State]: ...

    @overload
    def forward(
        self, x: Tensor, state: State | None = ..., episode_starts: Tensor | None = ..., *, return_trace: Literal[True]
    ) -> tuple[Tensor, State, CoreTrace]: ...

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        episode_starts: Tensor | None = None,
        return_trace: bool = False,
    ) -> tuple[Tensor, State] | tuple[Tensor, State, CoreTrace]:
        """Run over a whole sequence, starting afresh wherever an episode starts.

        Args:
            x: Input, ``[T, B, I]``, or ``[T, B, M, I]`` for a core built with ``num_inputs=M``.
            state: State before the first step; None stands for `initial_state`.
            episode_starts: ``[T, B]``, bool or 0/1. A true entry puts that row back to the initial state *before*
                that step, so that one call with resets equals a separate call on each episode.
            return_trace: Also return what each unit did.

        Returns:
            Output ``[T, B, output_size]``, the state after the last step and, on request, a `CoreTrace`.

        Raises:
            UsageError: Before anything runs, if a shape, dtype or device does not fit or the input has no time steps
                or no rows; input and state are to have the dtype of the parameters, but under autocast any that
                autocast converts. Also if `rimrl.cores.backends.use_backend` asks for a backend that the core does not
                have. Afterwards, if the output is NaN or infinite: names the input, the state or the
                parameter that was so already, or else overflow. On a GPU a single step is not checked for that.
        """
        name, like = type(self).__name__, self._like()
        require_tensor(name, "input", x)
        self._check_input(x)
        require_like(name, "input", x, like)
        T, B = x.shape[:2]
        given = state
        if state is None:
            state = self.initial_state(B)
        else:
            self._check_state(state, B)
            for label, tensor in zip("hc", state, strict=True):
                require_like(name, f"state {label}", tensor, like)
            state = (state[0].to(like.dtype), state[1].to(like.dtype))
        if episode_starts is not None:
            episode_starts = as_flags(name, episode_starts, (T, B), like)
        backend = self._chosen(like)
        if backend is None:
            y, state, trace = self._scan(x, state, episode_starts, return_trace)
        else:
            y, state, trace = backend.run(self, x, state, episode_starts, return_trace)
        require_finite_output(name, y, x, given or (), self.named_parameters())
        if return_trace:
            assert trace is not None
            return y, state, trace
        return y, state

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run a single step: `forward` for T = 1.

        Args:
            x: Input, ``[B, I]`` or ``[B, M, I]``.
            state: State before the step; None stands for `initial_state`.

        Returns:
            Output ``[B, output_size]`` and the state after the step.
        """
        y, state = self(x.unsqueeze(0), state)
        return y[0], state

    @property
    def backend(self) -> str:
        """What runs the core now: ``"step"``, ``"torch"`` or ``"native"`` (`rimrl.cores.backends`).

        Raises:
            UsageError: If `rimrl.cores.backends.use_backend` asks for one that cannot.
        """
        backend = self._chosen(self._like())
        return STEP if backend is None else backend.name

    @property
    def backends(self) -> dict[str, str | None]:
        """The backends that the core has, the fastest first, each with why it cannot run now; None: it can."""
        return backends_of(self)

    def _chosen(self, like: Tensor) -> Backend | None:
        return chosen(self, like)

    def _like(self) -> Tensor:
        """One of the parameters, for its device and dtype: the first, without the generators of `parameters`."""
        modules: list[nn.Module] = [self]
        while True:
            module = modules.pop(0)
            for parameter in module._parameters.values():
                if parameter is not None:
                    return parameter
            modules[:0] = [child for child in module._modules.values() if child is not None]

    @abstractmethod
    def _scan(
        self, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        """`forward` on input that was checked; the trace may be None only if none was asked for."""

    def reset(self, state: State, rows: Tensor) -> State:
        """Put some rows back to the initial state.

        Args:
            state: ``(h, c)``, each ``[num_layers, B, hidden_size]``.
            rows: ``[B]`` bool, true where an episode starts.

        Returns:
            The state with those rows replaced; gradients of the other rows flow on.
        """
        h0, c0 = self.initial_state(rows.shape[0])  # len() would fix the number of rows in a graph
        mask = rows[None, :, None]
        return torch.where(mask, h0, state[0]), torch.where(mask, c0, state[1])

    def _check_input(self, x: Tensor) -> None:
        name = type(self).__name__
        if self.num_inputs == 1 and x.dim() == 3:
            expected, fits = f"[T, B, {self.input_size}]", x.shape[2] == self.input_size
        else:
            expected = f"[T, B, {self.num_inputs}, {self.input_size}]" if self.supports_sets else "[T, B, I]"
            fits = self.supports_sets and x.dim() == 4 and tuple(x.shape[2:]) == (self.num_inputs, self.input_size)
        if not fits:
            raise mismatch(f"the input of {name}", expected, list(x.shape))
        if x.shape[0] == 0 or x.shape[1] == 0:
            raise mismatch(f"the input of {name}", "of at least one time step and one batch row", list(x.shape))

    def _check_state(self, state: State, batch_size: int) -> None:
        expected = (self.num_layers, batch_size, self.hidden_size)
        pair: object = state
        name = type(self).__name__
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(s, Tensor) for s in pair):
            raise mismatch(f"the state of {name}", "(h, c), two tensors", type(state).__name__)
        for label, tensor in zip("hc", state, strict=True):
            if tuple(tensor.shape) != expected:
                raise mismatch(
                    f"state {label} of {name}", f"[num_layers, B, hidden_size] = {list(expected)}", list(tensor.shape)
                )


def require_positive(**values: object) -> None:
    """Refuse sizes below 1, naming the argument.

    Raises:
        UsageError: If a value is not a positive integer.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise invalid_value(name, "a positive integer", value)
        if int(value) > _LARGEST_SIZE:
            raise invalid_value(name, f"at most {_LARGEST_SIZE}", value)
