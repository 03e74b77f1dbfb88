"""Every kind of gymnasium space, and whether agents learn with it or refuse it, with what word."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


class Row(NamedTuple):
    """A space, and what the refusal says; None where it works."""

    space: spaces.Space[Any]
    refusal: str | None = None


def box(*shape: int, low: Any = -1.0, high: Any = 1.0, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


def image(*shape: int) -> spaces.Box:
    return box(*shape, low=0, high=255, dtype=np.uint8)


class OwnBox(spaces.Box):
    """A Box of the user's own class."""


VARYING = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 9.0], np.float32))
ELSEWHERE: dict[str, Row] = {
    "Tuple": Row(spaces.Tuple([box(2), spaces.Discrete(3)]), "Tuple"),
    "Text": Row(spaces.Text(5), "Text"),
    "Sequence": Row(spaces.Sequence(spaces.Discrete(3)), "Sequence"),
    "Graph": Row(spaces.Graph(box(2), spaces.Discrete(3)), "Graph"),
    "OneOf": Row(spaces.OneOf([box(2), spaces.Discrete(3)]), "OneOf"),
    "MultiDiscrete of two axes": Row(spaces.MultiDiscrete(np.array([[2, 3], [2, 2]])), "one axis"),
    "MultiDiscrete whose sum overflows": Row(spaces.MultiDiscrete([100, 100], dtype=np.int8), "more than int8 holds"),
    "empty Box": Row(box(0), "0 elements"),
    "Box of nine axes": Row(box(*[1] * 9), "9 axes"),
    "Discrete of too many": Row(spaces.Discrete(2**24 + 1), "16777217 elements"),
}
CHOICES: dict[str, Row] = {
    "Discrete": Row(spaces.Discrete(3)),
    "Discrete from 5": Row(spaces.Discrete(3, start=5)),
    "Discrete from -2": Row(spaces.Discrete(4, start=-2)),
    "Discrete of int8": Row(spaces.Discrete(3, start=-1, dtype=np.int8)),
    "MultiDiscrete": Row(spaces.MultiDiscrete([2, 3])),
    "MultiDiscrete from elsewhere": Row(spaces.MultiDiscrete([2, 3], start=[4, -1])),
    "MultiDiscrete of int32": Row(spaces.MultiDiscrete([3, 2], start=[-7, 0], dtype=np.int32)),
    "MultiDiscrete of uint64": Row(spaces.MultiDiscrete([3, 2], start=[2**40, 0], dtype=np.uint64)),
    "MultiBinary": Row(spaces.MultiBinary(3)),
}
BOXES: dict[str, Row] = {
    "Box": Row(box(3)),
    "Box of one number": Row(box()),
    "Box of two axes": Row(box(2, 3)),
    "Box with bounds of each element": Row(VARYING),
    "Box of the user's own class": Row(OwnBox(-1.0, 1.0, (2,), np.float32)),
    "Box of bool": Row(box(3, low=0, high=1, dtype=np.bool_)),
    **{f"Box of {name}": Row(box(2, dtype=np.dtype(name).type)) for name in ("float16", "float64")},
    **{f"Box of {name}": Row(box(2, low=-5, high=9, dtype=np.dtype(name).type)) for name in ("int8", "int16", "int64")},
    **{
        f"Box of {name}": Row(box(2, low=0, high=200, dtype=np.dtype(name).type))
        for name in ("uint8", "uint16", "uint32", "uint64")
    },
}
OBSERVATIONS: dict[str, Row] = {
    **CHOICES,
    **BOXES,
    **ELSEWHERE,
    "Box without bounds": Row(box(3, low=-np.inf, high=np.inf)),
    "MultiBinary of two axes": Row(spaces.MultiBinary([2, 3])),
    "MultiBinary of one axis in a list": Row(spaces.MultiBinary([3])),
    "image": Row(image(36, 40, 3)),
    "image, channels first": Row(image(1, 36, 36)),
    "image of 16x16": Row(image(16, 16, 3), "at least 36x36 pixels, got 16x16"),
    "image of 7x7": Row(image(7, 7, 3), "at least 36x36 pixels, got 7x7"),
    "Dict": Row(spaces.Dict({"place": box(3), "kind": spaces.Discrete(4), "bits": spaces.MultiBinary([2, 2])})),
    "Dict of choices from elsewhere": Row(
        spaces.Dict({"a": spaces.Discrete(3, start=7), "b": spaces.MultiDiscrete([2, 3], start=[1, -1])})
    ),
    "Dict of one number": Row(spaces.Dict({"speed": box(), "place": box(2)})),
    "Dict in an order of its own": Row(spaces.Dict(OrderedDict(z=box(2), a=spaces.Discrete(3), k=box(1)))),
    "Dict of 70": Row(spaces.Dict({f"part {i}": box(1) for i in range(70)})),
    "Dict with an image": Row(spaces.Dict({"image": image(36, 36, 3), "place": box(2)})),
    "Dict with the keys of a MiniGrid": Row(spaces.Dict({"image": box(5), "mission": spaces.Discrete(3)})),
    "Dict with a small image": Row(spaces.Dict({"camera": image(7, 7, 3), "place": box(2)}), "'camera'"),
    "Dict with images in two orders": Row(
        spaces.Dict({"a": image(36, 36, 3), "b": image(3, 36, 36)}), "channels first"
    ),
    "Dict with a dot in a key": Row(spaces.Dict({"a.b": box(2)}), "'a.b'"),
    "Dict with an empty key": Row(spaces.Dict({"": box(2)}), "''"),
    "Dict with a key that torch has taken": Row(spaces.Dict({"values": box(2)}), "'values'"),
    "Dict with a number as key": Row(spaces.Dict({1: box(2)}), "must be text"),  # type: ignore[dict-item]
    "Dict with Text": Row(spaces.Dict({"word": spaces.Text(4), "place": box(2)}), "in its part 'word'"),
    "Dict in a Dict": Row(spaces.Dict({"inner": spaces.Dict({"a": box(2)})}), "in its part 'inner'"),
    "Tuple in a Dict": Row(spaces.Dict({"inner": spaces.Tuple([box(2)])}), "in its part 'inner'"),
    "empty Dict": Row(spaces.Dict({}), "from 1 to 4096 parts"),
    "Dict of 5000": Row(spaces.Dict({str(i): spaces.Discrete(2) for i in range(5000)}), "from 1 to 4096 parts"),
    "bounds of too many elements": Row(
        spaces.Box(np.arange(2**18 + 1, dtype=np.float32), np.float32(2**20)), "the same low and high"
    ),
}
ACTIONS: dict[str, Row] = {
    **CHOICES,
    **BOXES,
    **ELSEWHERE,
    "Box without bounds": Row(box(2, low=-np.inf, high=np.inf), "finite bounds"),
    "Box with one bound": Row(box(2, low=0.0, high=np.inf), "finite bounds"),
    "Box of all int64": Row(box(2, low=-(2**62), high=2**62, dtype=np.int64), "2**53"),
    "MultiBinary of two axes": Row(spaces.MultiBinary([2, 3]), "one axis"),
    "Dict": Row(spaces.Dict({"a": box(2)}), "Dict"),
}
WORKING_OBSERVATIONS = [name for name, row in OBSERVATIONS.items() if row.refusal is None]
WORKING_ACTIONS = [name for name, row in ACTIONS.items() if row.refusal is None]


