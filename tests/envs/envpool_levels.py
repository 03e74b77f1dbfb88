"""Compares EnvPool's MiniGrid with MiniGrid: the rules on the same level, and how levels are drawn.

EnvPool shows the whole state of a level, so MiniGrid can be put into it and both can be stepped with the same actions.
Levels drawn by each are compared by what they hold, figure by figure. Run it for the ids that contain a word:

    python -m tests.envs.envpool_levels DoorKey

Each id gets a line: steps that agreed, episodes and successes among them, or the first disagreement; then the figure of
the levels whose means lie furthest apart, in standard errors, with both means.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT, OBJECT_TO_IDX
from minigrid.core.grid import Grid
from minigrid.core.world_object import WorldObj
from minigrid.envs.babyai.core import verifier as babyai
from numpy.typing import NDArray

verifier: Any = babyai  # without types

# Forward more often than anything else, so that a random walk gets somewhere; "done" hardly ever.
TENDENCY = np.array([1.5, 1.5, 4, 1, 1, 1, 0.05])
EMPTY, WALL, DOOR = (OBJECT_TO_IDX[name] for name in ("empty", "wall", "door"))


def find(grid: Grid, kind: str, color: str | None = None) -> WorldObj:
    """The only object of its kind."""
    (found,) = [obj for obj in grid.grid if obj is not None and obj.type == kind and color in (None, obj.color)]
    return found


def _fetch(env: Any, state: Any) -> None:
    env.targetType, env.targetColor = IDX_TO_OBJECT[state.target_type], IDX_TO_COLOR[state.target_color]


def _go_to(env: Any, state: Any) -> None:
    env.targetType, env.target_color = IDX_TO_OBJECT[state.target_type], IDX_TO_COLOR[state.target_color]
    env.target_pos = tuple(state.target_pos)


def _put_near(env: Any, state: Any) -> None:
    env.move_type, env.moveColor = IDX_TO_OBJECT[state.move_type], IDX_TO_COLOR[state.move_color]
    env.move_pos, env.target_pos = tuple(state.move_pos), tuple(state.target_pos)
    env.target_type, env.target_color = IDX_TO_OBJECT[state.target_type], IDX_TO_COLOR[state.target_color]


def _memory(env: Any, state: Any) -> None:
    env.success_pos, env.failure_pos = tuple(state.success_pos), tuple(state.failure_pos)


def _red_blue(env: Any, _: Any) -> None:
    env.red_door, env.blue_door = find(env.grid, "door", "red"), find(env.grid, "door", "blue")


# Where MiniGrid keeps what is to be done; where nothing is named here, the goal stands on the grid.
_TASKS: dict[str, Callable[[Any, Any], None]] = {
    "fetch": _fetch,
    "goto_door": _go_to,
    "goto_object": _go_to,
    "put_near": _put_near,
    "memory": _memory,
    "red_blue_door": _red_blue,
    "key_corridor": lambda env, _: setattr(env, "obj", find(env.grid, "ball")),
    "unlock_pickup": lambda env, _: setattr(env, "obj", find(env.grid, "box")),
    "blocked_unlock_pickup": lambda env, _: setattr(env, "obj", find(env.grid, "box")),
    "unlock": lambda env, _: setattr(env, "door", find(env.grid, "door")),
}
_PLACES = {" in front of you": "front", " behind you": "behind", " on your left": "left", " on your right": "right"}


def read_instruction(mission: str) -> Any:
    """A BabyAI mission as the instruction that it is the text of."""
    for words, kind in (
        (", then ", verifier.BeforeInstr),
        (" after you ", verifier.AfterInstr),
        (" and ", verifier.AndInstr),
    ):
        if words in mission:
            first, second = mission.split(words, 1)
            return kind(read_instruction(first), read_instruction(second))
    if mission.startswith("put "):
        moved, fixed = mission.removeprefix("put ").split(" next to ", 1)
        return verifier.PutNextInstr(_read_object(moved), _read_object(fixed))
    for verb, action in (
        ("go to ", verifier.GoToInstr),
        ("pick up ", verifier.PickupInstr),
        ("open ", verifier.OpenInstr),
    ):
        if mission.startswith(verb):
            return action(_read_object(mission.removeprefix(verb)))
    raise ValueError(mission)


def _read_object(text: str) -> Any:
    place = next((words for words in _PLACES if text.endswith(words)), "")
    _, *color, kind = text.removesuffix(place).split()
    return verifier.ObjDesc(None if kind == "object" else kind, color[0] if color else None, _PLACES.get(place))


def _parts(instruction: Any) -> list[Any]:
    if hasattr(instruction, "instr_a"):
        return [*_parts(instruction.instr_a), *_parts(instruction.instr_b)]
    return [instruction]


def _instruct(env: Any, mission: str) -> None:
    strict = [getattr(part, "strict", False) for part in _parts(env.instrs)]
    env.instrs = read_instruction(mission)
    for part, is_strict in zip(_parts(env.instrs), strict, strict=False):
        part.strict = is_strict
    if env.carrying is None:
        env.instrs.reset_verifier(env)
        assert env.instrs.surface(env) == mission
        return
    # MiniGrid looks for the objects before the agent picks up what it starts with.
    free = max(place for place, obj in enumerate(env.grid.grid) if obj is None)
    env.carrying.init_pos = env.carrying.cur_pos = (free % env.width, free // env.width)
    env.grid.grid[free] = env.carrying
    env.instrs.reset_verifier(env)
    env.grid.grid[free], env.carrying.cur_pos = None, (-1, -1)


def _decode(cell: NDArray[np.int64]) -> WorldObj | None:
    kind, color, status = cell.tolist()
    obj = WorldObj.decode(kind, color, status)
    if obj is not None:
        obj.color = IDX_TO_COLOR[color]  # decode forgets the colour of goals
    return obj


def cells_of(state: Any) -> NDArray[np.int64]:
    """Encoded tiles of an EnvPool level, [width, height, 3]."""
    return np.array(state.grid).reshape(state.width, state.height, 3)


def give_level(env: Any, state: Any) -> None:
    """Put an environment of MiniGrid where one of EnvPool is."""
    cells, inside = cells_of(state), np.array(state.grid_contains).reshape(state.width, state.height, 3)
    env.grid = Grid(state.width, state.height)
    for x, y in np.ndindex(state.width, state.height):
        obj = _decode(cells[x, y])
        if obj is not None:
            obj.init_pos = obj.cur_pos = (x, y)
            if obj.type == "box" and inside[x, y].any():
                obj.contains = _decode(inside[x, y])  # type: ignore[assignment]
        env.grid.set(x, y, obj)
    env.agent_pos, env.agent_dir, env.carrying = tuple(state.agent_pos), state.agent_dir, None
    if state.has_carrying:
        env.carrying = _decode(np.array([state.carrying_type, state.carrying_color, state.carrying_state]))
    env.width, env.height, env.max_steps, env.mission = state.width, state.height, state.max_steps, state.mission
    if hasattr(env, "instrs"):
        _instruct(env, state.mission)
    elif state.env_name in _TASKS:
        _TASKS[state.env_name](env, state)


def play_both(envpool: Any, env_id: str, rounds: int, limit: int, seed: int = 0) -> tuple[int, int, int]:
    """Walk at random over the same levels in both.

    Args:
        envpool: The package.
        env_id: What to play; not one whose obstacles move by themselves.
        rounds: How often eight levels are drawn.
        limit: Steps in each at most.
        seed: Seed of levels and actions.

    Returns:
        Steps, episodes that ended, and how many of them with a reward.

    Raises:
        AssertionError: At the first observation, reward or end that differs.
    """
    num_envs, rng = 8, np.random.default_rng(seed)
    pool = envpool.make(env_id, env_type="gymnasium", num_envs=num_envs, seed=seed)
    steps = ended = solved = 0
    for _round in range(rounds):
        shown, _ = pool.reset()
        envs: list[Any] = []
        for i, state in enumerate(pool.debug_states()):
            env: Any = gymnasium.make(env_id, disable_env_checker=True).unwrapped
            env.reset(seed=0)
            give_level(env, state)
            assert np.array_equal(env.gen_obs()["image"], shown["image"][i]), "first observation"
            assert pool.decode_mission(shown["mission"][i]) == env.mission
            envs.append(env)
        tendency = TENDENCY[: envs[0].action_space.n]
        alive = np.ones(num_envs, dtype=bool)
        for step in range(limit):
            actions = rng.choice(len(tendency), size=num_envs, p=tendency / tendency.sum())
            shown, rewards, terminated, truncated, _ = pool.step(actions)
            for i in np.flatnonzero(alive).tolist():
                seen, reward, *ends, _ = envs[i].step(actions[i])
                where = f"step {step}, action {actions[i]}, mission {envs[i].mission!r}"
                assert np.array_equal(seen["image"], shown["image"][i]), f"observation in {where}"
                assert seen["direction"] == shown["direction"][i], f"direction in {where}"
                assert abs(reward - rewards[i]) < 1e-6, f"reward {rewards[i]} instead of {reward} in {where}"
                assert any(ends) == (terminated[i] or truncated[i]), f"end in {where}"
                assert truncated[i] == ends[1], f"time limit in {where}"
                alive[i] = not any(ends)
                steps, ended, solved = steps + 1, ended + any(ends), solved + (reward > 0)
            if not alive.any():
                break
    return steps, ended, solved


Level = tuple[NDArray[np.int64], tuple[int, int], int, int, str]


def draw_minigrid(env_id: str, count: int, seed: int = 0) -> list[Level]:
    """Levels as MiniGrid draws them: tiles, the agent's place and direction, time limit, mission."""
    env: Any = gymnasium.make(env_id, disable_env_checker=True).unwrapped
    levels: list[Level] = []
    for i in range(count):
        env.reset(seed=seed + i)
        levels.append((env.grid.encode(), tuple(env.agent_pos), env.agent_dir, env.max_steps, env.mission))
    return levels


