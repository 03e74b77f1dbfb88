"""What ``rimrl tune`` is asked for: a configuration, what is searched around it, and how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rimrl.errors import conflict, damaged, invalid_value, shorten, unknown_name, wrong
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.config_files import config_from, load_config
from rimrl.experiments.evaluate import MOST_EPISODES
from rimrl.experiments.search import SAMPLERS
from rimrl.experiments.sweep_config import LARGEST_SEED, LONGEST_TEXT, folder_of, parse_seeds
from rimrl.experiments.tune_space import parse_space, shipped_space, split_space
from rimrl.runs.validated import DamagedError, Fields
from rimrl.runs.yaml_files import read_yaml

FILE = "tuning.yaml"
DEFAULT_TRIALS = 20
_MOST_TRIALS = 10_000
_ADDED = "more --trials can be added to it, for the rest choose another --run-dir"


@dataclass(frozen=True)
class TuneConfig:
    """A search.

    Attributes:
        config: As for ``rimrl train``: a shipped name, or a YAML file.
        experiment: The same with the command's overrides, complete: what is searched around.
        space: What is searched of each key, as the command line has it.
        trials: How many there are.
        seeds: Of each trial's trainings.
        episodes: With so many each training is scored.
        sampler: One of `rimrl.experiments.search.SAMPLERS`.
        sampler_seed: Its seed.
        pruning: Whether trials that are worse than the median are ended.
    """

    config: str
    experiment: ExperimentConfig
    space: dict[str, str]
    trials: int = DEFAULT_TRIALS
    seeds: tuple[int, ...] = (0,)
    episodes: int = 100
    sampler: str = "tpe"
    sampler_seed: int = 0
    pruning: bool = True

    def to_yaml(self) -> str:
        """The whole of it."""
        content = {
            **self._options(),
            "trials": self.trials,
            "space": self.space,
            "experiment": yaml.safe_load(self.experiment.to_yaml()),
        }
        return yaml.safe_dump(content, sort_keys=False)

    def differing(self) -> dict[str, Any]:
        """What may not change in a folder, by the words that messages use."""
        options = {
            key: ",".join(map(str, value)) if key == "seeds" else value for key, value in self._options().items()
        }
        space = {f"space {key}": text for key, text in self.space.items()}
        return options | space | self.experiment.flat()

    def _options(self) -> dict[str, Any]:
        return {
            "config": self.config,
            "seeds": list(self.seeds),
            "episodes": self.episodes,
            "sampler": self.sampler,
            "sampler_seed": self.sampler_seed,
            "pruning": self.pruning,
        }


def ask(
    config: str,
    space: Sequence[str] = (),
    overrides: Iterable[tuple[str, str]] = (),
    seeds: str | None = None,
    **options: Any,
) -> TuneConfig:
    """Read the words of the command line.

    Args:
        config: As for ``rimrl train``, or the folder of a search, which says all but how many trials there are.
        space: Such as ``agent.learning_rate=1e-4..1e-2,log``; default: what comes with rimrl for the core.
        overrides: Dotted keys and values, for all trials.
        seeds: Such as ``0..2``; default: the configuration's own.
        **options: Others of `TuneConfig`; None for the default.

    Raises:
        UsageError: For words that are malformed, out of range, or do not exist.
    """
    given = {key: value for key, value in options.items() if value is not None}
    common = list(overrides)
    folder = folder_of(config, FILE)
    if folder is not None:
        others = [*(["space"] if space else []), *(["seeds"] if seeds is not None else []), *given.keys() - {"trials"}]
        if others or common:
            name = others[0].replace("_", "-") if others else common[0][0]
            raise conflict(f"--{shorten(name)[1:-1]}", f"{folder}, which says what is searched", _ADDED)
        found = read(folder)
        return _checked(replace(found, trials=max(found.trials, given.get("trials", 0))))
    for key, _ in common:
        if key in ("seed", "train.seed"):
            raise wrong(repr(key), "sets no seeds of a search", "use --seeds", "conflict")
    if Path(config).suffix:
        config = str(Path(config).resolve())
    base = load_config(config, [f"--{key}={value}" for key, value in common])
    words = split_space(space) or shipped_space(base.core.name, base.agent.algorithm)
    listed = (base.train.seed,) if seeds is None else tuple(parse_seeds(seeds))
    base = replace(base, train=replace(base.train, seed=listed[0]))
    return _checked(TuneConfig(config, base, words, seeds=listed, **given))


def read(folder: Path) -> TuneConfig:
    """What the search in a folder was asked for.

    Raises:
        UsageError: If ``tuning.yaml`` is damaged.
    """
    content = read_yaml(folder / FILE, False)
    try:
        fields = Fields(content, "tuning")
        space = fields.nested("space")
        seeds = fields.integers("seeds", None, 0, LARGEST_SEED)
        if not seeds or len(set(seeds)) < len(seeds):
            raise DamagedError("tuning.seeds holds none, or one twice")
        if fields.text("sampler") not in SAMPLERS:
            raise DamagedError(f"tuning.sampler is none of {', '.join(SAMPLERS)}")
        options: dict[str, Any] = {
            "config": fields.text("config", LONGEST_TEXT),
            "space": {key: space.text(key, LONGEST_TEXT) for key in space.names()},
            "trials": fields.integer("trials", 1, _MOST_TRIALS),
            "seeds": tuple(seeds),
            "episodes": fields.integer("episodes", 1, MOST_EPISODES),
            "sampler": fields.text("sampler"),
            "sampler_seed": fields.integer("sampler_seed", 0, LARGEST_SEED),
            "pruning": fields.switch("pruning"),
        }
        experiment = fields.raw("experiment")
    except DamagedError as error:
        raise damaged(folder / FILE, error, "restore it, or choose another --run-dir") from None
    return TuneConfig(experiment=config_from(experiment, folder / FILE), **options)


def merged(found: TuneConfig, asked: TuneConfig, folder: Path) -> TuneConfig:
    """A search with the trials that are added to it.

    Raises:
        UsageError: If anything else differs; names it.
    """
    before, now = found.differing(), asked.differing()
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key):
            had, has = ("nothing" if each.get(key) is None else repr(each[key]) for each in (before, now))
            raise wrong(folder, f"is a search with {key} {had}, and now it is {has}", _ADDED, "state")
    return replace(found, trials=max(found.trials, asked.trials))


def _checked(asked: TuneConfig) -> TuneConfig:
    bounds: Mapping[str, tuple[int, int]] = {
        "trials": (1, _MOST_TRIALS),
        "episodes": (1, MOST_EPISODES),
        "sampler_seed": (0, LARGEST_SEED),
    }
    for name, (least, most) in bounds.items():
        value = getattr(asked, name)
        if not least <= value <= most:
            raise invalid_value(f"--{name.replace('_', '-')}", f"from {least} to {most}", value)
    if asked.sampler not in SAMPLERS:
        raise unknown_name("sampler", asked.sampler, SAMPLERS, where="--sampler")
    parse_space(asked.space, asked.experiment)
    return asked
