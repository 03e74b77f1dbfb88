"""``rimrl watch``: play a trained agent with its environment drawn, for `rimrl.reporting.video` to film."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from rimrl.experiments.evaluate import DEFAULT_SEED
from rimrl.experiments.player import Player, Step, make_player
from rimrl.experiments.run import Run
from rimrl.runs.scenes import Scene


@dataclass(frozen=True)
class Show:
    """What is about to be seen.

    Attributes:
        title: Core, suite, split and how long it was trained.
        episodes: How many.
        scenes: Every step of every episode; played while it is iterated.
    """

    title: str
    episodes: int
    scenes: Iterator[Scene]


@contextmanager
def showing(
    run: Run,
    episodes: int = 3,
    split: str = "train",
    deterministic: bool = False,
    seed: int = DEFAULT_SEED,
    best: bool = False,
    trust: bool = False,
    progress_bar: bool = True,
) -> Iterator[Show]:
    """Play whole episodes of a run with the environment drawn.

    Args:
        run: A run that has been trained, with any core.
        episodes: How many.
        split: Which split of the run's suite.
        deterministic: Take the mode of the policy instead of a sample (default), as `evaluate`.
        seed: Seed of levels and actions.
        best: Show ``best_model.zip`` instead of ``model.zip``.
        trust: Run code that the file of the agent brings along (`rimrl.load`). Default False.
        progress_bar: Show progress on standard error.

    Yields:
        The show.

    Raises:
        UsageError: For no episodes, an unknown split, a model that is missing or damaged, or an environment that
            cannot draw itself.
    """
    with make_player(run, episodes, split, deterministic, seed, best, trust, render=True) as player:
        scenes = _scenes(player, f"watch {run.path.name}" if progress_bar else None)
        title = f"{run.config.core.name} on {run.config.env.id} ({player.split.name})"
        yield Show(f"{title} after {player.agent.num_timesteps:,} training steps", episodes, scenes)


def _scenes(player: Player, title: str | None) -> Iterator[Scene]:
    total = 0.0
    for step in player.steps(title):
        assert step.picture is not None
        total = step.reward if step.number == 0 else total + step.reward
        active = step.trace.active[0, 0].cpu().numpy()
        yield Scene(
            picture=step.picture,
            seen=step.seen,
            active=active if len(active) > 1 else None,
            fresh=step.fresh,
            episode=step.episode + 1,
            step=step.number + 1,
            task=step.task,
            action=_words(step, player.action_names),
            reward=step.reward,
            total=total,
            ending=_ending(step),
        )


def _words(step: Step, names: list[str] | None) -> str:
    if names is not None:
        return names[int(step.action)]
    return " ".join(
        str(value) if isinstance(value, int) else f"{value:.2f}" for value in np.ravel(step.action).tolist()
    )


def _ending(step: Step) -> str | None:
    if step.outcome is None:
        return None
    if step.outcome.success is not None:
        return "success" if step.outcome.success else "out of time" if step.outcome.out_of_time else "failed"
    return "out of time" if step.outcome.out_of_time else "over"
