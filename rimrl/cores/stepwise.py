"""A core written as one time step after the other, as the papers write theirs."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace, RecurrentCore, State
from rimrl.cores.scan.loop import rows_to_reset


class StepTrace(NamedTuple):
    """One time step of a `CoreTrace`: the same tensors without their T axis."""

    active: Tensor
    input_attention: Tensor | None = None
    communication_attention: Tensor | None = None


class StepwiseCore(RecurrentCore):
    """Runs `_step` over time; a subclass puts whatever does not depend on the state into `_encode`."""

    @abstractmethod
    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        """One time step on what `_encode` made of the input; the output of the core is the new ``h``."""

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Everything that depends on the input alone, for all T steps at once; each tensor keeps ``[T, B, ...]``."""
        return (x,)

    def _scan(
        self, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        # Indexing [t] inside the loop would make each step's backward allocate the whole sequence; unbind does not.
        inputs = zip(*(encoded.unbind(0) for encoded in self._encode(x)), strict=True)
        resets = rows_to_reset(episode_starts, len(x))
        outputs: list[Tensor] = []
        traces: list[StepTrace] = []
        for inputs_t, reset in zip(inputs, resets, strict=True):
            if reset is not None:
                state = self.reset(state, reset)
            state, step_trace = self._step(inputs_t, state, return_trace)
            outputs.append(state[0][-1])
            if step_trace is not None:
                traces.append(step_trace)
        return torch.stack(outputs), state, _stack_traces(traces) if return_trace else None


def _stack_traces(steps: list[StepTrace]) -> CoreTrace:
    stacked = [None if parts[0] is None else torch.stack(parts).detach() for parts in zip(*steps, strict=True)]
    active, input_attention, communication_attention = stacked
    assert active is not None
    return CoreTrace(active, input_attention, communication_attention)
