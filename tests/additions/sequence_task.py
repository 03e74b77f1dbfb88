"""Whether a string of bits has an odd number of ones."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch as th
from torch import Tensor, nn

from rimrl.sequence.base import (
    Batch,
    MetricName,
    Scores,
    StepAnnotations,
    Task,
    TaskSplit,
    evaluation_stream,
    training_stream,
)
from rimrl.sequence.model import SequenceModel


class Parity(Task):
    """Say after the last bit whether the number of ones is odd.

    Args:
        length: Bits in a string. Default 8.
    """

    name: ClassVar[str] = "parity"
    metric: ClassVar[MetricName] = "accuracy"

    def __init__(self, length: int = 8) -> None:
        self.length = length
        self.splits = (TaskSplit("trained", False, f"{length} bits", {"length": length}, 0.5),)

    def training_batch(self, seed: int, update: int, batch_size: int) -> Batch:
        return self._batch(training_stream(seed, update), batch_size)

    def evaluation_batch(self, split: TaskSplit, seed: int, number: int, batch_size: int) -> Batch:
        return self._batch(evaluation_stream(seed, number), batch_size)

    def _batch(self, stream: np.random.Generator, batch_size: int) -> Batch:
        bits = th.from_numpy(stream.integers(2, size=(self.length, batch_size, 1)))
        return Batch(bits.float(), bits.sum(dim=0).remainder(2).permute(1, 0))

    def make_encoder(self, embedding_size: int | None) -> tuple[nn.Module, int]:
        return (nn.Identity(), 1) if embedding_size is None else (nn.Linear(1, embedding_size), embedding_size)

    def make_decoder(self, hidden_size: int) -> nn.Module:
        return nn.Linear(hidden_size, 2)

    def loss(self, model: SequenceModel, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model.decode(model(batch.inputs)[0][-1]), batch.targets[0])

    def scores(self, model: SequenceModel, batch: Batch) -> Scores:
        return Scores(self._right(model(batch.inputs)[0], model, batch).float())

    def _right(self, hidden: Tensor, model: SequenceModel, batch: Batch) -> Tensor:
        return model.decode(hidden[-1]).argmax(dim=-1) == batch.targets[0]

    def annotate_steps(self, batch: Batch, hidden: Tensor, model: SequenceModel) -> StepAnnotations:
        right = self._right(hidden, model, batch)
        outcomes = th.zeros(batch.inputs.shape[:2])
        outcomes[-1] = th.where(right, 1.0, -1.0)
        return StepAnnotations(("Bit", "Right answer"), ("0", "1"), batch.inputs[..., 0].long(), outcomes, right)