def draw_envpool(envpool: Any, env_id: str, count: int, seed: int = 0) -> list[Level]:
    """The same as EnvPool draws them."""
    pool = envpool.make(env_id, env_type="gymnasium", num_envs=8, seed=seed)
    levels: list[Level] = []
    while len(levels) < count:
        pool.reset()
        levels += [(cells_of(s), tuple(s.agent_pos), s.agent_dir, s.max_steps, s.mission) for s in pool.debug_states()]
    return levels[:count]


def figures_of(level: Level) -> Counter[tuple[Any, ...]]:
    """Count what a level holds and how it is laid out.

    Tiles of each kind, where things and the agent are, how far apart, what surrounds each thing, what can be reached
    with every door open, the words of the mission, the time limit.
    """
    cells, (x, y), direction, max_steps, mission = level
    figures: Counter[tuple[Any, ...]] = Counter()
    for cell, number in zip(*np.unique(cells.reshape(-1, 3), axis=0, return_counts=True), strict=True):
        figures["tile", *cell.tolist()] = int(number)
    kinds = cells[..., 0]
    figures["size", *kinds.shape] = 1
    figures["time limit",] = max_steps
    figures["agent at", int(x), int(y)] = 1
    figures["agent towards", int(direction)] = 1
    figures["mission", mission.lower()] = 1
    for word in re.findall(r"\w+", mission.lower()):
        figures["word", word] += 1
    around = np.pad(kinds, 1, constant_values=WALL)
    for i, j in np.argwhere((kinds != EMPTY) & (kinds != WALL)).tolist():
        kind = int(kinds[i, j])
        figures["thing at", i, j] += 1
        nearby = sorted((around[i, j + 1], around[i + 2, j + 1], around[i + 1, j], around[i + 1, j + 2]))
        figures["surroundings", kind, *map(int, nearby)] += 1
        if kind != DOOR:
            figures["distance", kind, min(abs(i - x) + abs(j - y), 12)] += 1
    for i, j in reachable(kinds, (x, y)):
        figures["reachable", int(kinds[i, j])] += 1
    return figures


