"""Suites of the user's own, from plain data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rimrl.envs.splits import EnvSplit, Suite
from rimrl.errors import invalid_value, mismatch, shorten, unknown_name
from rimrl.imports import module_in

_KEYS = ("id", "kwargs", "held_out", "description")
_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)


def suite_of(name: str, splits: Mapping[str, Mapping[str, Any]], description: str = "") -> Suite:
    """A suite from plain data.

    Args:
        name: Its name.
        splits: By name, each with ``id`` and, if that is wanted, ``kwargs``, ``held_out`` and ``description``.
        description: One sentence.

    Raises:
        UsageError: Names the key that does not fit, or says that there is no training split, or more than one.
    """
    where = f"suite {shorten(name)}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid_value("the name of a suite", "letters, digits, '_', '.' and '-'", name)
    if not isinstance(description, str):
        raise invalid_value(f"description of {where}", "text", description)
    if not isinstance(splits, Mapping) or not splits:
        raise invalid_value(f"splits of {where}", "a mapping from names to environments", splits)
    made = tuple(_split(each, split, f"split {shorten(each)} of {where}") for each, split in splits.items())
    trained = [split.name for split in made if not split.held_out]
    if len(trained) != 1:
        found = f"held_out is false for {', '.join(trained)}" if trained else "held_out is true for all of its splits"
        raise mismatch(where, "of exactly one split that is trained on", found)
    if trained != ["train"]:
        raise mismatch(f"the split of {where} that is trained on", "called 'train'", repr(trained[0]))
    return Suite(name, description, made)


def content_of(suite: Suite) -> dict[str, Any]:
    """A suite as the plain data that `suite_of` makes it from, with its name."""
    splits = {
        split.name: {
            "id": split.env_id,
            "kwargs": dict(split.env_kwargs),
            "held_out": split.held_out,
            "description": split.description,
        }
        for split in suite.splits
    }
    return {"name": suite.name, "description": suite.description, "splits": splits}


def modules_of(suite: Suite) -> tuple[str, ...]:
    """The modules in the ids of a suite's splits, such as ``module:Env-v0``."""
    return tuple(dict.fromkeys(module for split in suite.splits for module in module_in(split.env_id)))


def _split(name: str, content: Mapping[str, Any], where: str) -> EnvSplit:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid_value(f"the name of {where}", "letters, digits, '_', '.' and '-'", name)
    if not isinstance(content, Mapping):
        raise invalid_value(where, "a mapping with 'id'", content)
    for key in content:
        if key not in _KEYS:
            raise unknown_name("key", str(key), _KEYS, where)
    env_id, kwargs = content.get("id"), content.get("kwargs", {})
    held_out, description = content.get("held_out", name != "train"), content.get("description", "")
    if not isinstance(env_id, str) or not env_id:
        raise invalid_value(f"id of {where}", "that of an environment", env_id)
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise invalid_value(f"kwargs of {where}", "a mapping of arguments", kwargs)
    if not isinstance(held_out, bool):
        raise invalid_value(f"held_out of {where}", "true or false", held_out)
    if not isinstance(description, str):
        raise invalid_value(f"description of {where}", "text", description)
    return EnvSplit(name, env_id, held_out, description, kwargs)
