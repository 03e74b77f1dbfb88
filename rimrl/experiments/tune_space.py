"""What ``rimrl tune`` searches: values of each key, such as ``16,32,64``, or a range, such as ``1e-4..1e-2,log``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from stable_baselines3.common.vec_env import VecEnv

from rimrl.errors import UsageError, conflict, invalid_value, missing, needs, shorten, unknown_name, wrong
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.config_files import changed
from rimrl.experiments.factory import make_agent, make_train_env
from rimrl.experiments.sweep_config import split_values
from rimrl.runs.settings import SPACES, shipped_files
from rimrl.runs.yaml_files import read_yaml

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_EXAMPLE = "as agent.learning_rate=1e-4..1e-2,log"
_LARGEST = 2**53
# What a search must leave alone, by the beginning of a key: results would not be of one task and one budget.
_KEPT: Mapping[str, str] = {
    "env.id": "a search is on one task",
    "env.kwargs": "a search is on one task",
    "train.": "trials differ in nothing but what is searched; seeds come from --seeds",
    "core.name": "each core is searched by itself; run the search again with another configuration",
    "agent.algorithm": "each algorithm is searched by itself; run the search again with another configuration",
    "agent.init_from": "a trial starts from random weights, or from what the configuration names",
}


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Attributes:
        values: As the command line has them.
    """

    values: tuple[str, ...]

    @property
    def ends(self) -> tuple[str, ...]:
        """Values that are checked beforehand: all of them."""
        return self.values


@dataclass(frozen=True)
class Range:
    """A number between two others, both included.

    Attributes:
        low: The least.
        high: The largest.
        log: Whether its logarithm is drawn, not itself.
        whole: Whether it is an integer.
    """

    low: float
    high: float
    log: bool
    whole: bool

    @property
    def ends(self) -> tuple[str, ...]:
        """Values that are checked beforehand: the ends, as the command line has them."""
        return tuple(repr(int(end) if self.whole else end) for end in (self.low, self.high))


Dimension: TypeAlias = Choice | Range
Space: TypeAlias = Mapping[str, Dimension]


def split_space(words: Sequence[str]) -> dict[str, str]:
    """Keys and what is searched of them, from words such as ``agent.learning_rate=1e-4..1e-2,log``.

    Raises:
        UsageError: For a word that is malformed, and a key that is given twice.
    """
    found: dict[str, str] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip().removeprefix("--")
        if not equals or not key or not text.strip():
            raise invalid_value("--space", "KEY=VALUE,VALUE,… or KEY=LOW..HIGH or KEY=LOW..HIGH,log", word, _EXAMPLE)
        if key in found:
            raise wrong("--space", f"gives {shorten(key)} twice", "put all its values into one")
        found[key] = text.strip()
    return found


def shipped_space(core: str, algorithm: str) -> dict[str, str]:
    """What is searched of an algorithm and a core unless the command says otherwise, in words.

    Raises:
        UsageError: If nothing comes with rimrl for the algorithm.
    """
    files = shipped_files()
    if f"{SPACES}{algorithm}" not in files:
        raise missing(f"space of rimrl's for the algorithm {algorithm!r}", advice="say with --space what to search")
    found: dict[str, str] = {}
    for name in (algorithm, core):
        file = files.get(f"{SPACES}{name}")
        found |= {} if file is None else {str(key): str(text) for key, text in (read_yaml(file) or {}).items()}
    return found


def parse_space(words: Mapping[str, str], base: ExperimentConfig) -> dict[str, Dimension]:
    """Read what is searched.

    Args:
        words: For each key, such as ``16,32,64``, ``1e-4..1e-2,log`` or ``2..5``.
        base: The configuration whose keys they are.

    Raises:
        UsageError: For keys that do not exist (names the nearest) or that a search must leave alone, and for what is
            no list of values and no range.
    """
    known = base.flat()
    for key in words:
        kept = next((why for beginning, why in _KEPT.items() if key.startswith(beginning)), None)
        if kept is not None:
            raise conflict(f"--space {shorten(key)}", "a search", kept)
        if key not in known:
            raise unknown_name("key", key, known, where="--space")
    if not words:
        raise needs("--space", "at least one key", advice=_EXAMPLE)
    return {key: _dimension(key, text, isinstance(known[key], float)) for key, text in words.items()}


