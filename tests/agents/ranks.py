"""Runs a function in several processes that have joined over gloo on this machine."""

from __future__ import annotations

import atexit
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch as th
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from rimrl.agents.distributed import init_ranks
from rimrl.agents.ranks import Ranks


def launched(rank: int, size: int, port: int) -> dict[str, str]:
    """What ``torchrun`` tells a process."""
    return {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def on_ranks(function: Callable[[Ranks], Any], folder: Path, size: int = 2) -> list[Any]:
    """Call a module's function on every rank.

    Args:
        function: Gets its `Ranks`; returns what `torch.save` takes.
        folder: For what they return.
        size: How many processes.

    Returns:
        What each rank returned.
    """
    spawn(_work, (function, folder, size, free_port()), nprocs=size)  # type: ignore[no-untyped-call]
    assert [_end(folder, rank).read_text() for rank in range(size)] == ["parted"] * size
    return [th.load(_result(folder, rank), weights_only=False) for rank in range(size)]


def _work(rank: int, function: Callable[[Ranks], Any], folder: Path, size: int, port: int) -> None:
    th.set_num_threads(1)
    os.environ |= launched(rank, size, port)
    atexit.register(_note_end, _end(folder, rank))  # before those of `init_ranks`, so that it is called after them
    ranks = init_ranks()
    th.save(function(ranks), _result(folder, rank))
    # The first one holds the store that the others talk to.
    with suppress(Exception):
        for other in range(size if rank == 0 else 0):
            _wait_for(_result(folder, other))


def _result(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.pt"


def _end(folder: Path, rank: int) -> Path:
    return folder / f"end-{rank}.txt"


def _note_end(file: Path) -> None:
    file.write_text("still joined" if dist.is_initialized() else "parted")


def _wait_for(file: Path) -> None:
    for _ in range(600):
        if file.exists():
            break
        time.sleep(0.1)
    time.sleep(0.2)
