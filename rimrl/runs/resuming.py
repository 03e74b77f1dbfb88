"""How a run goes on: from the last good checkpoint, and with what it was begun with unless changes are accepted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rimrl.errors import UsageError, missing, one_line, wrong
from rimrl.runs import checkpoint_files
from rimrl.runs.checkpoint_files import Contents
from rimrl.runs.config import Configuration
from rimrl.runs.environment import run_facts
from rimrl.runs.folder import RunFolder
from rimrl.runs.kinds import Kind
from rimrl.runs.logs import logged_sizes
from rimrl.runs.validated import DamagedError, Fields

T = TypeVar("T")


def restore_last(
    run: Path,
    restore: Callable[[Contents, Fields], T],
    identity: str | None,
    checkpoints: Sequence[Path] | None = None,
    read: Callable[[Path], Contents] = checkpoint_files.read,
    writes: bool = True,
    fatal: tuple[type[Exception], ...] = (),
    changes: Sequence[str] = (),
) -> tuple[Path, Contents, T]:
    """Put a training back to the last good checkpoint of its folder.

    Damaged ones are set aside, with a line on standard error for each.

    Args:
        run: The run folder.
        restore: Takes what a checkpoint holds and raises where it does not fit; called once for each that can be
            read, the latest first, until one does.
        identity: The `digest` that the checkpoint must bear; None for any.
        checkpoints: Those to try, the latest first; default: all in the folder.
        read: Reads one.
        writes: Whether damaged ones are set aside by this process. Default True.
        fatal: What does not mean that a checkpoint is damaged.
        changes: What changed of what may decide the shapes of its weights, for the refusal.

    Returns:
        The checkpoint, what it holds, and what `restore` gave.

    Raises:
        UsageError: If none is good; none has been set aside then.
    """
    damaged: list[tuple[Path, str]] = []
    for checkpoint in checkpoint_files.found(run) if checkpoints is None else checkpoints:
        try:
            contents = read(checkpoint)
            fields = _checked(contents, identity, int(checkpoint.name))
            result = restore(contents, fields)
            logged_sizes(fields)
        except fatal:
            raise
        except Exception as error:  # what was made up to harm may fail in every way, and the one before it may be good
            damaged.append((checkpoint, one_line(error)))
            continue
        for other, why in damaged if writes else ():
            print(
                f"rimrl: checkpoint {other} is damaged ({why}); going back to step {int(checkpoint.name)}",
                file=sys.stderr,
            )
            checkpoint_files.set_aside(other)
        return checkpoint, contents, result
    raise _none_good(run, "; ".join(f"{path.name}: {why}" for path, why in damaged), changes)


def _checked(contents: Contents, identity: str | None, step: int) -> Fields:
    """The state of a checkpoint that is of a configuration and a step."""
    fields = Fields(contents.state, "state")
    if identity is not None and fields.text("identity") != identity:
        raise DamagedError("it belongs to another configuration")
    if fields.integer("num_timesteps") != step:
        raise DamagedError("it belongs to another step")
    return fields


def _none_good(run: Path, reasons: str, changes: Sequence[str]) -> UsageError:
    if changes:
        return missing(
            f"checkpoint of {run} that fits what changed ({'; '.join(changes)}) and is good ({reasons})",
            advice="leave the changes out, or train anew with another --run-dir",
        )
    return missing(
        f"good checkpoint in {run / checkpoint_files.FOLDER} ({reasons})",
        advice=f"restore one, or train {run / 'config.yaml'} anew with another --run-dir",
    )


def accepted_changes(run: RunFolder[Any], config: Configuration, accept: bool) -> list[str]:
    """What differs from the configuration that a run was begun with, each change in words.

    Args:
        run: The run.
        config: How it is to go on.
        accept: Whether changes that are not free are accepted.

    Raises:
        UsageError: If there are changes that must be accepted first, or nothing is left to do.
    """
    kind, old, new = run.kind, run.config.flat(), config.flat()
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    changes = [f"{key} {old.get(key)} -> {new.get(key)}" for key in differing]
    tied = _tied_to_total(kind, new) if kind.total in differing else None
    if (tied or not kind.free.issuperset(differing)) and not accept:
        why = f" ({tied})" if tied else ""
        raise wrong(
            "the configuration",
            f"differs from that of {run.path}: {'; '.join(changes)}{why}",
            "leave that out, or add --accept-changes to go on with it",
            "mismatch",
        )
    before = run.config.total
    if run.status == "finished" and config.total <= before:
        early = run_facts(run.path).get("ended_early")
        if early is not None and changes:
            return changes
        if early is not None:
            raise wrong(run.path, f"is finished, early: {early}", "change that to go on", "state")
        raise wrong(run.path, f"is finished, at {before} {kind.step}s", f"give a larger {kind.flag} to go on", "state")
    return changes


def _tied_to_total(kind: Kind, settings: Mapping[str, Any]) -> str | None:
    """What ends with the training, in words, so that another end is another course of it; None if nothing does."""
    if settings[f"{kind.learning_rate}_schedule"] != "constant":
        return f"the learning rate falls to zero at {kind.total}"
    still = {"_schedule": "constant", "_warmup": 0.0}
    for key, value in settings.items():
        if any(key.endswith(ending) and value != constant for ending, constant in still.items()):
            return (
                f"{key} {value} is a share of {kind.total}"
                if key.endswith("_warmup")
                else f"{key} ends at {kind.total}"
            )
    return None
