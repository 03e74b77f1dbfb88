"""Weights and optimisers from checkpoints that may hold anything."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch as th
from torch import Tensor

from rimrl.runs.validated import DamagedError, Fields


def fitting(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """A stored tensor of the same shape and kind as another, and finite.

    Raises:
        DamagedError: If it is missing, or is something else.
    """
    found = tensors.get(name)
    if found is None:
        raise DamagedError(f"it lacks the tensor {name}")
    if found.shape != like.shape or found.dtype != like.dtype:
        raise DamagedError(
            f"{name} is {found.dtype} {list(found.shape)}, and should be {like.dtype} {list(like.shape)}"
        )
    if found.is_floating_point() and not found.isfinite().all():
        raise DamagedError(f"{name} is not finite")
    return found


def optimizer_state(optimizer: th.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What an optimiser remembers of each parameter, by ``INDEX.NAME``.

    Returns:
        Tensors, under ``optimizer.INDEX.NAME``; and plain numbers.
    """
    tensors, scalars = {}, {}
    for index, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars[f"{index}.{name}"] = value
    return tensors, scalars


def restore_optimizer(optimizer: th.optim.Optimizer, tensors: Mapping[str, Tensor], scalars: Fields) -> None:
    """Give an optimiser over the same parameters what `optimizer_state` found.

    Raises:
        DamagedError: If something is missing or does not fit.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = _optimizer_entry(optimizer, parameters[0])
    state: dict[int, dict[str, Any]] = {}
    for index, parameter in enumerate(parameters):
        entry: dict[str, Any] = {}
        for name, example in wanted.items():
            stored = f"optimizer.{index}.{name}"
            if not isinstance(example, Tensor):
                if f"{index}.{name}" in scalars:
                    entry[name] = scalars.integer(f"{index}.{name}")
            elif stored in tensors:
                like = parameter if example.dim() else example
                # In the parameter's own layout, as the optimiser had made it.
                entry[name] = th.empty_like(like, requires_grad=False).copy_(fitting(tensors, stored, like))
        if entry and entry.keys() != wanted.keys():
            raise DamagedError(f"the optimiser's state of parameter {index} is incomplete")
        if entry:
            state[index] = entry
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _optimizer_entry(optimizer: th.optim.Optimizer, parameter: Tensor) -> dict[str, Any]:
    """What an optimiser of this kind keeps for a parameter, from a step on one of a single number."""
    probe = th.nn.Parameter(parameter.new_zeros(1))
    probe.grad = th.zeros_like(probe)
    takes = inspect.signature(type(optimizer)).parameters
    twin = type(optimizer)([probe], **{key: value for key, value in optimizer.defaults.items() if key in takes})
    twin.step()
    return dict(twin.state[probe])
