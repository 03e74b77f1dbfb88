"""Results as run folders hold them, made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from rimrl.reporting.results import RunResults, read_runs

PROGRESS = """time/total_timesteps,rollout/ep_rew_mean,rollout/success_rate,eval/mean_reward
512,,,
1024,0.25,0.5,
1024,,,0.4
2048,0.75,1.0,
"""


def split(held_out: bool = False, episodes: int = 20, **figures: Any) -> dict[str, Any]:
    """The figures of one split."""
    return {"held_out": held_out, "episodes": episodes, "return_mean": 0.125, "success_rate": 0.25, **figures}


def write_run(
    path: Path,
    splits: dict[str, Any],
    config: str = "distractors/rim",
    suite: str = "distractors",
    settings: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    """A folder with the files that reports read; `settings` are those of ``config.yaml``."""
    path.mkdir(parents=True)
    if settings is not None:
        (path / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (path / "evaluation.json").write_text(json.dumps({"suite": suite, "config": config, "splits": splits, **more}))
    (path / "progress.csv").write_text(PROGRESS)
    return path


def results(path: Path, splits: dict[str, Any], config: str = "distractors/rim") -> RunResults:
    """A run that was written and read back."""
    return read_runs([write_run(path, splits, config)])[0]
