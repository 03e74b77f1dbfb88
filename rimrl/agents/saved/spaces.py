"""Observation and action spaces as JSON, and back with every field checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from rimrl.agents.saved.fields import fields_of, integer, integers
from rimrl.errors import UsageError, unknown_name

_LARGEST = 2**24
_MOST_PARTS = 64
_DTYPES = ("float16", "float32", "float64", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
_FIELDS = {
    "Box": ("shape", "dtype", "low", "high"),
    "Discrete": ("n", "start"),
    "MultiDiscrete": ("nvec",),
    "MultiBinary": ("n",),
    "Dict": ("spaces",),
}


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """A space as JSON holds it; `space_from_json` gives an equal one.

    A bound that is the same everywhere is one number; infinity is ``"inf"`` or ``"-inf"``.

    Raises:
        UsageError: For a space that Stable-Baselines3 cannot learn with.
    """
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: space_to_json(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Box):
        bounds = {"low": bound_to_json(space.low), "high": bound_to_json(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not np.any(space.start):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": list(space.shape) if len(space.shape) > 1 else int(space.shape[0])}
    raise UsageError(f"a space like {space} cannot be exported; valid: {', '.join(_FIELDS)}")


def bound_to_json(bound: np.ndarray[Any, Any]) -> Any:
    """A bound of a `Box`: one number where all are equal, else nested lists."""
    if bound.size and (bound == bound.flat[0]).all():
        return _number_to_json(bound.flat[0].item())
    return _map(bound.tolist(), _number_to_json)


def space_from_json(content: Any, where: str) -> spaces.Space[Any]:
    """Rebuild a space.

    Args:
        content: What `space_to_json` gave, or anything else.
        where: Names the place in errors, such as ``card.json: observation_space``.

    Raises:
        UsageError: Names the field that does not fit.
    """
    kind = content.get("type") if isinstance(content, dict) else None
    if not isinstance(kind, str):
        raise UsageError(f"{where} must be a mapping with a type ({', '.join(_FIELDS)}), got {str(content)[:60]!r}")
    if kind not in _FIELDS:
        raise unknown_name("space", kind, _FIELDS, where)
    found = fields_of(content, ("type", *_FIELDS[kind]), where)
    if kind == "Dict":
        parts = found["spaces"]
        if not isinstance(parts, dict) or not parts:
            raise UsageError(f"{where}.spaces must be a mapping of names to spaces")
        if any(isinstance(part, dict) and part.get("type") == "Dict" for part in parts.values()):
            raise UsageError(f"{where} is a Dict in a Dict, which Stable-Baselines3 cannot read")
        if len(parts) > _MOST_PARTS or sum(map(_elements, parts.values())) > _LARGEST:
            raise UsageError(f"{where} has more than {_MOST_PARTS} parts, or more than {_LARGEST} elements together")
        return spaces.Dict({key: space_from_json(part, f"{where}.spaces.{key}") for key, part in parts.items()})
    if kind == "Box":
        return _box(found, where)
    if kind == "Discrete":
        start = integer(found["start"], f"{where}.start", -_LARGEST, _LARGEST)
        return spaces.Discrete(integer(found["n"], f"{where}.n", 1, _LARGEST), start=start)
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(_sizes(found["nvec"], f"{where}.nvec"))
    n = found["n"]
    return spaces.MultiBinary(_sizes(n, f"{where}.n") if isinstance(n, list) else integer(n, f"{where}.n", 1, _LARGEST))


def _box(found: dict[str, Any], where: str) -> spaces.Box:
    shape = tuple(integers(found["shape"], f"{where}.shape", 0, _LARGEST))
    if math.prod(shape) > _LARGEST or len(shape) > 8:
        raise UsageError(f"{where}.shape {list(shape)} is larger than {_LARGEST} elements")
    name = found["dtype"]
    if name not in _DTYPES:
        raise UsageError(f"{where}.dtype must be one of {', '.join(_DTYPES)}, got {str(name)[:40]!r}")
    dtype = np.dtype(name)
    low, high = (_bound(found[side], shape, dtype, f"{where}.{side}") for side in ("low", "high"))
    if (low > high).any():
        raise UsageError(f"{where}.low lies above {where}.high")
    return spaces.Box(low, high, shape, dtype.type)


def _bound(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> np.ndarray[Any, Any]:
    problem = UsageError(f"{where} must be a number of {dtype}, or such numbers in the shape {list(shape)}")
    kinds: tuple[type, ...] = (int,) if dtype.kind in "iu" else (int, float)

    def number(each: Any) -> Any:
        if each in ("inf", "-inf") and dtype.kind == "f":
            return float(each)
        if isinstance(each, bool) or not isinstance(each, kinds):
            raise problem
        return each

    try:
        array = np.asarray(_map(value, number), dtype=dtype)
    except (ValueError, OverflowError, RecursionError):
        raise problem from None
    if array.shape not in ((), shape) or np.isnan(array).any():
        raise problem
    return np.broadcast_to(array, shape).copy()


def _sizes(value: Any, where: str) -> list[int]:
    sizes = integers(value, where, 1, _LARGEST)
    if not sizes or sum(sizes) > _LARGEST:
        raise UsageError(f"{where} must hold sizes that add up to at most {_LARGEST}")
    return sizes


def _elements(part: Any) -> int:
    """Elements of a Box that has yet to be checked."""
    shape = part.get("shape") if isinstance(part, dict) else None
    if not isinstance(shape, list) or not all(isinstance(side, int) for side in shape):
        return 0
    return math.prod(shape)


def _map(value: Any, function: Any) -> Any:
    return [_map(each, function) for each in value] if isinstance(value, list) else function(value)


def _number_to_json(value: float) -> Any:
    return str(value) if isinstance(value, float) and math.isinf(value) else value
