"""``rimrl inspect``: play a trained agent and record what each unit of its core does at every step.

recording.npz     one row a step: what was done, what came of it, and the core's trace
inspection.json   what was played, and the means over steps that the pictures show

Letters: S steps of all episodes together; N units and M input elements as in `rimrl.cores.base`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import EnumMeta
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from rimrl.agents.load import load
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.cores.base import CoreTrace
from rimrl.envs.vector import make_vec_env
from rimrl.errors import UsageError
from rimrl.experiments.evaluate import DEFAULT_SEED, splits_to_play
from rimrl.experiments.run import Run

RECORDING_FILES = ("recording.npz", "inspection.json")
DEFAULT_EPISODES = 50


@dataclass(frozen=True)
class Recording:
    """What an agent and its units did, step by step.

    Attributes:
        facts: What was played, and means over steps: the content of ``inspection.json``.
        arrays: ``episode``, ``step`` (within the episode), ``action`` (for discrete actions the index of its name) and
            ``reward``, each ``[S, ...]``; ``active`` ``[S, N]``; where the core has them ``input_attention``
            ``[S, N, 1 + M]`` and ``communication_attention`` ``[S, N, N]``, as in `rimrl.cores.base.CoreTrace`.
    """

    facts: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    def save(self, folder: Path) -> None:
        """Write `RECORDING_FILES` into a folder."""
        np.savez_compressed(folder / "recording.npz", **self.arrays)  # type: ignore[arg-type]
        text = json.dumps(self.facts, indent=2, ensure_ascii=False)
        (folder / "inspection.json").write_text(text + "\n", encoding="utf-8")


def record(
    run: Run,
    episodes: int = DEFAULT_EPISODES,
    split: str = "train",
    deterministic: bool = False,
    seed: int = DEFAULT_SEED,
    best: bool = False,
    progress_bar: bool = True,
) -> Recording:
    """Play whole episodes, one after the other, and record what the units of the actor's core do.

    Args:
        run: A run that has been trained, with any core; one without units reports a single unit, always active.
        episodes: How many.
        split: Which split of the run's suite.
        deterministic: Take the mode of the policy instead of a sample (default), as `evaluate`.
        seed: Seed of levels and actions.
        best: Inspect ``best_model.zip`` instead of ``model.zip``.
        progress_bar: Show progress on standard error.

    Returns:
        The recording.

    Raises:
        UsageError: For no episodes, an unknown split, or a model that is missing or damaged.
    """
    if episodes < 1:
        raise UsageError(f"episodes must be at least 1, got {episodes}")
    config = run.config
    (played,) = splits_to_play(config.env.id, split)
    model_file = run.agent_file(best)
    th.set_num_threads(config.train.num_threads)
    agent = load(model_file, device=config.train.device)
    policy = agent.policy
    assert isinstance(policy, RecurrentCorePolicy)

    set_random_seed(seed)
    env = make_vec_env(
        config.env.id,
        split=played.name,
        n_envs=1,
        seed=seed,
        efference_copies=config.env.efference_copies,
        **config.env.kwargs,
    )
    steps: dict[str, list[Any]] = {}
    outcomes: list[dict[str, Any]] = []
    try:
        action_names = _action_names(env)
        first_action = env.action_space.start if isinstance(env.action_space, spaces.Discrete) else 0
        observation, state, start = env.reset(), None, np.ones(1, dtype=bool)
        rewards: list[float] = []
        task = _task(env)
        with tqdm(total=episodes, desc=f"inspect {run.path.name}", unit="episode", disable=not progress_bar) as bar:
            while len(outcomes) < episodes:
                trace = policy.trace(observation, state, start)  # type: ignore[arg-type]
                action, state = agent.predict(observation, state, start, deterministic)  # type: ignore[arg-type]
                observation, reward, start, infos = env.step(action)
                row = {
                    "episode": len(outcomes),
                    "step": len(rewards),
                    "action": action[0] - first_action,
                    "reward": reward[0],
                    **_of_one_step(trace),
                }
                for name, value in row.items():
                    steps.setdefault(name, []).append(value)
                rewards.append(float(reward[0]))
                if start[0]:
                    outcomes.append(_outcome(rewards, infos[0], task))
                    rewards, task = [], _task(env)
                    bar.update()
    finally:
        env.close()
    arrays = {name: np.stack(values) for name, values in steps.items()}

    facts = {
        "suite": config.env.id,
        "split": played.name,
        "held_out": played.held_out,
        "config": config.name,
        "core": config.core.name,
        "model": model_file.name,
        "num_timesteps": agent.num_timesteps,
        "deterministic": deterministic,
        "seed": seed,
        "steps": len(arrays["reward"]),
        "units": arrays["active"].shape[1],
        "action_names": action_names,
        "episodes": outcomes,
        **_means(arrays, action_names),
    }
    return Recording(facts, arrays)


@contextmanager
def replacing(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Fill a temporary folder whose files take their place in ``folder`` only when the block ends well.

    Args:
        folder: Where the files belong; made if missing.
        names: All files that may be there; those that the block did not write are removed from ``folder``.

    Raises:
        UsageError: If the folder cannot be written.
    """
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    except OSError as error:
        _remove_empty(missing)
        raise UsageError(f"cannot write the folder {folder}: {error.strerror}") from None
    try:
        yield partial
        for name in names:
            if (partial / name).exists():
                (partial / name).replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_empty(missing)


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _of_one_step(trace: CoreTrace) -> dict[str, NDArray[Any]]:
    parts = {
        "active": trace.active,
        "input_attention": trace.input_attention,
        "communication_attention": trace.communication_attention,
    }
    return {name: part[0, 0].cpu().numpy() for name, part in parts.items() if part is not None}


