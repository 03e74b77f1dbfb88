"""How much sooner an agent learns when it is told which actions are invalid.

    python -m benchmarks.masks --json docs/benchmarks/masks.json

The same recurrent PPO learns `TwoDoors` with masks and without, with the same seeds. Figures:

steps    environment steps until the mean return of the last 200 episodes reaches `GOAL`; those of the whole training
         where it never does
ratio    of the steps without masks to those with, by seed; a lower bound where the agent without masks never got there
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import rimrl
from rimrl.reporting.statistics import interval, mean

DOORS = 20
ROOMS = 5
GOAL = 4.5
N_ENVS = 64
N_STEPS = 16


class TwoDoors(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Rooms with 20 doors of which two are open; the first room alone says which of the two is right in all of them.

    **Observation** Which doors are open, 20 numbers; one more that is -1 or 1 in the first room (the open door with the
    lower or with the higher number is right) and 0 later.

    **Reward** 1 for the right door, 0 for the other one and for closed doors, which cost a step. Five rooms.

    **Return** 5 at best; 3 for an agent without memory (1 + 4/2); random actions reach 0.25 (5/20), random valid ones
    2.5.
    """

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (DOORS + 1,), np.float32)
        self.action_space = spaces.Discrete(DOORS)
        self._open = np.arange(2)
        self._side = self._room = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self._side, self._room = int(self.np_random.integers(2)), 0
        return self._enter(), {}

    def action_masks(self) -> NDArray[np.bool_]:
        """Which doors are open."""
        return np.isin(np.arange(DOORS), self._open)

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Go through a door, or into a closed one."""
        reward = float(action == self._open[self._side])
        self._room += 1
        return self._enter(), reward, self._room == ROOMS, False, {}

    def _enter(self) -> NDArray[np.float32]:
        self._open = np.sort(self.np_random.choice(DOORS, 2, replace=False))
        side = 2 * self._side - 1 if self._room == 0 else 0
        return np.append(self.action_masks(), side).astype(np.float32)


def steps_to_goal(use_masking: bool, seed: int, most: int) -> int | None:
    """Environment steps until the agent reaches `GOAL`; None if it does not within `most`."""
    agent = rimrl.RecurrentPPO(
        "MlpPolicy",
        VecMonitor(DummyVecEnv([TwoDoors] * N_ENVS)),
        learning_rate=2e-3,
        n_steps=N_STEPS,
        batch_size=N_ENVS * N_STEPS // 4,
        n_epochs=4,
        ent_coef=0.01,
        policy_kwargs={"core": "lstm", "core_kwargs": {"hidden_size": 64}, "net_arch": []},
        stats_window_size=200,
        seed=seed,
        device="cpu",
        use_masking=use_masking,
    )
    reached = _Reached()
    agent.learn(most, callback=reached)
    return reached.step


class _Reached(BaseCallback):
    """Stops where the goal is reached."""

    step: int | None = None

    def _on_step(self) -> bool:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        if len(returns) == 200 and np.mean(returns) >= GOAL:
            self.step = self.num_timesteps
        return self.step is None


def compare(seeds: int, most: int) -> dict[str, Any]:
    """The figures of all seeds, with 95 % intervals."""
    runs: dict[str, list[int | None]] = {"masks": [], "none": []}
    for seed in range(seeds):
        for name, reached in runs.items():
            reached.append(steps_to_goal(name == "masks", seed, most))
            print(f"seed {seed}, {name}: {reached[-1] or f'not within {most}'} steps", flush=True)
    counted = {name: np.array([each or most for each in reached], dtype=float) for name, reached in runs.items()}
    ratios = counted["none"] / counted["masks"]
    found: dict[str, Any] = {"goal": GOAL, "most": most, "steps": runs, "ratios": [round(each, 2) for each in ratios]}
    for name, values in {**counted, "ratio": ratios}.items():
        estimate = interval(values[:, None], mean)
        found[f"mean_{name}"] = {part: round(getattr(estimate, part), 2) for part in ("value", "low", "high")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=int, default=40_000, metavar="STEPS", help="of each training")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save the figures")
    asked = parser.parse_args()
    th.set_num_threads(1)
    found = compare(asked.seeds, asked.most)
    for name in ("masks", "none", "ratio"):
        figures = found[f"mean_{name}"]
        print(f"{name}: {figures['value']} [{figures['low']}, {figures['high']}]")
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
