"""Masks of invalid actions, with sb3-contrib's conventions: asked of environments, checked, laid over logits.

An environment's ``action_masks()`` says of every choice whether it is valid now: one flag for each action of a Discrete
space, those of all choices one after the other for MultiDiscrete, and for MultiBinary two flags a bit, first that of 0.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from sb3_contrib.common.maskable.utils import EXPECTED_METHOD_NAME, is_masking_supported
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rimrl.errors import EnvironmentFaultError, UsageError, invalid_value, mismatch, needs, wrong
from rimrl.spaces import describe_space

Masks: TypeAlias = NDArray[np.bool_]
AnyMasks: TypeAlias = "Tensor | NDArray[Any]"

# The logit of an invalid action. contrib's -1e8 would win against the logits of a network that has diverged.
_INVALID = -1e30


def flags_of(space: spaces.Space[Any]) -> tuple[int, ...]:
    """How many flags the mask of an action has for each of its choices.

    Args:
        space: Action space.

    Raises:
        UsageError: If its actions cannot be masked.
    """
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return tuple(space.nvec.tolist())
    if isinstance(space, spaces.MultiBinary) and isinstance(space.n, int | np.integer):
        return (2,) * int(space.n)
    raise needs(
        "use_masking", "actions that are Discrete, or MultiDiscrete or MultiBinary of one axis", describe_space(space)
    )


def check_offered(env: VecEnv, which: str = "the training environment") -> None:
    """Refuse environments that offer no masks.

    Args:
        env: The environments.
        which: Names them in errors.

    Raises:
        UsageError: If one has no method ``action_masks``, or its actions cannot be masked.
    """
    flags_of(env.action_space)
    if not is_masking_supported(env):
        raise needs(
            "use_masking",
            "an environment with action_masks()",
            which,
            "add it, wrap it in ActionMasker of sb3_contrib, or switch use_masking off",
        )


def ask(env: VecEnv, steps: int) -> Masks:
    """The masks of what the environments show now.

    Args:
        env: The environments.
        steps: How many environment steps were taken before, for errors.

    Returns:
        ``[n_envs, flags]``.

    Raises:
        EnvironmentFaultError: Names the environment whose mask does not fit its actions, or forbids all of them.
    """
    given = env.env_method(EXPECTED_METHOD_NAME)
    try:
        return _checked(given, env.action_space)
    except UsageError as error:
        raise EnvironmentFaultError.of(error.within(f"after {steps} steps, ")) from None


def as_masks(masks: ArrayLike, space: spaces.Space[Any], n_envs: int) -> Masks:
    """Masks that someone passed with observations.

    Args:
        masks: One for each environment; for one environment also that of it alone.
        space: Action space.
        n_envs: Number of observations.

    Returns:
        ``[n_envs, flags]``.

    Raises:
        UsageError: If they do not fit observations or actions, or forbid every action.
    """
    given: Any = [masks] if n_envs == 1 and np.shape(masks) in _shapes(space) else masks
    if np.shape(given)[:1] != (n_envs,):
        raise mismatch(
            "action_masks", f"{sum(flags_of(space))} flags for each of {n_envs} observations", list(np.shape(given))
        )
    return _checked(list(given), space)


def masked(logits: Tensor, masks: AnyMasks, space: spaces.Space[Any]) -> Tensor:
    """Logits under which no invalid action has a chance.

    Args:
        logits: ``[B, logits]``, as SB3's distribution over `space` takes them.
        masks: ``[B, flags]``, true where valid.
        space: Action space.

    Returns:
        The same, with -1e30 for what is invalid; 1e30 for a bit that must be 1.

    Raises:
        UsageError: If there are not as many masks as logits.
    """
    flags = th.as_tensor(masks, dtype=th.bool, device=logits.device)
    width = sum(flags_of(space))
    if flags.numel() != len(logits) * width:
        raise mismatch("action_masks", f"[{len(logits)}, {width}] for {describe_space(space)}", list(flags.shape))
    if isinstance(space, spaces.MultiBinary):
        off, on = flags.reshape(*logits.shape, 2).unbind(-1)
        return logits.masked_fill(~on, _INVALID).masked_fill(~off, -_INVALID)
    return logits.masked_fill(~flags.reshape(logits.shape), _INVALID)


def sample_valid(space: spaces.Space[Any], mask: Masks) -> Any:
    """An action that is uniformly random among the valid ones.

    Args:
        space: Action space; its generator draws.
        mask: ``[flags]``.
    """
    flags = mask.astype(np.int8)
    if isinstance(space, spaces.Discrete):
        return space.sample(mask=flags)
    if isinstance(space, spaces.MultiDiscrete):
        return space.sample(mask=tuple(np.split(flags, np.cumsum(flags_of(space))[:-1])))
    assert isinstance(space, spaces.MultiBinary)
    off, on = flags.reshape(-1, 2).T
    return space.sample(mask=np.where(off & on, 2, on).astype(np.int8))  # 2: either


def _checked(given: list[Any], space: spaces.Space[Any]) -> Masks:
    flags, shapes = flags_of(space), _shapes(space)
    found = np.stack([_one(mask, shapes, space, env) for env, mask in enumerate(given)])
    possible = np.logical_or.reduceat(found, np.cumsum((0, *flags[:-1])), axis=1)
    if not possible.all():
        env, choice = np.argwhere(~possible)[0].tolist()
        what = "every action" if len(flags) == 1 else f"every value of choice {choice}"
        raise wrong(f"the mask of environment {env}", f"forbids {what}", "at least one must be valid")
    return found


def _shapes(space: spaces.Space[Any]) -> tuple[tuple[int, ...], ...]:
    """What a mask may look like: its flags in a row, or a row for each choice where all have as many."""
    flags = flags_of(space)
    return ((sum(flags),), *([(len(flags), flags[0])] if len(set(flags)) == 1 else []))


def _one(mask: Any, shapes: tuple[tuple[int, ...], ...], space: spaces.Space[Any], env: int) -> Masks:
    try:
        array = np.asarray(mask)
    except ValueError:  # a list of choices with different numbers of flags
        array = np.asarray(None)
    if array.shape not in shapes:
        raise mismatch(
            f"the mask of environment {env}", f"{shapes[0][0]} flags for {describe_space(space)}", list(array.shape)
        )
    if array.dtype != bool and not (array.dtype.kind in "iuf" and np.isin(array, (0, 1)).all()):
        raise invalid_value(f"the mask of environment {env}", "of true and false", mask)
    return array.astype(bool, copy=False).reshape(-1)
