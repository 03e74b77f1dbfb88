"""The backends on which tests run cores; they must agree. `rimrl.cores.backends` says what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from rimrl.cores.backends import use_backend
from rimrl.cores.base import RecurrentCore
from rimrl.cores.registry import make_core

PATHS = ("native", "torch", "step")
every_fast_path = pytest.mark.parametrize("path", ["native", "torch"])


def compiled() -> bool:
    """Tell whether kernels were compiled when the package was installed."""
    return make_core("rim", 1).backends["native"] is None


def has(core: RecurrentCore, path: str) -> bool:
    """Whether a core runs on a backend as it is."""
    return core.backends.get(path, "no such backend") is None


def skip_without(core: RecurrentCore, path: str) -> None:
    """Skip the test of a core on a backend that it does not have."""
    if not has(core, path):
        pytest.skip(f"{type(core).__name__} does not run on {path!r}")


@contextmanager
def on(path: str) -> Iterator[None]:
    """Run cores on a backend; skips the test if that is ``"native"`` and no kernels were compiled."""
    if path == "native" and not compiled():
        pytest.skip("no kernels were compiled")
    with use_backend(path):
        yield


def with_every_backend(cores: Mapping[str, RecurrentCore], step: bool = False) -> list[tuple[str, str]]:
    """Names of cores, each with every backend that it has; with its plain step only if that is asked for."""
    return [(name, path) for name, core in cores.items() for path in PATHS[: 3 if step else 2] if has(core, path)]
