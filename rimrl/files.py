"""Files that are there whole or not at all: what is written takes its place only when it is complete.

Every file that rimrl writes goes through here, except what torch's and SB3's own writers do within a block. Folders may
come from others, so that temporary names cannot be guessed, and links in a folder are not followed: a link in the place
of a file is replaced, one in the place of a folder is refused. The folder that a user names may be a link itself.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rimrl.errors import UsageError, cannot, trying

TEMPORARY = ".partial-"
"""How the names of files and folders begin that have not taken their place yet."""
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


@contextmanager
def replacing_file(file: Path, inside: Path | None = None) -> Iterator[Path]:
    """Fill a temporary file that takes the place of ``file`` only when the block ends well.

    Args:
        file: Where the content belongs; missing folders above it are made.
        inside: A folder above it below which no folder may be a link; None where the user named the file.

    Raises:
        UsageError: If the file cannot be written; before the block runs where that can be told.
    """
    check_writable(file, inside)
    with trying("write", file), placing_file(file) as partial:
        yield partial


@contextmanager
def placing_file(file: Path) -> Iterator[Path]:
    """`replacing_file` where a failure is not the user's, such as a disk that is full after hours.

    Args:
        file: Where the content belongs; missing folders above it are made.

    Raises:
        OSError: If it cannot be written; what was there stays.
    """
    with _made(file.parent):
        partial = _new_file(file)
        try:
            yield partial
            partial.replace(file)
        finally:
            with suppress(OSError):
                partial.unlink()


def write_text(file: Path, content: str, inside: Path | None = None) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part.

    Args:
        file: As for `replacing_file`.
        content: Its text.
        inside: As for `replacing_file`.

    Raises:
        UsageError: As `replacing_file`.
    """
    with replacing_file(file, inside) as partial:
        partial.write_text(content, encoding="utf-8")


def write_together(contents: Mapping[Path, str], inside: Path | None = None) -> None:
    """Write several files, none of them before there was room for all.

    Args:
        contents: Their texts.
        inside: As for `replacing_file`.

    Raises:
        UsageError: As `replacing_file`; what was there stays then.
    """
    with ExitStack() as stack:
        for file, content in contents.items():
            partial = stack.enter_context(replacing_file(file, inside))
            with trying("write", file):
                partial.write_text(content, encoding="utf-8")


def check_writable(file: Path, inside: Path | None = None) -> None:
    """Refuse early what `replacing_file` would refuse after long work.

    Args:
        file: As for `replacing_file`.
        inside: As for `replacing_file`.

    Raises:
        UsageError: If the file could not be written.
    """
    with trying("write", file):
        if inside is not None:
            refuse_links(file.parent, inside)
        _check_place(file)
        above = next((folder for folder in file.parents if folder.exists()), Path())
        if not above.is_dir():
            raise cannot("write", file, f"{above} is a file, not a folder")
        if not os.access(above, os.W_OK):
            raise cannot("write", file, f"the folder {above} is read-only")


def _check_place(file: Path) -> None:
    if file.is_dir():
        raise cannot("write", file, "it is a folder")
    if file.exists() and not file.is_file():
        raise cannot("write", file, "it is a pipe or a device, not a file")
    if len(os.fsencode(file.name)) > 255:
        raise cannot("write", file, "File name too long")


def refuse_links(folder: Path, inside: Path) -> None:
    """Refuse a folder that can only be reached through a link below another.

    Args:
        folder: The folder, which need not exist.
        inside: A folder above it, or the same, which may be a link itself.

    Raises:
        UsageError: Names the link.
    """
    place = inside
    for part in folder.relative_to(inside).parts:
        place = place / part
        if part == ".." or place.is_symlink():
            raise cannot("write to", folder, f"{place} is a link, which is not followed there", "remove it")


@contextmanager
def replacing(folder: Path, names: Sequence[str], inside: Path | None = None) -> Iterator[Path]:
    """Fill a temporary folder whose files take their place in ``folder`` only when the block ends well.

    Args:
        folder: Where the files belong; made if missing.
        names: All files that may be there; those that the block did not write are removed from ``folder``.
        inside: As for `replacing_file`.

    Raises:
        UsageError: If the folder cannot be written.
    """
    if inside is not None:
        refuse_links(folder, inside)
    with trying("write the folder", folder):
        for name in names:
            _check_place(folder / name)
        with (
            _made(folder),
            tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder, ignore_cleanup_errors=True) as temporary,
        ):
            partial = Path(temporary)
            yield partial
            for name in names:
                if (partial / name).exists():
                    (partial / name).replace(folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)


def temporary_folder(folder: Path, prefix: str = TEMPORARY) -> Path:
    """A new folder in another one, whose name nobody can guess.

    Raises:
        OSError: If it cannot be made.
    """
    return Path(tempfile.mkdtemp(prefix=prefix, dir=folder))


def remove_leftovers(folder: Path, prefix: str = TEMPORARY, age: float = 0.0) -> None:
    """Remove temporary files and folders of processes that were killed.

    Args:
        folder: Where they are; links in it are removed, not followed.
        prefix: How their names begin.
        age: Seconds for which nobody has written to them; 0 where nobody else can be writing.
    """
    for path in folder.glob(f"{prefix}*"):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime < age:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def separate(file: Path) -> None:
    """Give a file that has other names, too (hard links), a copy of its own, so that they keep their content.

    Raises:
        UsageError: If it cannot be written.
    """
    try:
        status = file.lstat()
    except OSError:
        return
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        with replacing_file(file) as partial:
            shutil.copyfile(file, partial)


def appending(file: Path, inside: Path | None = None) -> BinaryIO:
    """A file to add to, which is made if missing; the caller closes it.

    Args:
        file: As for `replacing_file`.
        inside: As for `replacing_file`.

    Raises:
        UsageError: If it is a link, no regular file, or cannot be written.
    """
    check_writable(file, inside)
    with trying("write", file):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _opened(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return os.fdopen(descriptor, "ab")


@contextmanager
def locked(path: Path, refusal: str, shared: bool = False, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes out for a while; the lock goes with the process, however it ends.

    Where the system or the disk knows no locks, there is none.

    Args:
        path: A folder, or a file, which is made if missing.
        refusal: What to say if another process holds the lock.
        shared: Let in others that ask for a shared lock, too.
        patience: Seconds to wait for others.

    Raises:
        UsageError: If another process holds the lock, or the file cannot be opened.
    """
    try:
        import fcntl  # noqa: PLC0415 (not on every system)
    except ImportError:
        yield
        return
    with trying("open", path):
        # A shared disk locks only what is open for writing, which a folder cannot be.
        is_folder = path.is_dir()
        descriptor = os.open(path, os.O_RDONLY) if is_folder else _opened(path, os.O_RDWR | os.O_CREAT)
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UsageError(refusal, key=str(path), kind="state") from None
                time.sleep(0.1)
                continue
            except OSError:
                pass
            break
        yield
    finally:
        os.close(descriptor)


def _new_file(file: Path) -> Path:
    """An empty file beside another one, with the permissions of any new file and a suffix by which writers go."""
    while True:
        partial = file.with_name(f"{TEMPORARY}{secrets.token_hex(8)}{file.suffix}")
        with suppress(FileExistsError):
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666))
            return partial


def _opened(file: Path, flags: int) -> int:
    """Descriptor of a regular file that is no link."""
    descriptor = os.open(file, flags | _NO_LINK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{file.name} is no regular file")
    return descriptor


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder; what was made and is empty at the end of the block goes again."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        remove_empty(missing)


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove those of some folders that are empty, the first first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
