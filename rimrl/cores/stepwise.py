"""A core written as one time step after the other, as the papers write theirs."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from rimrl.cores.base import CoreTrace, RecurrentCore, State
from rimrl.cores.tracing import is_traced


class StepTrace(NamedTuple):
    """One time step of a `CoreTrace`: the same tensors without their T axis."""

    active: Tensor
    input_attention: Tensor | None = None
    communication_attention: Tensor | None = None
    schema: Tensor | None = None


class StepwiseCore(RecurrentCore):
    """Runs `_step` over time; a subclass puts whatever does not depend on the state into `_encode`."""

    @abstractmethod
    def _step(self, inputs: tuple[Tensor, ...], state: State, return_trace: bool) -> tuple[State, StepTrace | None]:
        """One time step on what `_encode` made of the input."""

    def _encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Everything that depends on the input alone, for all T steps at once; each tensor keeps ``[T, B, ...]``."""
        return (x,)

    def _output(self, state: State) -> Tensor:
        """The output ``[B, output_size]`` of a step from the state after it: by default the last layer's ``h``."""
        return state[0][-1]

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
            outputs.append(self._output(state))
            if step_trace is not None:
                traces.append(step_trace)
        return torch.stack(outputs), state, _stack_traces(traces) if return_trace else None


def rows_to_reset(episode_starts: Tensor | None, num_steps: int) -> list[Tensor | None]:
    """Per step the rows that start an episode, ``[B]`` bool, or None where no row does.

    Args:
        episode_starts: ``[T, B]`` bool, or None.
        num_steps: Time steps T.
    """
    if episode_starts is None:
        return [None] * num_steps
    if is_traced():  # what is traced is to hold for other starts, too
        return list(episode_starts.unbind(0))
    any_start: list[bool] = episode_starts.any(dim=1).tolist()
    return [episode_starts[t] if starts else None for t, starts in enumerate(any_start)]


def _stack_traces(steps: list[StepTrace]) -> CoreTrace:
    stacked = [None if parts[0] is None else torch.stack(parts).detach() for parts in zip(*steps, strict=True)]
    active, input_attention, communication_attention, schema = stacked
    assert active is not None
    return CoreTrace(active, input_attention, communication_attention, schema)
