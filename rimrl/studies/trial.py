"""What a study is made of: trials, and how the work on one ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

End: TypeAlias = Literal["finished", "failed", "refused", "interrupted", "died"]


class Trial(Protocol):
    """One piece of work with a folder of its own.

    A trial is pickled on its way to the process that works on it, which may be on another machine: it holds plain data.
    """

    @property
    def name(self) -> str:
        """Its folder, below that of the study."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the trials that have to be finished first; they come before it in the study."""

    @property
    def threads(self) -> int:
        """Processor cores that it takes."""

    @property
    def gpus(self) -> float:
        """GPUs that it takes."""

    def is_done(self, study: Path) -> bool:
        """Whether nothing is left to do in the study's folder."""

    def run(self, study: Path, progress_bar: bool) -> bool:
        """Do what is left to do in the study's folder.

        Returns:
            Whether it came to its end; False where it was asked to stop, and can go on.

        Raises:
            UsageError: For bad input; trying again does not help.
            Exception: If something broke.
        """


@dataclass(frozen=True)
class Outcome:
    """How the work on a trial ended.

    Attributes:
        end: ``"finished"``, ``"failed"``, ``"refused"`` (bad input), ``"interrupted"``, or ``"died"`` where the process
            did.
        message: What happened, if it is not finished.
    """

    end: End
    message: str | None = None
