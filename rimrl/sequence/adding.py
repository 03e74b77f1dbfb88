"""Adding: the sum of the marked ones of a stream of numbers (RIM paper, App. D.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch as th
from torch import Tensor, nn

from rimrl.errors import wrong
from rimrl.sequence.base import (
    Batch,
    MetricName,
    Scores,
    StepAnnotations,
    Task,
    TaskSplit,
    draw_length,
    evaluation_stream,
    number_in,
    training_stream,
)
from rimrl.sequence.checks import require_length, require_lengths
from rimrl.sequence.model import SequenceModel

_LONGEST = 100_000
_CLOSE = 0.04  # the tolerance of Hochreiter & Schmidhuber (1997)


class Adding(Task):
    """Give the sum of the marked numbers after sequences that are longer in some tests than in training.

    Every step shows a number, drawn evenly from 0 to 1, and an indicator, which is 1 at ``num_marked`` steps that are
    drawn evenly without replacement and 0 elsewhere. The answer after the last step is the sum of the marked numbers.
    Loss and score are its squared error.

    Args:
        length: Steps in training, the most where they vary. Default 50.
        test_lengths: Steps of a split each. Default 50 and 200; the paper also trains at 500 and tests at 1000.
        num_marked: How many numbers are added. Default 2.
        min_length: Fewest steps in training: every update draws a length evenly from this one to `length`. Default
            None: always `length`, as in the paper.

    Raises:
        UsageError: For lengths that make no sense.
    """

    name: ClassVar[str] = "adding"
    metric: ClassVar[MetricName] = "mse"
    other_splits: ClassVar[str] = "N_steps"

    def __init__(
        self,
        length: int = 50,
        test_lengths: Sequence[int] = (50, 200),
        num_marked: int = 2,
        min_length: int | None = None,
    ) -> None:
        require_length("num_marked", num_marked, 1, 1000)
        require_length("length", length, 1, _LONGEST)
        if min_length is not None:
            require_length("min_length", min_length, 1, length)
        require_lengths("test_lengths", test_lengths, 1, _LONGEST)
        self.length = length
        self.num_marked = num_marked
        self.min_length = length if min_length is None else min_length
        self._require_room(self.min_length)
        self.splits = tuple(self._split(steps) for steps in test_lengths)

    def _split(self, steps: int) -> TaskSplit:
        self._require_room(steps)
        return TaskSplit(
            f"{steps}_steps",
            not self.min_length <= steps <= self.length,
            f"the sum of {self.num_marked} of {steps} numbers",
            {"length": steps, "num_marked": self.num_marked},
            self.num_marked / 12,  # the variance of the sum: its mean is the best guess
        )

    def _require_room(self, steps: int) -> None:
        if steps < self.num_marked:
            raise wrong("num_marked", f"{self.num_marked} does not fit a sequence of {steps} steps")

    def other_split(self, name: str) -> TaskSplit | None:
        steps = number_in(name, "{}_steps", "steps", 1, _LONGEST)
        return None if steps is None else self._split(steps)

    def training_batch(self, seed: int, update: int, batch_size: int) -> Batch:
        stream = training_stream(seed, update)
        return self._batch(stream, batch_size, draw_length(stream, self.min_length, self.length))

    def evaluation_batch(self, split: TaskSplit, seed: int, number: int, batch_size: int) -> Batch:
        return self._batch(evaluation_stream(seed, number), batch_size, split.settings["length"])

    def _batch(self, stream: np.random.Generator, batch_size: int, length: int) -> Batch:
        """Inputs ``[length, B, 2]``: number, indicator; targets ``[1, B]``."""
        numbers = stream.random((length, batch_size), dtype=np.float32)
        order = stream.random((length, batch_size)).argpartition(self.num_marked - 1, axis=0)
        marks = np.zeros_like(numbers)
        np.put_along_axis(marks, order[: self.num_marked], 1.0, axis=0)
        sums = (numbers * marks).sum(axis=0, keepdims=True)
        return Batch(th.from_numpy(np.stack([numbers, marks], axis=-1)), th.from_numpy(sums))

    def make_encoder(self, embedding_size: int | None) -> tuple[nn.Module, int]:
        if embedding_size is None:
            return nn.Identity(), 2
        return nn.Linear(2, embedding_size), embedding_size

    def make_decoder(self, hidden_size: int) -> nn.Module:
        return nn.Linear(hidden_size, 1)

    def loss(self, model: SequenceModel, batch: Batch) -> Tensor:
        return self._squared_errors(model(batch.inputs)[0], model, batch).mean()

    def scores(self, model: SequenceModel, batch: Batch) -> Scores:
        errors = self._squared_errors(model(batch.inputs)[0], model, batch)
        return Scores(errors, {"within_0.04": (errors < _CLOSE**2).float()})

    def _squared_errors(self, hidden: Tensor, model: SequenceModel, batch: Batch) -> Tensor:
        return (model.decode(hidden[-1]).squeeze(-1) - batch.targets[0]) ** 2

    def annotate_steps(self, batch: Batch, hidden: Tensor, model: SequenceModel) -> StepAnnotations:
        close = self._squared_errors(hidden, model, batch) < _CLOSE**2
        outcomes = th.zeros(batch.inputs.shape[:2])
        outcomes[-1] = th.where(close, 1.0, -1.0)
        marked = batch.inputs[..., 1].long()
        return StepAnnotations(("Number shown", "Answer within 0.04"), ("to ignore", "to add"), marked, outcomes, close)
