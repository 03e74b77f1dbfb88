"""Steps per second of environments alone, observations prepared and episodes recorded, by back end.

    python benchmarks/envs.py

Actions are random; back ends take turns, and the median of five rounds is printed with the slowest and the fastest.
"""

from __future__ import annotations

import os
import statistics
import time

import numpy as np

from rimrl.envs.vector import Backend, make_vec_env
from rimrl.errors import UsageError

ROUNDS = 5
SECONDS = 2.0
CASES: tuple[tuple[str, int, tuple[Backend, ...]], ...] = (
    ("MiniGrid-DoorKey-5x5-v0", 16, ("dummy", "envpool")),
    ("MiniGrid-KeyCorridorS3R3-v0", 16, ("dummy", "envpool")),
    ("ALE/Pong-v5", 8, ("dummy", "native")),
)


def steps_per_second(env_id: str, n_envs: int, backend: Backend) -> float:
    """Play for `SECONDS`, after some steps that do not count."""
    venv = make_vec_env(env_id, n_envs=n_envs, seed=0, backend=backend)
    actions = np.random.default_rng(0).integers(venv.action_space.n, size=(256, n_envs))  # type: ignore[attr-defined]
    venv.reset()
    for some in actions[:32]:
        venv.step(some)
    played, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        for some in actions[:32]:
            venv.step(some)
        played += 32 * n_envs
    rate = played / (time.perf_counter() - start)
    venv.close()
    return rate


def main() -> None:
    """Print a line for each environment and back end."""
    print(f"{os.cpu_count()} processors")
    for env_id, n_envs, backends in CASES:
        rates: dict[Backend, list[float]] = {backend: [] for backend in backends}
        try:
            for _ in range(ROUNDS):
                for backend in backends:
                    rates[backend].append(steps_per_second(env_id, n_envs, backend))
        except UsageError as error:
            print(f"{env_id}: {error}")
            continue
        plain = statistics.median(rates["dummy"])
        for backend, measured in rates.items():
            middle = statistics.median(measured)
            spread = f"{min(measured):,.0f} to {max(measured):,.0f}"
            print(
                f"{env_id:28} x{n_envs:<3} {backend:8} {middle:9,.0f} steps/s ({spread}), {middle / plain:.1f} x dummy"
            )


if __name__ == "__main__":
    main()
