"""How seeds and values become the trials of a sweep, each of them one run."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath, PurePosixPath
from typing import Any

from tqdm import tqdm

from rimrl.cores.registry import CORES, adopt_core
from rimrl.errors import UsageError, conflict, invalid_value, unknown_name
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.config_files import is_shipped, load_config, shipped_configs
from rimrl.experiments.factory import check_fits
from rimrl.experiments.suite_files import is_suite_file
from rimrl.experiments.sweep_config import SweepConfig
from rimrl.experiments.trials import RunTrial

_MOST_TRIALS = 100_000


@dataclass(frozen=True, kw_only=True)
class SweepTrial(RunTrial):
    """One run of a sweep.

    Attributes:
        number: Its place in the plan.
        experiment: Its folder without the seed, such as ``core=rim/env=memory``; empty if nothing but seeds is swept.
        settings: Values of the keys that are swept.
        seed: Of the run.
    """

    number: int
    experiment: str
    settings: Mapping[str, str]
    seed: int


def make_trials(sweep: SweepConfig, episodes: int | None = None) -> list[SweepTrial]:
    """All trials, seed by seed, so that a part of the whole is a smaller whole.

    Args:
        sweep: What is asked for.
        episodes: With how many each is evaluated; None for no evaluation.

    Raises:
        UsageError: For a value that does not exist or is of the wrong type, and for values that mean the same.
    """
    experiments: dict[str, tuple[dict[str, str], ExperimentConfig]] = {}
    known: dict[str, str] = {}
    number = math.prod([len(sweep.seeds), *map(len, sweep.over.values())])
    if number > _MOST_TRIALS:
        raise invalid_value("the number of runs", f"at most {_MOST_TRIALS}", number, "sweep fewer values")
    for values in itertools.product(*sweep.over.values()):
        settings = dict(zip(sweep.over, values, strict=True))
        label = "/".join(f"{key}={_as_folder(key, value)}" for key, value in settings.items())
        config = _experiment(sweep, settings)
        same = known.setdefault(repr(sorted(config.flat().items())), label)
        if same != label or label in experiments:
            raise conflict(same, f"{label}, the same experiment")
        experiments[label] = settings, config
    return [
        SweepTrial(
            name=str(PurePosixPath(label, f"seed_{seed}")),
            config=replace(config, train=replace(config.train, seed=seed)),
            episodes=episodes,
            number=number,
            experiment=label,
            settings=settings,
            seed=seed,
        )
        for number, (seed, (label, (settings, config))) in enumerate(
            itertools.product(sweep.seeds, experiments.items())
        )
    ]


def check_trials(trials: Iterable[SweepTrial], progress_bar: bool = False) -> None:
    """Make the environments and agents that are to be trained, once for all seeds, and throw them away.

    Args:
        trials: What is to be trained.
        progress_bar: Show progress on standard error if that is a terminal.

    Raises:
        UsageError: If one cannot be made; says which.
    """
    first: dict[str, SweepTrial] = {}
    for trial in trials:
        first.setdefault(trial.experiment, trial)
    disable = None if progress_bar else True  # None: nothing but a terminal gets a bar
    bar = tqdm(first.values(), "check", leave=False, unit="experiment", dynamic_ncols=True, disable=disable)
    for trial in bar:
        try:
            check_fits(trial.config)
        except UsageError as error:
            raise _in(trial.settings, error) from None


def _experiment(sweep: SweepConfig, settings: Mapping[str, str]) -> ExperimentConfig:
    changes = {"env.id" if key == "env" else key: value for key, value in settings.items() if key != "core"}
    words = [f"--{key}={value}" for key, value in (sweep.overrides | changes).items()]
    try:
        if "core" not in settings:
            return load_config(sweep.config, words)
        return _with_core(sweep.config, settings["core"], words)
    except UsageError as error:
        raise _in(settings, error) from None


def _with_core(config: str, core: str, words: list[str]) -> ExperimentConfig:
    """An experiment with another core: as it is shipped for the same task, or else with the core's default options."""
    shipped = _shipped_for(config, core)
    if shipped is not None:
        return load_config(shipped, words)
    if not adopt_core(core, "--over core"):
        beside = [name.rpartition("/")[2] for name in shipped_configs() if _folder(name) == _folder(config)]
        raise unknown_name("core", core, [*CORES, *beside], where="--over core")
    base = load_config(config)
    if core != base.core.name:
        words = [f"--core.name={core}", *words]
    changed = load_config(config, words)
    return replace(changed, name=f"{changed.name}/{core}")


def _shipped_for(config: str, core: str) -> str | None:
    """``distractors/lstm`` for ``distractors/rim`` and ``lstm``; ``multiroom/a2c_lstm`` for ``multiroom/a2c_rim``."""
    if not is_shipped(config):
        return None
    folder, own = _folder(config), config.rpartition("/")[2]
    prefix = own.removesuffix(load_config(config).core.name)
    if prefix != own and is_shipped(f"{folder}/{prefix}{core}"):
        return f"{folder}/{prefix}{core}"
    beside = f"{folder}/{core}"
    return beside if core not in CORES and is_shipped(beside) else None


def _folder(config: str) -> str:
    return config.rpartition("/")[0]


def _as_folder(key: str, value: str) -> str:
    if key == "env" and is_suite_file(value):
        value = PurePath(value).stem
    plain = re.sub(r"[\[\]{}()\"' ]", "", value)
    return re.sub(r"[^\w.,+:-]+", "-", plain) or "empty"


def _in(settings: Mapping[str, Any], error: UsageError) -> UsageError:
    if not settings:
        return error
    return error.within(after=f" (with {', '.join(f'{key}={value}' for key, value in settings.items())})")
