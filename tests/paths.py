"""The three ways in which a core may run a sequence; they must agree.

``"kernels"`` is the default where kernels were compiled; ``"torch"`` is the default elsewhere; ``"step"`` is the plain
step, one after the other. A core without a whole-sequence path runs the same on all three.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from rimrl.cores import scan
from rimrl.cores.scan import library

PATHS = ("kernels", "torch", "step")


def compiled() -> bool:
    """Tell whether kernels were compiled when the package was installed."""
    return library.kernels(torch.zeros(())) is not None


@contextmanager
def on(path: str) -> Iterator[None]:
    """Run cores on one of `PATHS`; skips the test if that is ``"kernels"`` and there are none."""
    if path == "kernels":
        if not compiled():
            pytest.skip("no kernels were compiled")
        yield
    elif path == "torch":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(library, "_kernels", lambda dtype: None)
            yield
    else:
        with scan.step_by_step():
            yield
