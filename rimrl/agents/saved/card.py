"""Reading ``card.json`` of an exported agent; its parts are checked by who needs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rimrl.agents.saved.names import CARD
from rimrl.errors import UsageError

FORMAT, FORMAT_VERSION = "rimrl-agent", 1
_LARGEST = 2**25


def read_card(folder: Path) -> dict[str, Any]:
    """The card of an exported folder, its format checked.

    Raises:
        UsageError: If there is none, or it is no card of a known version.
    """
    file = folder / CARD
    try:
        if file.stat().st_size > _LARGEST:
            raise UsageError(f"{file} is larger than {_LARGEST // 2**20} MiB, which no card is")
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise UsageError(f"no {file}; rimrl export writes it") from None
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    except UsageError:
        raise
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not valid JSON ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"{file} is not a card of rimrl export: it does not say format {FORMAT!r}")
    if content.get("format_version") != FORMAT_VERSION:
        raise UsageError(
            f"{file} has format_version {str(content.get('format_version'))[:20]!r}; this rimrl reads {FORMAT_VERSION}"
        )
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
