"""The logs of a run, which are Stable-Baselines3's; those of a run that goes on are cut back and appended to."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HParam,
    Logger,
    TensorBoardOutputFormat,
    configure,
    make_output_format,
)

from rimrl.errors import trying
from rimrl.reading import MissingError, read_rows
from rimrl.runs.checkpoint_files import Contents
from rimrl.runs.kinds import Kind, upgrade_header
from rimrl.runs.validated import Fields

_LARGEST_PROGRESS = 2**31


class AppendedCSV(CSVOutputFormat):
    """``progress.csv`` with the rows it has; SB3's own class empties the file.

    Args:
        filename: A file that was written by SB3's class; made if missing.
    """

    def __init__(self, filename: str) -> None:
        path = Path(filename)
        path.touch()
        self.file = path.open("r+")
        header = self.file.readline().rstrip("\n")
        self.keys = header.split(",") if header else []
        self.separator = ","
        self.quotechar = '"'
        self.file.seek(0, 2)


def new_logger(run: Path) -> Logger:
    """The logger of a run that begins: ``progress.csv`` and TensorBoard.

    Raises:
        UsageError: If the logs cannot be written.
    """
    with trying("write the logs of", run):
        return configure(str(run), ["csv", "tensorboard"])


def appending_logger(run: Path) -> Logger:
    """The logger of a run that goes on.

    Raises:
        UsageError: As `new_logger`.
    """
    with trying("write the logs of", run):
        return Logger(str(run), [AppendedCSV(str(run / "progress.csv")), make_output_format("tensorboard", str(run))])


def log_hparams(logger: Logger, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Let TensorBoard list a run with its settings and the last values of some scalars, on its page of hyperparameters.

    Args:
        logger: Of a run that begins. Nothing is written where it has no TensorBoard.
        settings: Values by their names; a list is written as text.
        metrics: Tags of the scalars, which need not be there yet.
    """
    plain = {
        key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in settings.items()
    }
    hparams = HParam(plain, dict.fromkeys(metrics, 0.0))  # of the values TensorBoard reads none
    for output in logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):  # SB3's table cannot hold them
            output.write({"hparams": hparams}, {"hparams": ()})


def event_sizes(run: Path) -> dict[str, int]:
    """Sizes of TensorBoard's files, which `truncate_logs` brings them back to."""
    return {file.name: file.stat().st_size for file in run.glob("events.out.tfevents.*")}


def progress_until(run: Path, reached: int, kind: Kind) -> str:
    """The rows of a run's ``progress.csv`` up to a step; evaluations within a rollout add some after its start."""
    try:
        rows = read_rows(run / "progress.csv", _LARGEST_PROGRESS, follow=False)
    except MissingError:
        return ""
    if not rows or kind.column not in rows[0]:
        return ""
    column = rows[0].index(kind.column)
    kept = [row for row in rows[1:] if len(row) > column and re.fullmatch(r"\d{1,18}", row[column])]
    kept = [row for row in kept if int(row[column]) <= reached]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([rows[0], *kept])
    return text.getvalue()


def progress_of(contents: Contents, kind: Kind) -> str:
    """``progress.csv`` as a checkpoint has it."""
    header, newline, rows = contents.progress.partition("\n")
    return ",".join(upgrade_header(header.split(","), kind)) + newline + rows


def truncate_logs(run: Path, contents: Contents) -> None:
    """Take out of TensorBoard's files what came after a checkpoint: it will come again.

    Args:
        run: The run folder.
        contents: The checkpoint, whose state holds the `event_sizes` as ``events``.

    Raises:
        UsageError: If a log cannot be written.
    """
    sizes = logged_sizes(Fields(contents.state, "state"))
    with trying("cut back the logs of", run):
        for file in run.glob("events.out.tfevents.*"):
            if file.name not in sizes:
                file.unlink()
            elif file.stat().st_size > sizes[file.name]:
                with file.open("r+b") as stream:
                    stream.truncate(sizes[file.name])


def logged_sizes(fields: Fields) -> dict[str, int]:
    """The `event_sizes` that a checkpoint noted.

    Raises:
        DamagedError: If they are not there.
    """
    events = fields.nested("events")
    return {name: events.integer(name) for name in events.names()}