def reachable(kinds: NDArray[np.int64], start: tuple[int, int]) -> set[tuple[int, int]]:
    """Places to which no wall bars the way, of [width, height] object types."""
    seen, front = {start}, [start]
    while front:
        x, y = front.pop()
        for i, j in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            inside = 0 <= i < kinds.shape[0] and 0 <= j < kinds.shape[1]
            if inside and (i, j) not in seen and kinds[i, j] != WALL:
                seen.add((i, j))
                front.append((i, j))
    return seen


def furthest_apart(first: list[Level], second: list[Level]) -> tuple[float, tuple[Any, ...], float, float]:
    """The figure whose means differ most: by how many standard errors, which, and both means."""
    samples = [[figures_of(level) for level in levels] for levels in (first, second)]
    worst: tuple[float, tuple[Any, ...], float, float] = (-1.0, (), 0.0, 0.0)
    for name in set().union(*samples[0], *samples[1]):
        a, b = (np.array([figures.get(name, 0) for figures in sample], dtype=float) for sample in samples)
        if a.sum() + b.sum() < 10:  # too rare to have a standard error
            continue
        spread = max(a.var() / len(a) + b.var() / len(b), np.concatenate([a, b]).var() * (1 / len(a) + 1 / len(b)))
        apart = float(abs(a.mean() - b.mean()) / np.sqrt(spread)) if spread else 0.0
        worst = max(worst, (apart, name, float(a.mean()), float(b.mean())), key=lambda found: found[0])
    return worst


def main(word: str) -> None:
    """Compare the ids that contain a word, and print a line for each."""
    import envpool  # type: ignore[import-untyped, unused-ignore]  # noqa: PLC0415 (slow, and not for everyone)

    for env_id in envpool.list_all_envs():
        if not env_id.startswith(("MiniGrid-", "BabyAI-")) or word not in env_id:
            continue
        try:
            rules = "moves by itself" if "Dynamic" in env_id else str(play_both(envpool, env_id, 3, 400))
        except Exception as error:  # whatever goes wrong is what there is to know
            rules = f"DIFFERS {type(error).__name__}: {error}"
        try:
            apart, name, theirs, ours = furthest_apart(draw_minigrid(env_id, 500), draw_envpool(envpool, env_id, 500))
            levels = f"{apart:5.1f} {name}: {theirs:.3f} and {ours:.3f}"
        except gymnasium.error.DependencyNotInstalled as error:
            levels = str(error)
        print(f"{env_id:45} {rules:30} {levels}", flush=True)


if __name__ == "__main__":
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    main(sys.argv[1] if len(sys.argv) > 1 else "")