def _outcome(rewards: list[float], info: dict[str, Any], task: str | None) -> dict[str, Any]:
    success = info.get("is_success")
    return {
        "length": len(rewards),
        "return": sum(rewards),
        "success": None if success is None else bool(success),
        "out_of_time": bool(info.get("TimeLimit.truncated", False)),
        "task": task,
    }


def _task(env: VecEnv) -> str | None:
    """What the agent is told to do in this episode, where the environment puts it into words."""
    mission = getattr(env.get_attr("unwrapped")[0], "mission", None)
    return mission if isinstance(mission, str) else None


def _action_names(env: VecEnv) -> list[str] | None:
    """Names of discrete actions, numbers where the environment gives none; None for other kinds of action."""
    space = env.action_space
    if not isinstance(space, spaces.Discrete):
        return None
    names: list[str] = []
    unwrapped = env.get_attr("unwrapped")[0]
    if isinstance(enum := getattr(unwrapped, "actions", None), EnumMeta):  # MiniGrid
        names = list(enum.__members__)
    elif callable(meanings := getattr(unwrapped, "get_action_meanings", None)):  # Atari
        names = [str(meaning).lower() for meaning in meanings()]
    known = space.start == 0 and len(names) >= space.n
    return names[: space.n] if known else [str(space.start + i) for i in range(space.n)]


def _means(arrays: dict[str, NDArray[Any]], action_names: list[str] | None) -> dict[str, Any]:
    """Means over steps: how often each unit is active, and when; where its attention goes."""
    active = arrays["active"]
    # Where all units start from the same state the first step is decided by a tie, and would colour the actions.
    later = arrays["step"] > 0
    occasions = [
        ("all", "all steps", np.ones(len(active), dtype=bool)),
        ("first", "first step of an episode", ~later),
        ("later", "all later steps", later),
    ]
    if action_names is not None:
        occasions += [("action", name, later & (arrays["action"] == i)) for i, name in enumerate(action_names)]
    occasions += [
        ("reward", "reward above zero", later & (arrays["reward"] > 0)),
        ("reward", "reward below zero", later & (arrays["reward"] < 0)),
    ]
    return {
        "active_frequency": [
            {"kind": kind, "when": when, "steps": int(chosen.sum()), "units": _mean(active[chosen])}
            for kind, when, chosen in occasions
        ],
        "input_attention_mean": _mean(arrays["input_attention"]) if "input_attention" in arrays else None,
        "communication_attention_mean": (
            [_mean(arrays["communication_attention"][active[:, n], n]) for n in range(active.shape[1])]
            if "communication_attention" in arrays
            else None
        ),
    }


def _mean(rows: NDArray[Any]) -> list[Any] | None:
    """Mean over the first axis as plain lists; None over no rows."""
    mean: list[Any] | None = rows.mean(axis=0, dtype=np.float64).tolist() if len(rows) else None
    return mean
