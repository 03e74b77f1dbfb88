"""The compiled kernels, where pip found a C++ compiler; without them every scan runs on torch's own operations."""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_MODULE = "rimrl.cores.scan._kernels"
SIGNATURES = {
    "lstm": "iiippipppipi",
    "lstm_backward": "iiippppppippi",
    "attend": "iiiiiiippp",
    "attend_backward": "iiiiippppi",
    "choose": "iiipp",
    "select_views": "iiiiiipppppp",
    "select_views_backward": "iiiiippppppipp",
    "soft_means": "iiippip",
    "soft_update": "iiippippppip",
    "soft_update_backward": "iiipppipppppp",
    "soft_means_backward": "iiippp",
    "rim_forward": "p",
    "rim_backward": "p",
    "lstm_sequence_forward": "p",
    "lstm_sequence_backward": "p",
}
"""Arguments of each function of ``kernels.cpp``: i an integer, p an address."""
_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


class Kernels:
    """The kernels for one dtype; each takes sizes, addresses and strides as ``kernels.cpp`` lists them.

    Attributes:
        gemm: Address of the product of matrices in the BLAS that torch brings; None where torch hides it.
    """

    def __init__(self, library: ctypes.CDLL, dtype: str) -> None:
        self.gemm = _gemm({"float32": "sgemm_", "float64": "dgemm_"}[dtype])
        types: dict[str, type[ctypes.c_int64] | type[ctypes.c_void_p]] = {"i": ctypes.c_int64, "p": ctypes.c_void_p}
        for name, signature in SIGNATURES.items():
            function = library[f"rimrl_{name}_{dtype}"]
            function.argtypes = [types[letter] for letter in signature]
            function.restype = None
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@cache
def _library() -> ctypes.CDLL | None:
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or spec.origin is None:
        return None
    try:
        return ctypes.CDLL(spec.origin)
    except OSError:  # compiled for another machine
        return None


def _gemm(name: str) -> int | None:
    """Address of a BLAS function of Fortran's interface, with 32-bit integers."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        function = getattr(ctypes.CDLL(str(path)), name)
    except (OSError, AttributeError):
        return None
    return ctypes.cast(function, ctypes.c_void_p).value


@cache
def _kernels(dtype: torch.dtype) -> Kernels | None:
    library = _library()
    return None if library is None or dtype not in _DTYPES else Kernels(library, _DTYPES[dtype])


def kernels(like: Tensor) -> Kernels | None:
    """The kernels for a tensor's device and dtype; None where there are none, and `unavailable_reason` says why."""
    return _kernels(like.dtype) if like.device.type == "cpu" else None


def unavailable_reason(like: Tensor) -> str:
    """Why there are no kernels for a tensor's device and dtype."""
    if like.device.type != "cpu":
        return f"kernels run on the CPU, and its parameters are on {like.device}"
    if _library() is None:
        return "no kernels were compiled when rimrl was installed"
    return f"there are kernels for {' and '.join(_DTYPES.values())}, and its parameters are {like.dtype}"
