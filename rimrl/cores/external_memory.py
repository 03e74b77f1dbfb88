"""What cores with a memory outside their controller share: the controller, how it addresses by content, their state.

Further letters: W width of a slot, R read heads, C width of the controller, F width of the output (``hidden_size``).
N counts slots.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from rimrl.cores.base import State, require_positive
from rimrl.cores.stepwise import StepTrace, StepwiseCore

Shape: TypeAlias = tuple[int, ...]

_EPSILON = 1e-6


class Access(NamedTuple):
    """The memory after a step.

    Attributes:
        memory: ``[B, N, W]``.
        reads: What each head has read, ``[B, R, W]``.
        weightings: The write weighting first, ``[B, ..., N]``, then whatever else the core keeps.
    """

    memory: Tensor
    reads: Tensor
    weightings: list[Tensor]


class ExternalMemory(StepwiseCore):
    """An LSTM that reads and writes a memory of N slots; a subclass says how, in `_layout` and `_access`.

    One step:

        hidden_t, cell_t  = LSTM([x_t ; reads_{t-1} ; hidden_{t-1}], cell_{t-1})
        memory_t, reads_t = access(Wi hidden_t + bi, memory_{t-1})
        y_t               = Wy [hidden_t ; reads_t] + by

    The state is one list of numbers, half of it in h and half in c, with as many rows of width F (``num_layers``) as it
    takes and zeros where they end: hidden_t ``[C]``, reads_t ``[R, W]``, memory_t ``[N, W]``, cell_t ``[C]``, then the
    weightings in the subclass's order.

    Args:
        input_size: Width I of the input.
        hidden_size: Width F of the output. Default 256.
        num_slots: Slots N. Default 16.
        slot_size: Width W of a slot. Default 16.
        num_reads: Read heads R. Default 4.
        controller_size: Width C of the LSTM. Default F.

    Raises:
        UsageError: If a size is not positive.
    """

    absent = frozenset({"num_active"})
    fixed = StepwiseCore.fixed | {"num_slots", "slot_size", "num_reads", "controller_size"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 256,
        num_slots: int = 16,
        slot_size: int = 16,
        num_reads: int = 4,
        controller_size: int | None = None,
    ) -> None:
        controller_size = hidden_size if controller_size is None else controller_size
        require_positive(
            hidden_size=hidden_size,
            num_slots=num_slots,
            slot_size=slot_size,
            num_reads=num_reads,
            controller_size=controller_size,
        )
        interface_size, weightings = self._layout(num_slots, slot_size, num_reads)
        shapes = ((controller_size,), (num_reads, slot_size), (num_slots, slot_size), (controller_size,), *weightings)
        half = math.ceil(sum(map(math.prod, shapes)) / 2)
        super().__init__(input_size, hidden_size, num_layers=math.ceil(half / hidden_size), num_units=num_slots)
        self.num_slots = num_slots
        self.slot_size = slot_size
        self.num_reads = num_reads
        self.controller_size = controller_size
        self._shapes, self._half = shapes, half

        seen = controller_size + num_reads * slot_size
        self.controller_input = nn.Linear(input_size, 4 * controller_size)
        self.controller_hidden = nn.Linear(seen, 4 * controller_size, bias=False)
        self.controller_input.bias.data[controller_size : 2 * controller_size] = 1.0
        self.interface = nn.Linear(controller_size, interface_size)
        self.output = nn.Linear(seen, hidden_size)

    @staticmethod
    @abstractmethod
    def _layout(N: int, W: int, R: int) -> tuple[int, tuple[Shape, ...]]:
        """Width of what the controller tells the memory, and the shapes of the weightings for one row of the batch."""

    @abstractmethod
    def _access(self, interface: Tensor, memory: Tensor, weightings: list[Tensor]) -> Access:
        """Write to the memory ``[B, N, W]`` and read it, as the controller says in ``interface [B, ...]``."""

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.controller_input(x),)

    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        (input_gates,) = inputs
        hidden, reads, memory, cell, *weightings = self._unpack(state)

        gates = input_gates + self.controller_hidden(torch.cat([hidden, reads.flatten(1)], dim=1))
        i, f, g, o = gates.to(cell.dtype).chunk(4, dim=1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        interface = self.interface(hidden).to(cell.dtype)
        memory, reads, weightings = self._access(interface, memory, weightings)

        trace = None
        if return_trace:
            written = weightings[0].reshape(-1, self.num_slots, 1)
            active = torch.ones(written.shape[:2], dtype=torch.bool, device=written.device)
            trace = StepTrace(active, torch.cat([1 - written, written], dim=2))
        return self._pack([hidden, reads, memory, cell, *weightings]), trace

    def _output(self, state: State) -> Tensor:
        hidden, reads, *_ = self._unpack(state)
        y: Tensor = self.output(torch.cat([hidden, reads.flatten(1)], dim=1))
        return y.to(hidden.dtype)

    def _unpack(self, state: State) -> list[Tensor]:
        """Everything in the state, each ``[B, *shape]``."""
        h, c = (rows.transpose(0, 1).flatten(1) for rows in state)
        sizes = [math.prod(shape) for shape in self._shapes]
        parts = torch.split(torch.cat([h[:, : self._half], c[:, : sum(sizes) - self._half]], dim=1), sizes, dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _pack(self, parts: list[Tensor]) -> State:
        """The state that `_unpack` unpacks."""
        flat = torch.cat([part.flatten(1).to(self._like().dtype) for part in parts], dim=1)
        return self._rows(flat[:, : self._half]), self._rows(flat[:, self._half :])

    def _rows(self, flat: Tensor) -> Tensor:
        padded = nn.functional.pad(flat, (0, self.num_layers * self.hidden_size - flat.shape[1]))
        return padded.reshape(-1, self.num_layers, self.hidden_size).transpose(0, 1)


def content_weighting(keys: Tensor, strengths: Tensor, memory: Tensor) -> Tensor:
    """How much each slot resembles a key: softmax over slots of the strength times the cosine of key and slot.

    A small constant under the roots stands for the norm of a slot that is empty.

    Args:
        keys: ``[B, H, W]``.
        strengths: ``[B, H, 1]``.
        memory: ``[B, N, W]``.

    Returns:
        ``[B, H, N]``.
    """
    norms = _norm(keys) * _norm(memory).transpose(1, 2)
    return (strengths * (keys @ memory.transpose(1, 2)) / norms).softmax(dim=2)


def _norm(x: Tensor) -> Tensor:
    return torch.sqrt(x.square().sum(dim=2, keepdim=True) + _EPSILON)


def erase_and_add(memory: Tensor, weighting: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """The memory ``[B, N, W]`` after writing with ``weighting [B, N]``, ``erase [B, W]`` and ``add [B, W]``."""
    weighting = weighting.unsqueeze(2)
    return memory * (1 - weighting * erase.unsqueeze(1)) + weighting * add.unsqueeze(1)
