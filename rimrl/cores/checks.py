"""What a core refuses before it runs, and what it says of an output that is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from rimrl.cores.tracing import is_traced
from rimrl.errors import NotFiniteError, invalid_value, mismatch

_AUTOCAST = (torch.float32, torch.float16, torch.bfloat16)
"""What autocast turns into each other; it leaves double precision alone."""


def require_tensor(who: str, what: str, value: object) -> None:
    """Refuse what is no tensor: `who` is the core, and `what` the value is to it, such as ``"input"``.

    Raises:
        UsageError: If the value is no tensor.
    """
    if not isinstance(value, Tensor):
        raise mismatch(f"the {what} of {who}", "a tensor", type(value).__name__)


def require_like(who: str, what: str, tensor: Tensor, like: Tensor) -> None:
    """Refuse a tensor on another device or of another dtype than the core's parameters.

    Under autocast any dtype will do that autocast itself converts.

    Args:
        who: The core.
        what: What the tensor is to the core, such as ``"input"``.
        tensor: What was given.
        like: One of the parameters.

    Raises:
        UsageError: If device or dtype differ.
    """
    if tensor.device != like.device:
        raise mismatch(f"the {what} of {who}", f"on {like.device}, where its parameters are", tensor.device)
    if tensor.dtype == like.dtype:
        return
    converts = tensor.dtype in _AUTOCAST and like.dtype in _AUTOCAST
    if not (converts and torch.is_autocast_enabled(like.device.type)):
        raise mismatch(f"the {what} of {who}", f"in {like.dtype}, as its parameters are", tensor.dtype)


def as_flags(who: str, flags: Tensor, shape: tuple[int, int], like: Tensor) -> Tensor:
    """Make episode starts bool.

    Args:
        who: The core.
        flags: Bool, or numbers 0 and 1.
        shape: The shape that fits, ``(T, B)``.
        like: One of the parameters.

    Returns:
        The flags as bool.

    Raises:
        UsageError: If the flags are no tensor, have another shape, are on another device than the parameters, or are
            neither bool nor 0 and 1. On a GPU the values of a single time step are not looked at, which would make
            acting wait for the device.
    """
    require_tensor(who, "episode_starts", flags)
    if tuple(flags.shape) != shape:
        raise invalid_value("episode_starts", f"[T, B] = {list(shape)}", list(flags.shape))
    if flags.device != like.device:
        raise mismatch(f"the episode_starts of {who}", f"on {like.device}, where its parameters are", flags.device)
    if flags.dtype == torch.bool:
        return flags
    as_bool = flags.bool()
    if _may_look_at(flags) and not torch.equal(as_bool.to(flags.dtype), flags):
        neither = (flags != 0) & (flags != 1)
        raise invalid_value("episode_starts", "bool or 0/1", flags[neither][0].item())
    return as_bool


def require_finite_output(
    who: str, y: Tensor, x: Tensor, state: Iterable[Tensor], parameters: Iterable[tuple[str, Tensor]]
) -> None:
    """Say why an output is not finite; costs one sum where it is.

    Args:
        who: The core.
        y: Output ``[T, B, ...]``.
        x: Input ``[T, B, ...]``.
        state: ``(h, c)``, each ``[L, B, ...]``, if one was given.
        parameters: By name.

    Raises:
        NotFiniteError: If an entry is NaN or infinite: names the input (first time step and row), the state (first
            row), the parameter, or else overflow. On a GPU a single time step is not looked at, which would make
            acting wait for the device.
    """
    if not _may_look_at(y):
        return
    # A sum that overflows is no fault, so the entries themselves have the last word.
    if math.isfinite(y.detach().sum().item()) or bool(y.detach().isfinite().all()):
        return
    bad = ~x.detach().isfinite()
    if bool(bad.any()):
        t, b, *rest = (int(i) for i in bad.nonzero()[0])
        value = x[(t, b, *rest)].item()
        raise NotFiniteError(f"{who} got an input that is not finite: {value} at time step {t} of row {b}", key="input")
    for label, tensor in zip("hc", state, strict=False):
        bad = ~tensor.detach().isfinite()
        if bool(bad.any()):
            row = int(bad.nonzero()[:, 1].min())
            raise NotFiniteError(f"{who} got a state {label} that is not finite, in row {row}", key=f"state {label}")
    for name, parameter in parameters:
        if not bool(parameter.detach().isfinite().all()):
            raise NotFiniteError(f"{who} has a parameter {name} that is not finite: has learning diverged?", key=name)
    raise NotFiniteError(f"{who} overflows {y.dtype}: input, state and parameters are finite", key="output")


def _may_look_at(sequence: Tensor) -> bool:
    if is_traced():  # a graph would keep the answer for one input
        return False
    return sequence.device.type == "cpu" or (sequence.device.type != "meta" and len(sequence) > 1)
