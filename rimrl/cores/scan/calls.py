"""Calls of kernels for whole sequences, one after the other or at the same time.

Calls at the same time run on the threads of torch's own OpenMP. Any others would compete with those, which go on
waiting for work, without sleeping, for a while after an operation of torch's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rimrl.cores.scan.library import share_address


@dataclass
class KernelCall:
    """A kernel and what it is called with.

    Attributes:
        function: Takes an address.
        structure: What is there.
        kept: What keeps alive the memory that `structure` points to.
    """

    function: Callable[[int], None]
    structure: ctypes.Structure | ctypes.Array[Any]
    kept: object

    def run(self) -> None:
        """Call it."""
        self.function(ctypes.addressof(self.structure))


class Arguments:
    """What a structure holds: numbers, and addresses of tensors, which it keeps alive."""

    def __init__(self, structure: type[ctypes.Structure], **numbers: int | None) -> None:
        self.structure = structure(**numbers)
        self.tensors: dict[str, Tensor] = {}

    def set(self, **numbers: int | None) -> None:
        """Set numbers, or addresses of memory that the caller keeps alive; None is a null pointer."""
        for name, number in numbers.items():
            setattr(self.structure, name, number)

    def hold(self, **tensors: Tensor | None) -> None:
        """Set addresses; None is a null pointer."""
        for name, tensor in tensors.items():
            if tensor is None:
                self.tensors.pop(name, None)
                setattr(self.structure, name, None)
            else:
                assert tensor.is_contiguous(), name
                self.tensors[name] = tensor
                setattr(self.structure, name, tensor.data_ptr())

    def call(self, function: Callable[[int], None], kept: object = None) -> KernelCall:
        """A call with all that it holds when the call runs, and what else is to be kept alive until then."""
        return KernelCall(function, self.structure, (self, kept))


def can_run_together() -> bool:
    """Whether calls can run at the same time here: where torch brings GNU's OpenMP, as it does for Linux."""
    return _openmp() is not None


def run_together(calls: Sequence[KernelCall]) -> None:
    """Run calls of the same kernel at the same time.

    Args:
        calls: At least one, where `can_run_together`. None writes what another one reads or writes.
    """
    openmp = _openmp()
    assert openmp is not None
    arguments = (ctypes.c_void_p * len(calls))(*(ctypes.addressof(call.structure) for call in calls))
    shared = _Shared(len(calls), _address(calls[0].function), ctypes.addressof(arguments), *openmp.queries)
    openmp.parallel(openmp.share, ctypes.addressof(shared), len(calls), 0)


class _Shared(ctypes.Structure):
    """``SharedCalls`` of ``kernels.cpp``."""

    _fields_ = (
        ("count", ctypes.c_int64),
        ("function", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("thread", ctypes.c_void_p),
        ("threads", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class _OpenMP:
    """What a parallel region needs.

    Attributes:
        parallel: Runs a function on a number of threads.
        share: Address of that function.
        queries: Addresses of what tells a thread its number, and how many there are.
    """

    parallel: Callable[[int, int, int, int], None]
    share: int
    queries: tuple[int | None, int | None]


@cache
def _openmp() -> _OpenMP | None:
    """That of torch; None where it has another, or where there are no kernels."""
    share = share_address()
    package = Path(torch.__file__).parent
    found = sorted([*package.glob("lib/libgomp*.so*"), *package.parent.glob("torch.libs/libgomp*.so*")])
    if share is None or not found:
        return None
    try:
        library = ctypes.CDLL(str(found[0]))
        parallel, number, count = library.GOMP_parallel, library.omp_get_thread_num, library.omp_get_num_threads
    except (OSError, AttributeError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return _OpenMP(parallel, share, (_address(number), _address(count)))


def _address(function: Any) -> int | None:
    """That of a function of a library."""
    return ctypes.cast(function, ctypes.c_void_p).value
