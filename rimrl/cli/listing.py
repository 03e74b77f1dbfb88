"""``rimrl list``: what there is."""

from __future__ import annotations

import argparse

from rimrl.cli.parser import Verbs
from rimrl.cli.tables import console


def add(verbs: Verbs) -> None:
    """Add the verb."""
    listing = verbs.add_parser(
        "list", help="list what there is", description="List what there is.", examples=["rimrl list suites"]
    )
    listing.add_argument("what", choices=["cores", "configs", "suites", "envs", "tasks", "pretrained"])
    listing.set_defaults(verb=_list)


def _list(options: argparse.Namespace) -> int:
    from rimrl.listings import listing

    console().print(listing(options.what))
    return 0
