"""Classes that a configuration names, such as wrappers and callbacks, with their arguments.

As rl-baselines3-zoo writes them: ``package.Class``, or ``{package.Class: {argument: value}}``, or a list of these.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from rimrl.errors import as_raised, cannot, invalid_value, shorten, unknown_name, wrong
from rimrl.imports import is_module_name, require_named

Named = dict[str, dict[str, Any]]
"""The name of a class and its arguments."""
_FREE: Mapping[str, frozenset[str]] = {
    "gymnasium.wrappers": frozenset({"RecordVideo", "HumanRendering"}),
    "minigrid.wrappers": frozenset(),
    "stable_baselines3.common.atari_wrappers": frozenset(),
}
"""Modules whose wrappers may be used by whoever, but for those that write files or open windows."""
_FREE_CLASSES = frozenset({"stable_baselines3.common.callbacks.StopTrainingOnMaxEpisodes"})
_LISTED: Mapping[str, tuple[str, ...]] = {
    "agent.activation_fn": ("nn", "th.nn", "torch.nn"),
    "agent.optimizer_class": ("optim", "th.optim", "torch.optim"),
    "agent.features_extractor_class": ("stable_baselines3.common.torch_layers",),
}
"""Keys that name a class of a list, and packages that may stand before its name."""
_MOST = 64


def listed(value: Any, where: str) -> list[Named]:
    """Classes with their arguments, in one of the ways in which they may be written.

    Args:
        value: A name, a mapping of one name to its arguments, or a list of these; null for none.
        where: Names the place in errors.

    Raises:
        UsageError: Says how they are written.
    """
    found: list[Named] = []
    for each in [] if value is None else value if isinstance(value, list) else [value]:
        entry = {each: {}} if isinstance(each, str) else each
        if not isinstance(entry, dict) or len(entry) != 1:
            raise invalid_value(where, "package.Class, or one mapping of it to arguments", each)
        ((given, arguments),) = entry.items()
        name = str(given).replace(":", ".", 1)
        if not is_class_name(name):
            raise invalid_value(where, "classes named as in gymnasium.wrappers.ClipReward", given)
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
            raise invalid_value(where, f"{name} with its arguments by name", arguments)
        found.append({name: arguments})
    if len(found) > _MOST:
        raise wrong(where, f"holds {len(found)} classes, more than {_MOST}")
    return found


def is_class_name(name: str) -> bool:
    """Whether a text could name a class of a module."""
    return is_module_name(name) and bool(_module(name))


def names_in(classes: Iterable[Named]) -> list[str]:
    """The names of classes, without those that are `free`."""
    return [name for entry in classes for name in entry if not is_free(name)]


def name_on_list(key: str, name: str) -> str | None:
    """A name without its package, where that is the package of the key's list; None for any other with a package."""
    package, _, last = name.rpartition(".")
    return last if package in ("", *_LISTED[key]) else None


def names_to_train(settings: Mapping[str, Any]) -> list[str]:
    """Classes that are on no list, and that training needs and playing does not.

    Args:
        settings: Values by dotted keys; what is no name counts for nothing.
    """
    callbacks = settings.get("train.callback")
    found = names_in(callbacks) if isinstance(callbacks, list) else []
    named = {key: value for key in _LISTED if isinstance(value := settings.get(key), str) and is_class_name(value)}
    return found + [name for key, name in named.items() if name_on_list(key, name) is None]


def modules_of(names: Iterable[str]) -> list[str]:
    """The modules that classes are in."""
    return list(dict.fromkeys(map(_module, names)))


def is_free(name: str) -> bool:
    """Whether a class may be used on the word of a file that comes from anybody."""
    module, _, attribute = name.rpartition(".")
    return name in _FREE_CLASSES or (module in _FREE and attribute not in _FREE[module])


def named_class(name: str, base: type[Any], where: str) -> type[Any]:
    """The class behind a name.

    Args:
        name: ``package.Class``.
        base: What it must be a subclass of.
        where: Names the place in errors, such as ``"env.env_wrapper"``.

    Raises:
        UsageError: If its module was not asked for (`rimrl.imports`) or cannot be imported, or there is no such class
            in it.
    """
    module_name, _, attribute = name.rpartition(".")
    if not is_free(name):
        require_named([module_name], where)
    try:
        module = import_module(module_name)
    except Exception as error:  # a free one, of a package that is broken or not installed
        raise cannot("import", f"{module_name!r} of {where}", as_raised(error)) from error
    found = getattr(module, attribute, None)
    if found is None:
        classes = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, base)]
        raise unknown_name("class", attribute, classes, where=f"{where}: {module_name}")
    if not inspect.isclass(found) or not issubclass(found, base):
        raise wrong(f"{where}: {name}", f"is no {base.__name__}")
    return found


def check_arguments(cls: Callable[..., Any], arguments: Mapping[str, Any], where: str, *given: Any) -> None:
    """Refuse arguments that a class does not take, or lacks, before it is made.

    Args:
        cls: The class.
        arguments: Arguments by name.
        where: Names the place in errors.
        *given: What else it is made with, in order.

    Raises:
        UsageError: If they do not fit.
    """
    try:
        inspect.signature(cls).bind(*given, **arguments)
    except TypeError as error:
        raise wrong(f"{where}: {getattr(cls, '__name__', cls)}", f"does not take these arguments: {error}") from None
    except ValueError:  # a class that does not tell what it takes
        pass


def made(classes: Iterable[Named], base: type[Any], where: str) -> list[Any]:
    """Objects of classes that a configuration names.

    Raises:
        UsageError: If there is no such class, it is none of these, or it cannot be made with its arguments.
    """
    found = []
    for entry in classes:
        for name, arguments in entry.items():
            cls = named_class(name, base, where)
            check_arguments(cls, arguments, where)
            try:
                found.append(cls(**arguments))
            except Exception as error:  # whatever a class of the user's own does
                raise cannot(f"make {name} of", f"{where} with {shorten(arguments)}", as_raised(error)) from error
    return found


def _module(name: str) -> str:
    return name.rpartition(".")[0]
