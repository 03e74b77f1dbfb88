"""Environments that can be put back where they were, without pickling them.

An episode is what an environment draws from its random generators and what is done in it. `Replayable` keeps the
generators' states as they were before the episode's reset, and the actions since. Another environment of the same kind
gets there by the same reset and the same actions; whether it did is checked by what it shows and what it paid.

Notation: T = steps of an episode so far.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from rimrl.errors import as_raised, one_line

_PCG64 = "PCG64"  # what gymnasium seeds with


class ReplayError(RuntimeError):
    """An environment cannot be put back where it was; says why."""


@dataclass(slots=True)
class EpisodeRecord:
    """How to get to a point of an episode.

    Attributes:
        generators: State of every random generator before the reset, by where it is found (``"1._np_random"``: an
            attribute of the environment inside one wrapper).
        seed: What the reset was given.
        actions: What was done since, ``[T, ...]``; None for T = 0.
        observation: Digest of what the environment shows.
        total_reward: Sum of its rewards since the reset.
    """

    generators: dict[str, dict[str, Any]]
    seed: int | None
    actions: NDArray[Any] | None
    observation: str
    total_reward: float


@dataclass(slots=True)
class _Episode:
    generators: dict[str, dict[str, Any]] | None
    seed: int | None
    actions: list[Any] = field(default_factory=list)
    total_reward: float = 0.0


class Replayable(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Keep what it takes to get back to the present point of an episode.

    `mark` costs little, so that it can be called at every rollout; `marked` fetches what it takes to come back there,
    also when the environment has gone on, even into another episode.

    Args:
        env: Any environment. All its chance must come from ``np.random.Generator`` attributes of itself and its
            wrappers, as gymnasium's ``np_random``.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._episode: _Episode | None = None
        self._observation: Any = None
        self._marked: tuple[_Episode, int, str, float] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._episode = _Episode(None if options else _generator_states(self.env), seed)
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Advance the environment."""
        assert self._episode is not None, "reset comes first"
        self._episode.actions.append(np.array(action))
        step = self.env.step(action)
        self._observation = step[0]
        self._episode.total_reward += float(step[1])
        return step

    def mark(self) -> None:
        """Remember this point."""
        episode = self._episode
        self._marked = None
        if episode is not None:
            self._marked = episode, len(episode.actions), digest(self._observation), episode.total_reward

    def marked(self) -> EpisodeRecord | str | None:
        """How to come back to where `mark` was called last.

        Returns:
            None if that was before the first reset; where there is no way back, why.
        """
        if self._marked is None:
            return None
        episode, steps, observation, total_reward = self._marked
        if episode.generators is None:
            return "its chance is not in gymnasium's random generators alone"
        actions = np.stack(episode.actions[:steps]) if steps else None
        return EpisodeRecord(episode.generators, episode.seed, actions, observation, total_reward)

    def replay(self, record: EpisodeRecord) -> str | None:
        """Go where a record leads.

        Returns:
            None; if it leads elsewhere, how that showed. An answer instead of an exception, which would end the process
            of an environment that has one of its own.
        """
        try:
            self._replay(record)
        except Exception as error:  # a record that does not fit may break an environment in every way
            return one_line(error)
        return None

    def _replay(self, record: EpisodeRecord) -> None:
        _set_generators(self.env, record.generators)
        self.reset(seed=record.seed)
        for action in () if record.actions is None else record.actions:
            if not self.action_space.contains(_as_action(action)):
                raise ReplayError(f"{action} is none of its actions")
            _, _, terminated, truncated, _ = self.step(_as_action(action))
            if terminated or truncated:
                raise ReplayError("the episode ended in another way")
        self.mark()
        assert self._marked is not None
        if self._marked[2:] != (record.observation, record.total_reward):
            raise ReplayError("the same actions led elsewhere")


class ReportCrash(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """End the process when the environment raises, after one line on standard error; for a process of its own."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        try:
            return self.env.reset(seed=seed, options=options)
        except Exception as error:
            self._say(error)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Advance the environment."""
        try:
            return self.env.step(action)
        except Exception as error:
            self._say(error)

    def _say(self, error: Exception) -> NoReturn:
        reason = as_raised(error)
        print(f"rimrl: the environment raised {reason} in a process of its own", file=sys.stderr, flush=True)
        raise SystemExit(1) from None


def digest(observation: Any) -> str:
    """A short text that differs where observations differ."""
    total = hashlib.blake2b(digest_size=16)
    parts = sorted(observation.items()) if isinstance(observation, dict) else [("", observation)]
    for name, part in parts:
        array = np.asarray(part)
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def _as_action(action: NDArray[Any]) -> Any:
    return action if action.ndim else action[()]


def _layers(env: gymnasium.Env[Any, Any]) -> Iterator[gymnasium.Env[Any, Any]]:
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def _generator_states(env: gymnasium.Env[Any, Any]) -> dict[str, dict[str, Any]] | None:
    """States of all generators; None where there is chance that they do not hold."""
    states: dict[str, dict[str, Any]] = {}
    for depth, layer in enumerate(_layers(env)):
        for name, value in vars(layer).items():
            if isinstance(value, np.random.Generator):
                state = value.bit_generator.state
                if state["bit_generator"] != _PCG64:
                    return None
                states[f"{depth}.{name}"] = dict(state)
            elif isinstance(value, np.random.RandomState | random.Random) or name == "ale":
                return None
    return states


def _set_generators(env: gymnasium.Env[Any, Any], states: dict[str, dict[str, Any]]) -> None:
    layers = list(_layers(env))
    for place, state in states.items():
        depth, _, name = place.partition(".")
        layer = layers[int(depth)] if depth.isdecimal() and int(depth) < len(layers) else None
        held = vars(layer).get(name) if layer is not None else None
        # What gymnasium has not drawn from yet is None, and no other attribute is to be replaced.
        if layer is None or not (isinstance(held, np.random.Generator) or (held is None and name == "_np_random")):
            raise ReplayError(f"it has no random generator {place}")
        generator = np.random.Generator(np.random.PCG64())
        try:
            generator.bit_generator.state = state
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ReplayError(f"{place} is no state of a random generator ({error})") from None
        vars(layer)[name] = generator
