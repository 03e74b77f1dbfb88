"""Names of the algorithms. A new one is one file in this folder and one entry here, or a call of `register_algorithm`.

A file holds the algorithm's class and, beside it, the dataclass of its options in a configuration.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rimrl.agents.config import AgentConfig, is_of
from rimrl.errors import invalid_value, needs, unknown_name, wrong

if TYPE_CHECKING:
    from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm


@dataclass(frozen=True)
class Algorithm:
    """What is registered of an algorithm.

    Attributes:
        saved_as: Its name in saved files: that of its class.
        classes: Gives its class, and the dataclass of its options.
    """

    saved_as: str
    classes: Callable[[], tuple[type[RecurrentOnPolicyAlgorithm], type[AgentConfig]]]


def _of(module: str, algorithm: str, config: str) -> Algorithm:
    """An algorithm whose file is imported on first use, so that naming algorithms does not wait for torch."""

    def classes() -> tuple[type[RecurrentOnPolicyAlgorithm], type[AgentConfig]]:
        home = import_module(module)
        return getattr(home, algorithm), getattr(home, config)

    return Algorithm(algorithm, classes)


ALGORITHMS: dict[str, Algorithm] = {
    "ppo": _of("rimrl.agents.ppo", "RecurrentPPO", "PPOConfig"),
    "a2c": _of("rimrl.agents.a2c", "RecurrentA2C", "A2CConfig"),
    "bc": _of("rimrl.agents.bc", "RecurrentBC", "BCConfig"),
}


def register_algorithm(name: str, algorithm: type[RecurrentOnPolicyAlgorithm], config: type[AgentConfig]) -> None:
    """Make an algorithm of your own known, to configurations and to saved files.

    ``agent.algorithm: NAME`` then trains it, and files of its agents are loaded as it. Files name the class, and who
    loads one must have registered it, too.

    Args:
        name: Its name in configurations.
        algorithm: A subclass of `rimrl.RecurrentPPO`, `rimrl.RecurrentA2C` or
            `rimrl.agents.on_policy.RecurrentOnPolicyAlgorithm`. Its constructor takes the options by their names and
            keeps them under these.
        config: A frozen dataclass of its options: a subclass of `rimrl.agents.ppo.PPOConfig`,
            `rimrl.agents.a2c.A2CConfig` or `rimrl.agents.config.AgentConfig` whose ``algorithm`` is `name`. Options
            are numbers, words, switches, lists of these, or None.

    Raises:
        UsageError: If class and dataclass do not fit each other, or a name is taken.
    """
    from rimrl.agents.on_policy import RecurrentOnPolicyAlgorithm  # noqa: PLC0415 (imports torch)

    if not (isinstance(algorithm, type) and issubclass(algorithm, RecurrentOnPolicyAlgorithm)):
        raise invalid_value(f"algorithm {name!r}", "a RecurrentOnPolicyAlgorithm", algorithm)
    if not (isinstance(config, type) and issubclass(config, AgentConfig)):
        raise invalid_value(f"the options of algorithm {name!r}", "an AgentConfig", config)
    if config.algorithm != name:
        raise invalid_value(f"{config.__name__}.algorithm", f"{name!r}", config.algorithm)
    for other, known in ALGORITHMS.items():
        if other == name and _origin(known.classes()[0]) != _origin(algorithm):
            raise wrong(f"the algorithm name {name!r}", f"is taken by {known.saved_as}", "choose another", "conflict")
        if other != name and known.saved_as == algorithm.__name__:
            raise wrong(
                f"the class {known.saved_as!r}", f"is taken by algorithm {other!r}", "choose another", "conflict"
            )
    _check_options(algorithm, config)
    ALGORITHMS[name] = Algorithm(algorithm.__name__, lambda: (algorithm, config))


def _origin(cls: type) -> str:
    """Where a class is defined; one that a notebook defines again is the same."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _check_options(algorithm: type, config: type[AgentConfig]) -> None:
    taken = inspect.signature(algorithm).parameters
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values())
    defaults = {entry.name: entry for entry in fields(config)}
    for name, hint in config.own_options().items():
        if not takes_all and name not in taken:
            raise wrong(algorithm.__name__, f"takes no {name}, which {config.__name__} has", kind="mismatch")
        entry = defaults[name]
        default = entry.default if entry.default_factory is MISSING else entry.default_factory()
        if not is_of(default, hint):
            raise needs(f"{config.__name__}.{name}", "a number, word, switch, list of these, or None as its default")


def algorithm_class(name: str) -> type[RecurrentOnPolicyAlgorithm]:
    """The class behind an algorithm's name in configurations.

    Raises:
        UsageError: If there is no such algorithm; names the nearest one.
    """
    return _classes(name)[0]


def config_class(name: str) -> type[AgentConfig]:
    """The dataclass of an algorithm's options.

    Raises:
        UsageError: If there is no such algorithm; names the nearest one.
    """
    return _classes(name)[1]


def _classes(name: str) -> tuple[type[RecurrentOnPolicyAlgorithm], type[AgentConfig]]:
    if name not in ALGORITHMS:
        raise unknown_name("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name].classes()


def name_of(algorithm: type) -> str | None:
    """The name in configurations of a class, or of the nearest one that it is derived from; None for a stranger."""
    names = {each.classes()[0]: name for name, each in ALGORITHMS.items()}
    return next((names[cls] for cls in algorithm.__mro__ if cls in names), None)


def saved_as(algorithm: type) -> str:
    """The name of a class in saved files: that of the nearest registered one, its own if there is none."""
    name = name_of(algorithm)
    return algorithm.__name__ if name is None else ALGORITHMS[name].saved_as


def named_in(file: Mapping[str, Any], place: str) -> str:
    """The name in configurations of the algorithm that saved a file.

    Args:
        file: What it holds. Files that name no algorithm, of earlier versions and of sb3-contrib, are told apart by
            what else they hold.
        place: Where the name stands in it, for messages.

    Raises:
        UsageError: If no such algorithm is registered.
    """
    if "algorithm" not in file:
        return "ppo" if "n_epochs" in file else "a2c"
    found = file["algorithm"]
    names = {each.saved_as: name for name, each in ALGORITHMS.items()}
    if not isinstance(found, str):
        raise invalid_value(place, "the name of an algorithm", found)
    if found not in names:
        unknown = unknown_name("algorithm", found[:60], names, place)
        raise unknown.within(after="; one of your own must be registered before (rimrl.register_algorithm)")
    return names[found]
