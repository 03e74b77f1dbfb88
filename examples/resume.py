"""Is a run that was stopped and resumed the same as one that was not?

python examples/resume.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import rimrl
from rimrl.experiments.config_files import load_config
from rimrl.experiments.resuming import resume
from rimrl.experiments.train import train


def main(words: Sequence[str] | None = None) -> bool:
    """Train once in one go and once in two halves, and compare the weights bit for bit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total-timesteps", type=int, default=20_480)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/resume"))
    options = parser.parse_args(words)
    changes = ["--agent.learning_rate_schedule=constant", "--train.eval_freq=0", "--env.n_envs=8"]
    whole = load_config("recall/rim", [*changes, f"--train.total_timesteps={options.total_timesteps}"])
    half = replace(whole, train=replace(whole.train, total_timesteps=options.total_timesteps // 2))

    one, _ = train(whole, options.run_dir / "one")
    two, _ = train(half, options.run_dir / "two")
    resume(two, whole)  # in a shell: rimrl train --resume runs/resume/two --total-timesteps N

    weights = [rimrl.load(run.path).policy.state_dict() for run in (one, two)]
    same = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    print("the same, bit for bit" if same else "they differ")
    return same


if __name__ == "__main__":
    main()
