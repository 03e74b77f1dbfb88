"""``rimrl tune``: search for values of a configuration's keys; a study whose trials are chosen one after the other.

tuning.yaml       what was asked for, and the experiment complete; ``rimrl tune FOLDER`` goes on with it
tuning.json       every trial with its state, the best one, and how much was searched
trials.csv        the trials as a table
best.yaml         the best trial's configuration, which ``rimrl train`` repeats
optuna.log        what Optuna knows (`rimrl.experiments.search`)
trial_NNN/seed_N  run folders; trial.json beside them: how the trial ended
logs/trial_NNN.*  what each trial said, and its attempts
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import asdict, replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from rimrl.errors import missing, quoted
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.search import JOURNAL, Strategy, import_optuna
from rimrl.experiments.tune_config import TuneConfig, merged, read
from rimrl.experiments.tune_space import check_space, own_values, parse_space
from rimrl.experiments.tune_trial import STATES, Result, TuneTrial, read_result
from rimrl.files import write_text
from rimrl.runs.tracking import Tracking
from rimrl.studies.study import Study

TABLE = "trials.csv"
BEST = "best.yaml"


class Tune(Study[TuneTrial]):
    """A search in its folder.

    Args:
        asked: What to do. Trials are added to those of a search that is there.
        folder: Where its runs are, or will be.
        check: Make an agent with every value that may come, to see whether that can be done.
        tracking: Where the runs are logged beside TensorBoard; default: nowhere.

    Raises:
        UsageError: If Optuna is not installed, for what cannot be trained, and for a folder that holds something else
            or a search with other settings. Nothing is written then.
    """

    kind = "tuning"
    noun = "trial"

    def __init__(self, asked: TuneConfig, folder: Path, check: bool = True, tracking: Tracking | None = None) -> None:
        import_optuna()
        there = self.is_in(folder)
        self.config = config = merged(read(folder), asked, folder) if there else asked
        space = parse_space(config.space, config.experiment)
        if check and not there:
            check_space(space, config.experiment)
        start = own_values(space, config.experiment)
        strategy = Strategy(space, start, config.sampler, config.sampler_seed, config.pruning)
        super().__init__(
            folder,
            [
                TuneTrial(
                    number=number,
                    config=config.experiment,
                    tracking=tracking,
                    strategy=strategy,
                    seeds=config.seeds,
                    episodes=config.episodes,
                )
                for number in range(config.trials)
            ],
        )
        if not (folder / JOURNAL).is_file() and len(self.waiting) < len(self.trials):
            raise missing(str(folder / JOURNAL), advice="it holds the search; restore it, or choose another --run-dir")

    @property
    def results(self) -> dict[int, Result]:
        """How trials ended, by their numbers."""
        found = ((trial.number, read_result(self.folder / trial.name)) for trial in self.trials)
        return {number: result for number, result in found if result is not None}

    @property
    def best(self) -> tuple[int, Result] | None:
        """The trial with the largest score, of several the first; None if none is complete."""
        results = self.results
        scores = {number: result.score for number, result in results.items() if result.score is not None}
        if not scores:
            return None
        number = max(scores, key=lambda each: scores[each])
        return number, results[number]

    def best_config(self) -> ExperimentConfig | None:
        """The best trial's configuration with its first seed; None if none is complete."""
        best = self.best
        if best is None:
            return None
        number, result = best
        trial = self.trials[number]
        config = trial.with_values(result.values, trial.seeds[0])
        return replace(config, name=f"{config.name}_tuned")

    def description(self) -> str:
        """What was asked for."""
        return self.config.to_yaml()

    def effort(self) -> dict[str, Any]:
        """How much was searched: what a comparison with another core has to say beside its figures."""
        results = self.results.values()
        states = Counter(result.state for result in results)
        return {
            "core": self.config.experiment.core.name,
            "trials": len(results),
            **{state: states[state] for state in STATES},
            "steps": sum(result.steps for result in results),
            "seconds": round(sum(each["seconds"] for each in self.progress().values()), 1),
        }

    def summary(self) -> dict[str, Any]:
        """Every trial with its state, the best one, and how much was searched."""
        results, best = self.results, self.best
        return {
            "time": datetime.now(UTC).isoformat("T", "seconds"),
            "config": self.config.config,
            "search": self.effort(),
            "best": None if best is None else _figures(*best),
            "trials": [
                {"number": trial.number, "path": trial.name, **far}
                | (_figures(trial.number, results[trial.number]) if trial.number in results else {})
                for trial, far in zip(self.trials, self.progress().values(), strict=True)
            ],
        }

    def save(self) -> None:
        """Write ``tuning.json``, the table of the trials and the best configuration."""
        super().save()
        with self._saving():
            write_text(self.folder / TABLE, self._table(), self.folder)
            config = self.best_config()
            if config is not None:
                write_text(self.folder / BEST, self._head() + config.to_yaml(), self.folder)

    def _table(self) -> str:
        out = StringIO()
        keys = list(self.config.space)
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["trial", "state", "score", "success_rate", "return_mean", "steps", *keys, "message"])
        for number, result in self.results.items():
            figures = _figures(number, result)
            named = [figures[name] for name in ("number", "result", "score", "success_rate", "return_mean", "steps")]
            rows.writerow([*named, *(result.values.get(key) for key in keys), result.message])
        return out.getvalue()

    def _head(self) -> str:
        best, effort = self.best, self.effort()
        assert best is not None
        number, result = best
        lines = [
            f"rimrl train {quoted(self.folder / BEST)}",
            "",
            f"The best of {effort['trials']} trials, of {effort['steps']} steps in all, is {self.trials[number].name}: "
            f"mean {result.measure} {result.score:.4g} on the split that it is trained on.",
        ]
        return "".join(f"# {''.join(c if c.isprintable() else '?' for c in line)}".rstrip() + "\n" for line in lines)


def _figures(number: int, result: Result) -> dict[str, Any]:
    """What is told of a trial that has ended."""

    def mean(name: str) -> float | None:
        known = [getattr(each, name) for each in result.seeds if getattr(each, name) is not None]
        return sum(known) / len(known) if known and result.state == "complete" else None

    return {
        "number": number,
        "result": result.state,
        "score": result.score,
        "success_rate": mean("success_rate"),
        "return_mean": mean("return_mean"),
        "steps": result.steps,
        "values": result.values,
        "seeds": [asdict(each) for each in result.seeds],
        "message": result.message,
    }
