"""Environments in which some actions are invalid, and which break where one of these is taken."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rimrl.agents.masks import flags_of

ACTION_SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(6),
    "discrete_from_3": spaces.Discrete(4, start=3),
    "multi_discrete": spaces.MultiDiscrete([2, 4, 3]),
    "multi_discrete_from_1": spaces.MultiDiscrete([2, 3], start=[1, -1]),
    "multi_binary": spaces.MultiBinary(4),
}


def drawn_mask(space: spaces.Space[Any], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A random mask that leaves at least one value of each choice."""
    parts = []
    for count in flags_of(space):
        part = rng.random(count) < 0.4
        part[rng.integers(count)] = True
        parts.append(part)
    return np.concatenate(parts)


def is_valid(action: Any, mask: NDArray[np.bool_], space: spaces.Space[Any]) -> bool:
    """Whether a mask allows an action; each choice is looked up on its own."""
    choices = np.atleast_1d(action - getattr(space, "start", 0)).astype(int)
    parts = np.split(mask, np.cumsum(flags_of(space))[:-1])
    return all(part[choice] for part, choice in zip(parts, choices, strict=True))


class Forbidding(gymnasium.Env[Any, Any]):
    """Shows the mask of the step and noise; episodes of 3 to 9 steps. Refuses invalid actions.

    Args:
        kind: Which of `ACTION_SPACES`.
        everything_at: Step from which on every action is forbidden; None for never.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012 (as in gymnasium)

    def __init__(
        self, kind: str = "discrete", everything_at: int | None = None, render_mode: str | None = None
    ) -> None:
        self.action_space = spaces.flatten_space(spaces.Discrete(2)) if kind == "box" else ACTION_SPACES[kind]
        self.width = 0 if kind == "box" else sum(flags_of(self.action_space))
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.width + 1,), np.float32)
        self.everything_at = everything_at
        self.render_mode = render_mode
        self.steps = 0
        self._left = 0
        self._mask = np.ones(self.width, bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._left = int(self.np_random.integers(3, 10))
        return self._shown(), {}

    def action_masks(self) -> NDArray[np.bool_]:
        return self._mask

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not is_valid(action, self._mask, self.action_space):
            raise AssertionError(f"{action} is invalid under {self._mask}")
        self.steps += 1
        self._left -= 1
        reward = float(np.sum(action)) + float(self.np_random.normal())
        return self._shown(), reward, self._left == 0, False, {}

    def render(self) -> NDArray[np.uint8]:
        return np.full((32, 32, 3), 100, np.uint8)

    def _shown(self) -> NDArray[np.float32]:
        self._mask = drawn_mask(self.action_space, self.np_random)
        if self.everything_at is not None and self.steps >= self.everything_at:
            self._mask[:] = False
        return np.append(self._mask, self.np_random.normal()).astype(np.float32)


class Unmasked(gymnasium.Env[Any, Any]):
    """`Forbidding` without the method: all actions are valid."""

    def __init__(self, kind: str = "discrete") -> None:
        self._inner = Forbidding(kind)
        self.observation_space, self.action_space = self._inner.observation_space, self._inner.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        shown = self._inner.reset(seed=seed)
        self._inner._mask[:] = True
        return shown

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        step = self._inner.step(action)
        self._inner._mask[:] = True
        return step


class AllValid(Unmasked):
    """The same with the method, which allows everything."""

    def action_masks(self) -> list[int]:
        return [1] * self._inner.width


for _kind in ACTION_SPACES:
    _name = "".join(word.title() for word in _kind.split("_"))
    gymnasium.register(f"Tests/Masked{_name}-v0", "tests.masked:Forbidding", kwargs={"kind": _kind})
gymnasium.register("Tests/Unmasked-v0", "tests.masked:Unmasked", kwargs={"kind": "multi_discrete"})
