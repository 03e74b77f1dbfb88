"""What probes are trained on: the agent's observations, recurrent states and values at every step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.errors import unknown_name, wrong
from rimrl.experiments.player import Step

RECORDABLE = ("states", "observations", "values")
"""What is recorded on request."""
_LARGEST = 2**31


class Probe:
    """Takes from every step what was asked for.

    Args:
        policy: Who plays.
        wanted: Names out of `RECORDABLE`.

    Raises:
        UsageError: If there is no such name.
    """

    def __init__(self, policy: RecurrentCorePolicy, wanted: Collection[str]) -> None:
        for name in wanted:
            if name not in RECORDABLE:
                raise unknown_name("thing to record", name, RECORDABLE)
        self._policy = policy
        self._wanted = wanted
        self._states = policy.initial_states(1)
        self._bytes = 0

    def row(self, step: Step) -> dict[str, NDArray[Any]]:
        """What is recorded of a step; to be called at each, one after the other.

        Raises:
            UsageError: If all rows together have become too large to be kept.
        """
        row: dict[str, NDArray[Any]] = {}
        own_critic = self._policy.critic_core is not None
        if "values" in self._wanted or ("states" in self._wanted and own_critic):
            value = self._criticise(step)
            row |= {"value": value} if "values" in self._wanted else {}
        if "states" in self._wanted:
            row |= _named("state", step.state)
            row |= _named("critic_state", [s.cpu().numpy() for s in self._states.vf]) if own_critic else {}
        if "observations" in self._wanted:
            shown = step.observation
            if isinstance(shown, dict):
                row |= {f"observation.{name}": np.array(part[0]) for name, part in shown.items()}
            else:
                row["observation"] = np.array(shown[0])
        self._bytes += sum(part.nbytes for part in row.values())
        if self._bytes > _LARGEST:
            raise wrong(
                " and ".join(self._wanted),
                f"exceed {_LARGEST // 2**30} GiB after {step.episode} episodes",
                "record fewer --episodes",
            )
        return row

    def _criticise(self, step: Step) -> NDArray[Any]:
        """The critic's value of what the agent is shown; its memory goes on by this step."""
        observation, _ = self._policy.obs_to_tensor(step.observation)
        starts = th.as_tensor([step.fresh], device=self._policy.device)
        with th.no_grad():
            # The mode, so that no chance is drawn that the actions would lack.
            _, values, _, self._states = self._policy(observation, self._states, starts, deterministic=True)
        value: NDArray[Any] = values[0, 0].cpu().numpy()
        return value


def _named(name: str, state: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {f"{name}_{part}": np.array(each[:, 0]) for part, each in zip("hc", state, strict=True)}
