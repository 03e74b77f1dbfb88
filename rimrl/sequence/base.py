"""The contract of a sequence task: a sequence goes in, and a loss and a score come out.

Letters: T time steps and B rows as in `rimrl.cores.base`; sequences are ``[T, B, ...]``.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch as th
from torch import Tensor, nn

from rimrl.cores.base import State
from rimrl.errors import unknown_name
from rimrl.sequence.checks import require_length
from rimrl.sequence.model import SequenceModel
from rimrl.splits import Split, find_split

MetricName = Literal["cross_entropy", "mse", "accuracy", "bits_per_symbol"]

_TRAINING, _EVALUATION = 0, 1


class Batch(NamedTuple):
    """Sequences side by side.

    Attributes:
        inputs: ``[T, B, ...]``, whole numbers for symbols.
        targets: What the task asks for, ``[K, B, ...]``.
    """

    inputs: Tensor
    targets: Tensor

    def to(self, device: th.device) -> Batch:
        """The same on another device."""
        return Batch(self.inputs.to(device), self.targets.to(device))

    def first(self, count: int) -> Batch:
        """The first rows, or all if there are fewer."""
        return Batch(self.inputs[:, :count], self.targets[:, :count])


@dataclass(frozen=True)
class TaskSplit(Split):
    """What a model is tested on.

    Attributes:
        name: Its name in ``evaluation.json``.
        held_out: Whether it differs from what is trained on in more than its chance.
        description: One line.
        settings: What makes it this split, as plain data.
        chance: What a guess reaches on the task's metric that knows the task and not the sequence.
    """

    name: str
    held_out: bool
    description: str
    settings: Mapping[str, Any]
    chance: float | None = None


@dataclass(frozen=True)
class Scores:
    """How a model did on the rows of a batch.

    Attributes:
        metric: The task's metric, ``[B]``.
        others: Further figures by name, ``[B]`` each, or ``[B, K]`` where they are K numbers.
    """

    metric: Tensor
    others: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class StepAnnotations:
    """What happened in the steps of some sequences, for pictures.

    Attributes:
        row_titles: Title of the rows of inputs, and of the bars of outcomes.
        input_names: Name of every input that is told apart; None where inputs are no symbols.
        inputs: ``[T, B]``, index of a name.
        outcomes: ``[T, B]``: above zero where an answer was right, below where it was wrong.
        successes: ``[B]``, whether all answers were right; None where there is no right or wrong.
        phase_names: Parts of a sequence that are told apart; none for most tasks.
        phases: ``[T]``, index of a name.
    """

    row_titles: tuple[str, str]
    input_names: tuple[str, ...] | None
    inputs: Tensor
    outcomes: Tensor
    successes: Tensor | None
    phase_names: tuple[str, ...] = ()
    phases: Tensor | None = None


class Task(ABC):
    """A sequence task: where its sequences come from, what reads them, and how they are scored.

    Sequences are made on the fly. Those of update n of a training follow from its seed and n alone, so that a run which
    goes on meets the sequences that it would have met. Evaluation draws from another stream than any training.

    Attributes:
        name: As in ``rimrl sequence NAME``.
        metric: Which figure is reported.
        splits: What is tested, the split like training first.
        other_splits: How the names that `other_split` takes look; empty where it takes none.
    """

    name: ClassVar[str]
    metric: ClassVar[MetricName]
    splits: tuple[TaskSplit, ...]
    other_splits: ClassVar[str] = ""

    def split(self, name: str) -> TaskSplit:
        """The split of that name: one of `splits`, or another one that is named in the same way.

        Raises:
            UsageError: If there is none; names the nearest of `splits`.
        """
        split = find_split(self.splits, name)
        if split is not None:
            return split
        other = self.other_split(name)
        if other is None or other.name != name:
            unknown = unknown_name("split", name, [split.name for split in self.splits])
            raise unknown.within(after=f"; or any other {self.other_splits}" if self.other_splits else "")
        return other

    def other_split(self, name: str) -> TaskSplit | None:
        """What a name such as ``800_blanks`` stands for, whether or not it is in `splits`; None if for nothing.

        Raises:
            UsageError: If it stands for what makes no sense, such as more than can be tested.
        """
        return None

    def num_sequences(self, split: TaskSplit) -> int | None:
        """How many sequences a split has; None for as many as are asked for."""
        return None

    def check_batch_size(self, batch_size: int) -> None:  # noqa: B027 (most tasks take any)
        """Refuse a batch that training cannot have.

        Raises:
            UsageError: If there are not as many sequences.
        """

    @abstractmethod
    def training_batch(self, seed: int, update: int, batch_size: int) -> Batch:
        """The sequences of an update.

        Args:
            seed: Of the training.
            update: Which one, from 0.
            batch_size: Rows B.
        """

    @abstractmethod
    def evaluation_batch(self, split: TaskSplit, seed: int, number: int, batch_size: int) -> Batch:
        """Sequences of a split.

        Args:
            split: One of `splits`.
            seed: Of the evaluation.
            number: Which batch, from 0.
            batch_size: Rows B.
        """

    @abstractmethod
    def make_encoder(self, embedding_size: int | None) -> tuple[nn.Module, int]:
        """What makes the core's input of a batch's inputs.

        Args:
            embedding_size: Width of what the core reads; None for inputs as they are.

        Returns:
            The module, ``[T, B, ...]`` to ``[T, B, I]``, and the width I.

        Raises:
            UsageError: If the width does not fit.
        """

    @abstractmethod
    def make_decoder(self, hidden_size: int) -> nn.Module:
        """What makes answers of the core's output, ``[..., hidden_size]``."""

    @abstractmethod
    def loss(self, model: SequenceModel, batch: Batch) -> Tensor:
        """What training makes small: a scalar."""

    def continues(self, update: int, batch_size: int) -> bool:
        """Whether the sequences of an update go on where those of the last one ended; of most tasks they never do."""
        return False

    def loss_from(self, model: SequenceModel, batch: Batch, state: State | None) -> tuple[Tensor, State | None]:
        """The loss of an update, and the state that the next one may begin in.

        Args:
            model: What is trained.
            batch: The sequences of the update.
            state: The state after the last update where this one `continues`, without a gradient; else None.

        Returns:
            The loss, a scalar; and the state after the last step, None where no update continues another.
        """
        return self.loss(model, batch), None

    def derived(self, metric: float) -> Mapping[str, float]:
        """Other figures that follow from a split's mean metric alone, by name."""
        return {}

    @abstractmethod
    def scores(self, model: SequenceModel, batch: Batch) -> Scores:
        """How well a model does on each row."""

    @abstractmethod
    def annotate_steps(self, batch: Batch, hidden: Tensor, model: SequenceModel) -> StepAnnotations:
        """What happened step by step.

        Args:
            batch: What went in.
            hidden: The core's output, ``[T, B, hidden_size]``.
            model: Whose.
        """


def training_stream(seed: int, update: int) -> np.random.Generator:
    """The generator of an update's sequences."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_TRAINING, update)))


def evaluation_stream(seed: int, number: int) -> np.random.Generator:
    """The generator of a batch of an evaluation, which no training draws from."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_EVALUATION, number)))


def draw_length(stream: np.random.Generator, shortest: int, longest: int) -> int:
    """A length from `shortest` to `longest`, both included; nothing is drawn where there is no choice."""
    return shortest if shortest == longest else int(stream.integers(shortest, longest + 1))


def number_in(name: str, form: str, key: str, least: int, most: int) -> int | None:
    """The whole number that makes a name of a form such as ``{}_blanks``; None if none does.

    Raises:
        UsageError: If it is none from `least` to `most`, which `key` can be.
    """
    number = re.match(r"\d{1,9}", name)
    if not number or form.format(int(number[0])) != name:
        return None
    require_length(key, int(number[0]), least, most)
    return int(number[0])
