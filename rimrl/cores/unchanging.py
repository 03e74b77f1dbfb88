"""Blocks in which weights do not change, such as a rollout: what a core makes of them is made once there."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias, TypeVar

from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

M = TypeVar("M")

_Kept: TypeAlias = tuple[Sequence[Tensor], list[tuple[int, int]], object]
"""Weights, how they were, and what was made of them."""

_kept: ContextVar[dict[Hashable, _Kept] | None] = ContextVar("kept", default=None)


@contextmanager
def unchanging_weights() -> Iterator[None]:
    """Let cores keep what they make of their weights from one acting step to the next.

    Inside, for the current thread, a RIM, RigLSTM, BRIMs or RMC on the kernels acts faster. Weights may still be
    changed in place, by an optimiser or by ``load_state_dict``, which is noticed. Two changes are not: another
    parameter in the place of one, and one through ``parameter.data``.

    Example:
        >>> from rimrl.cores.unchanging import unchanging_weights
        >>> core, state = make_core("rim", input_size=8, num_units=4, unit_size=5), None
        >>> with torch.no_grad(), unchanging_weights():
        ...     for _ in range(3):
        ...         y, state = core(torch.randn(1, 16, 8), state)
    """
    if weights_are_unchanging():
        yield
        return
    kept: dict[Hashable, _Kept] = {}
    token = _kept.set(kept)
    # A fused optimiser does not count its changes.
    hook = register_optimizer_step_post_hook(lambda *_: kept.clear())
    try:
        yield
    finally:
        hook.remove()
        _kept.reset(token)


def weights_are_unchanging() -> bool:
    """Whether this is inside of such a block."""
    return _kept.get() is not None


def made_once(core: nn.Module, key: Hashable, make: Callable[[], M]) -> M:
    """What was made of the weights of a core, or what is now made and kept.

    Args:
        core: The core.
        key: Everything else that it depends on.
        make: Makes it.
    """
    kept = _kept.get()
    if kept is None:
        return make()
    found = kept.get((core, key))
    if found is not None and found[1] == _versions(found[0]):
        return found[2]  # type: ignore[return-value]
    weights = list(core.parameters())
    made = make()
    if not any(weight.is_inference() for weight in weights):  # those do not count their changes
        kept[core, key] = weights, _versions(weights), made
    return made


def _versions(weights: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(weight.data_ptr(), weight._version) for weight in weights]
