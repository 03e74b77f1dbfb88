"""The command as one of several processes that ``torchrun`` started: what all have to say is said once."""

from __future__ import annotations

import os
import sys


def is_distributed() -> bool:
    """Whether a launcher may have started this process among others; `rimrl.agents.distributed` knows for sure."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def init_distributed() -> None:
    """Meet the other processes first of all, so that whatever goes wrong can be told for all."""
    if is_distributed():
        from rimrl.agents.distributed import init_ranks

        init_ranks()


def should_print() -> bool:
    """Whether this process says what all of them have to say."""
    if not is_distributed():
        return True
    from rimrl.agents import distributed

    return distributed.should_print()


def print_error(error: Exception) -> None:
    """Print why the command ended, on standard error."""
    if should_print():
        print(f"rimrl: {error}", file=sys.stderr, flush=True)
