"""Reading ``card.json`` of an exported agent; its parts are checked by who needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rimrl.agents.saved.names import CARD
from rimrl.errors import mismatch, missing, shorten, wrong
from rimrl.reading import MissingError, parse_json, read_text

FORMAT, FORMAT_VERSION = "rimrl-agent", 1
LARGEST = 2**25
"""Bytes that a card may have."""


def read_card(folder: Path) -> dict[str, Any]:
    """The card of an exported folder, its format checked.

    Raises:
        UsageError: If there is none, or it is no card of a known version.
    """
    file = folder / CARD
    try:
        content = parse_json(read_text(file, LARGEST), str(file), strict=True)
    except MissingError:
        raise missing(str(file), advice="rimrl export writes it") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise wrong(file, f"is not a card of rimrl export: it does not say format {FORMAT!r}", kind="damaged")
    if content.get("format_version") != FORMAT_VERSION:
        raise mismatch(
            f"format_version of {file}", f"{FORMAT_VERSION} for this rimrl", shorten(content.get("format_version"), 20)
        )
    return content
