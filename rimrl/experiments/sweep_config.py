"""What ``rimrl sweep`` is asked for: a configuration, seeds, and values of some of its keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rimrl.errors import conflict, damaged, invalid_value, shorten, unknown_name, wrong
from rimrl.experiments.config_files import load_config
from rimrl.experiments.named_classes import modules_of
from rimrl.experiments.suite_files import is_suite_file, read_suite
from rimrl.experiments.zoo_spelling import class_names_in_words
from rimrl.imports import import_modules, module_in, require_imported, require_named
from rimrl.reading import MEGABYTE
from rimrl.runs.validated import DamagedError, Fields
from rimrl.runs.yaml_files import read_yaml

FILE = "sweep.yaml"
SHORTHANDS: Mapping[str, str] = {"core": "core.name", "env": "env.id"}
LARGEST = 64 * MEGABYTE
"""Bytes that ``sweep.yaml``, which holds every experiment, may have; and values."""
MOST_VALUES = 2_000_000
_SEEDS_AT_MOST = 10_000
LONGEST_TEXT = 4096
LARGEST_SEED = 2**32 - 1
_EXTEND_HINT = "seeds and values can be added to it, for the rest choose another --run-dir"


@dataclass(frozen=True)
class SweepConfig:
    """A sweep: one run for every seed and every combination of values.

    Attributes:
        config: As for ``rimrl train``: a shipped name, or a YAML file.
        seeds: Of the runs.
        over: Values as the command line has them, by key: ``core``, ``env``, or a dotted key.
        overrides: Dotted keys and values, for all runs.
    """

    config: str
    seeds: list[int]
    over: dict[str, list[str]]
    overrides: dict[str, str]


def ask(
    config: str, seeds: str | None = None, over: Sequence[str] = (), overrides: Iterable[tuple[str, str]] = ()
) -> SweepConfig:
    """Read the words of the command line.

    Args:
        config: As for ``rimrl train``, or the folder of a sweep, which says the rest.
        seeds: Such as ``0..4``, ``0,1,5`` or ``3``; default: the configuration's own seed.
        over: Such as ``core=rim,lstm`` or ``agent.net_arch=[64],[64,64]``.
        overrides: Dotted keys and values, for all runs.

    Raises:
        UsageError: For words that are malformed, keys that do not exist (names the nearest) or are given twice.
    """
    axes = {key: [_placed(key, value) for value in values] for key, values in _axes(over).items()}
    common = {key: _placed(key, value) for key, value in _unique(overrides).items()}
    listed = None if seeds is None else parse_seeds(seeds)
    modules, classes = _modules(axes, common)
    import_modules([*modules, *classes], "the command line")
    folder = folder_of(config)
    if folder is not None:
        found = read(folder)
        load_config(found.config, of_others=True)  # whatever it imports, this folder asks for it, and not the user
        asked = SweepConfig(found.config, listed or found.seeds, {**found.over, **axes}, {**found.overrides, **common})
        merged(found, asked, folder)  # refuses what cannot be added
        return asked
    if Path(config).suffix:
        config = str(Path(config).resolve())
    base = load_config(config)
    _check_keys(axes, common, list(base.flat()))
    return SweepConfig(config, listed or [base.train.seed], axes, common)


def folder_of(config: str, file: str = FILE) -> Path | None:
    """The folder of the study with such a file that CONFIG names; None if it names an experiment."""
    folder = Path(config).parent if Path(config).name == file else Path(config)
    return folder if (folder / file).is_file() else None


def default_folder(config: str, studies: str = "sweeps") -> Path:
    """``runs/STUDIES/NAME``: always the same, so that the same command goes on with what it began."""
    return Path("runs") / studies / (Path(config).stem if Path(config).suffix else config)


def read(folder: Path) -> SweepConfig:
    """What the sweep in a folder was asked for.

    Raises:
        UsageError: If ``sweep.yaml`` is damaged.
    """
    content = read_yaml(folder / FILE, False, LARGEST, MOST_VALUES)
    try:
        fields = Fields(content, "sweep")
        seeds = fields.integers("seeds", None, 0, LARGEST_SEED)
        if not 1 <= len(set(seeds)) == len(seeds) <= _SEEDS_AT_MOST:
            raise DamagedError(f"sweep.seeds is not from 1 to {_SEEDS_AT_MOST} different seeds")
        over, overrides = fields.nested("over"), fields.nested("overrides")
        found = SweepConfig(
            fields.text("config", LONGEST_TEXT),
            seeds,
            {key: over.texts(key) for key in over.names()},
            {key: overrides.text(key, LONGEST_TEXT) for key in overrides.names()},
        )
        if not all(1 <= len(set(values)) == len(values) for values in found.over.values()):
            raise DamagedError("sweep.over holds a key without values, or one of them twice")
    except DamagedError as error:
        raise damaged(folder / FILE, error, "restore it, or choose another --run-dir") from None
    experiments = content.get("experiments") if isinstance(content, dict) else None
    modules, classes = _modules(found.over, found.overrides)
    require_imported(_of_experiments(experiments) + modules, folder / FILE)
    require_named(classes, folder / FILE)
    return found


def _of_experiments(experiments: Any) -> list[str]:
    """The modules that experiments import; what is damaged is found where they are read."""
    known = [*experiments.values()] if isinstance(experiments, dict) else []
    lists = [each.get("imports") for each in known if isinstance(each, dict)]
    return [name for names in lists if isinstance(names, list) for name in names if isinstance(name, str)]


def _modules(over: Mapping[str, Sequence[str]], overrides: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The modules in values such as ``env=module:Env-v0`` and in files of suites, and those of classes in values."""
    values = [(SHORTHANDS.get(key, key), value) for key, values in over.items() for value in values]
    values += overrides.items()
    modules: list[str] = []
    classes: list[str] = []
    for key, value in values:
        if key == SHORTHANDS["env"] and is_suite_file(value):
            modules += read_suite(Path(value)).modules
        elif key in SHORTHANDS.values():
            modules += module_in(value)
        classes += modules_of(class_names_in_words({key: value}))
    return modules, classes


