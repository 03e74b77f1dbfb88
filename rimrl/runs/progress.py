"""The progress bar of a training; a line now and then where there is no terminal."""

from __future__ import annotations

import sys
from typing import NoReturn, TypeAlias

from tqdm import tqdm

Bar: TypeAlias = "tqdm[NoReturn]"


def progress_bar(title: str, total: int, done: int = 0, unit: str = "step", shown: bool = True) -> Bar:
    """A bar on standard error.

    Args:
        title: What is trained.
        total: Steps in all.
        done: Steps that came before.
        unit: What a step is.
        shown: Whether there is one, after all.
    """
    interval = 0.2 if sys.stderr.isatty() else 20.0
    return tqdm(
        total=total,
        initial=done,
        desc=title,
        unit=unit,
        unit_scale=True,
        mininterval=interval,
        maxinterval=interval,
        dynamic_ncols=True,
        disable=not shown,
    )
