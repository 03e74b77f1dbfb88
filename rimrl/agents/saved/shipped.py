"""The trained agents that come with rimrl, exports in ``rimrl/trained``; imported by what must not wait for torch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from rimrl.agents.saved.names import CARD
from rimrl.errors import unknown_name

PREFIX = "pretrained:"
"""How the name of a shipped agent begins where a run or a file could stand as well."""
ROOT = Path(str(resources.files("rimrl"))) / "trained"


def shipped_agents() -> dict[str, Path]:
    """Name and folder of every trained agent that comes with rimrl."""
    return {card.parent.relative_to(ROOT).as_posix(): card.parent for card in sorted(ROOT.rglob(CARD))}


def find_shipped(name: str) -> Path:
    """The folder of a shipped agent; not to be written to.

    Args:
        name: Such as ``"recall/rim"``.

    Raises:
        UsageError: If there is none of that name; names the nearest.
    """
    agents = shipped_agents()
    if name not in agents:
        raise unknown_name("pretrained agent", name, agents)
    return agents[name]
