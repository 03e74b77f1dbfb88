"""Sequence tasks at a scale at which a training takes a second, and MNIST files made up for them."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from rimrl.sequence import mnist_files

COPYING = (
    *("copying", "--task.num_digits", "3", "--task.blanks", "4", "--task.test_blanks", "[4, 9]"),
    *("--core.hidden_size", "12", "--core.num_units", "3", "--core.num_active", "2", "--core.input_value_size", "4"),
    *("--model.embedding_size", "6", "--train.batch_size", "4", "--train.eval_sequences", "8", "--quiet"),
    *("--train.test_sequences", "70"),
)
BALLS = (
    *("balls", "--task.size", "8", "--task.channels", "[3]", "--task.num_frames", "7", "--task.warm_up", "3"),
    *("--task.rollout", "4", "--core.hidden_size", "12", "--model.embedding_size", "6", "--train.batch_size", "3"),
    *("--train.eval_freq", "0", "--train.test_sequences", "5", "--num-updates", "2", "--quiet"),
)


def make_mnist(folder: Path, patch: pytest.MonkeyPatch, train: int = 40, test: int = 70) -> Path:
    """Write four files like MNIST's, of random digits, and let rimrl take them for the real ones."""
    stream = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    faked = {}
    for part, count in (("train", train), ("test", test)):
        images = stream.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = stream.integers(0, 10, count, dtype=np.uint8)
        contents = (
            struct.pack(">4i", 2051, count, 28, 28) + images.tobytes(),
            struct.pack(">2i", 2049, count) + labels.tobytes(),
        )
        named = []
        for (name, _), content in zip(mnist_files.FILES[part], contents, strict=True):  # type: ignore[index]
            (folder / name).write_bytes(gzip.compress(content))
            named.append(mnist_files._File(name, hashlib.sha256(content).hexdigest()))
        faked[part] = tuple(named)
    patch.setattr(mnist_files, "FILES", faked)
    mnist_files._read.cache_clear()
    return folder


def make_text(file: Path, words: int = 12_000) -> Path:
    """Write a text of made-up words in lines."""
    stream = np.random.default_rng(0)
    known = ["".join(stream.choice(list("aeiounrst"), int(stream.integers(2, 6)))) for _ in range(60)]
    chosen = stream.choice(known, words)
    file.write_text("\n".join(" ".join(chosen[begin : begin + 8]) for begin in range(0, words, 8)), encoding="utf-8")
    return file
