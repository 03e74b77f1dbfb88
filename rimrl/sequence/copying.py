"""Copying: keep ten digits through a blank stretch and give them back (RIM paper, Sec. 4.1 and App. D.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch as th
from torch import Tensor, nn

from rimrl.errors import invalid_value, needs
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
from rimrl.sequence.model import SequenceModel, symbol_encoder, symbol_losses

BLANK, MARKER = 0, 9
_SYMBOLS = 10
_LONGEST = 100_000
_PHASES = ("digits shown", "blank stretch", "marker and digits given back")


class Copying(Task):
    """Reproduce digits after a stretch of blanks that is longer in some tests than in training.

    A sequence is ``digits, blanks, marker, blanks``: the digits, ``blanks`` zeros, a 9, and as many zeros as there were
    digits, during which they are to be given back in order. Loss and score are the cross entropy of those last steps.

    Args:
        num_digits: How many digits are shown. Default 10.
        lowest_digit: Digits are drawn evenly from this one to 8. Default 1, as in the authors' released code and in the
            task's original form (Hochreiter & Schmidhuber, 1997; Arjovsky et al., 2016). The paper says 0 (App. D.1),
            which makes a digit 0 look like a blank.
        blanks: Length of the blank stretch in training, the longest one where it varies. Default 50.
        test_blanks: Lengths of a split each. Default 50 and 200.
        min_blanks: Shortest blank stretch in training: every update draws a length evenly from this one to `blanks`.
            Default None: always `blanks`, as in the paper.
        blanks_power: Makes short stretches frequent: with u drawn evenly from 0 to 1, a stretch is u to this power of
            the way from `min_blanks` to `blanks`, on average 1 / (1 + `blanks_power`) of it. Default None: every
            length is as frequent.

    Raises:
        UsageError: For lengths that make no sense.
    """

    name: ClassVar[str] = "copying"
    metric: ClassVar[MetricName] = "cross_entropy"
    other_splits: ClassVar[str] = "N_blanks"

    def __init__(
        self,
        num_digits: int = 10,
        lowest_digit: int = 1,
        blanks: int = 50,
        test_blanks: Sequence[int] = (50, 200),
        min_blanks: int | None = None,
        blanks_power: float | None = None,
    ) -> None:
        require_length("num_digits", num_digits, 1, 1000)
        require_length("blanks", blanks, 0, _LONGEST)
        if min_blanks is not None:
            require_length("min_blanks", min_blanks, 0, blanks)
        if blanks_power is not None:
            if not 0 < blanks_power < math.inf:
                raise invalid_value("blanks_power", "above 0 and finite", blanks_power)
            if min_blanks is None:
                raise needs("blanks_power", "min_blanks: without it all stretches are as long")
        require_lengths("test_blanks", test_blanks, 0, _LONGEST)
        if lowest_digit not in (0, 1):
            raise invalid_value("lowest_digit", "0 or 1", lowest_digit)
        self.num_digits = num_digits
        self.lowest_digit = lowest_digit
        self.blanks = blanks
        self.min_blanks = blanks if min_blanks is None else min_blanks
        self.blanks_power = blanks_power
        self.splits = tuple(self._split(length) for length in test_blanks)

    def _split(self, blanks: int) -> TaskSplit:
        return TaskSplit(
            f"{blanks}_blanks",
            not self.min_blanks <= blanks <= self.blanks,
            f"{self.num_digits} digits through {blanks} blanks",
            {"num_digits": self.num_digits, "lowest_digit": self.lowest_digit, "blanks": blanks},
            math.log(MARKER - self.lowest_digit),
        )

    def other_split(self, name: str) -> TaskSplit | None:
        blanks = number_in(name, "{}_blanks", "blanks", 0, _LONGEST)
        return None if blanks is None else self._split(blanks)

    def training_batch(self, seed: int, update: int, batch_size: int) -> Batch:
        stream = training_stream(seed, update)
        if self.blanks_power is None:
            blanks = draw_length(stream, self.min_blanks, self.blanks)
        else:
            further = int((self.blanks - self.min_blanks + 1) * stream.random() ** self.blanks_power)
            blanks = min(self.min_blanks + further, self.blanks)  # a tiny power rounds to 1
        return self._batch(stream, batch_size, blanks)

    def evaluation_batch(self, split: TaskSplit, seed: int, number: int, batch_size: int) -> Batch:
        return self._batch(evaluation_stream(seed, number), batch_size, split.settings["blanks"])

    def _batch(self, stream: np.random.Generator, batch_size: int, blanks: int) -> Batch:
        """Inputs ``[2 num_digits + blanks + 1, B]``, targets ``[num_digits, B]``."""
        digits = stream.integers(self.lowest_digit, MARKER, (self.num_digits, batch_size))
        inputs = np.full((2 * self.num_digits + blanks + 1, batch_size), BLANK, dtype=np.int64)
        inputs[: self.num_digits] = digits
        inputs[self.num_digits + blanks] = MARKER
        return Batch(th.from_numpy(inputs), th.from_numpy(digits))

    def make_encoder(self, embedding_size: int | None) -> tuple[nn.Module, int]:
        return symbol_encoder(_SYMBOLS, embedding_size)

    def make_decoder(self, hidden_size: int) -> nn.Module:
        return nn.Linear(hidden_size, _SYMBOLS)

    def loss(self, model: SequenceModel, batch: Batch) -> Tensor:
        return symbol_losses(self._answers(model(batch.inputs)[0], model), batch.targets).mean()

    def scores(self, model: SequenceModel, batch: Batch) -> Scores:
        answers = self._answers(model(batch.inputs)[0], model)
        right = answers.argmax(-1) == batch.targets
        losses = symbol_losses(answers, batch.targets)
        others = {"digits_right": right.float().mean(0), "cross_entropy_by_digit": losses.t()}
        return Scores(losses.mean(0), others)

    def _answers(self, hidden: Tensor, model: SequenceModel) -> Tensor:
        return model.decode(hidden[-self.num_digits :])  # [num_digits, B, symbols]

    def annotate_steps(self, batch: Batch, hidden: Tensor, model: SequenceModel) -> StepAnnotations:
        right = self._answers(hidden, model).argmax(-1) == batch.targets
        outcomes = th.zeros(batch.inputs.shape)
        outcomes[-self.num_digits :] = th.where(right, 1.0, -1.0)
        names = tuple(map(str, range(_SYMBOLS)))
        phases = th.ones(len(batch.inputs), dtype=th.long)
        phases[: self.num_digits], phases[-self.num_digits - 1 :] = 0, 2
        return StepAnnotations(
            ("Symbol shown", "Digit given back"), names, batch.inputs, outcomes, right.all(0), _PHASES, phases
        )
