"""The logs of a run that goes on: Stable-Baselines3's own, appended to."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.logger import CSVOutputFormat, Logger, make_output_format


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


def appending_logger(run: Path) -> Logger:
    """The logger of a run that goes on."""
    return Logger(str(run), [AppendedCSV(str(run / "progress.csv")), make_output_format("tensorboard", str(run))])
