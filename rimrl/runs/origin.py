"""Whose file it is: the user's own, or that of a run, an export or a study, which may come from anybody."""

from __future__ import annotations

from pathlib import Path

_CARD = "card.json"  # as `rimrl.agents.saved.names` has it
_WRITTEN = ("config.yaml", _CARD, "sweep.yaml", "transfer.yaml", "tuning.yaml")
_LEFT_BEHIND = (
    "environment.json",
    "model.zip",
    "model.safetensors",
    _CARD,
    "evaluation.json",
    "sweep.yaml",
    "sweep.json",
    "transfer.json",
    "tuning.yaml",
    "tuning.json",
)


def is_of_others(file: Path) -> bool:
    """Whether a file lies in the folder of a run, an export or a study, which may come from anybody."""
    places = (file, file.resolve())
    return any(
        place.name in _WRITTEN or any((place.parent / name).is_file() for name in _LEFT_BEHIND) for place in places
    )
