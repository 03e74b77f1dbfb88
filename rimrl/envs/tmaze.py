"""A T-maze: a sign at the start of a corridor says which way to turn at its end.

The passive T-maze of Ni et al. ("When Do Transformers Shine in RL? Decoupling Memory from Credit Assignment", NeurIPS
2023), after Bakker (2001), with corridors whose length varies. `rimrl.envs.suites` says how long they are in each
split.

Notation: L = the length of an episode's corridor, x = how far from its start the agent is.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rimrl.envs.checks import check_at_least
from rimrl.envs.suites import MAX_LENGTH
from rimrl.errors import wrong

Observation = NDArray[np.float32]

_LEFT, _RIGHT, _UP, _DOWN = range(4)


class TMazeEnv(gymnasium.Env[Observation, np.int64]):
    """Walk down a corridor and turn to the side that a sign showed at its start.

    ## Description

    The agent starts at x = 0. The junction is at x = L, where L is drawn uniformly from `min_length` to `max_length`.
    The goal is above or below the junction, with equal probability, and only the first observation shows where.

    ## Action Space

    | Num | Name  | Action                                            |
    |-----|-------|---------------------------------------------------|
    | 0   | left  | One step back; at the start nothing               |
    | 1   | right | One step on; at the junction nothing              |
    | 2   | up    | At the junction the turn upwards; before, nothing |
    | 3   | down  | The same downwards                                |

    ## Observation

    float32 [4]: the sign (1 for up, -1 for down, and 0 in every observation but the first), then a 1 at one of three
    places: start, corridor, junction. Neither x nor L nor the time is shown, so that a longer corridor shows nothing
    new. The observation after the turn is zero.

    ## Rewards

    1 for the turn to the goal. Each step that neither leads on nor turns costs 1 / (L + 1): as many steps of that kind
    as the way has cost what the goal pays, however long the way is. Without that cost, chance alone would have to
    find the junction. Optimal return: 1.

    Without memory: 0.5, and the right turn in half of the episodes. What the junction shows is the same for both goals,
    and so are the last action and its reward, because every agent comes to it by a step on, which costs nothing: not
    even efference copies (`rimrl.envs.efference`) help a policy without memory. Agents that delay in order to leave a
    mark find that nothing shows it.

    ## Termination

    The episode terminates with the turn, right or wrong, and is truncated after 2 (L + 1) steps, twice as many as it
    takes. On the last step ``info["is_success"]`` says whether the turn was right.

    ## Arguments

    * `min_length`: shortest corridor, at least 1. Default 1.
    * `max_length`: longest corridor, at least `min_length`. Default 20.

    Every setting asks for memory: in a corridor of length 1 the sign is gone when the junction is reached.

    Raises:
        UsageError: If an argument is out of range.

    Notes:
        Ni et al. end every episode after L + 1 steps and charge 1 / L for each step at which the agent is behind one
        that only ever went on. An agent that has lost a step is then charged in every later one, which would show a
        policy with efference copies whether it delayed at the start.
    """

    metadata = {"render_modes": [], "info_keywords": ("is_success",)}  # noqa: RUF012 (gymnasium's own attribute)

    def __init__(self, min_length: int = 1, max_length: int = MAX_LENGTH) -> None:
        check_at_least("min_length", min_length, 1)
        check_at_least("max_length", max_length, min_length)
        self.min_length = min_length
        self.max_length = max_length
        self.observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Discrete(4)
        self._goal = _UP
        self._length = 1
        self._x = 0
        self._time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; the arguments are gymnasium's."""
        super().reset(seed=seed, options=options)
        self._goal = _UP if self.np_random.integers(2) else _DOWN
        self._length = int(self.np_random.integers(self.min_length, self.max_length + 1))
        self._x = 0
        self._time = 0
        observation = self._observe()
        observation[0] = 1.0 if self._goal == _UP else -1.0
        return observation, {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one step; the returns are gymnasium's, and `info["is_success"]` tells whether the turn was right.

        Raises:
            UsageError: If there is no such action.
        """
        if not self.action_space.contains(action):
            raise wrong("action", f"{action} is unknown", "valid: 0 left, 1 right, 2 up, 3 down", "name")
        self._time += 1
        if action in (_UP, _DOWN) and self._x == self._length:
            success = bool(action == self._goal)
            return np.zeros(4, dtype=np.float32), float(success), True, False, {"is_success": success}

        leads_on = action == _RIGHT and self._x < self._length
        if leads_on:
            self._x += 1
        elif action == _LEFT:
            self._x = max(self._x - 1, 0)
        reward = 0.0 if leads_on else -1.0 / (self._length + 1)
        truncated = self._time == 2 * (self._length + 1)
        return self._observe(), reward, False, truncated, {"is_success": False} if truncated else {}

    def _observe(self) -> Observation:
        """Show the place, without the sign."""
        place = 3 if self._x == self._length else 1 if self._x == 0 else 2
        observation = np.zeros(4, dtype=np.float32)
        observation[place] = 1.0
        return observation
