"""Which code runs a core: its plain step, or a faster backend that computes the same.

    step    the core's own step, one after the other; every core has it; reads like the paper, differentiable twice
    torch   the whole sequence in one autograd node, on torch's operations
    native  the same with compiled kernels, for all of the loop over time or for parts of a step; on the CPU

By default, ``auto``, a core runs on the last of these that it can. `RecurrentCore.backend` says which one that is and
`use_backend` chooses another. A plain core knows no backend: `rimrl.cores.registry` says where its backends are, and
they are loaded here, on first use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, get_args

from rimrl.cores.registry import CORES, BackendName
from rimrl.cores.tracing import is_traced
from rimrl.errors import cannot, unknown_name, wrong

if TYPE_CHECKING:
    from torch import Tensor

    from rimrl.cores.base import CoreTrace, RecurrentCore, State

STEP = "step"
_AUTO = "auto"
_CHOICES = (_AUTO, *get_args(BackendName))
_TRACED = "a graph is being recorded, which holds plain steps alone"
_OWN_STEP = frozenset({"_scan", "_step", "_encode", "_output"})

_asked: ContextVar[str] = ContextVar("backend", default=_AUTO)


class Backend(Protocol):
    """A faster way to run a core.

    Attributes:
        name: ``"torch"`` or ``"native"``.
    """

    name: BackendName

    def unsupported_reason(self, core: Any, like: Tensor) -> str | None:
        """Why the backend cannot run a core as it now is, whose parameters are as `like`; None: it can."""

    def run(
        self, core: Any, x: Tensor, state: State, episode_starts: Tensor | None, return_trace: bool
    ) -> tuple[Tensor, State, CoreTrace | None]:
        """`RecurrentCore.forward` on input that was checked; the trace may be None only if none was asked for."""


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every core on one backend.

    Applies to what the current thread runs inside the block, and to the gradients of that.

    Args:
        name: ``"auto"``, ``"step"``, ``"torch"`` or ``"native"``.

    Raises:
        UsageError: If there is no such name. Inside the block a core raises it if it does not have the backend, or if
            the backend cannot run it as it is or where it is.

    Example:
        >>> from rimrl.cores.backends import use_backend
        >>> core = make_core("rim", input_size=8, num_units=4, unit_size=5)
        >>> x = torch.randn(10, 3, 8)
        >>> with use_backend("step"):
        ...     y, _ = core(x)
        >>> torch.allclose(y, core(x)[0], atol=1e-6)
        True
    """
    if name not in _CHOICES:
        raise unknown_name("backend", name, _CHOICES)
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)


def chosen(core: RecurrentCore, like: Tensor) -> Backend | None:
    """The backend that runs a core now, whose parameters are as `like`; None for the plain step.

    Raises:
        UsageError: If another backend was asked for than the core has, or can run on now.
    """
    asked = _asked.get()
    if asked == STEP:
        return None
    faster = faster_backends(type(core))
    if asked == _AUTO:
        return next((backend for backend in faster if _unsupported_reason(backend, core, like) is None), None)
    for backend in faster:
        if backend.name == asked:
            unsupported_reason = _unsupported_reason(backend, core, like)
            if unsupported_reason is None:
                return backend
            raise cannot(f"run {type(core).__name__} now on", f"backend {asked!r}", unsupported_reason)
    has = ", ".join([*(backend.name for backend in faster), STEP])
    raise wrong(type(core).__name__, f"has no backend {asked!r}", f"it has {has}", "name")


def backends_of(core: RecurrentCore) -> dict[str, str | None]:
    """The backends that a core has, the fastest first, each with why it cannot run now; None: it can."""
    like = core._like()
    found: dict[str, str | None] = {}
    for backend in faster_backends(type(core)):
        found[backend.name] = _unsupported_reason(backend, core, like)
    return {**found, STEP: None}


def _unsupported_reason(backend: Backend, core: RecurrentCore, like: Tensor) -> str | None:
    return _TRACED if is_traced() else backend.unsupported_reason(core, like)


@cache
def faster_backends(cls: type[RecurrentCore]) -> tuple[Backend, ...]:
    """The backends of a class of cores beside its plain step, the fastest first.

    A subclass has those of its parent, unless it changes the step.
    """
    where = {entry.path: entry.backends for entry in CORES.values() if entry.backends is not None}
    for owner in cls.__mro__:
        path = where.get(f"{owner.__module__}:{owner.__qualname__}")
        if path is not None:
            module, _, attribute = path.partition(":")
            found: tuple[Backend, ...] = getattr(import_module(module), attribute)
            return found
        if not _OWN_STEP.isdisjoint(vars(owner)):
            break
    return ()
