"""Observation and action spaces as JSON, and back with every field checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from rimrl.agents.saved.fields import fields_of, integer, integers
from rimrl.errors import UsageError, invalid_value, mismatch, one_line, unknown_name, wrong
from rimrl.spaces import DTYPES, LARGEST, MOST_AXES, MOST_PARTS

_INTEGERS = tuple(name for name in DTYPES if "int" in name)
_FIELDS = {
    "Box": ("shape", "dtype", "low", "high"),
    "Discrete": ("n", "start"),
    "MultiDiscrete": ("nvec",),
    "MultiBinary": ("n",),
    "Dict": ("spaces",),
}
# They are left out where they are gymnasium's defaults.
_OPTIONAL = {"Discrete": ("dtype",), "MultiDiscrete": ("start", "dtype")}
_DEFAULT_DTYPE = "int64"


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
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), **_dtype_to_json(space)}
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        start = {"start": space.start.tolist()} if np.any(space.start) else {}
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), **start, **_dtype_to_json(space)}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": int(space.n) if isinstance(space.n, int) else list(space.shape)}
    raise wrong(f"a space like {space}", "cannot be exported", f"valid: {', '.join(_FIELDS)}")


def of_gymnasium(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space itself, or where its class is none of gymnasium's, one of gymnasium's that is equal to it.

    A file that names a class of the user's own cannot be read without running code.
    """
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else ()
    if all(type(each).__module__.startswith("gymnasium.spaces.") for each in (space, *parts)):
        return space
    return space_from_json(space_to_json(space), "the space")


def _dtype_to_json(space: spaces.Space[Any]) -> dict[str, str]:
    return {} if space.dtype == _DEFAULT_DTYPE else {"dtype": str(space.dtype)}


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
        raise invalid_value(where, f"a mapping with a type ({', '.join(_FIELDS)})", content)
    if kind not in _FIELDS:
        raise unknown_name("space", kind, _FIELDS, where)
    found = fields_of(content, ("type", *_FIELDS[kind]), where, _OPTIONAL.get(kind, ()))
    if kind == "Dict":
        parts = found["spaces"]
        if not isinstance(parts, dict) or not parts:
            raise invalid_value(f"{where}.spaces", "a mapping of names to spaces", parts)
        if any(isinstance(part, dict) and part.get("type") == "Dict" for part in parts.values()):
            raise wrong(where, "is a Dict in a Dict, which Stable-Baselines3 cannot read")
        if len(parts) > MOST_PARTS or sum(map(_elements, parts.values())) > LARGEST:
            raise wrong(where, f"has more than {MOST_PARTS} parts, or more than {LARGEST} elements together")
        # Pairs keep their order, which is that of the features; a mapping would be sorted.
        return spaces.Dict([(key, space_from_json(part, f"{where}.spaces.{key}")) for key, part in parts.items()])
    if kind == "Box":
        return _box(found, where)
    if kind in ("Discrete", "MultiDiscrete"):
        try:
            return _choices(kind, found, where)
        except (ValueError, OverflowError) as error:
            if isinstance(error, UsageError):
                raise
            raise wrong(where, f"is no {kind} ({one_line(error, 80)})") from None
    n = found["n"]
    if not isinstance(n, list):
        return spaces.MultiBinary(integer(n, f"{where}.n", 1, LARGEST))
    shape = _shape(n, f"{where}.n")
    if not shape or not all(shape):
        raise invalid_value(f"{where}.n", "positive numbers", n)
    return spaces.MultiBinary(shape)


def _choices(kind: str, found: dict[str, Any], where: str) -> spaces.Space[Any]:
    name = found.get("dtype", _DEFAULT_DTYPE)
    if name not in _INTEGERS:
        raise invalid_value(f"{where}.dtype", f"one of {', '.join(_INTEGERS)}", name)
    dtype: dict[str, Any] = {} if name == _DEFAULT_DTYPE else {"dtype": np.dtype(name).type}
    limits = np.iinfo(name)
    lowest, highest = int(limits.min), int(limits.max)
    if kind == "Discrete":
        start = integer(found["start"], f"{where}.start", lowest, highest)
        n = integer(found["n"], f"{where}.n", 1, min(LARGEST, highest))
        return spaces.Discrete(n, start=start, **dtype)
    nvec = _sizes(found["nvec"], f"{where}.nvec")
    starts = None
    if "start" in found:
        starts = integers(found["start"], f"{where}.start", lowest, highest)
        if len(starts) != len(nvec):
            raise mismatch(f"{where}.start", f"{len(nvec)} numbers, one for each choice", len(starts))
    return spaces.MultiDiscrete(nvec, start=starts, **dtype)


def _box(found: dict[str, Any], where: str) -> spaces.Box:
    shape = _shape(found["shape"], f"{where}.shape")
    name = found["dtype"]
    if name not in DTYPES:
        raise invalid_value(f"{where}.dtype", f"one of {', '.join(DTYPES)}", name)
    dtype = np.dtype(name)
    low, high = (_bound(found[side], shape, dtype, f"{where}.{side}") for side in ("low", "high"))
    if (low > high).any():
        raise wrong(f"{where}.low", f"lies above {where}.high")
    return spaces.Box(low, high, shape, dtype.type)


_KINDS: dict[str, tuple[type, ...]] = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}


def _bound(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> np.ndarray[Any, Any]:
    problem = invalid_value(where, f"a number of {dtype}, or such numbers in the shape {list(shape)}", value)
    kinds = _KINDS[dtype.kind]

    def number(each: Any) -> Any:
        if each in ("inf", "-inf") and dtype.kind == "f":
            return float(each)
        if isinstance(each, bool) != (dtype.kind == "b") or not isinstance(each, kinds):
            raise problem
        return each

    try:
        array = np.asarray(_map(value, number), dtype=dtype)
    except (ValueError, OverflowError, RecursionError):
        raise problem from None
    if array.shape not in ((), shape) or np.isnan(array).any():
        raise problem
    return np.broadcast_to(array, shape).copy()


def _shape(value: Any, where: str) -> tuple[int, ...]:
    shape = tuple(integers(value, where, 0, LARGEST))
    if math.prod(shape) > LARGEST or len(shape) > MOST_AXES:
        raise wrong(where, f"{list(shape)[:20]} is larger than {LARGEST} elements or {MOST_AXES} axes")
    return shape


def _sizes(value: Any, where: str) -> list[int]:
    sizes = integers(value, where, 1, LARGEST)
    if not sizes or sum(sizes) > LARGEST:
        raise invalid_value(where, f"sizes that add up to at most {LARGEST}", sizes)
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
