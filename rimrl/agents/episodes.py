"""Ends of episodes within a rollout: which were cut by time, and what their monitors counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from torch import Tensor

from rimrl.agents.rollout import Obs


class Truncation(NamedTuple):
    """Environments that time cut off at one step of a rollout.

    Attributes:
        step: The step.
        envs: Their indices.
        observation: What they showed last, ``[len(envs), ...]`` or a dict of such.
        state: The critic's recurrent state after the step, each ``[num_layers, len(envs), hidden_size]``.
    """

    step: int
    envs: list[int]
    observation: Obs
    state: tuple[Tensor, Tensor]


class Episode(NamedTuple):
    """An episode that ended in a rollout: at which step, what the monitor counted, whether it was a success."""

    step: int
    info: dict[str, Any] | None
    success: bool | None


def find_truncations(
    step: int, dones: np.ndarray[Any, Any], infos: list[dict[str, Any]], states: RNNStates
) -> list[Truncation]:
    """What is needed to value the ends of episodes that were cut by time; at most one entry."""
    envs = [
        i
        for i in np.flatnonzero(dones).tolist()
        if infos[i].get("TimeLimit.truncated", False) and infos[i].get("terminal_observation") is not None
    ]
    if not envs:
        return []
    last = [infos[i]["terminal_observation"] for i in envs]
    return [Truncation(step, envs, _joined(np.stack, last), (states.vf[0][:, envs], states.vf[1][:, envs]))]


def stack_truncations(
    cuts: list[Truncation],
) -> tuple[Obs, tuple[Tensor, ...], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """What is needed to value all cuts at once.

    Returns:
        Their observations ``[N, ...]`` or a dict of such, the critic's states ``[num_layers, N, hidden_size]``, and
        steps and environments, each ``[N]``.
    """
    state = tuple(th.cat(parts, dim=1) for parts in zip(*(cut.state for cut in cuts), strict=True))
    steps = np.concatenate([np.full(len(cut.envs), cut.step) for cut in cuts])
    envs = np.concatenate([cut.envs for cut in cuts])
    return _joined(np.concatenate, [cut.observation for cut in cuts]), state, steps, envs


def ended_episodes(step: int, infos: list[dict[str, Any]], dones: np.ndarray[Any, Any]) -> list[Episode]:
    """Episodes that ended in a step, as SB3 counts them in ``_update_info_buffer``."""
    ended = []
    for info, done in zip(infos, dones, strict=True):
        counted, success = info.get("episode"), info.get("is_success") if done else None
        if counted is not None or success is not None:
            ended.append(Episode(step, counted, success))
    return ended


def _joined(join: Callable[[list[Any]], np.ndarray[Any, Any]], observations: list[Any]) -> Obs:
    """Observations, or each part of them, joined into a copy."""
    if isinstance(observations[0], dict):
        return {key: join([obs[key] for obs in observations]) for key in observations[0]}
    return join(observations)
