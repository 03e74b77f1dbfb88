"""Whose fault it is that a rollout holds NaN: an environment's, or the policy's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

import numpy as np
import torch as th

from rimrl.agents.rollout import SequenceRolloutBuffer, map_parts
from rimrl.errors import EnvironmentFaultError, NotFiniteError


def refuse_not_finite(obs: Any, envs: Sequence[int] | np.ndarray[Any, Any]) -> None:
    """Say which environment showed what no network can read.

    Args:
        obs: Observations, ``[len(envs), ...]`` or a dict of such.
        envs: Whose they are.

    Raises:
        EnvironmentFaultError: If a number is NaN or infinite.
    """
    for key, part in obs.items() if isinstance(obs, dict) else [(None, obs)]:
        bad = ~th.as_tensor(part).reshape(len(envs), -1).isfinite().all(dim=1)
        if bool(bad.any()):
            where = "" if key is None else f" in {key!r}"
            shower = int(envs[int(bad.int().argmax())])
            raise EnvironmentFaultError(
                f"environment {shower} showed an observation{where} that is NaN or infinite", key="observation"
            )


@contextmanager
def blaming(obs: Any, envs: Sequence[int] | np.ndarray[Any, Any]) -> Iterator[None]:
    """Where the policy refuses observations, see first whether an environment is to blame; as `refuse_not_finite`."""
    try:
        yield
    except ValueError:
        refuse_not_finite(obs, envs)
        raise


def refuse_bad_rewards(rollout_buffer: SequenceRolloutBuffer) -> None:
    """Say which environment gave what no value can be learned from.

    Raises:
        EnvironmentFaultError: If a reward is not finite.
    """
    bad = ~np.isfinite(rollout_buffer.rewards)
    if bad.any():
        giver = int(bad.any(axis=0).argmax())
        raise EnvironmentFaultError(
            f"environment {giver} gave a reward that is NaN, infinite or too large for float32", key="reward"
        )


def refuse_nan(rollout_buffer: SequenceRolloutBuffer, last_obs: Any, n_envs: int, n_updates: int) -> None:
    """Stop where the policy has answered NaN: learning from it would spread it to every weight.

    Args:
        rollout_buffer: A full rollout, with returns.
        last_obs: What the environments showed after it.
        n_envs: How many they are.
        n_updates: How often the policy was updated before.

    Raises:
        EnvironmentFaultError: If the environment is the source.
        NotFiniteError: If the policy is.
    """
    bad = ~(np.isfinite(rollout_buffer.values) & np.isfinite(rollout_buffer.log_probs))
    if not bad.any():
        if not np.isfinite(rollout_buffer.returns).all():
            refuse_not_finite(last_obs, range(n_envs))
            raise NotFiniteError("advantages are NaN or infinite; check the size of rewards", key="advantages")
        return
    first = int(bad.any(axis=1).argmax())
    seen = rollout_buffer.observations
    for step in range(first + 1):
        refuse_not_finite(map_parts(itemgetter(step), seen), range(n_envs))
    line = f"the policy answers NaN or infinity after {n_updates} updates"
    advice = "lower learning_rate or max_grad_norm, and check the size of rewards and observations"
    raise NotFiniteError(f"{line}; {advice}", key="policy", valid=advice)
