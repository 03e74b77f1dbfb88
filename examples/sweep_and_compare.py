"""Which core remembers the cue more often, over several seeds?

python examples/sweep_and_compare.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rimrl.cli import main as rimrl


def main(words: Sequence[str] | None = None) -> list[Path]:
    """Train and evaluate each core with each seed, print the comparison, and return the run folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total-timesteps", default="100000")
    parser.add_argument("--seeds", default="0..4")
    parser.add_argument("--episodes", default="100")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/sweep"))
    options = parser.parse_args(words)
    cores, folder = "core=rim,lstm", str(options.run_dir)
    # The same command goes on with what was interrupted; a sweep that is finished costs nothing.
    sweep = ["sweep", "recall/rim", "--over", cores, "--seeds", options.seeds, "--run-dir", folder]
    sweep += ["--total-timesteps", options.total_timesteps, "--evaluate", "--episodes", options.episodes]
    if rimrl(sweep) == 0:
        rimrl(["compare", folder])
    trials = json.loads((options.run_dir / "sweep.json").read_text(encoding="utf-8"))["trials"]
    return [options.run_dir / trial["path"] for trial in trials if trial["state"] == "finished"]


if __name__ == "__main__":
    main()
