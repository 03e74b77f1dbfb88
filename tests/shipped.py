"""The configurations that come with rimrl, each read once."""

from __future__ import annotations

from functools import cache

from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.config_files import load_config


@cache
def shipped(name: str) -> ExperimentConfig:
    """A shipped configuration; to look at, not to change."""
    return load_config(name)
