"""A core with two backends, of which one cannot run."""

from __future__ import annotations

from typing import Any

from rimrl.cores.feedforward import FeedForward
from rimrl.cores.registry import BackendName


class Refusing(FeedForward):
    """Has backends of its own."""


class Other:
    """Runs the core's own step, or says why not."""

    def __init__(self, name: BackendName, reason: str | None) -> None:
        self.name, self.reason = name, reason

    def unsupported_reason(self, core: Any, like: Any) -> str | None:
        return self.reason

    def run(self, core: Any, *arguments: Any) -> Any:
        return core._scan(*arguments)


BACKENDS = (Other("native", "the moon is full"), Other("torch", None))
