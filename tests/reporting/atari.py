"""Runs of Atari games, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.reporting.results import write_run


def write_game(
    path: Path,
    returns: Sequence[float],
    name: str = "rim",
    game: str = "Pong",
    random: float | None = None,
    held_out: Sequence[float] = (),
    asked: dict[str, Any] | None = None,
    kwargs: dict[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """A run whose training showed some returns, one every 1000 steps, and ended at the last of them.

    Args:
        path: Folder to make.
        returns: In training.
        name: Of the core.
        game: As in its id.
        random: What random actions reach in the evaluation on the training split.
        held_out: Returns on the held-out split ``sticky`` during the training.
        asked: Arguments of the environment on the training split, over the frameskip of 4.
        kwargs: Those in the configuration.
        seed: Of the training.
    """
    chance = {} if random is None else {"random_return_mean": random}
    common = {"episodes": 20, "success_rate": None, "env_id": f"ALE/{game}-v5"}
    splits = {
        "train": {
            **common,
            "held_out": False,
            "return_mean": returns[-1],
            "env_kwargs": {"frameskip": 4, **(asked or {})},
            **chance,
        },
        "sticky": {**common, "held_out": True, "return_mean": returns[-1], "env_kwargs": {"frameskip": 4}},
    }
    settings = {
        "name": f"atari/{name}",
        "env": {"id": f"sticky/{game}", "kwargs": kwargs or {}},
        "core": {"name": name},
        "train": {"seed": seed},
    }
    write_run(path, splits, f"atari/{name}", f"sticky/{game}", settings)
    columns = ["time/total_timesteps", "rollout/ep_rew_mean", *(["eval/return_mean_sticky"] if held_out else [])]
    rows = [",".join(map(str, [1000 * (k + 1), value, *held_out[k : k + 1]])) for k, value in enumerate(returns)]
    (path / "progress.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
    return path
