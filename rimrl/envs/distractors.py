"""Object picking among distractors: the task behind the generalisation claim of the RIM paper.

An agent that learned to fetch a named object among known distractors must still fetch it among distractors that it
never met (Goyal et al., "Recurrent Independent Mechanisms", ICLR 2021, Sec. 4.2 and App. D.6). The task follows the
local pick-up levels of BabyAI (Chevalier-Boisvert et al., ICLR 2019). `rimrl.envs.suites` says which distractors each
split shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, SupportsFloat

from gymnasium import spaces
from minigrid.core.constants import COLOR_TO_IDX, DIR_TO_VEC
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Ball, Box, Key, WorldObj
from minigrid.minigrid_env import MiniGridEnv

from rimrl.envs.checks import check_at_least
from rimrl.envs.minigrid import prepared
from rimrl.envs.minigrid_view import observe
from rimrl.envs.suites import KNOWN_COLORS, KNOWN_TYPES, MAX_STEPS, NUM_DISTRACTORS, ROOM_SIZE
from rimrl.errors import invalid_value, unknown_name, wrong

PICKABLE = {"ball": Ball, "box": Box, "key": Key}

# Words of "pick up the red ball": the shortest length that holds every mission of this environment.
MISSION_LENGTH = 5

# Layouts drawn before one is made solvable by hand. Rejection keeps the draw uniform over solvable layouts: 97 % of all
# in the training room, 71 % with twice the distractors. Even in a full room with a 6x6 interior, a hundred failures
# in a row have a probability below 1e-4.
MAX_LAYOUTS = 100

_LEFT, _RIGHT, _FORWARD, _PICKUP = range(4)
_STEP_OF_DIRECTION = tuple((int(dx), int(dy)) for dx, dy in DIR_TO_VEC)


class ObjectPickingEnv(MiniGridEnv):
    """A room in which to pick up the one object that the mission names.

    ## Description

    A single walled room holds one target and `num_distractors` other objects at random places. Exactly one object
    answers to the mission: no distractor has both its colour and its shape. Every layout can be solved, and layouts
    are drawn uniformly among those that can.

    ## Mission Space

    ``"pick up the {color} {type}"``, with a colour from `target_colors` and a shape from `target_types`.

    ## Action Space

    | Num | Name    | Action                          |
    |-----|---------|---------------------------------|
    | 0   | left    | Turn left                       |
    | 1   | right   | Turn right                      |
    | 2   | forward | Move forward                    |
    | 3   | pickup  | Pick up the object in front     |

    ## Observation

    MiniGrid's own dictionary: ``image`` (uint8 [V, V, 3], the egocentric view as object type, colour, state),
    ``direction`` (0 to 3) and ``mission`` (text). Wrap it in `rimrl.envs.minigrid.MiniGridObservation`, or make one
    of the ``rimrl/Distractors...`` ids, for arrays that a policy can read.

    ## Rewards

    ``1 - 0.9 * step_count / max_steps`` for picking up the right object, 0 otherwise. Every episode can be won. By the
    shortest way the mean return is 0.936 with the default arguments and 0.940 with six distractors.

    ## Termination

    The episode terminates when any object is picked up and is truncated after `max_steps` steps. On its last step
    ``info["is_success"]`` says whether the right object was picked up.

    ## Arguments

    * `size`: side of the square grid, walls included. Default 6.
    * `target_types`, `target_colors`: shapes and colours that missions name. Default ball and box; red, green, blue.
    * `distractor_types`, `distractor_colors`: shapes and colours of the other objects. Default: as the targets.
    * `num_distractors`: how many other objects there are. Default 3.
    * `max_steps`: steps before truncation. Default 64.
    * `agent_view_size`: side V of the egocentric view, odd and at least 3. Default 7.
    * `render_mode`: ``"human"``, ``"rgb_array"`` or None. Default None.

    Shapes are ``ball``, ``box`` and ``key``; colours are MiniGrid's six.

    Raises:
        UsageError: If an argument is out of range, a shape or colour does not exist, some mission would leave no
            kind for the distractors, or the objects and the agent do not fit in the room.

    Notes:
        The view is computed with `see_through_walls`: nothing inside the room hides anything else, so the room looks
        the same and the occlusion pass is saved. Cells beyond the walls read as wall.
    """

    metadata = {**MiniGridEnv.metadata, "info_keywords": ("is_success",)}  # noqa: RUF012 (gymnasium's own attribute)

    def __init__(
        self,
        size: int = ROOM_SIZE,
        target_types: Sequence[str] = KNOWN_TYPES,
        target_colors: Sequence[str] = KNOWN_COLORS,
        distractor_types: Sequence[str] = KNOWN_TYPES,
        distractor_colors: Sequence[str] = KNOWN_COLORS,
        num_distractors: int = NUM_DISTRACTORS,
        max_steps: int = MAX_STEPS,
        agent_view_size: int = 7,
        render_mode: str | None = None,
    ) -> None:
        check_at_least("size", size, 3)
        check_at_least("num_distractors", num_distractors, 0)
        check_at_least("max_steps", max_steps, 1)
        check_at_least("agent_view_size", agent_view_size, 3)
        if agent_view_size % 2 == 0:
            raise invalid_value("agent_view_size", "odd, so that the agent is in the middle", agent_view_size)
        self.target_kinds = _kinds("target", target_types, target_colors)
        self.distractor_kinds = _kinds("distractor", distractor_types, distractor_colors)
        self.num_distractors = num_distractors
        if num_distractors and len(self.distractor_kinds) == 1 and self.distractor_kinds[0] in self.target_kinds:
            kind, color = self.distractor_kinds[0]
            raise wrong("distractors", f"must be others than the target, {color} {kind}", "add a shape or colour")
        free_cells = (size - 2) ** 2
        if num_distractors + 2 > free_cells:
            raise wrong(
                "num_distractors",
                f"{num_distractors} with target and agent do not fit the {free_cells} cells of size {size}",
            )

        super().__init__(
            mission_space=MissionSpace(
                mission_func=self._gen_mission, ordered_placeholders=[list(target_colors), list(target_types)]
            ),
            grid_size=size,
            max_steps=max_steps,
            see_through_walls=True,
            agent_view_size=agent_view_size,
            render_mode=render_mode,
        )
        self.action_space = spaces.Discrete(4)
        self._interior = [(x, y) for y in range(1, size - 1) for x in range(1, size - 1)]

    @staticmethod
    def _gen_mission(color: str, kind: str) -> str:
        return f"pick up the {color} {kind}"

    def _gen_grid(self, width: int, height: int) -> None:
        target = self.target_kinds[self.np_random.integers(len(self.target_kinds))]
        others = [kind for kind in self.distractor_kinds if kind != target]
        draws = self.np_random.integers(len(others), size=self.num_distractors) if self.num_distractors else ()
        kinds = [target, *(others[draw] for draw in draws)]

        cells = self._draw_cells(len(kinds))
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        for (kind, color), cell in zip(kinds, cells, strict=False):
            self.put_obj(PICKABLE[kind](color), *cell)
        self.agent_pos = cells[len(kinds)]
        self.agent_dir = int(self.np_random.integers(4))
        self.target_type, self.target_color = target
        self.target_pos = cells[0]
        self.mission = self._gen_mission(self.target_color, self.target_type)

    def _draw_cells(self, num_objects: int) -> list[tuple[int, int]]:
        """Draw distinct interior cells: the target's, the distractors', then the agent's.

        Returns:
            All interior cells in random order; the first `num_objects` + 1 of them let the agent reach the target.
        """
        for _ in range(MAX_LAYOUTS):
            cells = [self._interior[i] for i in self.np_random.permutation(len(self._interior)).tolist()]
            if self._reachable(cells[0], set(cells[1:num_objects]), cells[num_objects]):
                return cells
        # Standing next to the target is always solvable, so a crowded room cannot loop for ever.
        x, y = cells[0]
        neighbours = [cell for cell in ((x + dx, y + dy) for dx, dy in _STEP_OF_DIRECTION) if cell in self._interior]
        beside = cells.index(neighbours[self.np_random.integers(len(neighbours))])
        cells[num_objects], cells[beside] = cells[beside], cells[num_objects]
        return cells

    def _reachable(self, target: tuple[int, int], blocked: set[tuple[int, int]], agent: tuple[int, int]) -> bool:
        """Tell whether the agent can come to stand next to `target` without crossing a blocked cell."""
        inside = range(1, self.width - 1)
        seen = {target}
        frontier = [target]
        while frontier:
            x, y = frontier.pop()
            for dx, dy in _STEP_OF_DIRECTION:
                cell = (x + dx, y + dy)
                if cell == agent:
                    return True
                if cell not in seen and cell not in blocked and cell[0] in inside and cell[1] in inside:
                    seen.add(cell)
                    frontier.append(cell)
        return False

    def gen_obs(self) -> dict[str, Any]:
        """MiniGrid's view of the room; see `observe`."""
        return observe(self)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Carry out one of the four actions.

        Args:
            action: 0 left, 1 right, 2 forward, 3 pickup.

        Returns:
            Observation, reward, terminated, truncated, and an info that holds ``is_success`` on the last step.

        Raises:
            UsageError: If the action is not one of the four.
        """
        self.step_count += 1
        dx, dy = _STEP_OF_DIRECTION[self.agent_dir]
        x, y = self.agent_pos
        front = (int(x) + dx, int(y) + dy)
        ahead: WorldObj | None = self.grid.get(*front)
        picked: WorldObj | None = None

        if action == _LEFT:
            self.agent_dir = (self.agent_dir - 1) % 4
        elif action == _RIGHT:
            self.agent_dir = (self.agent_dir + 1) % 4
        elif action == _FORWARD:
            if ahead is None:
                self.agent_pos = front
        elif action == _PICKUP:
            if ahead is not None and ahead.can_pickup():
                picked = ahead
                self.carrying = ahead  # type: ignore[assignment]  # minigrid declares it as None
                ahead.cur_pos = (-1, -1)
                self.grid.set(*front, None)
        else:
            raise wrong("action", f"{action} is unknown", "valid: 0 left, 1 right, 2 forward, 3 pickup", "name")

        terminated = picked is not None
        success = picked is not None and (picked.type, picked.color) == (self.target_type, self.target_color)
        truncated = not terminated and self.step_count >= self.max_steps
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]
        info = {"is_success": success} if terminated or truncated else {}
        return self.gen_obs(), self._reward() if success else 0.0, terminated, truncated, info


def _kinds(role: str, types: Sequence[str], colors: Sequence[str]) -> list[tuple[str, str]]:
    """Check shapes and colours and pair each with each, as (shape, colour)."""
    for name, values, valid in ((f"{role}_types", types, PICKABLE), (f"{role}_colors", colors, COLOR_TO_IDX)):
        if isinstance(values, str) or not values:
            raise invalid_value(name, "a list of at least one name", values)
        for value in values:
            if value not in valid:
                raise unknown_name("name", value, valid, where=name)
        if len(set(values)) < len(values):
            raise wrong(name, f"names something twice: {', '.join(values)}")
    return list(product(types, colors))


make_distractors = prepared(ObjectPickingEnv, mission_length=MISSION_LENGTH)
"""The entry point of ``rimrl/Distractors...``."""
