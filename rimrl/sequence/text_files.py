"""Texts as symbols: reading a file, its vocabulary, and the part that is held out."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rimrl.errors import cannot, damaged, invalid_value, needs, wrong

ENVIRONMENT = "RIMRL_TEXT"
UNKNOWN, END_OF_LINE = "<unk>", "<eos>"

Level = Literal["character", "word"]


@dataclass(frozen=True)
class Corpus:
    """A text for training and one for tests, as symbols of one vocabulary.

    Attributes:
        vocabulary: Name of each symbol. The first one stands for whatever the training text does not hold.
        train: ``[n]``, the symbols of the training text.
        test: ``[n]``, those of the other.
        sha256: Of the training text and the size of the vocabulary: what a model's symbols mean.
    """

    vocabulary: tuple[str, ...]
    train: NDArray[np.int32]
    test: NDArray[np.int32]
    sha256: bytes


def read_corpus(
    data: str | None, test_data: str | None, test_share: float, level: Level, vocabulary_size: int | None
) -> Corpus:
    """Read the texts of a task.

    Args:
        data: A text file in UTF-8; None for the one that the environment variable ``RIMRL_TEXT`` names.
        test_data: A second file, of which nothing is trained on; None to hold out the end of the first.
        test_share: Share of the first file that is held out then.
        level: What a symbol is. ``"word"``: what stands between white space, and the end of each line.
        vocabulary_size: Symbols that are told apart, the most frequent ones; None for all of the training text.

    Raises:
        UsageError: If a file is missing, empty or no text, or the vocabulary is larger than the text's.
    """
    named = data or os.environ.get(ENVIRONMENT)
    if not named:
        raise needs("task.data", "the name of a text file", advice=f"pass --data FILE or set {ENVIRONMENT}")
    text = _read_text(named, "task.data" if data else ENVIRONMENT)
    if test_data is None:
        cut = len(text) - round(test_share * len(text))
        text, held_out = text[:cut], text[cut:]
    else:
        held_out = _read_text(test_data, "task.test_data")
    symbols = _split(text, level)
    vocabulary = _vocabulary(symbols, vocabulary_size)
    numbers = {symbol: number for number, symbol in enumerate(vocabulary)}
    digest = hashlib.sha256(f"{level} {len(vocabulary)} {text}".encode()).digest()
    return Corpus(vocabulary, _numbered(symbols, numbers), _numbered(_split(held_out, level), numbers), digest)


def _read_text(name: str, where: str) -> str:
    path = Path(name).expanduser()
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise cannot("read", f"{path} ({where})", error) from None
    except UnicodeDecodeError as error:
        raise damaged(f"{path} ({where})", f"byte {error.start} is no UTF-8") from None
    if "\0" in text:
        raise wrong(f"{path} ({where})", "is no text: it holds a byte 0", kind="damaged")
    if not text.strip():
        raise wrong(f"{path} ({where})", "is empty")
    return text


def _split(text: str, level: Level) -> Sequence[str]:
    if level == "character":
        return text
    return [word for line in text.splitlines() for word in (*line.split(), END_OF_LINE)]


def _vocabulary(symbols: Sequence[str], size: int | None) -> tuple[str, ...]:
    """The unknown symbol, then the most frequent ones; of equally frequent ones those that come first in Unicode."""
    counts = Counter(symbols)
    counts.pop(UNKNOWN, None)
    known = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
    if size is not None and not 2 <= size <= len(known) + 1:
        raise invalid_value("vocabulary_size", f"from 2 to {len(known) + 1}, or null for all of this text", size)
    return UNKNOWN, *known[: None if size is None else size - 1]


def _numbered(symbols: Sequence[str], numbers: dict[str, int]) -> NDArray[np.int32]:
    return np.fromiter((numbers.get(symbol, 0) for symbol in symbols), np.int32, len(symbols))
