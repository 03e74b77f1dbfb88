"""Steps per second of environments alone, observations prepared and episodes recorded, by back end.

    python -m benchmarks.envs --json docs/benchmarks/envs.json

Actions are random, and all sides of a case take turns. Beside rimrl's back ends stand, for Atari, what they are made of
and what they replace: ale-py's own vector as it is, and Stable-Baselines3's wrappers in its DummyVecEnv.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from benchmarks._timing import Timing, interleave, markdown_table, write_json
from rimrl.envs.vector import Backend, make_vec_env
from rimrl.errors import UsageError

BLOCK = 64
"""Vector steps that are timed as one."""

SB3, RAW = "SB3 wrappers in DummyVecEnv", "ale-py's own vector"


@dataclass(frozen=True)
class Case:
    """What is played, and against what each side is held.

    Attributes:
        env_id: A gymnasium id.
        n_envs: Environments.
        backends: Of rimrl.
        kwargs: Arguments of the environment, for rimrl's sides.
        extra: Sides that are not rimrl's: `SB3`, `RAW`.
    """

    env_id: str
    n_envs: int
    backends: tuple[Backend, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Id and number of environments."""
        return f"{self.env_id} x {self.n_envs}"


CASES = (
    Case("MiniGrid-DoorKey-5x5-v0", 16, ("dummy", "envpool")),
    Case("MiniGrid-KeyCorridorS3R3-v0", 16, ("dummy", "envpool")),
    *(
        Case(f"ALE/{game}-v5", n_envs, ("dummy", "native"), (("preset", "legacy"),), (SB3, RAW))
        for game in ("Pong", "Breakout")
        for n_envs in (8, 16)
    ),
)


def rimrl_side(case: Case, backend: Backend) -> Callable[[], None]:
    """Steps of a back end of rimrl."""
    return _stepping(make_vec_env(case.env_id, n_envs=case.n_envs, seed=0, backend=backend, **dict(case.kwargs)))


def sb3_side(case: Case) -> Callable[[], None]:
    """Steps of what an SB3 user runs: four frames, no sticky actions, lives that end, no-ops at the start."""
    game = {"frameskip": 1, "repeat_action_probability": 0.0}  # SB3's wrapper skips frames itself
    return _stepping(VecFrameStack(make_atari_env(case.env_id, case.n_envs, seed=0, env_kwargs=game), n_stack=4))


def raw_side(case: Case) -> Callable[[], None]:
    """Steps of ale-py's vector with nothing around it, under the same settings."""
    import gymnasium  # noqa: PLC0415 (what follows registers its ids)
    from ale_py.vector_env import AtariVectorEnv  # noqa: PLC0415
    from gymnasium.vector import AutoresetMode  # noqa: PLC0415

    games = AtariVectorEnv(
        gymnasium.spec(case.env_id).kwargs["game"],
        case.n_envs,
        noop_max=30,
        reward_clipping=False,
        use_fire_reset=False,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    games.reset(seed=0)
    rng, actions = np.random.default_rng(0), games.single_action_space.n  # type: ignore[attr-defined]

    def run() -> None:
        for some in rng.integers(actions, size=(BLOCK, case.n_envs)):
            games.step(some)

    return run


def _stepping(venv: VecEnv) -> Callable[[], None]:
    venv.reset()
    rng, actions = np.random.default_rng(0), venv.action_space.n  # type: ignore[attr-defined]

    def run() -> None:
        for some in rng.integers(actions, size=(BLOCK, venv.num_envs)):
            venv.step(some)

    return run


def run_case(case: Case, rounds: int) -> dict[str, Timing]:
    """Time all sides of one case."""
    sides: dict[str, Callable[[], None]] = {backend: rimrl_side(case, backend) for backend in case.backends}
    if SB3 in case.extra:
        sides[SB3] = sb3_side(case)
    if RAW in case.extra:
        sides[RAW] = raw_side(case)
    return interleave(sides, rounds=rounds)


def table(case: Case, timings: dict[str, Timing]) -> str:
    """The rows of one case as Markdown; "CPU" is processor time of all threads, which other work changes less."""
    steps = BLOCK * case.n_envs
    rows = []
    for side, timing in timings.items():
        row: dict[str, object] = {case.name: side, "steps/s": timing.per_second(steps)}
        for label, base in (("dummy", "dummy"), ("SB3", SB3), ("raw", RAW)):
            if base in timings:
                row[f"x {label}"] = timing.speedup_over(timings[base])
        row["CPU ms a step"] = 1e3 * timing.cpu_seconds().median / steps
        rows.append(row)
    return markdown_table(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the shell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", metavar="WORD", default="", help="cases whose name contains it, such as Pong")
    parser.add_argument("--rounds", type=int, default=15, help=f"timed runs of each side, {BLOCK} vector steps each")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args(argv)
    results = {}
    for case in CASES:
        if args.only not in case.name:
            continue
        try:
            timings = run_case(case, args.rounds)
        except UsageError as error:
            print(f"{case.name}: {error}\n")
            continue
        results[case.name] = {
            "timings": timings,
            "steps_per_second": {side: timing.per_second(BLOCK * case.n_envs) for side, timing in timings.items()},
        }
        if "native" in timings:
            results[case.name]["native_over"] = {
                side: timings["native"].speedup_over(timings[side]) for side in (SB3, RAW)
            }
        print(f"{table(case, timings)}\n", flush=True)
    if args.json is not None:
        write_json(args.json, "envs", {"rounds": args.rounds, "only": args.only, "block": BLOCK}, results)


if __name__ == "__main__":
    main()
