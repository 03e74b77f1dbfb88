"""Signals that end a training where it can go on from, instead of anywhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Stop:
    """Whether somebody has asked for the end.

    Attributes:
        requested: True from the first signal on.
    """

    requested: bool = False


@contextmanager
def graceful_stop(once: bool = True) -> Iterator[Stop]:
    """Turn the first SIGINT or SIGTERM into a request to stop; a second one acts at once.

    Args:
        once: Default. False for good: after a Ctrl-C in a terminal, ``torchrun`` sends its processes a second signal.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(_signal: int, _frame: FrameType | None) -> None:
        stop.requested = True
        if once:
            restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in previous:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        if once:
            restore()


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM, which would end the process at once, into what Ctrl-C is, so that a block can clean up.

    A training within the block catches both itself (`graceful_stop`).
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    asking = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, interrupt) for number in asking}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
