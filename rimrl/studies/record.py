"""What is known of a trial beside its folder: its log, and one entry for every attempt at it."""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rimrl.errors import UsageError
from rimrl.files import write_text
from rimrl.reading import MEGABYTE, read_json

LOGS = "logs"
State = Literal["running", "finished", "failed", "interrupted"]
_MOST_ATTEMPTS = 1000


class Record:
    """``logs/TRIAL.json`` with the attempts, and ``logs/TRIAL.log`` with what they said.

    Args:
        folder: Of the study.
        trial: Name of the trial.
    """

    def __init__(self, folder: Path, trial: str) -> None:
        self._folder = folder
        self.log = folder / LOGS / f"{trial}.log"
        self._file = folder / LOGS / f"{trial}.json"

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Every attempt: state, times, machine, process and message."""
        try:
            found = read_json(self._file, MEGABYTE, follow=False)
        except UsageError:
            return []
        attempts = found.get("attempts") if isinstance(found, dict) else None
        return [each for each in attempts if _is_attempt(each)] if isinstance(attempts, list) else []

    def begin(self) -> None:
        """Note that an attempt begins."""
        self.close_dead("the process was killed")
        attempt = {
            "state": "running",
            "started": datetime.now(UTC).isoformat("T", "seconds"),
            "seconds": None,
            "message": None,
            "host": platform.node(),
            "pid": os.getpid(),
        }
        self._write([*self.attempts, attempt])

    def end(self, state: State, seconds: float | None, message: str | None) -> None:
        """Note how the last attempt ended."""
        attempts = self.attempts
        if attempts:
            attempts[-1] |= {"state": state, "seconds": seconds and round(seconds, 1), "message": message}
            self._write(attempts)

    def close_dead(self, message: str) -> None:
        """Note that the last attempt died, if it has not ended otherwise."""
        attempts = self.attempts
        if attempts and attempts[-1]["state"] == "running":
            with suppress(ValueError, TypeError, KeyError):
                begun = datetime.fromisoformat(attempts[-1]["started"])
                self.end("failed", (datetime.now(UTC) - begun).total_seconds(), message)

    def _write(self, attempts: list[dict[str, Any]]) -> None:
        content = json.dumps({"attempts": attempts[-_MOST_ATTEMPTS:]}, indent=1) + "\n"
        write_text(self._file, content, self._folder)


def _is_attempt(value: object) -> bool:
    """Whether an entry of a record is what `Record.begin` and `Record.end` write."""
    kinds = {"state": str, "started": str, "seconds": int | float | None, "message": str | None, "pid": int | None}
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())
