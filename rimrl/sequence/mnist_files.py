"""The four files of MNIST: found, or downloaded, and checked before they are read.

What is checked is the SHA-256 of what a file unpacks to, because the same content is packed in several ways.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import sys
import urllib.error
import urllib.request
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rimrl.errors import RunFailedError, UsageError, damaged, missing, one_line
from rimrl.files import replacing_file

ENVIRONMENT = "RIMRL_MNIST"
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_TIMEOUT = 60
_MOST_BYTES = 64 * 2**20  # no file unpacks to more


class _File(NamedTuple):
    name: str
    sha256: str


Part = Literal["train", "test"]
FILES: dict[Part, tuple[_File, _File]] = {
    "train": (
        _File("train-images-idx3-ubyte.gz", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        _File("train-labels-idx1-ubyte.gz", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    ),
    "test": (
        _File("t10k-images-idx3-ubyte.gz", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        _File("t10k-labels-idx1-ubyte.gz", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ),
}
"""Images and labels of each part, with the SHA-256 of what they unpack to."""


class Digits(NamedTuple):
    """Images and what they show.

    Attributes:
        images: ``[n, 28, 28]`` uint8.
        labels: ``[n]`` uint8.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def data_folder(data: str | None = None) -> Path:
    """Where MNIST is, or is downloaded to.

    Args:
        data: A folder that holds the files; default: the one that the environment variable ``RIMRL_MNIST`` names,
            else a cache of this user's, which they are downloaded to.

    Raises:
        UsageError: If a folder that was named is not there.
    """
    named = data or os.environ.get(ENVIRONMENT)
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            origin = "task.data" if data else ENVIRONMENT
            names = ", ".join(file.name for part in FILES.values() for file in part)
            raise missing(f"folder {folder} ({origin})", advice=f"it is to hold {names}")
        return folder
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "rimrl" / "mnist"


def read_digits(part: Part, data: str | None = None) -> Digits:
    """Read and check a part of MNIST.

    Args:
        part: ``"train"``, 60 000 digits, or ``"test"``, 10 000.
        data: As for `data_folder`. Files are downloaded only where no folder was named.

    Raises:
        UsageError: If a file is missing or corrupt; names it and the checksum that it should have.
        RunFailedError: If a download fails.
    """
    folder = data_folder(data)
    if not (data or os.environ.get(ENVIRONMENT)):
        for file in FILES[part]:
            if not (folder / file.name).is_file():
                _download(file, folder)
    return _read(part, folder)


@lru_cache(maxsize=2)
def _read(part: Part, folder: Path) -> Digits:
    images, labels = (_checked_content(folder / file.name, file.sha256) for file in FILES[part])
    _, count, height, width = struct.unpack(">4i", images[:16])
    return Digits(
        np.frombuffer(images, np.uint8, offset=16).reshape(count, height, width),
        np.frombuffer(labels, np.uint8, offset=8),
    )


def _checked_content(path: Path, sha256: str) -> bytes:
    expected = f"it should unpack to SHA-256 {sha256}"
    if not path.is_file():
        raise missing(f"file {path}", advice=expected)
    try:
        with gzip.open(path) as stream:
            content = stream.read(_MOST_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, error, expected) from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise damaged(path, f"it unpacks to {found}", expected)
    return content


def _download(file: _File, folder: Path) -> None:
    reasons = []
    for mirror in MIRRORS:
        print(f"rimrl: downloading {mirror}{file.name} to {folder}", file=sys.stderr)
        try:
            with urllib.request.urlopen(mirror + file.name, timeout=_TIMEOUT) as answer:
                packed = answer.read(_MOST_BYTES)
            with replacing_file(folder / file.name) as partial:
                partial.write_bytes(packed)
                _checked_content(partial, file.sha256)
        except (urllib.error.URLError, OSError) as error:
            reasons.append(f"{mirror}: {one_line(error)}")
        except UsageError as error:  # another mirror may have it whole
            reasons.append(f"{mirror}: {error}")
        else:
            return
    raise RunFailedError(
        f"cannot download {file.name} ({'; '.join(reasons)}); get it elsewhere, and name its folder with --data or "
        f"{ENVIRONMENT}; it should unpack to SHA-256 {file.sha256}"
    )
