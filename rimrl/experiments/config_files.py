"""Reading configurations: shipped YAML files, files of your own, and dotted overrides on top."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rimrl.agents.registry import ALGORITHMS, config_class
from rimrl.agents.saved.card import read_card
from rimrl.agents.saved.names import CARD
from rimrl.cores.registry import CORES, adopt_core, core_class, with_legacy_options
from rimrl.envs.atari_games import Game, find_game
from rimrl.envs.splits import Suite
from rimrl.envs.suites import get_suite, is_suite
from rimrl.envs.vector import make_vec_env
from rimrl.errors import UsageError, invalid_value, missing, unknown_name, wrong
from rimrl.experiments.config import AgentTrainConfig, CoreConfig, EnvConfig, ExperimentConfig
from rimrl.experiments.config_checks import check_together
from rimrl.experiments.named_classes import modules_of
from rimrl.experiments.suite_files import Described, is_suite_file, read_suite, suite_from
from rimrl.experiments.zoo_spelling import as_own, changes_as_own, class_names, class_names_in_words
from rimrl.imports import asked, import_modules, is_module_name, module_in, require_imported, require_named
from rimrl.runs.config import by_key
from rimrl.runs.origin import is_of_others
from rimrl.runs.schema import Schema, check_groups
from rimrl.runs.settings import SEQUENCE_TASKS, SPACES, Ranges, shipped_files, split_overrides
from rimrl.runs.yaml_files import read_yaml

_GROUPS = ("env", "core", "agent", "train")
# The game in the names and files of the shipped Atari configurations, FAMILY/GAME/CORE.
_ATARI_GAME = Game("Pong", "pong")
_ATARI = re.compile(r"(atari(?:-\w+)*)/(\w+)/(\w+)")
_TRANSFERS = "transfer/"
_LARGEST = 2**31 - 1
# Values that may name a module.
_NAMES_OF_MODULES = ("env.id", "core.name")
# What may stand beside the groups.
_ABOVE = ("imports", "suite")


def shipped_configs() -> dict[str, Path]:
    """Name and file of every configuration that comes with rimrl.

    Those of Atari are for any game, in the place of the one in their name.
    """
    others = (_TRANSFERS, SEQUENCE_TASKS, SPACES)
    return {name: file for name, file in shipped_files().items() if not name.startswith(others)}


def shipped_transfers() -> dict[str, Path]:
    """Name and file of every configuration of ``rimrl transfer`` that comes with rimrl."""
    return {name: file for name, file in shipped_files().items() if name.startswith(_TRANSFERS)}


def load_config(
    config: str, overrides: Sequence[str] = (), of_others: bool | None = None, to_train: bool = True
) -> ExperimentConfig:
    """Read a configuration and apply overrides.

    Modules that it names are imported first if it is the user's own; others have to be imported already
    (`rimrl.imports`). Those of the command's ``--import`` are added to its ``imports``.

    Args:
        config: A shipped name (``rimrl list configs``), ``atari/GAME/CORE`` with any game of ale-py (or another family,
            such as ``atari-small/GAME/CORE``), or the path of a YAML file or of the ``card.json`` of an exported agent.
        overrides: Command line words such as ``["--core.num_active", "3", "--env.n_envs=8"]``.
        of_others: Whether file and overrides may come from anybody and import nothing. Default: so it is for a card and
            for a file that lies in the folder of a run or a study; overrides are the user's own.
        to_train: Whether it is for training, which needs callbacks and classes of the policy, too. Default True; they
            are neither imported nor asked for otherwise.

    Returns:
        The complete configuration.

    Raises:
        UsageError: For a file, key, core, algorithm, suite or game that does not exist (names the nearest) or a wrong
            type. Also for a module that cannot be imported, or that a file of others names.
    """
    name, file, game = _find(config)
    content = _from_card(file) if file.name == CARD else read_yaml(file)
    return _build(_checked(content, file), name, file, game, _Overrides(overrides, of_others, to_train))


def config_from(content: Any, where: Path) -> ExperimentConfig:
    """The complete configuration that a part of a file holds.

    Args:
        content: As `ExperimentConfig.to_yaml` wrote it, read back.
        where: The file, for messages.

    Raises:
        UsageError: As `load_config`.
    """
    return _build(dict(_checked(content, where)), where.stem, where, None, _Overrides((), True, True))


def changed(config: ExperimentConfig, overrides: Sequence[str]) -> ExperimentConfig:
    """A configuration with other values, read as the command line's are.

    Args:
        config: The configuration; its modules have to be imported already.
        overrides: Command line words such as ``["--core.num_active=3"]``.

    Raises:
        UsageError: As `load_config`.
    """
    content = yaml.safe_load(config.to_yaml())
    return _build(content, config.name, Path("the configuration"), None, _Overrides(overrides, True, True))


def is_shipped(config: str) -> bool:
    """Whether a configuration comes with rimrl, that of any Atari game included."""
    if Path(config).suffix:
        return False
    try:
        _find(config)
    except UsageError:
        return False
    return True


class _Overrides(NamedTuple):
    words: Sequence[str]
    of_others: bool | None
    to_train: bool


def _build(
    content: dict[str, Any], name: str, file: Path, game: Game | None, overrides: _Overrides
) -> ExperimentConfig:
    name = content.pop("name", name)
    imports, described = content.pop("imports", ()), content.pop("suite", None)
    settings = as_own(by_key(content, ExperimentConfig.opened), file)
    if game is not None:
        settings["env.id"] = settings["env.id"].replace(_ATARI_GAME.name, game.name)
    changes = changes_as_own(dict(split_overrides(overrides.words)))
    suite = _find_suite(described, settings, changes, file)
    imports = _import([*imports, *asked()], suite, settings, changes, file, overrides)
    settings = {"core.name": "rim", "agent.algorithm": "ppo"} | settings

    def chosen(key: str, kind: str, valid: Mapping[str, object]) -> str:
        value = str(changes.get(key, settings[key]))
        if value not in valid:
            raise unknown_name(kind, value, valid, where=f"--{key}" if key in changes else f"{file} ({key})")
        return value

    where = "the command line" if "core.name" in changes else str(file)
    adopt_core(str(changes.get("core.name", settings["core.name"])), where)
    core = chosen("core.name", "core", CORES)
    algorithm = chosen("agent.algorithm", "algorithm", ALGORITHMS)
    schema = _schema(core, algorithm)
    if core != settings["core.name"]:
        # The file's options belong to the core that was replaced; only the width has the same meaning everywhere.
        kept = {"core.hidden_size"} & set(schema.keys)
        settings = {k: v for k, v in settings.items() if not k.startswith("core.") or k in kept}
    if algorithm != settings["agent.algorithm"]:
        settings = {k: v for k, v in settings.items() if not k.startswith("agent.") or k in schema.keys}
    schema.refuse_unknown(settings, changes, file)
    of_core = {k.removeprefix("core."): v for k, v in settings.items() if k.startswith("core.") and k != "core.name"}
    settings |= {f"core.{key}": value for key, value in with_legacy_options(core, of_core).items()}
    settings |= {"core.name": core, "agent.algorithm": algorithm}
    if "env.id" not in settings | changes:
        raise missing("env.id", file, "set it to a suite or a gymnasium id, which says what to play")
    groups = schema.values(settings, changes, file)
    if suite is None and is_suite(groups["env"]["id"]):  # games can be spelled in several ways, and results have one
        groups["env"]["id"] = get_suite(groups["env"]["id"]).name
    _check_env_kwargs(groups["env"]["kwargs"])
    check_together(groups, groups["env"]["id"] if suite is None else suite.suite)
    return ExperimentConfig(
        name,
        EnvConfig(**groups["env"]),
        CoreConfig(core, groups["core"]),
        config_class(algorithm)(**groups["agent"]),
        AgentTrainConfig(**groups["train"]),
        imports,
        None if suite is None else suite.suite,
    )


class _Found(NamedTuple):
    """The suite of a configuration, with its own file unless the configuration holds it."""

    suite: Suite
    modules: tuple[str, ...]
    file: Path | None
    of_command: bool


def _find_suite(content: Any, settings: dict[str, Any], changes: dict[str, str], file: Path) -> _Found | None:
    """The suite that a configuration holds, or whose file it names; ``env.id`` becomes its name."""
    held: Described | None = None
    if content is not None:
        held = suite_from(content, file)
        if settings.setdefault("env.id", held.suite.name) != held.suite.name:
            raise invalid_value(f"env.id in {file}", f"{held.suite.name!r}, the suite it holds", settings["env.id"])
    of_command = "env.id" in changes
    source: dict[str, Any] = changes if of_command else settings
    name = source.get("env.id")
    if isinstance(name, str) and is_suite_file(name):
        own = Path(name) if of_command else file.parent / name
        suite, modules = read_suite(own)
        source["env.id"] = suite.name
        return _Found(suite, modules, own, of_command)
    return None if held is None or name != held.suite.name else _Found(*held, None, of_command=False)


def _import(
    imports: Sequence[str],
    suite: _Found | None,
    settings: Mapping[str, Any],
    changes: Mapping[str, str],
    file: Path,
    overrides: _Overrides,
) -> tuple[str, ...]:
    """Import the modules that a configuration names, or refuse to; returns those that its runs name."""
    kept = {key: value for key, value in settings.items() if key not in changes}
    named, of_command = [*imports, *_modules_in(kept)], _modules_in(changes)
    classes = modules_of(_classes_in(kept, overrides.to_train))
    of_changes = modules_of(class_names_in_words(changes))
    of_suite = () if suite is None else suite.modules
    if suite is not None:
        if suite.file is not None and is_of_others(suite.file):
            require_imported(of_suite, suite.file)
        (of_command if suite.of_command else named).extend(of_suite)
    of_others = overrides.of_others
    if is_of_others(file) if of_others is None else of_others:
        require_imported([*named, *(of_command if of_others else ())], file)
        require_named([*classes, *(of_changes if of_others else ())], file)
    import_modules([*named, *classes], file)
    import_modules([*of_command, *of_changes], "the command line")
    return tuple(dict.fromkeys([*imports, *of_suite]))


def _classes_in(settings: Mapping[str, Any], to_train: bool) -> list[str]:
    """Names of classes that a file asks for."""
    if not to_train:
        settings = {key: value for key, value in settings.items() if key == "env.env_wrapper"}
    return class_names(settings)


def _modules_in(settings: Mapping[str, Any]) -> list[str]:
    return [module for key in _NAMES_OF_MODULES for module in module_in(settings.get(key))]


def _schema(core: str, algorithm: str) -> Schema:
    """The keys of experiments with a core and an algorithm."""
    agent = config_class(algorithm)
    groups: dict[str, type[Any]] = {
        "env": EnvConfig,
        "core": core_class(core),
        "agent": agent,
        "train": AgentTrainConfig,
    }
    options = [(f"agent.{entry.name}", each) for entry in fields(agent) for each in agent.ranges_of(entry.name)]
    of_agent = {
        words: (fits, tuple(key for key, each in options if each.words == words)) for _, (words, fits) in options
    }
    return Schema(groups, {"core": core}, (_RANGES, of_agent), ExperimentConfig.opened)


def _find(config: str) -> tuple[str, Path, Game | None]:
    """Name and file of a configuration, and the game to play in the place of the file's."""
    shipped = shipped_configs()
    if config in shipped:
        return config, shipped[config], None
    file = Path(config)
    if file.name == CARD:
        return file.parent.name, file, None
    if file.suffix in {".yaml", ".yml"}:
        if not file.is_file():
            raise missing(
                f"configuration file {file}",
                advice="give a YAML file or a name from rimrl list configs, such as distractors/rim",
            )
        return file.stem, file, None
    if (match := _ATARI.fullmatch(config)) and (cores := _atari_cores(match[1], shipped)):
        family, name, core = match.groups()
        game = find_game(name, where=f"configuration {config!r}")
        if core not in cores:
            raise unknown_name("configuration", config, [f"{family}/{game.rom}/{each}" for each in cores])
        return f"{family}/{game.rom}/{core}", cores[core], game
    raise unknown_name("configuration", config, shipped)


