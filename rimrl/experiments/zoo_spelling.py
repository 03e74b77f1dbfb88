"""Keys and values as rl-baselines3-zoo writes them, put into rimrl's own."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from rimrl.errors import conflict, invalid_value, shorten
from rimrl.experiments.named_classes import listed, names_in, names_to_train

CLASS_LISTS = ("env.env_wrapper", "train.callback")
"""Keys whose values are classes with their arguments."""
_SCHEDULED = ("agent.learning_rate", "agent.clip_range", "agent.clip_range_vf")
_NORMALIZE = "agent.normalize"
_NORMALIZED = {"norm_obs": "agent.normalize_observations", "norm_reward": "agent.normalize_rewards"}


def as_own(settings: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Settings without what only rl-baselines3-zoo has a word for.

    ``lin_0.1`` becomes 0.1 with the schedule ``"linear"``, ``agent.normalize`` its two switches, and a wrapper or
    callback that stands alone a list of one.

    Args:
        settings: Values of a file by dotted keys.
        where: The file.

    Raises:
        UsageError: If such a value is malformed, or contradicts one that is given in rimrl's own words.
    """
    own = dict(settings)
    for key in _SCHEDULED:
        if isinstance(value := own.get(key), str) and value.startswith("lin_"):
            own[key] = _number(value, key, where)
            _add(own, f"{key}_schedule", "linear", f"{key} {value}", where)
    if _NORMALIZE in own:
        for key, value in _normalized(own.pop(_NORMALIZE), where).items():
            _add(own, key, value, _NORMALIZE, where)
    for key in CLASS_LISTS:
        if key in own:
            own[key] = listed(own[key], f"{key} in {where}")
    return own


def changes_as_own(changes: Mapping[str, str]) -> dict[str, str]:
    """As `as_own`, for words of the command line: JSON, or the name of a class alone.

    Raises:
        UsageError: As `as_own`.
    """
    concerned = {*_SCHEDULED, _NORMALIZE, *CLASS_LISTS}
    read = {key: _read(text) if key in concerned else text for key, text in changes.items()}
    own = as_own(read, "the command line")
    return {key: _written(key, value, changes, read) for key, value in own.items()}


def _written(key: str, value: Any, changes: Mapping[str, str], read: Mapping[str, Any]) -> str:
    """A value as a word of the command line; one that was not rewritten stays as it is."""
    if key in changes and key not in CLASS_LISTS and value == read[key]:
        return changes[key]
    return value if isinstance(value, str) else json.dumps(value)


def class_names(settings: Mapping[str, Any]) -> list[str]:
    """Every class that settings name, rewritten by `as_own` already, and that is not free to use."""
    wrappers = settings.get("env.env_wrapper")
    return (names_in(wrappers) if isinstance(wrappers, list) else []) + names_to_train(settings)


def class_names_in_words(changes: Mapping[str, str]) -> list[str]:
    """Likewise of values as the command line has them."""
    concerned = {key: listed(_read(text), key) if key in CLASS_LISTS else text for key, text in changes.items()}
    return class_names(concerned)


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _number(text: str, key: str, where: object) -> float:
    if not re.fullmatch(r"lin_\d*\.?\d+(e[+-]?\d+)?", text):
        raise invalid_value(f"{key} in {where}", "a number, or lin_ and a number such as lin_3e-4", text)
    return float(text.removeprefix("lin_"))


def _add(own: dict[str, Any], key: str, value: Any, said: str, where: object) -> None:
    if own.setdefault(key, value) != value:
        raise conflict(f"{said} in {where}", f"{key} {shorten(own[key])}, as it means {value}")


def _normalized(value: Any, where: object) -> dict[str, bool]:
    if isinstance(value, str):
        value = _literal(value)
    if isinstance(value, bool):
        value = dict.fromkeys(_NORMALIZED, value)
    known = isinstance(value, dict) and value.keys() <= _NORMALIZED.keys()
    if not known or not all(isinstance(each, bool) for each in value.values()):
        raise invalid_value(
            f"{_NORMALIZE} in {where}",
            f"true, false or a mapping of {' and '.join(_NORMALIZED)} to true or false",
            value,
            "discount, clipping and epsilon are agent.gamma's and VecNormalize's defaults",
        )
    return {key: value.get(name, True) for name, key in _NORMALIZED.items()}


def _literal(text: str) -> Any:
    """What the zoo evaluates: ``"{'norm_obs': True}"`` or ``"dict(norm_obs=True)"``; nothing is run here."""
    try:
        node = ast.parse(text[:1000].strip(), mode="eval").body
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
            return {entry.arg: ast.literal_eval(entry.value) for entry in node.keywords}
        return ast.literal_eval(node)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
