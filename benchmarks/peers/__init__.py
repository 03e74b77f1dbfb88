"""Other libraries with recurrent PPO, each written as its documentation has it, on the tasks of `benchmarks.training`.

A library stands in one file here, and in `PEERS` under the name of its package. All come with ``pip install
rimrl[bench]``. To add one: its file, with a class that has the members of `Peer`, and its line in `PEERS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import torch as th

if TYPE_CHECKING:
    from benchmarks.tasks import Task


class Peer(Protocol):
    """An agent of another library, and the environments that it learns on.

    Attributes:
        network: What it trains: an LSTM that actor and critic share, and a linear layer for each.
        optimizer: What trains it.
    """

    network: th.nn.Module
    optimizer: th.optim.Optimizer

    def iterate(self) -> None:
        """One rollout and its update."""

    def close(self) -> None:
        """Close the environments."""


@dataclass(frozen=True)
class Library:
    """What the benchmark knows of a library before it loads it.

    Attributes:
        label: Name of its row.
        package: What has to be installed.
        module: Where its `Peer` is.
        name: The class there.
        options: What the class is made with.
    """

    label: str
    package: str
    module: str
    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return find_spec(self.package) is not None

    def make(self, task: Task) -> Peer:
        """Its agent for a task."""
        peer: Peer = getattr(import_module(self.module), self.name)(task, **dict(self.options))
        return peer


PEERS = {
    "torchrl": Library("TorchRL LSTM", "torchrl", "benchmarks.peers.torchrl", "TorchRL"),
    "skrl": Library("skrl LSTM", "skrl", "benchmarks.peers.skrl", "Skrl"),
    "torch-ac": Library(
        *("torch-ac LSTM, recurrence 4", "torch_ac", "benchmarks.peers.torch_ac", "TorchAC"), (("recurrence", 4),)
    ),
    "torch-ac-whole": Library(
        *("torch-ac LSTM, whole rollouts", "torch_ac", "benchmarks.peers.torch_ac", "TorchAC"), (("recurrence", None),)
    ),
}
"""By the name that ``--peers`` takes."""
