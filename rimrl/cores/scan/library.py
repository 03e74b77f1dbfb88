"""The compiled kernels, from a wheel or a compiler that pip found; without them scans run on torch's operations."""

from __future__ import annotations

import ctypes
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rimrl.cores.scan.layout import fingerprint

FILE = Path(__file__).with_name("_kernels.dll" if sys.platform == "win32" else "_kernels.so")
"""A plain shared library, the same for every Python; ``setup.py`` gives it this name."""
_TORCH = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}.get(sys.platform, "libtorch_cpu.so")
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
    "riglstm_forward": "p",
    "riglstm_backward": "p",
    "rmc_forward": "p",
    "rmc_backward": "p",
    "brims_forward": "p",
    "brims_backward": "p",
}
"""Arguments of each function of ``loops.h``: i an integer, p an address."""
_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


class Kernels:
    """The kernels for one dtype; each takes sizes, addresses and strides as ``loops.h`` lists them.

    Args:
        library: The compiled kernels.
        dtype: ``float32`` or ``float64``.
        instructions: What they were compiled for: ``avx512``, ``avx2`` or ``baseline``; processors other than x86 have
            the last alone. Default: the best that this processor has.

    Attributes:
        gemm: Address of the product of matrices in the BLAS that torch brings; None where torch hides it, or where ours
            is faster for few rows.
    """

    def __init__(self, library: ctypes.CDLL, dtype: str, instructions: str | None = None) -> None:
        self.gemm = None if library.rimrl_outdoes_blas() else _gemm({"float32": "sgemm_", "float64": "dgemm_"}[dtype])
        types: dict[str, type[ctypes.c_int64] | type[ctypes.c_void_p]] = {"i": ctypes.c_int64, "p": ctypes.c_void_p}
        instructions = instructions or library.rimrl_instructions().decode()
        for name, signature in SIGNATURES.items():
            function = library[f"rimrl_{name}_{dtype}_{instructions}"]
            function.argtypes = [types[letter] for letter in signature]
            function.restype = None
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@cache
def _library() -> ctypes.CDLL | str:
    """The library, or why there is none and what helps."""
    if not FILE.exists():
        return (
            "no C++ compiler was found when rimrl was installed; install a wheel that has the kernels, or a compiler "
            "and then rimrl again"
        )
    try:
        library = ctypes.CDLL(str(FILE))
        library.rimrl_instructions.restype = ctypes.c_char_p
        library.rimrl_share.restype = None
        library.rimrl_outdoes_blas.restype = ctypes.c_int32
        library.rimrl_layout.restype = ctypes.c_char_p
        if library.rimrl_layout().decode() != fingerprint():
            raise OSError("they were compiled from other sources")
    except (OSError, AttributeError) as error:  # compiled for another machine, or from earlier sources
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return f"the compiled kernels do not load here ({reason}); install rimrl again"
    return library


def _gemm(name: str) -> int | None:
    """Address of a BLAS function of Fortran's interface, with 32-bit integers."""
    path = Path(torch.__file__).parent / "lib" / _TORCH
    try:
        function = getattr(ctypes.CDLL(str(path)), name)
    except (OSError, AttributeError):
        return None
    return ctypes.cast(function, ctypes.c_void_p).value


def share_address() -> int | None:
    """Address of what shares calls of a kernel among threads (`rimrl.cores.scan.calls`); None without kernels."""
    library = _library()
    return None if isinstance(library, str) else ctypes.cast(library.rimrl_share, ctypes.c_void_p).value


@cache
def _kernels(dtype: torch.dtype) -> Kernels | None:
    library = _library()
    return None if isinstance(library, str) or dtype not in _DTYPES else Kernels(library, _DTYPES[dtype])


def kernels(like: Tensor) -> Kernels | None:
    """The kernels for a tensor's device and dtype; None where there are none, and `unavailable_reason` says why."""
    return _kernels(like.dtype) if like.device.type == "cpu" else None


def unavailable_reason(like: Tensor) -> str:
    """Why there are no kernels for a tensor's device and dtype."""
    if like.device.type != "cpu":
        return f"kernels run on the CPU, and its parameters are on {like.device}"
    library = _library()
    if isinstance(library, str):
        return library
    return f"there are kernels for {' and '.join(_DTYPES.values())}, and its parameters are {like.dtype}"


def warn_if_missing(like: Tensor) -> None:
    """Warn, once in a process, if a core, whose tensors are as `like`, trains without the library of kernels."""
    if torch.is_grad_enabled() and like.device.type == "cpu":
        _warn_if_missing()


@cache
def _warn_if_missing() -> None:
    library = _library()
    if isinstance(library, str):
        warnings.warn(f"training is slower than it could be: {library}", stacklevel=2)
