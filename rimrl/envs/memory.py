"""MiniGrid's Memory as a test of memory: with a view too narrow to do without.

MiniGrid shows 7x7 tiles. In its shortest hallways, of sides 7 and 9, that view reaches from the junction back to the
object to remember. Turned back there, an agent sees that object and both objects at the ends, and has only to turn to
the matching one: agents without memory learned to do so in 0.78 to 0.96 of the episodes of ``MiniGrid-MemoryS7-v0``
(docs/results/generalisation.md). Recurrent PPO is therefore commonly tested with 3x3 tiles and the three actions that
do something, as in the code of Pleines et al. ("Generalization, Mayhems and Limits in Recurrent Proximal Policy
Optimization", 2022), and so it is here.

Notation: V = `agent_view_size`; e = the column of the hallway's last tile, from 4 to `size` - 3.
"""

from __future__ import annotations

from typing import Any, SupportsFloat

from gymnasium import spaces
from minigrid.envs.memory import MemoryEnv

from rimrl.envs.checks import check_at_least
from rimrl.envs.minigrid import prepared
from rimrl.errors import invalid_value, wrong


class HallwayEnv(MemoryEnv):
    """Look at an object, walk down a hallway and go to its like.

    ## Description

    A key or a ball lies in a room at the western end of a hallway one tile wide. Beyond the eastern end, to the north
    and the south of a junction, lie a key and a ball; which of them is where is independent of the first object. The
    agent starts anywhere in the room's middle row or the hallway, facing east, so that it may have to go back first.

    ## Mission Space

    ``"go to the matching object at the end of the hallway"``, the same in every episode.

    ## Action Space

    | Num | Name    | Action       |
    |-----|---------|--------------|
    | 0   | left    | Turn left    |
    | 1   | right   | Turn right   |
    | 2   | forward | Move forward |

    With `all_actions`, MiniGrid's four others follow: 3 pickup, 4 drop, 5 toggle, 6 done. They change nothing here.

    ## Observation

    MiniGrid's: ``image`` uint8 [V, V, 3], ``direction`` and ``mission``. `make_memory`, the entry point of the
    ``rimrl/Memory...`` ids, prepares it for a policy.

    ## Rewards

    ``1 - 0.9 * step_count / max_steps`` for going to the matching object, 0 otherwise. With memory every episode can be
    won.

    Without memory half of them can, if V is 3. Then the object in the room is seen from no tile east of the room, and
    the only way out leads over the hallway's first tile, facing east. That is one state: what it shows and what a
    policy without memory does from there on do not depend on that object, so neither where the agent stands nor which
    way it faces can serve as a note. Efference copies (`rimrl.envs.efference`) do not help either: whatever was done in
    the room, the last action is a step forward, without a reward.

    With V of 5 or more, hallways with e < V hardly ask for memory, as the module explains. That is part of the episodes
    of the trained split if V is 5 or more, and none of a held-out split unless V is 11 or more.

    ## Termination

    The episode terminates beside either object at the ends and is truncated after `max_steps` steps.

    ## Arguments

    * `size`: side of the maze, walls included, odd and at least 7. Default 11.
    * `random_length`: draw e uniformly from 4 to `size` - 3 instead of `size` - 3. Default False.
    * `agent_view_size`: side V of the egocentric view, odd and at least 3. Default 3.
    * `all_actions`: MiniGrid's seven actions instead of the three that do something. Default False.
    * `max_steps`: steps before truncation; None for MiniGrid's 5 * `size` ** 2. Default None.
    * `render_mode`: ``"human"``, ``"rgb_array"`` or None. Default None.

    MiniGrid's own task is ``agent_view_size=7, all_actions=True``, and ``MiniGrid-MemoryS7-v0`` and its like.

    Raises:
        UsageError: If an argument is out of range.
    """

    def __init__(
        self,
        size: int = 11,
        random_length: bool = False,
        agent_view_size: int = 3,
        all_actions: bool = False,
        max_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        check_at_least("size", size, 7)
        check_at_least("agent_view_size", agent_view_size, 3)
        for name, value in (("size", size), ("agent_view_size", agent_view_size)):
            if value % 2 == 0:
                raise invalid_value(name, "odd", value)
        for name, flag in (("random_length", random_length), ("all_actions", all_actions)):
            if not isinstance(flag, bool):
                raise invalid_value(name, "true or false", flag)
        if max_steps is not None:
            check_at_least("max_steps", max_steps, 1)
        super().__init__(
            size=size,
            random_length=random_length,
            max_steps=max_steps,
            agent_view_size=agent_view_size,
            render_mode=render_mode,
        )
        names = [f"{action.value} {action.name}" for action in self.actions]
        self._names = names if all_actions else names[:3]
        self.action_space = spaces.Discrete(len(self._names))

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Carry out one action; the returns are gymnasium's.

        Raises:
            UsageError: If there is no such action.
        """
        if not self.action_space.contains(action):
            raise wrong("action", f"{action} is unknown", f"valid: {', '.join(self._names)}", "name")
        step: tuple[Any, SupportsFloat, bool, bool, dict[str, Any]] = super().step(action)  # type: ignore[no-untyped-call]
        return step


make_memory = prepared(HallwayEnv, mission=False)
"""The entry point of ``rimrl/Memory...``; the mission, which is always the same, is not shown by default."""
