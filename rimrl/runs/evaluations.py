"""``evaluation.json``, which differs between kinds of runs in a few keys: reading it checked, and writing it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rimrl.errors import UsageError, damaged
from rimrl.reading import UnreadableError, read_json
from rimrl.runs.kinds import KINDS, Kind, upgraded_facts
from rimrl.runs.validated import DamagedError, Fields

FIGURES = frozenset({"success_rate", "return_mean", "accuracy", "cross_entropy", "mse", "bits_per_symbol"})
"""What a split is scored by: at least one of them is there."""
_NUMBERS = (*FIGURES, *(f"random_{name}" for name in FIGURES), "return_std", "length_mean")
_MAY_BE_NULL = ("success_rate", *(f"random_{name}" for name in FIGURES))
_INTEGERS = {"seed": 2**32 - 1, "n_envs": 2**32, **{kind.reached: 2**53 for kind in KINDS.values()}}
_LONGEST_NAME = 500
_LONGEST_SUFFIX = 80
_MOST_SPLITS = 1000


def ablation_suffix(num_active: int | Sequence[int] | None) -> str:
    """What the names of files and folders have behind them where other than the trained number of units were active."""
    if num_active is None:
        return ""
    numbers = [num_active] if isinstance(num_active, int) else num_active
    return "-num_active=" + ",".join(map(str, numbers))


def arguments_suffix(env_kwargs: Mapping[str, Any]) -> str:
    """What they have behind them where environments were given other arguments, such as ``-size=9``."""
    if not env_kwargs:
        return ""
    text = ",".join(f"{name}={_short(value)}" for name, value in sorted(env_kwargs.items()))
    plain = re.sub(r"[^\w.,=+-]", "", text, flags=re.ASCII)
    if plain != text or len(plain) > _LONGEST_SUFFIX:  # no name for a file, or that of other arguments, too
        plain = f"{plain[:_LONGEST_SUFFIX]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return f"-{plain}"


def _short(value: Any) -> str:
    is_word = isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*", value, re.ASCII)
    return value if is_word and value not in ("true", "false", "null") else json.dumps(value, default=str)


def read_evaluation(file: Path) -> dict[str, Any]:
    """Content of an ``evaluation.json``.

    Returns:
        ``suite``, ``config`` and ``kind`` are texts, ``splits`` holds at least one split, each with ``held_out``, how
        many episodes or sequences it had (`rimrl.runs.kinds.Kind.trials`) and one of `FIGURES`; whatever else reports
        read has its type, or is missing.

    Raises:
        UnreadableError: If it cannot be read, is no JSON, or an entry is of another kind; names the entry.
    """
    found = read_json(file, follow=False)
    try:
        found, kind = upgraded_facts(found, "evaluation")
        evaluation = Fields(found, "evaluation")
        for name in ("suite", "config"):
            evaluation.text(name, _LONGEST_NAME)
        for name in ("core", "model"):
            if name in evaluation:
                evaluation.text(name, _LONGEST_NAME)
        for name, most in _INTEGERS.items():
            if name in evaluation:
                evaluation.integer(name, 0, most)
        if "deterministic" in evaluation:
            evaluation.switch("deterministic")
        for name in ("core_options", "changed_kwargs"):
            if name in evaluation:
                evaluation.nested(name)
        splits = evaluation.nested("splits")
        names = list(splits.names())
        if not 1 <= len(names) <= _MOST_SPLITS or not all(map(_is_name, names)):
            raise DamagedError(f"evaluation.splits does not hold from 1 to {_MOST_SPLITS} names")
        for name in names:
            _check_split(splits.nested(name), kind)
    except DamagedError as error:
        raise UnreadableError.of(damaged(file, error)) from None
    return _without_nulls(found, ("core", "core_options", "changed_kwargs", "model", "deterministic", *_INTEGERS)) | {
        "splits": {name: _without_nulls(found["splits"][name], (kind.asked,)) for name in names}
    }


def _without_nulls(content: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if value is not None or name not in names}


def _is_name(text: str) -> bool:
    return len(text) <= _LONGEST_NAME and text.isprintable()


def _check_split(split: Fields, kind: Kind) -> None:
    split.switch("held_out")
    split.integer(kind.trials, 1, 2**53)
    if FIGURES.isdisjoint(split.names()):
        raise DamagedError(f"{split.where} holds none of {', '.join(sorted(FIGURES))}")
    for name in _NUMBERS:
        if split.has(name) and (name not in _MAY_BE_NULL or split.raw(name) is not None):
            split.number(name, finite=False)
    if kind.asked in split:
        split.nested(kind.asked)


def wilson_interval(rate: float, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a success rate (Wilson, 1927).

    Args:
        rate: Successes over trials.
        trials: Number of trials.

    Returns:
        Lower and upper bound, which always hold ``rate`` between them.
    """
    z = 1.959964  # normal quantile
    scale = 1.0 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half))


def splits_of_same(file: Path, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Splits that an earlier evaluation of the same model in the same way has filled already."""
    try:
        earlier = read_evaluation(file)
    except UsageError:
        return {}
    same = all(earlier.get(key) == value for key, value in evaluation.items())
    return dict(earlier["splits"]) if same else {}


def to_json(evaluation: dict[str, Any]) -> str:
    """Indented, but every list on one line: there are hundreds of episodes."""
    text = json.dumps(evaluation, indent=2)
    return re.sub(r"\[[^][{}]*\]", lambda items: " ".join(items[0].split()), text) + "\n"
