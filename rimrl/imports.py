"""Modules of the user's own: imported where the user names them, and never because a file of others does.

A configuration that the user wrote and the option ``--import`` may import. A run, an export or the folder of a study
may name modules, too, but these have to be here already: whoever opens it names them once more. A module that this
process has imported is not imported again, so nothing is asked for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module

from rimrl.errors import as_raised, cannot, invalid_value, quoted, wrong

_USED_HERE = frozenset({"rimrl", "torch", "gymnasium", "minigrid", "ale_py", "stable_baselines3", "sb3_contrib"})
_asked: list[str] = []
_imported: list[str] = []


def import_modules(names: Iterable[str], where: object = "") -> None:
    """Import modules; the current directory is searched, too, as with ``python -m``.

    Args:
        names: Dotted names.
        where: Who names them, such as a file; empty leaves it out.

    Raises:
        UsageError: If one cannot be imported; says why in one line.
    """
    for name in names:
        place = f" (named in {where})" if str(where) else ""
        if not is_module_name(name):
            raise invalid_value(f"a module to import{place}", "a name, as in: import my_package.envs", name)
        here = os.getcwd()  # noqa: PTH109 (sys.path holds text)
        if not {here, ""} & set(sys.path):
            sys.path.insert(0, here)
        try:
            import_module(name)
        except (Exception, SystemExit) as error:  # whatever a module of the user's own does
            raise cannot("import", f"{name!r}{place}", as_raised(error)) from error
        if name not in _imported:
            _imported.append(name)


def require_imported(names: Iterable[str], where: object) -> None:
    """Refuse modules that only a file asks for, before anything of them runs.

    Args:
        names: What the file names.
        where: The file.

    Raises:
        UsageError: Says what would be imported, and how to allow it.
    """
    _refuse_missing([name for name in names if name not in sys.modules], where)


def require_named(names: Iterable[str], where: object) -> None:
    """As `require_imported`, for modules whose classes are to be made with arguments out of the file.

    Modules of the packages that rimrl itself uses are here whether or not anybody asked for them, and hold classes that
    write files. They count only where they were imported on request.

    Raises:
        UsageError: As `require_imported`.
    """

    def is_here(name: str) -> bool:
        return name in sys.modules and (name in _imported or name.partition(".")[0] not in _USED_HERE)

    _refuse_missing([name for name in names if not is_here(name)], where)


def _refuse_missing(names: Iterable[str], where: object) -> None:
    needed = list(dict.fromkeys(names))
    if not needed:
        return
    other = next((name for name in needed if not is_module_name(name)), None)
    if other is not None:
        raise invalid_value(f"a module to import in {where}", "the name of a module", other)
    raise wrong(
        where,
        f"names a module to import, {', '.join(map(repr, needed))}, whose code would run",
        f"if you trust it, add{options(needed)} (in Python: import it first, or rimrl.load(…, imports={needed}))",
        "untrusted",
    )


def is_module_name(name: object) -> bool:
    """Whether a text could name a module."""
    return isinstance(name, str) and len(name) <= 400 and all(part.isidentifier() for part in name.split("."))


def options(names: Iterable[str]) -> str:
    """The options of a command that name modules, each with a space before it."""
    return "".join(f" --import {quoted(name)}" for name in names)


@contextmanager
def asked_for(names: Iterable[str]) -> Iterator[None]:
    """Import what a command names; configurations that are read in the block take it over.

    Raises:
        UsageError: As `import_modules`.
    """
    before = _asked[:]
    _asked[:] = dict.fromkeys(names)
    try:
        import_modules(_asked, "--import")
        yield
    finally:
        _asked[:] = before


def asked() -> tuple[str, ...]:
    """What the command names by ``--import``."""
    return tuple(_asked)


def imported() -> tuple[str, ...]:
    """Every module that was imported here on request, for processes that are to know what this one knows."""
    return tuple(name for name in _imported if name in sys.modules)


def module_in(name: object) -> tuple[str, ...]:
    """The module in a name such as ``module:Env-v0``; empty if it names none."""
    module, colon, _ = name.partition(":") if isinstance(name, str) else ("", "", "")
    return (module,) if colon else ()
