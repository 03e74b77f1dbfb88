"""What ``rimrl transfer`` is asked for: sources, targets, methods, cores and seeds, as typed plain data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from rimrl.envs.suites import get_suite, is_suite
from rimrl.errors import conflict, invalid_value, missing, unknown_name, wrong
from rimrl.experiments.config_files import load_config, shipped_configs, shipped_transfers
from rimrl.experiments.named_classes import modules_of
from rimrl.experiments.zoo_spelling import class_names_in_words
from rimrl.imports import asked, import_modules, is_module_name, module_in, require_imported, require_named
from rimrl.runs.origin import is_of_others
from rimrl.runs.yaml_files import read_yaml


class Method(NamedTuple):
    """How a target starts.

    Attributes:
        trunk: As ``agent.trunk`` of an experiment.
        from_source: Whether it starts from a source, as ``agent.init_from`` says; otherwise weights are random, and the
            method is the same for all sources.
    """

    trunk: Literal["learned", "frozen", "progressive"]
    from_source: bool


METHODS: Mapping[str, Method] = {
    "scratch": Method("learned", False),
    "finetune": Method("learned", True),
    "frozen": Method("frozen", True),
    "random": Method("frozen", False),
    "progressive": Method("progressive", True),
    "progressive_random": Method("progressive", False),
}


@dataclass(frozen=True)
class Task:
    """A source or a target.

    Attributes:
        env: A suite, whose training split is played, or a gymnasium id.
        name: How results call it.
        kwargs: Arguments of the environment, besides those of the experiment.
        runs: For a source that has been trained: for each core the run folders, one for each seed or one for all.
    """

    env: str
    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class TransferConfig:
    """A complete transfer experiment.

    Attributes:
        name: Shipped name such as ``transfer/small``, or the file's stem.
        cores: For each core's label the experiment that it is trained with (``rimrl list configs``, or a file); its
            environment is replaced.
        sources: What is trained on first.
        targets: What is transferred to.
        methods: Names of `METHODS`; ``scratch`` is what all are compared with.
        seeds: One run for each; a target starts from the source of its own seed.
        source_timesteps: Environment steps on a source.
        target_timesteps: Environment steps on a target.
        random_episodes: Episodes that random actions play on each target.
        overrides: Dotted keys of the experiments, for all runs, such as ``agent.n_steps: 64``.
        imports: Modules that are imported first, as for an experiment.
    """

    name: str
    cores: dict[str, str]
    sources: list[Task]
    targets: list[Task]
    seeds: list[int]
    source_timesteps: int
    target_timesteps: int
    methods: list[str] = field(default_factory=lambda: list(METHODS))
    random_episodes: int = 100
    overrides: dict[str, Any] = field(default_factory=dict)
    imports: list[str] = field(default_factory=list)

    def to_yaml(self) -> str:
        """The configuration as a file that `load_transfer` reads back to an equal one."""
        content = asdict(self)
        if not self.imports:
            del content["imports"]
        return yaml.safe_dump(content, sort_keys=False)


def load_transfer(config: str, changes: Mapping[str, Any] | None = None) -> TransferConfig:
    """Read a transfer configuration.

    Args:
        config: A shipped name (``rimrl list configs``) or the path of a YAML file.
        changes: Values by key that replace those of the file.

    Raises:
        UsageError: For a file, key, method, core, suite or environment that does not exist (names the nearest), or a
            value of the wrong type.
    """
    shipped = shipped_transfers()
    if config in shipped:
        name, file = config, shipped[config]
    else:
        file = Path(config)
        if file.suffix not in {".yaml", ".yml"}:
            raise unknown_name("transfer configuration", config, shipped)
        if not file.is_file():
            raise missing(f"configuration file {file}", advice=f"give a YAML file or {', '.join(shipped)}")
        name = file.stem
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise wrong(file, "holds no transfer", f"it needs {', '.join(_NEEDED)}", "missing")
    content = {"name": name} | content | dict(changes or {})
    _check(content, file)
    content["imports"] = list(dict.fromkeys([*content.get("imports", []), *asked()]))
    _import(content, file)
    for key in ("sources", "targets"):
        content[key] = [_task(entry, f"{key} in {file}", content["cores"], content["seeds"]) for entry in content[key]]
        names = [task.name for task in content[key]]
        if len(set(names)) < len(names):
            raise invalid_value(f"{key} in {file}", "of different names", names)
    if any(target.runs for target in content["targets"]):
        raise wrong(f"targets in {file}", "are trained here and take no 'runs'", kind="conflict")
    return TransferConfig(**content)


def _import(content: Mapping[str, Any], file: Path) -> None:
    """Import what a transfer names, or refuse to: then that of its experiments, too, has to be there already."""
    entries = [*content["sources"], *content["targets"]]
    names = [entry.get("env") if isinstance(entry, dict) else entry for entry in entries]
    overrides = content.get("overrides", {})
    modules = [*content["imports"]]
    for name in (*names, overrides.get("env.id"), overrides.get("core.name")):
        modules += module_in(name)
    words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in overrides.items()}
    classes = modules_of(class_names_in_words(words))
    if is_of_others(file):
        require_imported(modules, file)
        require_named(classes, file)
        experiments = [name for name in names if isinstance(name, str) and name.endswith((".yaml", ".yml"))]
        for experiment in (*content["cores"].values(), *experiments):
            load_config(experiment, of_others=True)
    import_modules([*modules, *classes], file)


def _check(content: Mapping[str, Any], file: Path) -> None:
    known = {entry.name for entry in fields(TransferConfig)}
    for key in content:
        if key not in known:
            raise unknown_name("key", str(key), known, where=str(file))
    for key in _NEEDED:
        if key not in content:
            raise missing(repr(key), file)
    for key, (kind, fits) in _KINDS.items():
        if key in content and not fits(content[key]):
            raise invalid_value(f"{key} in {file}", kind, content[key])
    for method in content.get("methods", []):
        if method not in METHODS:
            raise unknown_name("method", method, METHODS, where=str(file))


_MOST_SEEDS = 10_000
_NEEDED = ("cores", "sources", "targets", "seeds", "source_timesteps", "target_timesteps")


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


def _is_named(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_seeds(value: Any) -> bool:
    seeds = isinstance(value, list) and all(_is_integer(each, 0, 2**32 - 1) for each in value)
    return seeds and 1 <= len(set(value)) == len(value) <= _MOST_SEEDS


_COUNT = ("a positive integer", lambda value: _is_integer(value, 1, 2**53))
_CORES = "a mapping from labels to experiments"
_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("text", lambda value: isinstance(value, str)),
    "cores": (_CORES, lambda value: _is_named(value) and _is_texts([*value.values()])),
    "sources": ("a list", lambda value: isinstance(value, list)),
    "targets": ("a list with at least one entry", lambda value: isinstance(value, list) and bool(value)),
    "methods": ("a list of names", _is_texts),
    "seeds": ("a list of different integers from 0 to 4294967295", _is_seeds),
    "source_timesteps": _COUNT,
    "target_timesteps": _COUNT,
    "random_episodes": _COUNT,
    "overrides": ("a mapping of dotted keys", _is_named),
    "imports": ("a list of modules", lambda value: isinstance(value, list) and all(map(is_module_name, value))),
}


def _task(entry: Any, where: str, cores: Mapping[str, str], seeds: Sequence[int]) -> Task:
    if isinstance(entry, str):
        entry = {"env": entry}
    if not _is_named(entry) or not isinstance(entry.get("env"), str):
        raise invalid_value(where, "environments, or mappings with 'env'", entry)
    known = {each.name for each in fields(Task)}
    for key in entry:
        if key not in known:
            raise unknown_name("key", key, known, where=where)
    env, kwargs = entry["env"], entry.get("kwargs", {})
    if not _is_named(kwargs):
        raise invalid_value(f"kwargs of {env} in {where}", "a mapping", kwargs)
    if env in shipped_configs() or env.endswith((".yaml", ".yml")):
        experiment = load_config(env)
        if experiment.suite is not None:
            raise conflict(
                f"{env} in {where}",
                "transfers, as a suite of a file",
                "let a module of 'imports' register it (rimrl.register_suite)",
            )
        for key, default in (("env_wrapper", []), ("frame_stack", 1), ("efference_copies", False)):
            if getattr(experiment.env, key) != default:
                raise conflict(f"env.{key} of {env} in {where}", "transfers", "set it for the cores or in 'overrides'")
        env, kwargs = experiment.env.id, experiment.env.kwargs | kwargs
    elif is_suite(env):
        env = get_suite(env).name
    name = entry.get("name", env)
    if not isinstance(name, str) or not name:
        raise invalid_value(f"name of {env} in {where}", "text", name)
    return Task(env, name, kwargs, _runs(entry.get("runs", {}), name, where, cores, seeds))


def _runs(runs: Any, name: str, where: str, cores: Mapping[str, str], seeds: Sequence[int]) -> dict[str, list[str]]:
    if not _is_named(runs):
        raise invalid_value(f"runs of {name} in {where}", "a mapping from cores to run folders", runs)
    found = {}
    for core, folders in runs.items():
        if core not in cores:
            raise unknown_name("core", core, cores, where=f"runs of {name} in {where}")
        listed = [folders] if isinstance(folders, str) else folders
        if not _is_texts(listed) or len(listed) not in (1, len(seeds)):
            raise invalid_value(
                f"runs of {name} in {where}", f"one folder, or one for each of {len(seeds)} seeds", listed
            )
        found[core] = listed
    return found
