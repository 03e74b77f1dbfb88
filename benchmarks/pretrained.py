"""Makes the agents that come with rimrl: trains their configurations, scores them on every split, and exports them.

    python -m benchmarks.pretrained                     # train all of them, in runs/to-ship
    python -m benchmarks.pretrained runs/rim runs/lstm  # take runs that are there, of any of them
    python -m benchmarks.pretrained runs/rim recall/lstm  # take one, train another
    python -m benchmarks.pretrained --table             # only write the table in docs/pretrained.md again

A run that is given has to have the shipped configuration: what it is called, its seed and how often it was evaluated
may differ. It is not written to. Weights are rounded to float16, and the scores are those of the rounded agent.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch as th

from rimrl.agents.saved.build import own_tensors
from rimrl.agents.saved.card import read_card
from rimrl.agents.saved.names import WEIGHTS
from rimrl.agents.saved.shipped import ROOT
from rimrl.errors import UsageError
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.config_files import load_config
from rimrl.experiments.evaluate import evaluate
from rimrl.experiments.export import export
from rimrl.experiments.loading import load_agent
from rimrl.experiments.run import Run
from rimrl.experiments.trials import carry_on
from rimrl.reporting.bootstrap import student_t

# Each with the seed that it is trained with here.
AGENTS = {
    "recall/rim": 0,
    "recall/riglstm": 0,
    "recall/lstm": 0,
    "distractors/rim": 0,
    "multiroom/rim": 0,
    "atari-small/pong/rim": 100,
}
EPISODES = 500
GAMES = 100  # episodes of an Atari game, each of which is some hundred times as long
LARGEST = 1_000_000
PAGE = Path(__file__).parents[1] / "docs" / "pretrained.md"
_WORK = Path("runs", "to-ship")
_TABLE = re.compile(r"(?<=<!-- agents -->\n).*?(?=<!-- end of agents -->)", re.DOTALL)
# Of the keys that say how long and how often, these alone decide what is learned.
_DECIDING = ("train.total_timesteps", "train.stop_reward", "train.stop_after_evals", "train.callback")


def trained(name: str, seed: int) -> Run:
    """Train an agent, or go on with it, and return its run."""
    config = load_config(name, [f"--train.seed={seed}", "--train.eval_freq=0"])
    path = _WORK / name
    done = (path / "model.zip").is_file() and Run.open(path).status == "finished"
    if not done and not carry_on(config, path, progress_bar=True):
        sys.exit(130)
    return Run.open(path)


def agents_in(words: Sequence[str]) -> dict[str, Run | None]:
    """The agents that words name or whose runs they are; those that are to be trained have no run.

    Raises:
        UsageError: As `agent_of`, and for an agent that is named twice.
    """
    found: dict[str, Run | None] = {}
    for word in words:
        run = None if word in AGENTS else Run.open(Path(word))
        name = word if run is None else agent_of(run)
        if name in found:
            raise UsageError(f"{word} is the second run of {name}; name each agent once")
        found[name] = run
    return found


def agent_of(run: Run) -> str:
    """Which of the agents a run has trained.

    Raises:
        UsageError: If it is none of them, or has not come to its end; names the first key that differs.
    """
    if run.status != "finished":
        raise UsageError(f"{run.path} has not come to its end")
    differing = {name: _difference(load_config(name), run.config) for name in AGENTS}
    for name, difference in differing.items():
        if difference is None:
            return name
    played = f"{run.config.env.id}/{run.config.core.name}"
    why = differing.get(played) or f"valid: {', '.join(AGENTS)}"
    raise UsageError(f"{run.path} has the configuration of none of the agents that come with rimrl; {why}")


def _difference(shipped: ExperimentConfig, config: ExperimentConfig) -> str | None:
    ours, theirs = shipped.flat(), config.flat()
    for key in dict.fromkeys([*ours, *theirs]):
        free = key == "name" or (key.startswith("train.") and key not in _DECIDING)
        if not free and ours.get(key) != theirs.get(key):
            return f"{shipped.name} has {key} {ours.get(key)!r}, the run {theirs.get(key)!r}"
    return None


def ship(run: Run, name: str, root: Path, episodes: int | None) -> Path:
    """Score the agent of a run on every split, and export it with its scores.

    Args:
        run: The run; nothing is written to it.
        name: Of the agent.
        root: Where the agents are.
        episodes: Of each split; None for `EPISODES`, or `GAMES` of Atari.

    Raises:
        UsageError: If its weights are larger than `LARGEST`.
    """
    with tempfile.TemporaryDirectory() as place:
        copied = Path(place, run.path.name)
        copied.mkdir()
        for file in ("config.yaml", "environment.json", "model.zip"):
            shutil.copyfile(run.path / file, copied / file)
        copy = Run(copied, replace(Run.open(copied).config, name=name))
        _round(copy)
        evaluate(copy, episodes or (GAMES if name.startswith("atari") else EPISODES), n_envs=32)
        folder = export(copy, root / name, half=True)
    size = (folder / WEIGHTS).stat().st_size
    if size > LARGEST:
        shutil.rmtree(folder)
        raise UsageError(f"the weights of {name} have {size:,} bytes, more than {LARGEST:,}")
    return folder


def _round(run: Run) -> None:
    """Round weights to what the export holds, so that the scores are those of what is shipped."""
    agent = load_agent(run, device="cpu")
    with th.no_grad():
        for tensor in own_tensors(agent.policy).values():
            tensor.copy_(tensor.half() if tensor.dtype == th.float32 else tensor)
    agent.save(run.model_file)


def table(root: Path = ROOT) -> str:
    """The agents and what they reach, in Markdown."""
    lines = ["| agent | seed | steps | kB | success, or score in Pong |", "|---|---|---|---|---|"]
    for name in AGENTS:
        if not (root / name).is_dir():
            continue
        card = read_card(root / name)
        splits = ", ".join(_score(split, scores) for split, scores in card["evaluation"]["splits"].items())
        size = (root / name / WEIGHTS).stat().st_size / 1000
        seed, steps = card["config"]["train"]["seed"], card["agent"]["num_timesteps"]
        lines.append(f"| `{name}` | {seed} | {steps:,} | {size:.0f} | {splits} |")
    return "\n".join(lines) + "\n"


def _score(split: str, scores: dict[str, Any]) -> str:
    if scores.get("success_rate") is not None:
        value, (low, high) = scores["success_rate"], scores["success_interval"]
    else:
        value, number = scores["return_mean"], scores["episodes"]
        half = student_t(0.975, number - 1) * scores["return_std"] / math.sqrt(number - 1)
        low, high = value - half, value + half
    shown = f"{split} {value:.2f} [{low:.2f}, {high:.2f}]"
    return shown if scores["held_out"] else f"**{shown}**"


def write_table(page: Path = PAGE, root: Path = ROOT) -> None:
    """Put the table into its page."""
    page.write_text(_TABLE.sub(lambda _: table(root), page.read_text(encoding="utf-8")), encoding="utf-8")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs",
        nargs="*",
        default=list(AGENTS),
        metavar="RUN_OR_AGENT",
        help="trained runs, or agents to train (default all)",
    )
    parser.add_argument("--episodes", type=int, help=f"of each split (default {EPISODES}, or {GAMES} of Atari)")
    parser.add_argument("--seed", type=int, help="of what is trained here (default its own, AGENTS)")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="where to (default the package)")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="what holds the table")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    asked = parser.parse_args(words)
    try:
        if not asked.table:
            for name, run in agents_in(asked.runs).items():
                seed = AGENTS[name] if asked.seed is None else asked.seed
                folder = ship(run or trained(name, seed), name, asked.root, asked.episodes)
                print(f"shipped {name}: {folder}")
        write_table(asked.page, asked.root)
    except UsageError as error:
        print(f"pretrained: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
