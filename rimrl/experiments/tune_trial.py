"""One trial of a search: draws values, trains runs with them, and evaluates these on the split they are trained on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean

from rimrl.errors import NotFiniteError, UsageError
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.config_files import changed
from rimrl.experiments.evaluate import evaluate
from rimrl.experiments.factory import check_fits
from rimrl.experiments.run import Run
from rimrl.experiments.search import Search, Strategy
from rimrl.experiments.trials import ExperimentTrial, carry_on
from rimrl.experiments.tune_space import settings
from rimrl.files import write_text
from rimrl.imports import import_modules
from rimrl.reading import MEGABYTE, read_json
from rimrl.runs.environment import run_reached, run_status
from rimrl.runs.kinds import AGENT
from rimrl.runs.tracked import tracked_again
from rimrl.runs.tracking import Tracking
from rimrl.runs.validated import DamagedError, Fields

FILE = "trial.json"
OBJECTIVE_SEED = 2_000_000
"""Of the levels that trials are scored on: neither those of training nor those of ``rimrl evaluate``."""
State = Literal["complete", "pruned", "diverged", "unfit"]
STATES: tuple[State, ...] = ("complete", "pruned", "diverged", "unfit")
_LONGEST = 4000


@dataclass(frozen=True)
class SeedResult:
    """What a trial reached with one seed.

    Attributes:
        seed: The seed.
        steps: Environment steps that it was trained for.
        success_rate: On the training split; None where the environment reports no success, or it was not evaluated.
        return_mean: Likewise.
    """

    seed: int
    steps: int
    success_rate: float | None = None
    return_mean: float | None = None


@dataclass(frozen=True)
class Result:
    """How a trial ended.

    Attributes:
        state: ``"complete"``; ``"pruned"``; ``"diverged"`` where training met NaN; ``"unfit"`` where the values do not
            fit together.
        values: What was tried, by key.
        seeds: One entry for each seed that was trained.
        message: Why it is not complete.
    """

    state: State
    values: dict[str, Any]
    seeds: tuple[SeedResult, ...]
    message: str | None = None

    @property
    def measure(self) -> str:
        """What it is scored by: ``"success_rate"`` where that is known, else ``"return_mean"``."""
        known = self.seeds and all(each.success_rate is not None for each in self.seeds)
        return "success_rate" if known else "return_mean"

    @property
    def score(self) -> float | None:
        """Its objective, the mean over seeds; None if it is not complete."""
        found = [getattr(each, self.measure) for each in self.seeds]
        return sum(found) / len(found) if self.state == "complete" else None

    @property
    def steps(self) -> int:
        """Environment steps of all its seeds."""
        return sum(each.steps for each in self.seeds)


@dataclass(frozen=True, kw_only=True)
class TuneTrial(ExperimentTrial):
    """A trial; the values are put into its experiment.

    Attributes:
        number: Its place in the search.
        strategy: How the search goes on.
        seeds: Of its trainings, one after the other.
        episodes: With so many each is evaluated.
    """

    number: int
    strategy: Strategy
    seeds: tuple[int, ...]
    episodes: int

    @property
    def name(self) -> str:
        """Its folder, below that of the search."""
        return f"trial_{self.number:03d}"

    @property
    def needs(self) -> tuple[str, ...]:
        """None: it takes what the others have found by then."""
        return ()

    def is_done(self, study: Path) -> bool:
        """Whether it has ended, well or not."""
        return read_result(study / self.name) is not None

    def run(self, study: Path, progress_bar: bool) -> bool:
        """Do what is left of it.

        Returns:
            Whether it came to its end.

        Raises:
            UsageError: For bad input, and for an environment that is at fault.
            RunFailedError: If something breaks on the way.
        """
        import_modules(self.config.modules, "the configuration")  # this may be a process of its own
        search = Search(study, self.strategy, self.number)
        known = search.result
        if known is None:
            result = self._result(study / self.name, search, progress_bar)
            if result is None:
                return False
            known = asdict(result)
            search.finish(known, result.score)
        (study / self.name).mkdir(exist_ok=True)
        write_text(study / self.name / FILE, json.dumps(known, indent=1) + "\n", study)
        return True

    def with_values(self, values: dict[str, Any], seed: int) -> ExperimentConfig:
        """The configuration with values and a seed."""
        config = changed(self.config, settings(values))
        return replace(config, train=replace(config.train, seed=seed))

    def _result(self, path: Path, search: Search, progress_bar: bool) -> Result | None:
        """Train and evaluate with every seed; None where it was asked to stop."""
        values, done = search.values, list[SeedResult]()
        for place, seed in enumerate(self.seeds):
            run = path / f"seed_{seed}"
            try:
                config = self.with_values(values, seed)
                if not (run / "config.yaml").is_file():
                    check_fits(config)
            except UsageError as error:
                return Result("unfit", values, tuple(done), str(error))
            tracking = self.tracked_as(path.parent, f"{self.name}/{run.name}")
            curve = Curve(search, self.strategy.points, place, config.train.total_timesteps)
            try:
                ended = run_status(run) == "finished" or carry_on(config, run, progress_bar, curve, tracking)
            except UsageError as error:
                if not isinstance(error.__cause__, NotFiniteError):  # a folder, an option or an environment is at fault
                    raise
                return Result("diverged", values, (*done, _reached(run, seed)), str(error))
            if curve.pruned and not ended:
                why = "worse than the median of the trials before it"
                return Result("pruned", values, (*done, _reached(run, seed)), why)
            if not ended:
                return None
            done.append(self._scored(run, seed, progress_bar, tracking))
        return Result("complete", values, tuple(done))

    def _scored(self, path: Path, seed: int, progress_bar: bool, tracking: Tracking | None) -> SeedResult:
        """Play the split that the run was trained on, and no other."""
        run = Run.open(path)
        with tracked_again(tracking, run) as tracked:
            found = evaluate(
                run,
                self.episodes,
                split="train",
                seed=OBJECTIVE_SEED,
                random_policy=False,
                progress_bar=progress_bar,
            )
            tracked.evaluation(found)
        figures = found["splits"]["train"]
        return replace(_reached(path, seed), success_rate=figures["success_rate"], return_mean=figures["return_mean"])


class Curve(BaseCallback):
    """Tells a search how a training goes, and ends it where the search sees no hope for it.

    A point is the mean success of the last 100 training episodes, or where there is none their mean return:
    ``rollout/success_rate`` and ``rollout/ep_rew_mean`` of ``progress.csv``.

    Args:
        search: Where to.
        points: How many a training has.
        place: How many trainings of the trial came before.
        total_timesteps: Of the training.

    Attributes:
        pruned: Whether the training has been ended.
    """

    def __init__(self, search: Search, points: int, place: int, total_timesteps: int) -> None:
        super().__init__()
        self._search = search
        self._points = points
        self._first = place * points
        self._total = total_timesteps
        self._last = 0
        self.pruned = False

    def _on_step(self) -> bool:
        return not self.pruned

    def _on_rollout_end(self) -> None:
        reached = min(self._points, self.num_timesteps * self._points // self._total)
        outcomes = list(self.model.ep_success_buffer or ()) or [each["r"] for each in self.model.ep_info_buffer or ()]
        if not outcomes:
            return
        for point in range(self._last + 1, reached + 1):
            hopeless = self._search.is_hopeless(self._first + point, float(safe_mean(outcomes)))
            self.pruned = hopeless and point < self._points  # at its end nothing is saved by that
        self._last = max(self._last, reached)


def read_result(trial: Path) -> Result | None:
    """How the trial in a folder ended; None if it has not, or its file is damaged."""
    try:
        fields = Fields(read_json(trial / FILE, MEGABYTE, follow=False), "trial")
        state = fields.text("state")
        if state not in STATES:
            raise DamagedError("trial.state is none that there is")
        seeds = tuple(_read_seed(each) for each in fields.objects("seeds"))
        if state == "complete" and not (seeds and all(each.return_mean is not None for each in seeds)):
            raise DamagedError("trial.seeds holds no figures")
        values = {key: fields.nested("values").raw(key) for key in fields.nested("values").names()}
        if not all(isinstance(each, str | int | float) for each in values.values()):
            raise DamagedError("trial.values holds something else than numbers and words")
        message = fields.text("message", _LONGEST) if "message" in fields else None
    except (UsageError, DamagedError):
        return None
    return Result(next(each for each in STATES if each == state), values, seeds, message)


def _read_seed(fields: Fields) -> SeedResult:
    figures = {name: fields.number(name) if name in fields else None for name in ("success_rate", "return_mean")}
    return SeedResult(fields.integer("seed", 0, 2**32 - 1), fields.integer("steps"), **figures)


def _reached(run: Path, seed: int) -> SeedResult:
    return SeedResult(seed, run_reached(run, AGENT) or 0)
