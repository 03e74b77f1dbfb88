"""Which units of a RIM are active, step by step, in an episode that my own code plays?

python examples/units.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

import rimrl


def main(words: Sequence[str] | None = None) -> np.ndarray[Any, Any]:
    """Train, play an episode, and return which units were active: bool ``[steps, units]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total-timesteps", type=int, default=20_000)
    options = parser.parse_args(words)
    model = rimrl.RecurrentPPO(
        "MlpPolicy",
        "rimrl/CartPoleNoVelocity-v0",
        n_steps=128,
        policy_kwargs=dict(core="rim", core_kwargs=dict(num_units=6, num_active=4, unit_size=16)),
        seed=0,
    )
    model.learn(options.total_timesteps)

    env = rimrl.make_env("rimrl/CartPoleNoVelocity-v0")
    observation, _ = env.reset(seed=0)
    state, start, done, active = None, np.array([True]), False, []
    while not done:
        trace = model.policy.trace(observation, state, start)  # what predict is about to do, state unchanged
        active.append(trace.active[0, 0].numpy())  # [T, B, units], both T and B are 1
        action, state = model.predict(observation, state, start)
        observation, _, terminated, truncated, _ = env.step(action)
        start, done = np.array([False]), terminated or truncated
    raster = np.array(active)
    for unit, row in enumerate(raster.T):
        print(f"unit {unit}  {row.mean():4.0%}  " + "".join("#" if each else "." for each in row[:80]))
    return raster


if __name__ == "__main__":
    main()
