"""Activations, optimisers and features extractors that a configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from rimrl.agents.saved.options import ACTIVATIONS, EXTRACTORS, OPTIMIZERS
from rimrl.errors import invalid_value, unknown_name
from rimrl.experiments.named_classes import is_class_name, name_on_list, named_class


class _Choice(NamedTuple):
    """What a key may name: a class of a list by its name alone, or one of the user's own."""

    kind: str
    known: Mapping[str, type[Any]]
    base: type[Any]


_CHOICES: Mapping[str, _Choice] = {
    "agent.activation_fn": _Choice("activation", ACTIVATIONS, nn.Module),
    "agent.optimizer_class": _Choice("optimiser", OPTIMIZERS, th.optim.Optimizer),
    "agent.features_extractor_class": _Choice("extractor", EXTRACTORS, BaseFeaturesExtractor),
}


def check_policy_names(settings: Mapping[str, Any]) -> None:
    """Refuse names of classes that are none, as far as that shows without importing anything.

    Args:
        settings: Values by dotted keys.

    Raises:
        UsageError: Names the nearest.
    """
    for key, choice in _CHOICES.items():
        value = settings.get(key)
        if value is not None and _on_list(key, value) is None and not is_class_name(value):
            raise invalid_value(key, f"one of {', '.join(choice.known)}, or package.Class", value)


def policy_class(key: str, name: str) -> type[Any]:
    """The class that a key names.

    Raises:
        UsageError: As `rimrl.experiments.named_classes.named_class`.
    """
    return _on_list(key, name) or named_class(name, _CHOICES[key].base, key)


def _on_list(key: str, name: str) -> type[Any] | None:
    """The class of the key's list; None for a name with another package."""
    kind, known, _ = _CHOICES[key]
    last = name_on_list(key, name)
    if last is not None and last not in known:
        raise unknown_name(kind, name, known, where=key)
    return None if last is None else known[last]
