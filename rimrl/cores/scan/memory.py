"""Memory of past sequences, kept for the next one.

On the CPU torch hands large tensors back to the operating system, which zeroes every page of the next one, and that
takes a good part of a sequence's time. On a GPU torch keeps freed memory by itself.
"""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict

import torch
from torch import Tensor

from rimrl.cores.scan.library import Kernels

SMALLEST = 1 << 20
"""Bytes below which the C library already reuses memory."""
LARGEST_TOTAL = 2 << 30
"""Bytes kept at most."""

_ALIGNED = 16
"""Numbers that a buffer of a `Block` starts at a multiple of."""

_free: OrderedDict[int, Tensor] = OrderedDict()
"""By identity, oldest first."""


def empty(owner: object, like: Tensor, *shape: int) -> Tensor:
    """Uninitialised memory that goes back to the pool when its owner is gone.

    Nothing that outlives the owner may refer to it.

    Args:
        owner: Whose life the memory is bound to.
        like: Gives dtype and device.
        shape: As for `torch.empty`.
    """
    size = math.prod(shape)
    if like.device.type != "cpu" or size * like.element_size() < SMALLEST:
        return like.new_empty(shape)
    rounded = _rounded(size)
    flat = _take(rounded, like.dtype)
    if flat is None:
        # What is made in inference mode could never serve a training step.
        with torch.inference_mode(False):
            flat = torch.empty(rounded, dtype=like.dtype)
    weakref.finalize(owner, _give_back, flat).atexit = False
    return flat[:size].view(shape)


def _rounded(size: int) -> int:
    """Up to a quarter more, so that sequences of similar lengths use the same memory."""
    step = 1 << max(size.bit_length() - 3, 0)
    return -(-size // step) * step


# An owner may go, and so the pool change, in any thread and at any line: hence the copies, and the pop that may miss.


def _take(size: int, dtype: torch.dtype) -> Tensor | None:
    for flat in list(_free.values()):
        if flat.numel() == size and flat.dtype == dtype and _free.pop(id(flat), None) is not None:
            return flat
    return None


def _give_back(flat: Tensor) -> None:
    _free[id(flat)] = flat
    total = sum(f.nbytes for f in list(_free.values()))
    for oldest in list(_free.values()):
        if total <= LARGEST_TOTAL:
            break
        total -= oldest.nbytes
        _free.pop(id(oldest), None)


class Block:
    """Buffers side by side in one piece: an address costs no tensor.

    Args:
        owner: Whose life the memory is bound to.
        like: Gives dtype and device.
        shapes: By name.
    """

    def __init__(self, owner: object, like: Tensor, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes, self.starts, total = shapes, dict[str, int](), 0
        for name, shape in shapes.items():
            self.starts[name] = total
            total += -(-math.prod(shape) // _ALIGNED) * _ALIGNED
        self.flat = empty(owner, like, total)

    def addresses(self) -> dict[str, int]:
        """Where each buffer is."""
        first, size = self.flat.data_ptr(), self.flat.element_size()
        return {name: first + start * size for name, start in self.starts.items()}

    def __getitem__(self, name: str) -> Tensor:
        shape, start = self.shapes[name], self.starts[name]
        return self.flat[start : start + math.prod(shape)].view(shape)


class Buffers:
    """Makes buffers with one slot a step, or a single slot for all steps where nothing need be kept.

    Args:
        num_units: Units N.
        num_steps: Time steps T.
        batch_size: Rows B.
        saving: Keep every step.
        like: Gives dtype and device.
        kernels: Those that a stage with such buffers is to use; None: torch's operations.
    """

    def __init__(
        self,
        num_units: int,
        num_steps: int,
        batch_size: int,
        saving: bool,
        like: Tensor,
        kernels: Kernels | None = None,
    ) -> None:
        self.num_units = num_units
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.slots = num_steps if saving else 1
        self.like = like
        self.kernels = kernels

    def units_first(self, *width: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``[N, T, B, *width]``, for what enters a product over all steps, unit by unit; and its view of each step."""
        return self._with_steps(self.empty(self.num_units, self.slots, self.batch_size, *width), dim=1)

    def steps_first(self, *shape: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``[T, *shape]``, and its view of each step, which is contiguous."""
        return self._with_steps(self.empty(self.slots, *shape), dim=0)

    def steps(self, *width: int) -> tuple[Tensor, ...]:
        """T times ``[N, B, *width]``, each contiguous."""
        return self.steps_first(self.num_units, self.batch_size, *width)[1]

    def empty(self, *shape: int) -> Tensor:
        """Memory that must not outlive the buffers."""
        return empty(self, self.like, *shape)

    def _with_steps(self, buffer: Tensor, dim: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        views = buffer.unbind(dim)
        return buffer, views if self.slots == self.num_steps else views * self.num_steps
