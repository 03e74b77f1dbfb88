"""What to say when a training breaks: what happened, and how to go on."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rimrl.errors import EnvironmentFaultError, RunFailedError, UsageError, as_raised
from rimrl.files import write_text
from rimrl.runs.checkpoint_files import found
from rimrl.runs.folder import RunFolder

TRACEBACK = "traceback.txt"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Failure:
    """What ended a training, as one process tells it to another.

    Attributes:
        what: In words.
        usage: The fields of a `UsageError`; None for any other.
        settings: Whether other settings may help.
        traceback: Where it came from.
    """

    what: str
    usage: dict[str, Any] | None
    traceback: str
    settings: bool = True


def described(error: Exception) -> Failure:
    """An error as what it did to a training."""
    if isinstance(error, UsageError):
        return Failure(str(error), error.fields, "", settings=not isinstance(error, EnvironmentFaultError))
    return Failure(_what_happened(error), None, "".join(traceback.format_exception(error)))


def explained(error: Exception | Failure, run: RunFolder[Any], reached: int, writes: bool = True) -> Exception:
    """The error to raise instead of one that ended a training; the traceback goes to ``traceback.txt``.

    Args:
        error: What ended it.
        run: The run, with all checkpoints written that can be.
        reached: How far the training was.
        writes: Whether this process writes to the folder. Default True.

    Returns:
        A `UsageError` for one, such as for a loss that is not finite; else a `RunFailedError`.
    """
    failure = error if isinstance(error, Failure) else described(error)
    checkpoints, again = found(run.path), run.resume_command
    if failure.usage is not None:
        if not checkpoints:
            return UsageError(f"{failure.what} (at step {reached}; no checkpoint was written before)", **failure.usage)
        step = int(checkpoints[0].name)
        how = f"step {step}: {again}"
        if failure.settings:
            how = f"step {step} with other settings: {again} --{run.kind.learning_rate} … --accept-changes"
        return UsageError(f"{failure.what} (at step {reached}; to go on from {how})", **failure.usage)
    file = run.path / TRACEBACK
    details = f" (details: {file})" if failure.traceback else ""
    try:
        if failure.traceback and writes:
            write_text(file, failure.traceback, run.path)
    except UsageError:  # such as on a full disk
        details = ""
        with suppress(OSError):
            file.unlink()
    advice = (
        f"to go on from step {int(checkpoints[0].name)}: {again}"
        if checkpoints
        else f"no checkpoint was written before, so start again: {again}"
    )
    return RunFailedError(f"{failure.what} at step {reached}{details}; {advice}")


def _what_happened(error: Exception) -> str:
    reason = as_raised(error)
    full = next((cause for cause in _causes(error) if getattr(cause, "errno", None) in _FULL), None)
    if full is not None:
        return f"the disk is full ({full}); make room. It broke"
    if isinstance(error, EOFError | BrokenPipeError | ConnectionError):
        return (
            "the process of an environment died (its own message, if it had any, is above; --env.backend dummy "
            "--accept-changes runs it here)"
        )
    if _in_environment(error):
        return f"the environment raised {reason}"
    if isinstance(error, OSError):
        return f"a file cannot be written or read ({reason})"
    return f"training broke with {reason}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from: torch's writer hides what the system said."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _in_environment(error: Exception) -> bool:
    """Whether an exception came up through a vector of environments."""
    frames: Any = traceback.walk_tb(error.__traceback__)
    return any(
        frame.f_code.co_name in ("step_wait", "reset") and "vec_env" in frame.f_code.co_filename for frame, _ in frames
    )
