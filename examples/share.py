"""How do others get my agent: with rimrl, and with nothing but sb3-contrib?

python examples/share.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sb3_contrib

import rimrl
from rimrl.experiments.config_files import load_config
from rimrl.experiments.export import export
from rimrl.experiments.train import train


def main(words: Sequence[str] | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """Train and export, load in three ways, and return what each agent does in the same situations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total-timesteps", type=int, default=20_480)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/share"))
    options = parser.parse_args(words)
    changes = ["--env.id=Pendulum-v1", "--env.n_envs=8", "--train.eval_freq=0"]
    run, _ = train(
        load_config("recall/rim", [*changes, f"--train.total_timesteps={options.total_timesteps}"]), options.run_dir
    )
    exported = options.run_dir / "exported"
    export(run, exported)  # safetensors and JSON: loading it runs no code

    agents = {
        "run": rimrl.load(run.path),
        "export": rimrl.load(exported),
        "sb3-contrib": sb3_contrib.RecurrentPPO.load(run.model_file),  # a pickle: only from people whom you trust
    }
    observations = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    actions = {name: agent.predict(observations, deterministic=True)[0] for name, agent in agents.items()}
    for name, taken in actions.items():
        print(f"{name:<12} {taken[:5, 0]}")
    return actions


if __name__ == "__main__":
    main()
