"""The arguments of a policy as JSON: classes by names from closed lists, everything else plain and checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, get_args

import numpy as np
import torch as th
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from torch import Tensor, nn

from rimrl.agents.extractors import EfferenceExtractor, MiniGridExtractor, NatureMap, SmallCNN
from rimrl.agents.policies import CnnRecurrentCorePolicy, MultiInputRecurrentCorePolicy, RecurrentCorePolicy
from rimrl.agents.policy_networks import CoreSharing, Trunk
from rimrl.agents.saved.fields import choice, integer, integers, number, switch
from rimrl.cores.registry import CORES, adopt_core, core_class, core_options
from rimrl.errors import invalid_value, unknown_name, wrong

POLICIES: dict[str, type[RecurrentCorePolicy]] = {
    cls.__name__: cls for cls in (RecurrentCorePolicy, CnnRecurrentCorePolicy, MultiInputRecurrentCorePolicy)
}
EXTRACTORS: dict[str, type[nn.Module]] = {
    cls.__name__: cls
    for cls in (
        *(FlattenExtractor, CombinedExtractor, NatureCNN, NatureMap),
        *(SmallCNN, MiniGridExtractor, EfferenceExtractor),
    )
}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    cls.__name__: cls
    for cls in (
        *(nn.Tanh, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Sigmoid, nn.Softplus, nn.Identity),
        *(nn.CELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LogSigmoid, nn.Mish, nn.PReLU),
        *(nn.ReLU6, nn.RReLU, nn.SELU, nn.Softshrink, nn.Softsign, nn.Tanhshrink),
    )
}
OPTIMIZERS: dict[str, type[th.optim.Optimizer]] = {
    cls.__name__: cls
    for cls in (
        *(th.optim.Adam, th.optim.AdamW, th.optim.RMSprop, th.optim.SGD, th.optim.RAdam, RMSpropTFLike),
        *(th.optim.Adadelta, th.optim.Adagrad, th.optim.Adamax, th.optim.ASGD, th.optim.NAdam, th.optim.Rprop),
    )
}

_LISTS: dict[str, tuple[str, Mapping[str, type]]] = {
    "activation_fn": ("activation", ACTIVATIONS),
    "features_extractor_class": ("extractor", EXTRACTORS),
    "extractor_class": ("extractor", EXTRACTORS),
    "optimizer_class": ("optimiser", OPTIMIZERS),
}
_LONGEST = 64
# An integer may be this large even if there are fewer weights: lengths of episodes, for instance.
_LARGEST_INTEGER = 2**20


def largest_size(weights: Mapping[str, Tensor]) -> int:
    """The largest width or number of anything that a policy with these weights can have been given."""
    return max(_LARGEST_INTEGER, sum(tensor.numel() for tensor in weights.values()))


def as_builtin(value: Any) -> Any:
    """Arguments of a policy with builtin types for subclasses of them: a file that names those cannot be read."""
    if isinstance(value, Mapping):
        return {as_builtin(key): as_builtin(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_builtin(each) for each in value]
    if isinstance(value, tuple):
        return tuple(as_builtin(each) for each in value)
    if isinstance(value, Enum):
        return as_builtin(value.value)
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, str) else value


def check_options(options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Refuse arguments of a policy with which a saved agent could not be loaded.

    Args:
        options: The arguments, without code.
        weights: The weights of the policy that was made with them.

    Raises:
        UsageError: Names the argument that does not fit.
    """
    options_from_json(options_to_json(options), "policy_kwargs", largest_size(weights))


def holds_code(value: Any, key: str = "") -> bool:
    """Whether arguments hold a class or function that is on none of the lists.

    A file with one is loaded by who trusts its author.

    Args:
        value: The arguments, or one of them.
        key: Its name.
    """
    if isinstance(value, Mapping):
        return any(holds_code(each, str(inner)) for inner, each in value.items())
    if isinstance(value, list | tuple):
        return any(holds_code(each, key) for each in value)
    if not isinstance(value, type):
        return callable(value)
    return all(cls is not value for _, cls in _known(key))


def _known(key: str) -> Iterable[tuple[str, type]]:
    """The classes that an argument may be, with their names in files; a core is imported when its turn comes."""
    return ((name, core_class(name)) for name in CORES) if key == "core" else _LISTS.get(key, ("", {}))[1].items()


