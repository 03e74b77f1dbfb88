"""Which Atari game some runs play, how many of its frames a step takes, and which published scores it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rimrl.reporting.atari_scores import ATARI_SCORES, GameScores
from rimrl.reporting.results import RunResults

_BEFORE, _AFTER = "ALE/", "-v5"
# Another mode or difficulty is another game, and scores of it have not been published.
_FLAVOUR = ("mode", "difficulty")


def game_of(runs: Sequence[RunResults]) -> str | None:
    """The game that all runs play on every split, as in its id ``ALE/<game>-v5``.

    Args:
        runs: Of one suite.

    Returns:
        Its name; None if there are several, if something else is played, or if wrappers stand around the game, which
        may change what a step or a reward is.
    """
    results = [(run.splits[name].get("env_id"), run.asked(name)) for run in runs for name in run.splits]
    played = {env_id if isinstance(env_id, str) and "env_wrapper" not in asked else "" for env_id, asked in results}
    (env_id,) = played if len(played) == 1 else ("",)
    if not (env_id.startswith(_BEFORE) and env_id.endswith(_AFTER)):
        return None
    return env_id.removeprefix(_BEFORE).removesuffix(_AFTER)


def frames_per_step(run: RunResults) -> int | None:
    """Frames that an action was held for while a run was trained; None where its files do not say it."""
    own = [_env_kwargs(run)]
    if "frameskip" not in run.evaluation.get("changed_kwargs", {}):
        # Splits that are trained on come first: those held out may hold actions for longer.
        own += [run.asked(name) for name in sorted(run.splits, key=lambda name: bool(run.splits[name]["held_out"]))]
    found = next((asked["frameskip"] for asked in own if "frameskip" in asked), None)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None


def published_scores(runs: Sequence[RunResults], splits: Sequence[str]) -> GameScores | None:
    """Published scores of the game that runs play on some splits.

    Args:
        runs: Of one suite.
        splits: Names of splits that every run was evaluated on. None of them: what the runs were trained on.

    Returns:
        None if the game has none, in the mode and difficulty that it is played in.
    """
    changed = any(asked.get(key) is not None for asked in _asked(runs, splits) for key in _FLAVOUR)
    return None if changed else ATARI_SCORES.get(game_of(runs) or "")


def _asked(runs: Sequence[RunResults], splits: Sequence[str]) -> Iterator[dict[str, Any]]:
    for run in runs:
        yield _env_kwargs(run)
        yield from (run.asked(name) for name in splits)


def _env_kwargs(run: RunResults) -> dict[str, Any]:
    """Arguments of the environment that the configuration gives beside those of the suite."""
    kwargs = run.config.get("env", {}).get("kwargs", {})
    return kwargs if isinstance(kwargs, dict) else {}
