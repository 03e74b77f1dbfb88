"""Text: predict the next character or word of a file, learned from one end of it to the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import Tensor, nn

from rimrl.cores.base import State
from rimrl.errors import invalid_value, mismatch, wrong
from rimrl.sequence.base import Batch, MetricName, Scores, StepAnnotations, Task, TaskSplit
from rimrl.sequence.checks import require_length
from rimrl.sequence.count_model import CountModel
from rimrl.sequence.model import SequenceModel, symbol_encoder, symbol_losses
from rimrl.sequence.text_files import Corpus, Level, read_corpus

_LONGEST = 1_000_000
_SHIFTS, _ORDERS = 3, 4  # streams of its own, beside those of `rimrl.sequence.base` and its other tasks
_MOST_NAMES = 200


class Text(Task):
    """Predict the next symbol of a text.

    Training reads the text as `batch_size` streams side by side, `length` symbols an update. The state goes on from
    update to update; gradients do not (truncated backpropagation through time). Each epoch cuts the text at another
    place. Tests read stretches of `test_length` symbols, each from the core's initial state: of the training text, and
    of text that is not trained on.

    Args:
        data: Text file in UTF-8. Default: what the environment variable ``RIMRL_TEXT`` names.
        test_data: A second file to test on. Default None: the end of the first one, which is then not trained on.
        test_share: Share of the first file that is held out, between 0 and 1. Default 0.1.
        level: ``"character"`` (default) or ``"word"``: what stands between white space, and the end of each line.
        vocabulary_size: Symbols that are told apart, the most frequent of the training text; others are one unknown
            symbol. Default None: all.
        length: Symbols of each stream that an update reads. Default 100.
        test_length: Symbols that are predicted in each stretch of a test. Default 1000.
        count_order: Tests also report a model that counts which symbol follows which `count_order` others
            (`rimrl.sequence.count_model`). Default 3; None for none, as for texts that do not fit into memory twice.

    Raises:
        UsageError: If a file is missing, empty, too short or no text, or sizes make no sense.

    Notes:
        The metric is the mean of ``-log2 p`` per symbol, *bits per character* or per word; ``perplexity`` in
        ``evaluation.json`` is 2 to that power. A guess knows the frequencies of the training text's symbols.
    """

    name: ClassVar[str] = "text"
    metric: ClassVar[MetricName] = "bits_per_symbol"

    def __init__(
        self,
        data: str | None = None,
        test_data: str | None = None,
        test_share: float = 0.1,
        level: Level = "character",
        vocabulary_size: int | None = None,
        length: int = 100,
        test_length: int = 1000,
        count_order: int | None = 3,
    ) -> None:
        require_length("length", length, 1, _LONGEST)
        require_length("test_length", test_length, 1, _LONGEST)
        if level not in get_args(Level):
            raise invalid_value("level", " or ".join(map(repr, get_args(Level))), level)
        if not 0 < test_share < 1:
            raise invalid_value("test_share", "between 0 and 1", test_share)
        self.corpus = read_corpus(data, test_data, test_share, level, vocabulary_size)
        self.length = length
        self.test_length = test_length
        self._level = level
        self._count_order = count_order
        self._counts: CountModel | None = None
        if count_order is not None:
            require_length("count_order", count_order, 0, 8)
            if len(self.corpus.vocabulary) ** (count_order + 1) >= 2**63:
                raise wrong("count_order", f"{count_order} is too much for {len(self.corpus.vocabulary)} symbols")
        for part in ("train", "test"):
            if len(self._part(part)) <= test_length:
                raise wrong(
                    f"the {part} text", f"of {len(self._part(part))} symbols is too short for test_length {test_length}"
                )
        self.splits = (self._split("train"), self._split("test"))

    def _part(self, name: str) -> NDArray[np.int32]:
        return self.corpus.train if name == "train" else self.corpus.test

    def _split(self, part: str) -> TaskSplit:
        """A part of the text; a guess follows the frequencies of the training text, each symbol counted once more."""
        counts = np.bincount(self.corpus.train, minlength=len(self.corpus.vocabulary)) + 1
        surprise = -np.log2(counts / counts.sum())
        text = self._part(part)
        return TaskSplit(
            part,
            part != "train",
            "text that is trained on" if part == "train" else "text that is not trained on",
            {"level": self._level, "length": self.test_length, "text": len(text)},
            float(surprise[text].mean()),
        )

    def num_sequences(self, split: TaskSplit) -> int | None:
        return (len(self._part(split.name)) - 1) // self.test_length

    def check_batch_size(self, batch_size: int) -> None:
        needed = batch_size * self.length + 1
        if needed > len(self.corpus.train):
            raise wrong(
                "train.batch_size",
                f"{batch_size} streams of {self.length} need {needed} symbols of {len(self.corpus.train)}",
            )

    def _place(self, update: int, batch_size: int) -> tuple[int, int]:
        """Epoch of an update, and where in it."""
        return divmod(update, (len(self.corpus.train) - 1) // (batch_size * self.length))

    def continues(self, update: int, batch_size: int) -> bool:
        return self._place(update, batch_size)[1] > 0

    def training_batch(self, seed: int, update: int, batch_size: int) -> Batch:
        self.check_batch_size(batch_size)
        epoch, place = self._place(update, batch_size)
        text = self.corpus.train
        stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SHIFTS, epoch)))
        starts = np.arange(batch_size) * ((len(text) - 1) // batch_size) + int(stream.integers(len(text)))
        steps = place * self.length + np.arange(self.length + 1)
        return _batch(text[(starts + steps[:, None]) % len(text)])

    def evaluation_batch(self, split: TaskSplit, seed: int, number: int, batch_size: int) -> Batch:
        text = self._part(split.name)
        stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_ORDERS,)))
        order = stream.permutation((len(text) - 1) // self.test_length)
        starts = order[number * batch_size : (number + 1) * batch_size] * self.test_length
        return _batch(text[starts + np.arange(self.test_length + 1)[:, None]])

    def make_encoder(self, embedding_size: int | None) -> tuple[nn.Module, int]:
        inner, width = symbol_encoder(len(self.corpus.vocabulary), embedding_size)
        return _TextEncoder(inner, self.corpus), width

    def make_decoder(self, hidden_size: int) -> nn.Module:
        return nn.Linear(hidden_size, len(self.corpus.vocabulary))

    def loss(self, model: SequenceModel, batch: Batch) -> Tensor:
        return self.loss_from(model, batch, None)[0]

    def loss_from(self, model: SequenceModel, batch: Batch, state: State | None) -> tuple[Tensor, State | None]:
        hidden, state = model(batch.inputs, state)
        return symbol_losses(model.decode(hidden), batch.targets).mean(), state

    def scores(self, model: SequenceModel, batch: Batch) -> Scores:
        answers = model.decode(model(batch.inputs)[0])
        bits = symbol_losses(answers, batch.targets).mean(0) / np.log(2)
        others = {"symbols_right": (answers.argmax(-1) == batch.targets).float().mean(0)}
        if self._count_order is not None:
            if self._counts is None:
                self._counts = CountModel(self.corpus.train, len(self.corpus.vocabulary), self._count_order)
            text = th.cat([batch.inputs, batch.targets[-1:]]).cpu().numpy()
            others["count_model_bits"] = th.from_numpy(self._counts.bits(text).mean(0))
        return Scores(bits, others)

    def derived(self, metric: float) -> Mapping[str, float]:
        return {"perplexity": 2.0**metric}

    def annotate_steps(self, batch: Batch, hidden: Tensor, model: SequenceModel) -> StepAnnotations:
        right = model.decode(hidden).argmax(-1) == batch.targets
        names = tuple(repr(symbol)[1:-1] for symbol in self.corpus.vocabulary)
        shown = names if len(names) <= _MOST_NAMES else None
        outcomes = th.where(right, 1.0, -1.0)
        return StepAnnotations(("Symbol shown", "Next symbol predicted"), shown, batch.inputs, outcomes, None)


class _TextEncoder(nn.Module):
    """Encodes symbols, and knows of which text they are: weights that were trained on another text are refused."""

    text: Tensor

    def __init__(self, inner: nn.Module, corpus: Corpus) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("text", th.tensor(list(corpus.sha256), dtype=th.uint8))

    def forward(self, symbols: Tensor) -> Tensor:
        """``[T, B]`` to ``[T, B, I]``."""
        encoded: Tensor = self.inner(symbols)
        return encoded

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(f"{prefix}text")
        if stored is not None and not th.equal(stored.cpu(), self.text.cpu()):
            raise mismatch("task.data", "the text that the model was trained on", "another text", "restore that file")
        super()._load_from_state_dict(state_dict, prefix, *args)


def _batch(text: NDArray[np.int32]) -> Batch:
    """Inputs and targets ``[L - 1, B]`` of a text ``[L, B]``."""
    symbols = th.from_numpy(text.astype(np.int64))
    return Batch(symbols[:-1], symbols[1:])
