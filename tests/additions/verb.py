"""``rimrl count``: how many cores there are."""

from __future__ import annotations

import argparse

from rimrl.cli.parser import Verbs
from rimrl.cores.registry import CORES


def add(verbs: Verbs) -> None:
    """Add the verb."""
    counting = verbs.add_parser("count", help="count the cores", description="Count the cores.")
    counting.set_defaults(verb=_count)


def _count(options: argparse.Namespace) -> int:
    print(len(CORES))
    return 0
