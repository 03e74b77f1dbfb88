"""Sequential MNIST: scaling against PIL and torch, files that are missing or corrupt, epochs."""

from __future__ import annotations

import gzip
import io
import os
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from PIL import Image

from rimrl.errors import RunFailedError, UsageError
from rimrl.sequence import mnist_files
from rimrl.sequence.mnist import SequentialMNIST, binarised
from rimrl.sequence.mnist_files import FILES, data_folder, read_digits
from tests.sequence.small import make_mnist


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RIMRL_MNIST", raising=False)
    return make_mnist(tmp_path / "mnist", monkeypatch)


@pytest.mark.parametrize("resolution", [4, 14, 16, 19, 24, 28])
def test_scaling_is_nearest_neighbour_and_black_and_white_comes_after(resolution: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    ours = binarised(images, resolution)
    with_pil = [
        np.asarray(Image.fromarray(image).resize((resolution, resolution), Image.Resampling.NEAREST))
        for image in images
    ]
    with_torch = th.nn.functional.interpolate(
        th.from_numpy(images[:, None]).float(), size=(resolution, resolution), mode="nearest-exact"
    )[:, 0]
    # The middle of 19 lies on the edge between two pixels, and PIL and torch round it to either.
    clear = [i for i in range(resolution) if (resolution, i) != (19, 9)]
    for theirs in (np.stack(with_pil), with_torch.numpy()):
        assert (ours == (theirs > 127))[:, clear][:, :, clear].all()
    assert set(np.unique(ours)) == {0, 1}


def test_a_digit_is_read_line_by_line(data: Path) -> None:
    task = SequentialMNIST(resolution=14, test_resolutions=[14, 16], data=str(data))
    digits = read_digits("test", str(data))
    batch = task.evaluation_batch(task.splits[1], 0, 0, 3)
    assert batch.inputs.shape == (256, 3)
    found = [
        int(label)
        for image, label in zip(binarised(digits.images, 16), digits.labels, strict=True)
        if (image.reshape(-1) == batch.inputs[:, 0].numpy()).all()
    ]
    assert found == [int(batch.targets[0, 0])]


def test_an_epoch_meets_every_training_digit_once_and_in_another_order_each_time(data: Path) -> None:
    task = SequentialMNIST(data=str(data))
    epochs = [
        [task.training_batch(0, update, 8).inputs.t().numpy().tobytes() for update in range(first, first + 5)]
        for first in (0, 5)
    ]
    size = 196 * 8  # bytes of a digit
    rows = [sorted(b"".join(epoch)[k * size : (k + 1) * size] for k in range(40)) for epoch in epochs]
    assert rows[0] == rows[1]
    assert len(set(rows[0])) == 40
    assert epochs[0] != epochs[1]


def test_all_test_digits_are_tested_once(data: Path) -> None:
    task = SequentialMNIST(data=str(data))
    split = task.splits[0]
    assert task.num_sequences(split) == 70
    batches = [task.evaluation_batch(split, 5, number, 64) for number in range(2)]
    assert [batch.inputs.shape[1] for batch in batches] == [64, 6]
    rows = {batch.inputs[:, row].numpy().tobytes() for batch in batches for row in range(batch.inputs.shape[1])}
    assert len(rows) == 70


def test_digits_of_a_resolution_that_was_not_configured(data: Path) -> None:
    task, configured = (SequentialMNIST(test_resolutions=[each], data=str(data)) for each in (14, 20))
    split = task.split("20x20")
    assert split == configured.split("20x20")
    assert th.equal(*(each.evaluation_batch(split, 0, 0, 8).inputs for each in (task, configured)))
    for name, said in (("20x21", "unknown split"), ("3x3", "resolution must be"), ("29x29", "from 4 to 28, got 29")):
        with pytest.raises(UsageError, match=said):
            task.split(name)


def test_the_chance_is_the_largest_class(data: Path) -> None:
    labels = read_digits("test", str(data)).labels.tolist()
    (chance,) = {split.chance for split in SequentialMNIST(data=str(data)).splits}
    assert chance == max(labels.count(digit) for digit in range(10)) / len(labels)


@pytest.mark.parametrize("damage", ["missing", "cut", "other", "not packed"])
def test_a_bad_file_is_named_with_the_checksum_it_should_have(damage: str, data: Path) -> None:
    name, sha256 = mnist_files.FILES["train"][0]
    file = data / name
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-200])
    elif damage == "other":
        file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-1] + b"x"))
    else:
        file.write_bytes(b"<html>not found</html>")
    with pytest.raises(UsageError) as refusal:
        SequentialMNIST(data=str(data))
    message = str(refusal.value)
    assert str(file) in message
    assert sha256 in message
    assert "\n" not in message


def test_the_environment_names_the_folder_and_an_argument_goes_first(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIMRL_MNIST", str(data))
    assert data_folder() == data
    assert data_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("RIMRL_MNIST", str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"no folder .*none \(RIMRL_MNIST\)"):
        data_folder()


def test_without_a_folder_files_are_downloaded_checked_and_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(url: str, timeout: float) -> Any:
        asked.append(url)
        if url.startswith(mnist_files.MIRRORS[0]):
            return io.BytesIO(b"a page instead")
        return io.BytesIO((data / url.rpartition("/")[2]).read_bytes())

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", answer)
    digits = read_digits("test")
    assert len(digits.labels) == 70
    assert len(asked) == 4
    folder = tmp_path / "cache/rimrl/mnist"
    assert sorted(file.name for file in folder.iterdir()) == sorted(name for name, _ in mnist_files.FILES["test"])
    read_digits("test")
    assert len(asked) == 4


def test_a_download_that_fails_says_where_and_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, timeout: float) -> Any:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(RunFailedError) as failure:
        read_digits("train")
    assert all(mirror in str(failure.value) for mirror in mnist_files.MIRRORS)
    assert mnist_files.FILES["train"][0].sha256 in str(failure.value)
    assert not any((tmp_path / "cache").rglob("*.gz"))


@pytest.mark.skipif("RIMRL_MNIST" not in os.environ, reason="needs MNIST: RIMRL_MNIST")
def test_the_real_files_are_the_known_ones() -> None:
    train, test = read_digits("train"), read_digits("test")
    assert train.images.shape == (60_000, 28, 28)
    assert test.images.shape == (10_000, 28, 28)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert set(FILES) == {"train", "test"}