def _placed(key: str, value: str) -> str:
    """A value that means the same from any folder: with the whole path of a suite's file."""
    of_suite = SHORTHANDS.get(key, key) == SHORTHANDS["env"] and is_suite_file(value)
    return str(Path(value).resolve()) if of_suite else value


def merged(found: SweepConfig, asked: SweepConfig, folder: Path) -> SweepConfig:
    """A sweep with the seeds and values that are added to it.

    Raises:
        UsageError: If anything else differs; names it.
    """
    check_same(folder, "", {"CONFIG": found.config}, {"CONFIG": asked.config})
    key = next((key for key in {**asked.over, **found.over} if (key in asked.over) != (key in found.over)), None)
    if key is not None:
        over = ", ".join(found.over) or "seeds alone"
        how = "another key" if key in asked.over else "not given now"
        raise wrong(folder, f"is a sweep over {over}, and {key!r} is {how}", _EXTEND_HINT, "state")
    options = [{f"--{name}": value for name, value in each.overrides.items()} for each in (found, asked)]
    check_same(folder, "", *options)
    return SweepConfig(
        found.config,
        list(dict.fromkeys([*found.seeds, *asked.seeds])),
        {key: list(dict.fromkeys([*values, *asked.over[key]])) for key, values in found.over.items()},
        found.overrides,
    )


def check_same(folder: Path, where: str, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse settings, by dotted keys, that are not those a sweep began with.

    Raises:
        UsageError: Names the first key that differs.
    """
    for key in dict.fromkeys([*found, *asked]):
        if found.get(key) != asked.get(key):
            before, now = ("nothing" if each.get(key) is None else repr(each[key]) for each in (found, asked))
            what = f"{key} of {where}" if where else key
            raise wrong(folder, f"is a sweep with {what} {before}, and now it is {now}", _EXTEND_HINT, "state")


def parse_seeds(text: str) -> list[int]:
    """Seeds as in ``0..4``, ``0,1,5`` or ``3,10..12``.

    Raises:
        UsageError: If that is not what they look like, or one is given twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,20})(?:\s*\.\.\s*(\d{1,20}))?\s*", part, re.ASCII)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last <= LARGEST_SEED:
            raise invalid_value(f"--seeds {shorten(text)}", "seeds and ranges, such as 0..4, or 0,1,5, or 3", part)
        if last - first + len(seeds) >= _SEEDS_AT_MOST:
            raise wrong(f"--seeds {shorten(text)}", f"are more than {_SEEDS_AT_MOST} seeds")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise wrong(f"--seeds {shorten(text)}", f"gives seed {twice} twice")
    return seeds


def split_values(text: str) -> list[str]:
    """Parts between commas; those inside of brackets or quotes do not count."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _axes(words: Sequence[str]) -> dict[str, list[str]]:
    axes: dict[str, list[str]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip().removeprefix("--")
        key = "env" if key == "env.id" else key
        values = split_values(text)
        if not equals or not key or not all(values):
            raise invalid_value("--over", "KEY=VALUE,VALUE,… without empty values, as core=rim,lstm", word)
        if key in axes or (SHORTHANDS.get(key) in axes):
            raise wrong("--over", f"gives {key!r} twice", "put all its values into one")
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise wrong(f"--over {key}", f"gives the value {twice[0]!r} twice")
        axes[key] = values
    return axes


def _unique(overrides: Iterable[tuple[str, str]]) -> dict[str, str]:
    common: dict[str, str] = {}
    for key, value in overrides:
        if key in common:
            raise wrong(f"--{key}", "is given twice")
        common[key] = value
    return common


def _check_keys(axes: Mapping[str, object], common: Mapping[str, object], known: Sequence[str]) -> None:
    for key in (*axes, *common):
        if key in ("seed", "seeds", "train.seed"):
            raise wrong(repr(key), "sets no seeds of a sweep", "use --seeds", "conflict")
    for key in axes:
        if "." not in key and key not in SHORTHANDS:
            raise unknown_name("key", key, [*SHORTHANDS, *known], where="--over")
        taken = {key, SHORTHANDS.get(key, key)} & common.keys()
        if taken:
            raise conflict(f"--{min(taken)}", f"--over {key}")
    if "core" in axes and "core.name" in axes:
        raise conflict("--over 'core'", "'core.name', which is the same")