def _atari_cores(family: str, shipped: Mapping[str, Path]) -> dict[str, Path]:
    """Files of the shipped Atari configurations of one family, by the last part of their names."""
    start = f"{family}/{_ATARI_GAME.rom}/"
    return {name.removeprefix(start): file for name, file in shipped.items() if name.startswith(start)}


def _from_card(file: Path) -> Any:
    """The configuration in a card, which comes from others: its names must not lead anywhere else."""
    content = read_card(file.parent).get("config")
    if isinstance(content, dict):
        name = content.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", name):
            raise invalid_value(f"{file}: config.name", "words with / between them", name)
    return content


def _checked(content: Any, file: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise wrong(file, "holds no configuration", f"it needs the groups {', '.join(_GROUPS)}", "missing")
    if "splits" in content:
        raise wrong(file, "holds a suite, not a configuration", "name it in one, as its env.id")
    check_groups({key: value for key, value in content.items() if key not in _ABOVE}, file, _GROUPS)
    imports = content.get("imports", [])
    if not isinstance(imports, list) or not all(map(is_module_name, imports)):
        raise invalid_value(f"imports in {file}", "a list of modules such as [my_package]", imports)
    return content


_RANGES: Ranges = {
    "positive": (lambda value: value > 0, ("env.n_envs", "train.total_timesteps", "train.eval_episodes")),
    f"at most {_LARGEST}": (lambda value: value <= _LARGEST, ("env.n_envs", "train.eval_episodes")),
    "at most 2**53": (lambda value: value <= 2**53, ("train.total_timesteps", "train.checkpoint_freq")),
    "at least 0": (lambda value: value >= 0, ("train.checkpoint_freq", "train.stop_min_evals")),
    "at least 1": (lambda value: value >= 1, ("env.frame_stack", "train.stop_after_evals")),
    "at most 10000": (lambda value: value <= 10_000, ("env.frame_stack",)),
    "finite": (math.isfinite, ("train.stop_reward",)),
}


def _check_env_kwargs(kwargs: Mapping[str, Any]) -> None:
    taken = set(inspect.signature(make_vec_env).parameters) - {"env_kwargs"}
    for name in kwargs:
        if name in taken:
            keys = "env.id, env.n_envs, env.backend, env.efference_copies, env.env_wrapper and train.seed"
            raise wrong(f"env.kwargs.{name}", "is not an argument of the environment", f"{keys} say what is played")
