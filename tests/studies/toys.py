"""A study of trials that do next to nothing, each as its name's place in a plan says."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rimrl.errors import UsageError
from rimrl.studies.study import Study

Does = Literal["finish", "break", "refuse", "die", "stop"]


@dataclass(frozen=True)
class Toy:
    """Notes that it began, and finishes unless it is to do something else, which a file ``mended`` prevents."""

    name: str
    needs: tuple[str, ...] = ()
    does: Does = "finish"
    threads: int = 1
    gpus: float = 0.0

    def is_done(self, study: Path) -> bool:
        return (study / self.name / "done").exists()

    def run(self, study: Path, progress_bar: bool) -> bool:
        (study / self.name).mkdir(parents=True, exist_ok=True)
        with (study / "begun.txt").open("a") as file:
            file.write(f"{self.name}\n")
        assert all((study / need / "done").exists() for need in self.needs)
        if not (study / "mended").exists():
            if self.does == "break":
                raise ZeroDivisionError("the simulator broke")
            if self.does == "refuse":
                raise UsageError("the loss is NaN")
            if self.does == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.does == "stop":
                return False
        (study / self.name / "done").touch()
        return True


class Toys(Study[Toy]):
    """Toys in a folder."""

    kind = "toybox"
    noun = "toy"

    def description(self) -> str:
        return "".join(f"- {trial.name}\n" for trial in self.trials)

    def summary(self) -> dict[str, Any]:
        return self.progress()


def begun(folder: Path) -> list[str]:
    """Names of toys, one for each time that one began."""
    file = folder / "begun.txt"
    return file.read_text().splitlines() if file.exists() else []
