"""Which part does what a verb is asked to, for each kind of run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rimrl.cli import agents, sequence_tasks


class OfKind(Protocol):
    """What verbs do with runs of one kind."""

    def evaluate_runs(self, options: argparse.Namespace) -> None:
        """``rimrl evaluate``."""

    def inspect_run(self, options: argparse.Namespace) -> None:
        """``rimrl inspect``."""


def verbs_of(runs: Sequence[Path]) -> OfKind:
    """What does the verbs for some runs; that for agents where they are of several kinds, which says what is wrong."""
    from rimrl.runs.kinds import AGENT, SEQUENCE, kind_of_run

    parts: Mapping[str, OfKind] = {AGENT.name: agents, SEQUENCE.name: sequence_tasks}
    kinds = {kind_of_run(run) for run in runs}
    return parts[kinds.pop().name if len(kinds) == 1 else AGENT.name]