def check_space(space: Space, base: ExperimentConfig) -> None:
    """Make an agent with the configuration as it stands, and with each value of the space in it.

    Raises:
        UsageError: If that cannot be done; says with which value.
    """
    envs: dict[str, VecEnv] = {}
    try:
        _check(base, envs)
        for key, dimension in space.items():
            for value in dimension.ends:
                try:
                    _check(changed(base, [f"--{key}={value}"]), envs)
                except UsageError as error:
                    raise error.within(after=f" (with --space {key}={value} and the configuration's others)") from None
    finally:
        for env in envs.values():
            env.close()


def own_values(space: Space, base: ExperimentConfig) -> dict[str, Any]:
    """Where the configuration itself lies in a space, as far as it does."""
    own = base.flat()
    found: dict[str, Any] = {}
    for key, dimension in space.items():
        value = own[key]
        if isinstance(dimension, Choice):
            same = (text for text in dimension.values if changed(base, [f"--{key}={text}"]).flat()[key] == value)
            choice = next(same, None)
            if choice is not None:
                found[key] = choice
        elif (
            isinstance(value, int | float) and not isinstance(value, bool) and dimension.low <= value <= dimension.high
        ):
            found[key] = value
    return found


def settings(values: Mapping[str, Any]) -> list[str]:
    """Values that were drawn as overrides."""
    return [f"--{key}={value if isinstance(value, str) else repr(value)}" for key, value in values.items()]


def _check(config: ExperimentConfig, envs: dict[str, VecEnv]) -> None:
    key = repr(config.env)
    if key not in envs:
        envs[key] = make_train_env(config)
    make_agent(config, envs[key])


def _dimension(key: str, text: str, is_float: bool) -> Dimension:
    parts = split_values(text)
    log = len(parts) == 2 and parts[1] == "log"
    if ".." in parts[0] and (len(parts) == 1 or log) and parts[0][0] not in "\"'[{(":
        return _range(key, parts[0], log, is_float)
    where = f"--space {key}={text}"
    if any(".." in part for part in parts):
        raise wrong(where, "mixes a range with something else", "write LOW..HIGH, LOW..HIGH,log or VALUE,VALUE,…")
    if not all(parts):
        raise wrong(where, "holds an empty value")
    if log:
        raise wrong(where, "has log without a range", f"write {key}=1e-4..1e-2,log")
    twice = next((part for part in parts if parts.count(part) > 1), None)
    if twice is not None:
        raise wrong(where, f"gives the value {twice!r} twice")
    if len(parts) == 1:
        raise wrong(where, "holds a single value, so that there is nothing to search", f"set it with --{key}")
    return Choice(tuple(parts))


def _range(key: str, text: str, log: bool, is_float: bool) -> Range:
    where = f"--space {key}={text}" + (",log" if log else "")
    ends = [end.strip() for end in text.split("..")]
    try:
        low, high = (float(end) for end in ends)
    except (ValueError, OverflowError):
        raise invalid_value(where, "of numbers on both sides of .., as 1e-4..1e-2", text) from None
    if not math.isfinite(low) or not math.isfinite(high):
        raise invalid_value(where, "of finite ends", text)
    if low > high:
        raise wrong(where, "has its lower end above the upper one", f"write {key}={ends[1]}..{ends[0]}")
    if low == high:
        raise wrong(where, "is empty but for one value", f"set it with --{key} {ends[0]}")
    if log and low <= 0:
        raise wrong(where, f"asks for the logarithm of {ends[0]}", "begin above 0, or leave out log")
    whole = not is_float and all(_INTEGER.fullmatch(end) for end in ends)
    if whole and max(abs(low), abs(high)) > _LARGEST:
        raise invalid_value(where, f"of integers between -{_LARGEST} and {_LARGEST}", text)
    return Range(low, high, log, whole)