class Witness(gymnasium.Env[Any, Any]):
    """Random observations, episodes of five steps, a reward that depends on the action.

    It keeps every action that it gets, and refuses those that are not in its space.
    """

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = deepcopy(observation_space), deepcopy(action_space)
        self.received: list[NDArray[Any]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        # The generator of a space is none of the environment's, which are what a checkpoint brings back.
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self._left = 5
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        # DummyVecEnv hands out scalars of arrays, which Box takes for no arrays.
        kept = np.array(action)
        if not self.action_space.contains(kept if isinstance(self.action_space, spaces.Box) else action):
            raise AssertionError(f"{action!r} is none of {self.action_space}")
        self.received.append(kept)
        self._left -= 1
        return self.observation_space.sample(), float(kept.mean()), self._left == 0, False, {}


def encoded(space: spaces.Space[Any], value: Any) -> NDArray[Any]:
    """An observation as a vector; `gymnasium.spaces.flatten` does the same, but not for choices of uint64."""
    if isinstance(space, spaces.Dict):
        return np.concatenate([encoded(part, value[key]) for key, part in space.spaces.items()])
    if isinstance(space, spaces.Discrete):
        one_hot: NDArray[Any] = np.eye(int(space.n))[int(value) - int(space.start)]
        return one_hot
    if isinstance(space, spaces.MultiDiscrete):
        each = zip(space.nvec.tolist(), value.tolist(), space.start.tolist(), strict=True)
        return np.concatenate([np.eye(count)[one - first] for count, one, first in each])
    vector: NDArray[Any] = np.asarray(value).astype(np.float32).ravel()
    return vector