def options_to_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a policy as JSON holds them; `options_from_json` gives equal ones.

    Raises:
        UsageError: For a class that is on none of the lists, or a value that is not plain.
    """
    return {key: _to_json(value, key) for key, value in options.items()}


def _to_json(value: Any, key: str) -> Any:
    if isinstance(value, type):
        for name, cls in _known(key):
            if cls is value:
                return name
        names = ", ".join(name for name, _ in _known(key)) or "no class"
        if key == "core":
            raise wrong(f"core {value.__name__}", f"cannot be exported: it is none of {names}", "share its code")
        found = f"{value.__name__} cannot be exported: without code only {names} can"
        raise wrong(key, found, "share the code and the .zip")
    if isinstance(value, Mapping):
        return {str(inner): _to_json(each, str(inner)) for inner, each in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(each, key) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise wrong(key, f"holds a {type(value).__name__}, which cannot be saved as plain data", "use plain values")


def options_from_json(content: Any, where: str, largest: int) -> dict[str, Any]:
    """Rebuild the arguments of a policy.

    Args:
        content: What `options_to_json` gave, or anything else.
        where: Names the place in errors.
        largest: The largest integer that a size may be: the number of weights in the file.

    Raises:
        UsageError: Names the field that does not fit.
    """
    if not isinstance(content, dict):
        raise invalid_value(where, "a mapping", content)
    options = {}
    for key, value in content.items():
        if key not in _CHECKS:
            raise unknown_name("argument", str(key)[:60], _CHECKS, where)
        options[key] = _CHECKS[key](value, f"{where}.{key}", largest)
    if "core_kwargs" in options:
        known = core_options(options.get("core", "rim"))
        _refuse_unknown(options["core_kwargs"], known, f"{where}.core_kwargs")
    if "features_extractor_kwargs" in options:
        place = f"{where}.features_extractor_kwargs"
        options["features_extractor_kwargs"] = _extractor_options(
            options["features_extractor_kwargs"], options.get("features_extractor_class"), place, largest
        )
    return options


def _extractor_options(options: Any, extractor: type | None, where: str, largest: int) -> dict[str, Any]:
    if options is None:
        return {}
    if extractor is not None:
        _refuse_unknown(options, inspect.signature(extractor).parameters, where)
    options = dict(options)
    inner = options.pop("extractor_class", None)
    inner_options = options.pop("extractor_kwargs", None)
    found = _plain(options, where, largest)
    if extractor is EfferenceExtractor:
        if inner is not None:
            inner = EXTRACTORS[choice(inner, f"{where}.extractor_class", "extractor", list(EXTRACTORS))]
        if inner is EfferenceExtractor:
            raise wrong(f"{where}.extractor_class", "is an EfferenceExtractor within another")
        if inner_options is not None and not isinstance(inner_options, dict):
            raise invalid_value(f"{where}.extractor_kwargs", "a mapping or null", inner_options)
        kwargs = None
        if inner_options is not None:
            kwargs = _extractor_options(inner_options, inner, f"{where}.extractor_kwargs", largest)
        found |= {"extractor_class": inner, "extractor_kwargs": kwargs}
    assert isinstance(found, dict)
    return found


def _refuse_unknown(options: Any, known: Mapping[str, Any], where: str) -> None:
    if any(getattr(parameter, "kind", None) is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for name in options or {}:
        if name not in known or name == "observation_space":
            raise unknown_name("option", str(name)[:60], known, where)


def _plain(value: Any, where: str, largest: int, depth: int = 0) -> Any:
    if isinstance(value, dict) and depth < 3 and len(value) <= _LONGEST:
        return {key: _plain(each, f"{where}.{key}", largest, depth + 1) for key, each in value.items()}
    if isinstance(value, list) and depth < 3 and len(value) <= _LONGEST:
        return [_plain(each, where, largest, depth + 1) for each in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= 200:
        return value
    if isinstance(value, int):
        return integer(value, where, -largest, largest)
    if isinstance(value, float):
        return number(value, where)
    raise invalid_value(where, "a number, a name, true, false, null or a short list of them", value)


def _dict(value: Any, where: str, _largest: int) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise invalid_value(where, "a mapping", value)
    return value


def _mapping(value: Any, where: str, largest: int) -> dict[str, Any]:
    found = _plain(_dict(value, where, largest) or {}, where, largest)
    assert isinstance(found, dict)
    return found


def _net_arch(value: Any, where: str, largest: int) -> Any:
    if value is None:
        return None
    if isinstance(value, dict):
        for key in value:
            choice(key, where, "head", ("pi", "vf"))
        return {key: _widths(each, f"{where}.{key}", largest) for key, each in value.items()}
    return _widths(value, where, largest)


def _widths(value: Any, where: str, largest: int) -> list[int]:
    widths = integers(value, where, 1, largest)
    if len(widths) > _LONGEST:
        raise wrong(where, f"has {len(widths)} layers", f"at most {_LONGEST} can be loaded")
    return widths


def _class_of(key: str) -> Callable[[Any, str, int], type]:
    kind, known = _LISTS[key]
    return lambda value, where, _: known[choice(value, where, kind, list(known))]


def _core(value: Any, where: str, _largest: int) -> str:
    if isinstance(value, str):
        adopt_core(value, where)
    return choice(value, where, "core", list(CORES))


def _switch(value: Any, where: str, _largest: int) -> bool:
    return switch(value, where)


_CHECKS: dict[str, Callable[[Any, str, int], Any]] = {
    "net_arch": _net_arch,
    "activation_fn": _class_of("activation_fn"),
    "ortho_init": _switch,
    "log_std_init": lambda value, where, _: number(value, where),
    "full_std": _switch,
    "use_expln": _switch,
    "squash_output": _switch,
    "features_extractor_class": _class_of("features_extractor_class"),
    "features_extractor_kwargs": _dict,
    "share_features_extractor": _switch,
    "normalize_images": _switch,
    "optimizer_class": _class_of("optimizer_class"),
    "optimizer_kwargs": _mapping,
    "core": _core,
    "core_kwargs": _mapping,
    "core_sharing": lambda value, where, _: choice(value, where, "core_sharing", get_args(CoreSharing)),
    "critic_gradient": lambda value, where, _: number(value, where),
    "trunk": lambda value, where, _: choice(value, where, "trunk", get_args(Trunk)),
    "normalize_observations": _switch,
}
