"""Whether a core keeps the contract of `rimrl.cores.base`, clause by clause, as gymnasium's ``check_env`` does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rimrl.cores.base import CoreTrace, RecurrentCore, State
from rimrl.cores.registry import make_core
from rimrl.errors import UsageError, as_raised, mismatch, shorten, wrong

_T, _B = 7, 3
_TOLERANCE = 1e-4


def check_core(core: type[RecurrentCore], input_size: int = 8, **options: Any) -> None:
    """Check that a core keeps the contract on which policies rely.

    The clauses, in this order: ``class`` (a `RecurrentCore` subclass that takes ``input_size``), ``output``, ``state``,
    ``dtype``, ``deterministic``, ``sequence`` (one call equals a call a step), ``batch`` (no row depends on another),
    ``episode starts`` (one call with resets equals a call on each episode), ``trace``, ``gradient``.

    Args:
        core: The class.
        input_size: Width I of the input that it is tried with. Default 8.
        **options: Its options.

    Raises:
        UsageError: Names the first clause that the core breaks, and what it did.
    """
    given: object = core
    if not (inspect.isclass(given) and issubclass(given, RecurrentCore)):
        what = "a torch module, but no RecurrentCore" if _is_module(given) else shorten(given)
        raise mismatch("a core", "a subclass of rimrl.RecurrentCore (clause 'class')", what)
    made = _made(core, input_size, options)
    generator = torch.Generator().manual_seed(0)
    shape = (_T, _B, made.input_size) if made.num_inputs == 1 else (_T, _B, made.num_inputs, made.input_size)
    x = torch.randn(shape, generator=generator).to(made._like())
    with torch.no_grad():
        for clause, check in _CHECKS.items():
            _held(core, clause, check, made, x)
    with torch.enable_grad():
        _held(core, "gradient", _gradient, made, x)


class _BrokenError(Exception):
    """What a core did against a clause."""


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise _BrokenError(what)


def _held(
    core: type, clause: str, check: Callable[[RecurrentCore, Tensor], None], made: RecurrentCore, x: Tensor
) -> None:
    try:
        check(made, x)
    except _BrokenError as error:
        raise _broken(core, clause, str(error)) from None
    except Exception as error:  # code of the user's own
        raise _broken(core, clause, as_raised(error)) from error


def _broken(core: type, clause: str, reason: str) -> UsageError:
    return wrong(f"core {core.__name__}", f"breaks the contract (clause {clause!r}): {reason}")


def _is_module(core: object) -> bool:
    return isinstance(core, nn.Module) or (inspect.isclass(core) and issubclass(core, nn.Module))


def _made(core: type[RecurrentCore], input_size: int, options: dict[str, Any]) -> RecurrentCore:
    if "input_size" not in inspect.signature(core).parameters:
        raise _broken(core, "class", "it takes no input_size")
    try:
        made = make_core(core, input_size, **options)
    except UsageError:
        raise
    except Exception as error:
        raise _broken(core, "class", as_raised(error)) from error
    if not any(True for _ in made.parameters()):
        raise _broken(core, "class", "it has no parameters to learn")
    return made


def _output(core: RecurrentCore, x: Tensor) -> None:
    answer = core(x)
    _require(isinstance(answer, tuple) and len(answer) == 2, "it must return (output, state)")
    expected = [_T, _B, core.output_size]
    _require(isinstance(answer[0], Tensor), f"the output must be a tensor, got {type(answer[0]).__name__}")
    _require(list(answer[0].shape) == expected, f"the output must be {expected}, got {list(answer[0].shape)}")


def _state(core: RecurrentCore, x: Tensor) -> None:
    expected = [core.num_layers, _B, core.hidden_size]
    for what, state in (("initial_state", core.initial_state(_B)), ("the state after a call", core(x)[1])):
        pair = isinstance(state, tuple) and len(state) == 2 and all(isinstance(each, Tensor) for each in state)
        _require(pair, f"{what} must be a pair (h, c) of tensors, got {type(state).__name__}")
        for name, each in zip("hc", state, strict=True):
            shape = list(each.shape)
            _require(
                shape == expected, f"{name} of {what} must be [num_layers, B, hidden_size] = {expected}, got {shape}"
            )


def _dtype(core: RecurrentCore, x: Tensor) -> None:
    y, state = core(x)
    for what, each in (("the output", y), ("h", state[0]), ("c", state[1])):
        wanted = core._like().dtype
        _require(each.dtype == wanted, f"{what} must be {wanted} as the parameters are, got {each.dtype}")


def _deterministic(core: RecurrentCore, x: Tensor) -> None:
    core.eval()
    try:
        _same(core(x), core(x), "two calls on the same input give different answers in eval mode")
    finally:
        core.train()
    _same(core(x), core(x), "two calls on the same input give different answers in training mode")


def _sequence(core: RecurrentCore, x: Tensor) -> None:
    state: State | None = None
    outputs = []
    for t in range(_T):
        y, state = core(x[t : t + 1], state)
        outputs.append(y)
    assert state is not None
    _same(core(x), (torch.cat(outputs), state), "one call on a sequence differs from one call for each step")


def _episode_starts(core: RecurrentCore, x: Tensor) -> None:
    starts = torch.zeros(_T, _B, dtype=torch.bool)
    starts[0, 0] = starts[3, 1] = starts[5, 1] = starts[4, 2] = True
    _, before = core(x)
    y, (h, c) = core(x, before, starts)
    for row in range(_B):
        bounds = sorted({0, _T, *starts[:, row].nonzero().flatten().tolist()})
        state: State = (before[0][:, row : row + 1], before[1][:, row : row + 1])
        parts = []
        for first, last in pairwise(bounds):
            state = core.initial_state(1) if starts[first, row] else state
            part, state = core(x[first:last, row : row + 1], state)
            parts.append(part)
        ours = y[:, row : row + 1], (h[:, row : row + 1], c[:, row : row + 1])
        _same(ours, (torch.cat(parts), state), "one call with episode starts differs from a call on each episode")


def _batch(core: RecurrentCore, x: Tensor) -> None:
    y, (h, c) = core(x)
    for row in range(_B):
        ours = y[:, row : row + 1], (h[:, row : row + 1], c[:, row : row + 1])
        _same(ours, core(x[:, row : row + 1]), "a row of a batch differs from that row alone")


def _trace(core: RecurrentCore, x: Tensor) -> None:
    plain = core(x)
    answer = core(x, return_trace=True)
    traced = isinstance(answer, tuple) and len(answer) == 3 and isinstance(answer[2], CoreTrace)
    _require(traced, "with return_trace=True it must return (output, state, CoreTrace)")
    y, state, trace = answer
    _same(plain, (y, state), "the output differs with and without a trace")
    expected = [_T, _B, core.num_units]
    shape = list(trace.active.shape)
    _require(shape == expected, f"trace.active must be [T, B, num_units] = {expected}, got {shape}")
    _require(trace.active.dtype == torch.bool, f"trace.active must be bool, got {trace.active.dtype}")
    units = sum(core.units_per_layer)
    _require(units == core.num_units, f"units_per_layer adds up to {units}, num_units is {core.num_units}")
    for name in ("input_attention", "communication_attention"):
        part = getattr(trace, name)
        fits = part is None or (part.dim() == 4 and list(part.shape[:3]) == expected)
        _require(fits, f"trace.{name} must begin with [T, B, num_units] = {expected}")


def _gradient(core: RecurrentCore, x: Tensor) -> None:
    x = x.detach().clone().requires_grad_()
    y, state = core(x)
    _require(y.requires_grad, "no gradient flows through the output")
    (y.square().sum() + state[0].sum() + state[1].sum()).backward()
    _require(x.grad is not None and bool(x.grad.abs().sum() > 0), "no gradient reaches the input")
    _require(x.grad is not None and bool(x.grad.isfinite().all()), "the gradient of the input is not finite")
    reached = [each for each in core.parameters() if each.grad is not None]
    _require(bool(reached), "no gradient reaches a parameter")
    core.zero_grad()


def _same(one: tuple[Tensor, State], other: tuple[Tensor, State], what: str) -> None:
    pairs = zip((one[0], *one[1]), (other[0], *other[1]), ("the output", "h", "c"), strict=True)
    for ours, theirs, name in pairs:
        fits = ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=_TOLERANCE, rtol=_TOLERANCE)
        _require(fits, f"{what} (in {name})")


_CHECKS: dict[str, Callable[[RecurrentCore, Tensor], None]] = {
    "output": _output,
    "state": _state,
    "dtype": _dtype,
    "deterministic": _deterministic,
    "sequence": _sequence,
    "batch": _batch,
    "episode starts": _episode_starts,
    "trace": _trace,
}
