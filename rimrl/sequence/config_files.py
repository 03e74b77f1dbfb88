"""Reading configurations of sequence tasks: presets, files of your own, and dotted overrides on top.

A preset is for every core: ``core`` holds what they share, and ``cores`` what some of them need besides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rimrl.cores.registry import CORES, core_class, core_options, with_legacy_options
from rimrl.errors import conflict, invalid_value, missing, needs, unknown_name
from rimrl.imports import asked, import_modules, is_module_name, require_imported
from rimrl.runs.config import by_key
from rimrl.runs.origin import is_of_others
from rimrl.runs.schema import Schema, check_groups
from rimrl.runs.settings import SEQUENCE_TASKS, Ranges, shipped_files, split_overrides
from rimrl.runs.yaml_files import read_yaml
from rimrl.sequence.ablations import find_ablation
from rimrl.sequence.config import MOST_SEQUENCES, ModelConfig, Named, SequenceConfig, SequenceTrainConfig
from rimrl.sequence.registry import TASKS, task_class

PRESETS = ("cpu", "paper")
_GROUPS = ("task", "core", "model", "train")
_RANGES: Ranges = {
    "positive": (
        lambda value: value > 0,
        (
            "model.embedding_size",
            "train.num_updates",
            "train.max_grad_norm",
            "train.log_freq",
        ),
    ),
    "positive and finite": (lambda value: 0 < value < math.inf, ("train.learning_rate",)),
    f"from 1 to {MOST_SEQUENCES}": (
        lambda value: 1 <= value <= MOST_SEQUENCES,
        ("train.batch_size", "train.eval_sequences", "train.test_sequences"),
    ),
    "at most 1e30": (lambda value: value <= 1e30, ("train.learning_rate",)),
    "at most 2**53": (
        lambda value: value <= 2**53,
        ("train.num_updates", "train.log_freq"),
    ),
    "at least 0 and below 1": (lambda value: 0 <= value < 1, ("model.dropout",)),
}


def shipped_presets() -> dict[str, Path]:
    """Name and file of every preset that comes with rimrl."""
    return {name: file for name, file in shipped_files().items() if name.startswith(SEQUENCE_TASKS)}


def load_sequence(
    config: str,
    core: str | None = None,
    preset: str | None = None,
    ablation: str | None = None,
    overrides: Sequence[str] = (),
    of_others: bool | None = None,
) -> SequenceConfig:
    """Read a configuration and apply overrides.

    Modules that it names are imported first if it is the user's own; others have to be imported already
    (`rimrl.imports`). Those of the command's ``--import`` are added to its ``imports``.

    Args:
        config: A task, whose preset is taken; the name of a preset, such as ``sequence/copying_cpu``; or a YAML file.
        core: Name of the core; default: the file's, or ``rim``.
        preset: Which one of a task; default ``cpu``.
        ablation: Name of a mechanism to switch off.
        overrides: Command line words such as ``["--core.num_active", "3"]``.
        of_others: Whether the file may come from anybody and imports nothing. Default: so it is for one that lies in
            the folder of a run or a study.

    Returns:
        The complete configuration.

    Raises:
        UsageError: For a file, task, preset, core, ablation or key that does not exist (names the nearest), an ablation
            that the core does not have, or a wrong type. Also for a module that cannot be imported, or that a file of
            others names.
    """
    name, file = _find(config, preset)
    content = _checked(read_yaml(file), file)
    name = content.pop("name", name)
    imports = tuple(dict.fromkeys([*content.pop("imports", ()), *asked()]))
    if is_of_others(file) if of_others is None else of_others:
        require_imported(imports, file)
    import_modules(imports, file)
    changes = dict(split_overrides(overrides))
    if "task.name" in changes:
        raise conflict("--task.name", "rimrl sequence TASK, which names the task first", "leave it out")
    before = str(content.get("core", {}).get("name", "rim"))
    chosen = _core(core, changes.pop("core.name", None), before, file)
    task = str(content["task"].get("name"))
    cls = task_class(task, f"{file} (task.name)")

    settings = _of_core(content, chosen, before)
    if ablation is not None:
        settings = _ablated(settings, changes, ablation, chosen)
    schema = Schema(
        {"task": cls, "core": core_class(chosen), "model": ModelConfig, "train": SequenceTrainConfig},
        {"task": task, "core": chosen},
        (_RANGES,),
    )
    schema.refuse_unknown(settings, changes, file)
    groups = schema.values(settings | {"task.name": task, "core.name": chosen}, changes, file)
    if file in shipped_presets().values():
        name = f"{name}/{chosen}"
    elif chosen != before:
        name = f"{name.rpartition('/')[0] or name}/{chosen}"
    return SequenceConfig(
        f"{name}_{ablation}" if ablation else name,
        Named(cls.name, groups["task"]),
        Named(chosen, groups["core"]),
        ModelConfig(**groups["model"]),
        SequenceTrainConfig(**groups["train"]),
        imports,
    )


def _core(flag: str | None, override: str | None, before: str, file: Path) -> str:
    """The core that is asked for, of a flag, an override and a file."""
    if flag is not None and override not in (None, flag):
        raise conflict(f"--core {flag}", f"--core.name {override}, another core")
    chosen = next(name for name in (flag, override, before) if name is not None)
    if chosen not in CORES:
        where = "--core" if flag is not None else "--core.name" if override is not None else f"{file} (core.name)"
        raise unknown_name("core", chosen, CORES, where=where)
    return chosen


def _ablated(settings: Mapping[str, Any], changes: Mapping[str, str], ablation: str, core: str) -> dict[str, Any]:
    """Settings by dotted keys with a mechanism switched off, which nothing may switch on again."""
    taken = find_ablation(ablation, core)
    for key in (*taken.options, *taken.without):
        if f"core.{key}" in changes:
            raise conflict(f"--ablation {ablation}", f"core.{key}, which it decides")
    kept = {key: value for key, value in settings.items() if key.removeprefix("core.") not in taken.without}
    return kept | {f"core.{key}": value for key, value in taken.options.items()}


def _find(config: str, preset: str | None) -> tuple[str, Path]:
    """Name and file of a configuration."""
    shipped = shipped_presets()
    if config in TASKS:
        if preset is not None and preset not in PRESETS:
            raise unknown_name("preset", preset, PRESETS)
        config = f"{SEQUENCE_TASKS}{config}_{preset or PRESETS[0]}"
        return config, shipped[config]
    if preset is not None:
        raise needs("--preset", f"a task ({', '.join(TASKS)})", repr(config))
    if config in shipped:
        return config, shipped[config]
    file = Path(config)
    if file.suffix in {".yaml", ".yml"}:
        if not file.is_file():
            raise missing(f"configuration file {file}", advice=f"give a task ({', '.join(TASKS)}) or a YAML file")
        return file.stem, file
    raise unknown_name("task", config, TASKS)


def _checked(content: Any, file: Path) -> dict[str, Any]:
    if not isinstance(content, dict) or not isinstance(content.get("task"), dict):
        raise missing("the group 'task' with a name", file, f"the tasks are {', '.join(TASKS)}")
    check_groups({key: value for key, value in content.items() if key != "imports"}, file, (*_GROUPS, "cores"))
    imports = content.get("imports", [])
    if not isinstance(imports, list) or not all(map(is_module_name, imports)):
        raise invalid_value(f"imports in {file}", "a list of modules such as [my_package]", imports)
    for core, settings in content.get("cores", {}).items():
        if not isinstance(settings, dict):
            raise invalid_value(f"group 'cores' in {file}", "keys with values", content["cores"])
        if core not in CORES:
            raise unknown_name("core", str(core), CORES, where=f"{file} (cores)")
    return dict(content)


def _of_core(content: Mapping[str, Any], core: str, before: str) -> dict[str, Any]:
    """A file's settings for one core, by dotted keys."""
    groups = {group: dict(content.get(group, {})) for group in _GROUPS}
    if "cores" in content:
        groups["core"] |= content["cores"].get(core, {})
    elif core != before:
        # The file's options belong to the core that was replaced; only the width has the same meaning everywhere.
        groups["core"] = {key: value for key, value in groups["core"].items() if key == "hidden_size"}
    if core != before and "hidden_size" not in core_options(core):  # a core of the user's own calls its width otherwise
        groups["core"].pop("hidden_size", None)
    options = {key: value for key, value in groups["core"].items() if key != "name"}
    groups["core"] |= with_legacy_options(core, options)
    return by_key(groups)
