"""One trial is worked on, by any process that sees the study's folder; its record says how that went.

Run as a process of its own, ``python -m rimrl.studies.worker FOLDER`` reads the trial from its standard input, pickled,
and stops when that ends: whoever started it is gone then.
"""

from __future__ import annotations

import os
import pickle
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from rimrl.errors import RunFailedError, UsageError, as_raised, wrong
from rimrl.files import appending, locked, refuse_links
from rimrl.runs.stopping import interruptible
from rimrl.studies.record import LOGS, Record, State
from rimrl.studies.trial import End, Outcome, Trial

ENDS: Mapping[int, End] = {0: "finished", 1: "failed", 2: "refused", 130: "interrupted"}
"""Exit codes of the process, and what they mean."""
PATIENCE = 60.0
"""Seconds that a worker whose study was killed may take to write its checkpoint and go."""


def work_on(folder: Path, trial: Trial, progress_bar: bool = False, patience: float = PATIENCE) -> Outcome:
    """Do what is left of a trial.

    Two processes never work on one trial: the second waits for the first.

    Args:
        folder: Of the study.
        trial: What to do.
        progress_bar: Show progress on standard error.
        patience: Seconds after which the second process gives up; default 60.

    Returns:
        How it ended; what breaks on the way is part of that.
    """
    record = Record(folder, trial.name)
    try:
        if not (folder / LOGS).is_dir():
            raise wrong(
                folder, f"is no folder of a study on {platform.node()}", "put --run-dir on a disk of all nodes", "state"
            )
        appending(record.log, folder).close()
        refuse_links(folder / trial.name, folder)
        busy = f"{trial.name} is being trained by another process"
        with locked(record.log, busy, patience=patience):
            if trial.is_done(folder):
                return Outcome("finished")
            record.begin()
            begun = time.monotonic()
            outcome = _outcome(folder, trial, progress_bar)
            state: State = outcome.end if outcome.end in ("finished", "interrupted") else "failed"
            record.end(state, time.monotonic() - begun, outcome.message)
            return outcome
    except UsageError as error:
        return Outcome("refused", str(error))
    except OSError as error:
        return Outcome("failed", f"cannot write to {folder}: {error.strerror or error}")


def _outcome(folder: Path, trial: Trial, progress_bar: bool) -> Outcome:
    stopped = Outcome("interrupted", "stopped; goes on from its last checkpoint")
    try:
        with interruptible():
            return Outcome("finished") if trial.run(folder, progress_bar) else stopped
    except KeyboardInterrupt:
        return stopped
    except UsageError as error:
        return Outcome("refused", str(error))
    except RunFailedError as error:
        return Outcome("failed", str(error))
    except Exception as error:  # environments fail in every way, and the other trials are worth having
        traceback.print_exc()
        return Outcome("failed", as_raised(error))


def _stop_with_parent() -> None:
    """Ask this process to stop once its standard input ends."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main(folder: str) -> int:
    """Work on a trial as a process of its own."""
    with interruptible():
        try:
            trial = pickle.load(sys.stdin.buffer)
            _stop_with_parent()
            outcome = work_on(Path(folder), trial)
        except (KeyboardInterrupt, EOFError):
            outcome = Outcome("interrupted")
    if outcome.message is not None:
        print(f"rimrl: {outcome.message}", file=sys.stderr)
    return next(code for code, end in ENDS.items() if end == outcome.end)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
