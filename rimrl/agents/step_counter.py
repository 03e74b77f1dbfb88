"""Counts what happens to an agent's environments, so that play by someone else does not go unnoticed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

_ATTRIBUTE = "_rimrl_moves"


class StepCounter:
    """How often the environments of a vector were stepped or reset, whoever did it.

    Attributes:
        count: Calls so far.
    """

    def __init__(self) -> None:
        self.count = 0


class _Counted:
    """A method that counts its calls; a class, so that a copied environment gets a copy bound to itself."""

    def __init__(self, moves: StepCounter, method: Callable[..., Any]) -> None:
        self.moves = moves
        self.method = method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.moves.count += 1
        return self.method(*args, **kwargs)


class _CountedByName(_Counted):
    """``env_method``, of which calls that step or reset environments count."""

    def __call__(self, method_name: str, *args: Any, **kwargs: Any) -> Any:
        if method_name in ("reset", "step"):
            self.moves.count += 1
        return self.method(method_name, *args, **kwargs)


def step_counter_of(env: VecEnv) -> StepCounter:
    """The counter of a vector's environments; it is attached at the first call.

    In a `DummyVecEnv` each environment is counted, because its owner may hold it without the vector. Anything else is
    counted as a whole. Environments that take no attributes are not counted.

    Args:
        env: The vector, wrapped or not.
    """
    innermost = env.unwrapped
    known = getattr(innermost, _ATTRIBUTE, None)
    if isinstance(known, StepCounter):
        return known
    moves = StepCounter()
    movers = [each.unwrapped for each in innermost.envs] if isinstance(innermost, DummyVecEnv) else [innermost]
    for mover in movers:
        for name in ("reset", "step" if isinstance(innermost, DummyVecEnv) else "step_async"):
            with suppress(AttributeError, TypeError):
                setattr(mover, name, _Counted(moves, getattr(mover, name)))
    if not isinstance(innermost, DummyVecEnv):
        innermost.env_method = _CountedByName(moves, innermost.env_method)  # type: ignore[method-assign]
    setattr(innermost, _ATTRIBUTE, moves)
    return moves
