"""How often units were active in a rollout, as an algorithm logs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch as th
from torch import Tensor

from rimrl.agents.sequence_policy import SequenceEvaluation
from rimrl.cores.base import CoreTrace
from rimrl.usage import collapse, worst_share


class UnitActivity:
    """Means over one pass of the rollout how often each unit was active, and measures how evenly they were used.

    Args:
        units_per_layer: Of the policy's core; a critic's core of its own has as many.
    """

    def __init__(self, units_per_layer: Sequence[int]) -> None:
        self._layers = units_per_layer
        self._active: dict[str, list[Tensor]] = {}

    def add(self, evaluation: SequenceEvaluation) -> None:
        """Take in the traces of a minibatch."""
        self._add("units/", evaluation.trace)
        self._add("units/critic_", evaluation.critic_trace)

    def _add(self, prefix: str, trace: CoreTrace | None) -> None:
        if trace is not None and trace.active.shape[-1] > 1:
            self._active.setdefault(prefix, []).append(trace.active.float().mean(dim=(0, 1)))

    def frequencies(self) -> dict[str, float]:
        """Share of steps in which each unit was active, by the name it has in TensorBoard."""
        return {
            f"{prefix}active_{unit}": share
            for prefix, parts in self._active.items()
            for unit, share in enumerate(th.stack(parts).mean(dim=0).tolist())
        }

    def evenness(self, frequencies: Mapping[str, float]) -> dict[str, float]:
        """The measures of `rimrl.usage` for such frequencies, by the names they have in TensorBoard."""
        figures = {}
        for prefix in self._active:
            shares = [frequencies[f"{prefix}active_{unit}"] for unit in range(sum(self._layers))]
            figures[f"{prefix}collapse"] = collapse(shares, self._layers)
            figures[f"{prefix}worst_share"] = worst_share(shares, self._layers)
        return figures
