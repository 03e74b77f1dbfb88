"""Reading files that anybody may have written: regular files alone, with bounds on size, depth and numbers.

Nothing here waits for a pipe, reads a device, or takes more memory than its bounds allow. Whatever is wrong is an
`UnreadableError`, which names the file.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

from rimrl.errors import UsageError, cannot, missing, one_line, shorten, wrong

MEGABYTE = 2**20
DEEPEST = 64
"""How deep lists and mappings may be nested; files of rimrl need less than ten."""
MOST_DIGITS = 100
"""Of an integer: more than any generator's state has, and few enough to fit into a float."""
_MOST_CONTAINERS = 2_000_000


class UnreadableError(UsageError):
    """A file cannot be read, or does not hold what its name says."""


class MissingError(UnreadableError):
    """There is no such file."""


def read_bytes(file: Path, most: int, follow: bool = True) -> bytes:
    """Content of a regular file.

    Args:
        file: The file.
        most: Bytes that it may have.
        follow: Whether it may be a link; default True. False for files in run folders, which may come from others.

    Raises:
        UnreadableError: If it is missing, no regular file, too large, a link that is not followed, or unreadable.
    """
    flags = os.O_RDONLY
    for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY", *(() if follow else ("O_NOFOLLOW",))):
        flags |= getattr(os, name, 0)
    try:
        # Before it is opened, which a device may act on.
        _check_regular(file, file.stat() if follow else file.lstat(), most)
        descriptor = os.open(file, flags)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            _check_regular(file, status, most)
            return stream.read(status.st_size)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError.of(missing(str(file))) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _is_link(file) from None
        raise _unreadable(file, error) from None
    except UsageError:
        raise
    except ValueError:  # a null byte in its name
        raise _unreadable(shorten(str(file)), "no file has such a name") from None


def check_regular(file: Path, follow: bool = True) -> None:
    """Refuse what is no regular file, before somebody opens it and waits.

    Args:
        file: The file.
        follow: As for `read_bytes`.

    Raises:
        UnreadableError: If it is something else, or missing.
    """
    try:
        _check_regular(file, file.stat() if follow else file.lstat(), sys.maxsize)
    except OSError as error:
        raise _unreadable(file, error) from None


def read_text(file: Path, most: int = MEGABYTE, follow: bool = True) -> str:
    """Content of a regular file in UTF-8.

    Args:
        file: The file.
        most: As for `read_bytes`.
        follow: As for `read_bytes`.

    Raises:
        UnreadableError: As `read_bytes`, and for what is not UTF-8.
    """
    content = read_bytes(file, most, follow)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(file, f"it is not UTF-8 (byte {error.start})") from None


def read_json(file: Path, most: int = 64 * MEGABYTE, follow: bool = True) -> Any:
    """Content of a JSON file.

    Args:
        file: The file.
        most: As for `read_bytes`.
        follow: As for `read_bytes`.

    Raises:
        UnreadableError: As `read_text` and `parse_json`.
    """
    return parse_json(read_text(file, most, follow), str(file))


def parse_json(text: str | bytes, where: str, strict: bool = False) -> Any:
    """JSON whose values are neither nested too deeply nor integers that no float can hold.

    Args:
        text: The JSON.
        where: Its name in errors.
        strict: Refuse ``NaN`` and ``Infinity``, which Python takes and JSON does not have. Default False.

    Raises:
        UnreadableError: If it is something else.
    """
    openings = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    if openings > _MOST_CONTAINERS:
        raise _invalid(where, "JSON", f"it holds more than {_MOST_CONTAINERS} lists and objects")
    try:
        value = json.loads(text, parse_int=_parse_integer, parse_constant=_refuse_constant if strict else None)
        _check_depth(value)
        return value
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(error, 120)
        raise _invalid(where, "JSON", reason) from None


def read_rows(file: Path, most: int = 256 * MEGABYTE, follow: bool = True) -> list[list[str]]:
    """Rows of a CSV file without those that are empty.

    Args:
        file: The file.
        most: As for `read_bytes`.
        follow: As for `read_bytes`.

    Raises:
        UnreadableError: As `read_text`, and for what is no CSV.
    """
    text = read_text(file, most, follow)
    try:
        return [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise _invalid(file, "CSV", error) from None


def _parse_integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner.extend(part for part in each.values() if isinstance(part, dict | list))
            elif isinstance(each, list):
                inner.extend(part for part in each if isinstance(part, dict | list))
        if not inner:
            return
        level = inner
    raise ValueError(f"nested more than {DEEPEST} deep")


def _check_regular(file: Path, status: os.stat_result, most: int) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise _is_link(file)
    if not stat.S_ISREG(status.st_mode):
        what = "folder" if stat.S_ISDIR(status.st_mode) else "pipe or device"
        raise _unreadable(file, f"it is a {what}, not a file")
    if status.st_size > most:
        raise _unreadable(file, f"it has more than {most / MEGABYTE:g} MiB, which no such file has")


def _is_link(file: Path) -> UnreadableError:
    return _unreadable(file, "it is a link, which is not followed there", "put the file in its place")


def _unreadable(file: object, reason: object, advice: str = "") -> UnreadableError:
    return UnreadableError.of(cannot("read", file, reason, advice))


def _invalid(file: object, what: str, reason: object) -> UnreadableError:
    return UnreadableError.of(wrong(file, f"is not valid {what} ({reason})", kind="damaged"))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
