"""Reads back what trackers have stored on this machine."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

_BLOCK = 32768
_FULL, _FIRST, _LAST = 1, 2, 4


def _records(content: bytes) -> Iterator[bytes]:
    """Records of a LevelDB log behind wandb's header of 7 bytes."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        if _BLOCK - place % _BLOCK < 7:
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if kind == 0:
            break
        part = content[place + 7 : place + 7 + length]
        place += 7 + length
        parts = part if kind in (_FULL, _FIRST) else parts + part
        if kind in (_FULL, _LAST):
            yield parts


class WandbFile:
    """What wandb stored of a run in one file.

    Attributes:
        rows: Every row of the history, with ``_step``.
        summary, config: By their dotted keys, or as they are.
    """

    def __init__(self, file: Path) -> None:
        messages: Any = import_module("wandb.proto.wandb_internal_pb2")
        self.rows: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.exit_code: int | None = None
        for content in _records(file.read_bytes()):
            record: Any = messages.Record()
            record.ParseFromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self.config |= _items(record.run.config.update)
            elif kind == "config":
                self.config |= _items(record.config.update)
            elif kind == "history":
                self.rows.append(_items(record.history.item))
            elif kind == "summary":
                self.summary |= _items(record.summary.update)
            elif kind == "exit":
                self.exit_code = record.exit.exit_code


def _items(items: Any) -> dict[str, Any]:
    return {each.key or ".".join(each.nested_key): json.loads(each.value_json) for each in items}


def wandb_files(folder: Path, patience: float = 60.0) -> list[WandbFile]:
    """What wandb stored below a folder, one entry for each time that it was begun, in that order.

    Its service closes a file a little after the run has ended; this waits for that.
    """
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda file: file.parent.name)
    deadline = time.monotonic() + patience
    while True:
        stored = [WandbFile(file) for file in files]
        if all(each.exit_code is not None for each in stored) or time.monotonic() > deadline:
            return stored
        time.sleep(0.1)
