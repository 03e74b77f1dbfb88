"""Sequential MNIST: digits read pixel by pixel, at resolutions that training has not seen (RIM paper, App. D.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rimrl.errors import invalid_value
from rimrl.sequence.base import Batch, MetricName, Scores, StepAnnotations, Task, TaskSplit, number_in
from rimrl.sequence.checks import require_length, require_lengths
from rimrl.sequence.mnist_files import Part, read_digits
from rimrl.sequence.model import SequenceModel, symbol_encoder

FULL = 28
_THRESHOLD = 127
_CLASSES = 10
_SHUFFLES = 2  # a stream of its own, beside those of `rimrl.sequence.base`


class SequentialMNIST(Task):
    """Name the digit that a scan of its black and white pixels showed, also at higher resolutions than in training.

    Images are scaled down to ``resolution x resolution`` pixels, each of which takes the value of the original pixel
    below its centre (nearest neighbour), and then made black and white: 1 above 127 of 255. They are read line by line.
    Training goes through the 60 000 digits of the training set in a new order each epoch; tests are the 10 000 others.

    Args:
        resolution: In training. Default 14.
        test_resolutions: Of a split each. Default 14, 16, 19 and 24.
        data: Folder with the four files. Default: what the environment variable ``RIMRL_MNIST`` says, else a cache that
            they are downloaded to.

    Raises:
        UsageError: For resolutions that make no sense; if a file is missing or corrupt.
        RunFailedError: If a download fails.

    Notes:
        A pixel that is 0 looks to a RIM like its null element, which is zero. ``model.embedding_size`` gives each of
        the two pixel values a vector of its own first; null leaves that out, as the authors' released code did.
    """

    name: ClassVar[str] = "mnist"
    metric: ClassVar[MetricName] = "accuracy"
    other_splits: ClassVar[str] = "NxN"

    def __init__(
        self, resolution: int = 14, test_resolutions: Sequence[int] = (14, 16, 19, 24), data: str | None = None
    ) -> None:
        require_length("resolution", resolution, 4, FULL)
        require_lengths("test_resolutions", test_resolutions, 4, FULL)
        self.resolution = resolution
        self._data = data
        self._prepared: dict[tuple[Part, int], tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
        self._order: tuple[tuple[int, int], NDArray[np.int64]] | None = None
        # The largest class is the best guess; counting it also finds missing data before anything is trained.
        labels = self._digits("test", resolution)[1]
        self._chance = float(np.bincount(labels, minlength=_CLASSES).max() / len(labels))
        self._digits("train", resolution)
        self.splits = tuple(self._split(pixels) for pixels in test_resolutions)

    def _split(self, pixels: int) -> TaskSplit:
        return TaskSplit(
            f"{pixels}x{pixels}",
            pixels != self.resolution,
            f"test digits of {pixels} x {pixels} pixels",
            {"resolution": pixels},
            self._chance,
        )

    def other_split(self, name: str) -> TaskSplit | None:
        pixels = number_in(name, "{0}x{0}", "resolution", 4, FULL)
        return None if pixels is None else self._split(pixels)

    def num_sequences(self, split: TaskSplit) -> int | None:
        return len(self._digits("test", split.settings["resolution"])[1])

    def check_batch_size(self, batch_size: int) -> None:
        available = len(self._digits("train", self.resolution)[1])
        if batch_size > available:
            raise invalid_value("train.batch_size", f"at most {available}, the digits of the training set", batch_size)

    def training_batch(self, seed: int, update: int, batch_size: int) -> Batch:
        self.check_batch_size(batch_size)
        pixels, labels = self._digits("train", self.resolution)
        per_epoch = len(labels) // batch_size
        epoch, place = divmod(update, per_epoch)
        if self._order is None or self._order[0] != (seed, epoch):
            stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SHUFFLES, epoch)))
            self._order = (seed, epoch), stream.permutation(len(labels))
        rows = self._order[1][place * batch_size : (place + 1) * batch_size]
        return _batch(pixels[rows], labels[rows])

    def evaluation_batch(self, split: TaskSplit, seed: int, number: int, batch_size: int) -> Batch:
        pixels, labels = self._digits("test", split.settings["resolution"])
        stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SHUFFLES,)))
        rows = stream.permutation(len(labels))[number * batch_size : (number + 1) * batch_size]
        return _batch(pixels[rows], labels[rows])

    def _digits(self, part: Part, resolution: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Pixels ``[n, resolution ** 2]``, 0 or 1, and labels ``[n]``."""
        key = part, resolution
        if key not in self._prepared:
            digits = read_digits(part, self._data)
            self._prepared[key] = binarised(digits.images, resolution).reshape(len(digits.images), -1), digits.labels
        return self._prepared[key]

    def make_encoder(self, embedding_size: int | None) -> tuple[nn.Module, int]:
        if embedding_size is None:
            return _AsNumber(), 1
        return symbol_encoder(2, embedding_size)

    def make_decoder(self, hidden_size: int) -> nn.Module:
        return nn.Linear(hidden_size, _CLASSES)

    def loss(self, model: SequenceModel, batch: Batch) -> Tensor:
        hidden, _ = model(batch.inputs)
        return cross_entropy(model.decode(hidden[-1]), batch.targets[0])

    def scores(self, model: SequenceModel, batch: Batch) -> Scores:
        answers = model.decode(model(batch.inputs)[0][-1])
        right = answers.argmax(-1) == batch.targets[0]
        return Scores(right.float(), {"nats": cross_entropy(answers, batch.targets[0], reduction="none")})

    def annotate_steps(self, batch: Batch, hidden: Tensor, model: SequenceModel) -> StepAnnotations:
        right = model.decode(hidden[-1]).argmax(-1) == batch.targets[0]
        outcomes = th.zeros(batch.inputs.shape)
        outcomes[-1] = th.where(right, 1.0, -1.0)
        return StepAnnotations(("Pixel shown", "Digit named"), ("black", "white"), batch.inputs, outcomes, right)


class _AsNumber(nn.Module):
    """A pixel as the number 0 or 1."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.unsqueeze(-1).to(th.get_default_dtype())


def binarised(images: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """Scale square images by nearest neighbour, then make them black and white.

    Args:
        images: ``[n, size, size]``, 0 to 255.
        resolution: Pixels along each side of the result.

    Returns:
        ``[n, resolution, resolution]``, 0 or 1: the original pixel below each new pixel's centre, 1 if above 127.
    """
    size = images.shape[-1]
    nearest = (2 * np.arange(resolution) + 1) * size // (2 * resolution)
    return (images[:, nearest[:, None], nearest[None, :]] > _THRESHOLD).astype(np.uint8)


def _batch(pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Batch:
    """Inputs ``[resolution ** 2, B]``, targets ``[1, B]``."""
    return Batch(th.from_numpy(pixels.T.astype(np.int64)), th.from_numpy(labels[None].astype(np.int64)))
