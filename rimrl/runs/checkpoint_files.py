"""Checkpoints on disk: folders of plain files that are there whole or not at all, and whose damage shows.

``RUN/resume/000000050000/`` holds tensors.safetensors, state.json, progress.csv and manifest.json, which lists size and
SHA-256 of the others. A checkpoint is written beside its place, synced to the disk and renamed, and the one before it
stays, so that one of them is good whenever the power goes. Nothing in them is code, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rimrl.errors import one_line
from rimrl.files import refuse_links, remove_leftovers, temporary_folder
from rimrl.reading import MEGABYTE, parse_json, read_bytes
from rimrl.runs.validated import DamagedError

FOLDER = "resume"
KEPT = 2
_FORMAT = 1
_TENSORS, _STATE, _PROGRESS, _MANIFEST = "tensors.safetensors", "state.json", "progress.csv", "manifest.json"
_DAMAGED = ".damaged"
_NAME = re.compile(r"[0-9]{1,18}")
_LARGEST = {_TENSORS: 2**36, _STATE: 2**28, _PROGRESS: 2**31}


@dataclass(slots=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        tensors: By name, contiguous, and none of them a view of another.
        state: Whatever JSON can hold.
        progress: Text of ``progress.csv`` so far.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    progress: str


def write(run: Path, num_timesteps: int, contents: Contents) -> None:
    """Write a checkpoint, then remove all but the last `KEPT`.

    Raises:
        OSError: If it cannot be written; what was there stays.
    """
    folder = run / FOLDER
    final = folder / f"{num_timesteps:012d}"
    refuse_links(folder, run)
    folder.mkdir(exist_ok=True)
    remove_leftovers(folder)
    partial = temporary_folder(folder)
    try:
        files = {
            _TENSORS: save(contents.tensors),
            _STATE: json.dumps(contents.state).encode(),
            _PROGRESS: contents.progress.encode(),
        }
        listed = {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        }
        files[_MANIFEST] = json.dumps({"format": _FORMAT, "files": listed}, indent=2).encode()
        for name, content in files.items():
            _write_synced(partial / name, content)
        _sync_folder(partial)
        if final.exists():  # of the same step: where a run was resumed
            final.replace(temporary_folder(folder) / final.name)
        partial.replace(final)
        _sync_folder(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    remove_leftovers(folder)
    for old in found(run)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def found(run: Path) -> list[Path]:
    """Folders of a run's checkpoints, good or not, the latest first."""
    folder = run / FOLDER
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def read(checkpoint: Path) -> Contents:
    """Read a checkpoint whose files are what was written.

    Raises:
        DamagedError: If a file is missing, has changed or is not what its name says.
    """
    try:
        manifest = _json(read_bytes(checkpoint / _MANIFEST, MEGABYTE, follow=False), _MANIFEST)
        if manifest.get("format") != _FORMAT:
            raise DamagedError(f"{_MANIFEST} is of a format that this version of rimrl does not know")
        contents = {name: _checked(checkpoint / name, manifest) for name in (_TENSORS, _STATE, _PROGRESS)}
        return Contents(load(contents[_TENSORS]), _json(contents[_STATE], _STATE), contents[_PROGRESS].decode())
    except DamagedError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, SafetensorError, OverflowError) as error:
        raise DamagedError(one_line(error)) from None


def set_aside(checkpoint: Path) -> None:
    """Rename a damaged checkpoint, so that it is neither read nor counted again."""
    aside = checkpoint.with_name(checkpoint.name + _DAMAGED)
    with suppress(OSError):
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside, ignore_errors=True)
        checkpoint.replace(aside)


def _checked(file: Path, manifest: Mapping[str, Any]) -> bytes:
    listed = manifest["files"][file.name]
    size, expected = listed["size"], listed["sha256"]
    if not file.is_file() or file.stat().st_size != size:
        raise DamagedError(f"{file.name} is missing or has another size than was written")
    content = read_bytes(file, _LARGEST[file.name], follow=False)
    if hashlib.sha256(content).hexdigest() != expected:
        raise DamagedError(f"{file.name} is not what was written")
    return content


def _json(content: bytes, name: str) -> dict[str, Any]:
    value = parse_json(content, name)
    if not isinstance(value, dict):
        raise DamagedError("it holds JSON of another kind than was written")
    return value


def _write_synced(file: Path, content: bytes) -> None:
    with file.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # which cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
