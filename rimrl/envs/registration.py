"""Registers rimrl's environments with gymnasium; importing this module needs gymnasium alone."""

from __future__ import annotations


def register_envs() -> None:
    """Register every environment id under the ``rimrl/`` namespace; calling it again changes nothing."""
