"""Names of the sequence tasks. A new one is one file in this folder, one entry here, and its two presets."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rimrl.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from rimrl.sequence.base import Task


@dataclass(frozen=True)
class TaskEntry:
    """Where a task lives and what it is.

    Attributes:
        path: ``"module:Class"``; imported on first use.
        summary: One line.
    """

    path: str
    summary: str


TASKS: dict[str, TaskEntry] = {
    "copying": TaskEntry(
        "rimrl.sequence.copying:Copying", "keep digits through a blank stretch, tested on longer ones"
    ),
    "adding": TaskEntry("rimrl.sequence.adding:Adding", "add the marked ones of a stream of numbers"),
    "mnist": TaskEntry(
        "rimrl.sequence.mnist:SequentialMNIST", "name digits read pixel by pixel, tested at higher resolutions"
    ),
    "balls": TaskEntry("rimrl.sequence.balls:BouncingBalls", "predict frames of colliding balls, also of more of them"),
    "text": TaskEntry("rimrl.sequence.text:Text", "predict the next character or word of a text file"),
}


def task_class(name: str, where: str = "") -> type[Task]:
    """The class behind a task's name.

    Args:
        name: A key of `TASKS`.
        where: Where the name was found, for the refusal.

    Raises:
        UsageError: If there is no such task; names the nearest.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS, where)
    module, _, attribute = TASKS[name].path.partition(":")
    found: type[Task] = getattr(import_module(module), attribute)
    return found


def make_task(name: str, **options: Any) -> Task:
    """Build a task.

    Args:
        name: A key of `TASKS`.
        **options: Arguments of its constructor.

    Raises:
        UsageError: For an unknown task, or options that make no sense.
    """
    cls = task_class(name)
    try:
        return cls(**options)
    except UsageError as error:
        raise error.within(f"task {name!r}: ") from None
