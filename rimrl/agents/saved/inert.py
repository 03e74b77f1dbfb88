"""Reading a pickle without running it.

Unpickling means: import what the stream names, call what it says. Here every name becomes an `Inert` class of its own,
and every call a record of its arguments, so that a stream can be looked at whatever it holds.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from rimrl.agents.saved.spaces import bound_to_json
from rimrl.agents.schedules import CosineSchedule, UnreadSchedule, WarmupSchedule
from rimrl.errors import UsageError, one_line


class Inert:
    """A record of something that a pickle asked for and that was not done.

    Attributes:
        origin: ``"module.name"`` of what it asked for.
        args: What it would have been called with.
        state: What it would have been given then.
    """

    origin: ClassVar[str] = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **_kwargs: Any) -> Inert:
        """Note the arguments of the call."""
        record = object.__new__(cls)
        record.args, record.state = args, None
        return record

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **_kwargs: Any) -> Inert:
        """Note that what a call returned was called in turn."""
        return _Returned(*args)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass  # what a pickle puts into a dict or list of its own kind is not needed

    def append(self, value: Any) -> None:
        """Take in nothing."""

    def extend(self, values: Any) -> None:
        """Take in nothing."""


class _Returned(Inert):
    origin = "what a call returned"


class NotPlainError(UsageError):
    """A pickle holds something that could not be rebuilt without running code.

    Args:
        what: Its name, or what is wrong.
    """

    default_kind = "untrusted"


_MEMO = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"})
_MOST_OPERATIONS = 500_000
# Python takes the hash of a tuple within tuples without looking how much of its stack is left.
_MOST_TUPLES = 20_000
_MOST_VALUES = 100_000


class _Reader(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._classes: dict[str, type[Inert]] = {}

    def find_class(self, module_name: str, global_name: str) -> Any:
        origin = f"{module_name}.{global_name}"
        if origin not in self._classes:
            self._classes[origin] = type("Inert", (Inert,), {"origin": origin})
        return self._classes[origin]


def check_stream(content: bytes) -> None:
    """Refuse a pickle that is damaged, or made to take hours or gigabytes, before anybody follows it.

    Raises:
        NotPlainError: Says what is wrong with it.
    """
    tuples = 0
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
            tuples += operation.name.startswith("TUPLE")
            too_far = operation.name in _MEMO and int(argument or 0) > _MOST_OPERATIONS
            if number >= _MOST_OPERATIONS or tuples > _MOST_TUPLES or too_far:
                raise NotPlainError(f"an entry of more than {_MOST_OPERATIONS} steps")
    except NotPlainError:
        raise
    except Exception as error:  # a damaged stream fails in every way
        raise NotPlainError(f"a damaged entry ({one_line(error, 80)})") from None


def read_inert(content: bytes) -> Any:
    """What a pickle holds, as builtin values and `Inert` records.

    Raises:
        NotPlainError: If it is no pickle, a damaged one, or far larger than what describes an agent.
    """
    check_stream(content)
    try:
        return _Reader(content).load()
    except Exception as error:  # a damaged stream fails in every way
        raise NotPlainError(f"a damaged entry ({one_line(error, 80)})") from None


def to_plain(value: Any, class_names: dict[str, str], depth: int = 0, left: list[int] | None = None) -> Any:
    """A record as JSON would hold it: spaces and schedules as mappings, known classes as their names.

    Args:
        value: What `read_inert` gave.
        class_names: ``"module.name"`` of every class that may be named, and its name.
        depth: How deep within another value it is.
        left: How many values there may yet be, those that stand in several places counted in each; default: enough
            for an agent.

    Returns:
        Plain data: spaces as `rimrl.agents.saved.spaces.space_to_json` writes them, schedules as numbers or
        ``{"schedule": "linear", "start": …, "end": …, "end_fraction": …}``, ``{"schedule": "cosine", "start": …}`` or
        ``{"schedule": "warmup", "warmup": …, "then": …}``.

    Raises:
        NotPlainError: Names what is neither plain nor known.
    """
    left = [_MOST_VALUES] if left is None else left

    def plain(inner: Any) -> Any:
        return to_plain(inner, class_names, depth + 1, left)

    left[0] -= 1
    if depth > 12 or left[0] < 0:
        raise NotPlainError("values nested too deep" if depth > 12 else f"more than {_MOST_VALUES} values")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return list(map(plain, value))
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise NotPlainError("a mapping with keys that are no text")
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, type) and issubclass(value, Inert):
        if value.origin not in class_names:
            raise NotPlainError(value.origin)
        return class_names[value.origin]
    if isinstance(value, Inert):
        return _object(value, plain, left)
    raise NotPlainError(type(value).__name__)


def _object(record: Inert, plain: Callable[[Any], Any], left: list[int]) -> Any:
    """An object as plain data, given what makes plain data of its parts and how many values there may yet be."""
    state = record.state if isinstance(record.state, dict) else {}
    module, _, name = record.origin.rpartition(".")
    if module.startswith("numpy"):
        array = _array(record)
        left[0] -= array.size
        return array.item() if array.ndim == 0 else array.tolist()
    try:
        if module.startswith("gymnasium.spaces.") and name in {cls.__name__ for cls in _SPACES}:
            return _space(name, state, plain)
        if (schedule := _schedule(record.origin, state, plain)) is not None:
            return schedule
    except (KeyError, AttributeError, TypeError, ValueError):
        raise NotPlainError(f"a damaged {name}") from None
    if record.origin == _origin(UnreadSchedule):
        raise NotPlainError(str(state.get("what"))[:80])
    raise NotPlainError(record.origin)


def _schedule(origin: str, state: dict[str, Any], plain: Callable[[Any], Any]) -> Any:
    """A schedule as plain data; None for something else."""
    found: Any = None
    if origin == "rl_zoo3.utils.SimpleLinearSchedule":
        found = {"schedule": "linear", "start": plain(state["initial_value"]), "end": 0.0, "end_fraction": 1.0}
    elif origin == _origin(FloatSchedule):
        found = plain(state["value_schedule"])
    elif origin == _origin(ConstantSchedule):
        found = plain(state["val"])
    elif origin == _origin(LinearSchedule):
        found = {"schedule": "linear"} | {key: plain(state[key]) for key in ("start", "end", "end_fraction")}
    elif origin == _origin(CosineSchedule):
        found = {"schedule": "cosine", "start": plain(state["start"])}
    elif origin == _origin(WarmupSchedule):
        found = {"schedule": "warmup", "warmup": plain(state["warmup"]), "then": plain(state["schedule"])}
    return found


def _origin(cls: type) -> str:
    return f"{cls.__module__}.{cls.__name__}"


_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Dict)


def _space(name: str, state: dict[str, Any], plain: Callable[[Any], Any]) -> dict[str, Any]:
    if name == "Dict":
        return {"type": name, "spaces": plain(state.get("spaces", state.get("_spaces")))}
    if name == "Box":
        bounds = {side: bound_to_json(_array(state[side])) for side in ("low", "high")}
        return {"type": name, "shape": plain(state["_shape"]), "dtype": str(_dtype(state["dtype"])), **bounds}
    if name in ("Discrete", "MultiDiscrete"):
        found: dict[str, Any] = {"type": name}
        if name == "Discrete":
            found |= {"n": plain(state["n"]), "start": plain(state["start"])}
        else:
            found |= {"nvec": _array(state["nvec"]).tolist()}
            found |= {"start": _array(state["start"]).tolist()} if "start" in state else {}
        return found | ({"dtype": str(_dtype(state["dtype"]))} if state.get("dtype") is not None else {})
    return {"type": name, "n": plain(state["n"])}


def _dtype(record: Any) -> np.dtype[Any]:
    order: Any
    if isinstance(record, Inert) and record.origin == "numpy.dtype" and isinstance(record.args[0], str):
        dtype = np.dtype(record.args[0])
        order = record.state[1] if isinstance(record.state, tuple) and len(record.state) > 1 else "="
        if dtype.kind in "biuf" and order in ("<", ">", "|", "="):
            return dtype.newbyteorder("<" if order == "|" else order)  # bytes have no order
    if isinstance(record, type) and issubclass(record, Inert):
        module, _, name = record.origin.rpartition(".")
        if module == "numpy" and np.dtype(name).kind in "biuf":
            return np.dtype(name)
    raise NotPlainError("a strange array")


def _array(record: Any) -> np.ndarray[Any, Any]:
    """An array of numbers from the ways in which numpy pickles arrays and scalars."""
    try:
        if isinstance(record, int | float):
            return np.asarray(record)
        name = record.origin.rpartition(".")[2]
        if name == "_frombuffer":
            content, dtype, shape, order = record.args
        elif name == "_reconstruct":
            _, shape, dtype, fortran, content = record.state
            order = "F" if fortran else "C"
        elif name == "scalar":
            dtype, content = record.args
            shape, order = (), "C"
        else:
            raise NotPlainError(record.origin)
        if not isinstance(content, bytes | bytearray) or order not in ("C", "F"):
            raise NotPlainError("a strange array")
        return np.frombuffer(bytes(content), _dtype(dtype)).reshape(shape, order=order)
    except NotPlainError:
        raise
    except (AttributeError, TypeError, ValueError, IndexError, OverflowError):
        raise NotPlainError("a damaged array") from None
