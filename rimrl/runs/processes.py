"""The processes that carry out a training: one, unless an agent is trained by several."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from rimrl.runs.failures import Failure, described

_T = TypeVar("_T")


class Processes:
    """This process alone; of several, every one of them calls every method.

    Attributes:
        size: How many there are.
        writes: Whether this one writes to the run folder.
    """

    size: int = 1
    writes: bool = True

    @property
    def in_sync(self) -> bool:
        """Whether all have stopped at the same point, so that they can go on to meet."""
        return True

    def sync_errors(self) -> AbstractContextManager[None]:
        """A block in which what fails in one process fails in all."""
        return nullcontext()

    def broadcast_object(self, what: _T) -> _T:
        """What the process that writes has."""
        return what

    def any(self, flag: bool) -> bool:
        """Whether something is true of any process."""
        return flag

    def failed(self, failure: Exception | None) -> Failure | None:
        """What ended the training of all, given what ended it here; None if nothing did."""
        return None if failure is None else described(failure)

    def written_before(self) -> AbstractContextManager[None]:
        """A block at whose end everything is written, so that all may go."""
        return nullcontext()
