"""The exceptions that the command line prints as one line.

`UsageError` means that the caller asked for something that does not exist or does not fit, and exits with code 2;
Python code sees a `ValueError`. `RunFailedError` means that a run broke, and exits with code 1.

The functions at the end make a `UsageError` of each kind, with its line and its fields. Their docstrings give the line;
all but `unknown_name` add ``advice`` to it, what to do, after a semicolon.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, Self, TypeAlias

Kind: TypeAlias = Literal[
    "value",
    "name",
    "missing",
    "needs",
    "conflict",
    "mismatch",
    "damaged",
    "failed",  # by the system, a library or a service
    "not_installed",
    "untrusted",  # it would run somebody's code
    "state",  # of a run or a folder: not that for what is asked of it
    "environment",
    "not_finite",
]

_LISTED_AT_MOST = 20
_LONGEST = 4000
_LONGEST_NAME = 200


class UsageError(ValueError):
    """Bad input from the user: says what is wrong, where, and what would be valid.

    Args:
        message: One sentence; the middle of a very long one is left out.
        key: What is wrong: an option, a key of a configuration, a field of a file, a path. An attribute, as the others.
        found: What was given or is the case, as the sentence shows it.
        valid: What would be valid or what to do: a description, or the names that exist.
        kind: In which way it is wrong; default: that of the class.
    """

    default_kind: ClassVar[Kind] = "value"

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        found: str | None = None,
        valid: str | tuple[str, ...] | None = None,
        kind: Kind | None = None,
    ) -> None:
        super().__init__(_cut(message))
        self.key, self.found, self.valid, self.kind = key, found, valid, kind or self.default_kind

    @property
    def fields(self) -> dict[str, Any]:
        """The attributes, for an error with another line."""
        return {"key": self.key, "found": self.found, "valid": self.valid, "kind": self.kind}

    @classmethod
    def of(cls, error: UsageError) -> Self:
        """Another error as one of this class."""
        return cls(str(error), **error.fields)

    def within(self, before: str = "", after: str = "") -> UsageError:
        """The same error from who knows more, with that said around its line."""
        return UsageError(f"{before}{self}{after}", **self.fields)


class EnvironmentFaultError(UsageError):
    """An environment returned what none may return: other settings do not help."""

    default_kind = "environment"


class NotFiniteError(UsageError):
    """A network's numbers became NaN or infinite, as where learning has diverged."""

    default_kind = "not_finite"


class RunFailedError(RuntimeError):
    """Something broke that is nobody's input: says what happened and what to do.

    The command line prints its text as a single line and exits with code 1.

    Args:
        message: As for `UsageError`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_cut(message))


def shorten(value: object, longest: int = 60) -> str:
    """A value as an error message shows it: on one line, and cut where it is long.

    Args:
        value: Whatever was found; a text is shown with quotes.
        longest: Letters at most.
    """
    try:
        text = repr(value[: longest + 1] if isinstance(value, str | bytes | list | tuple) else value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        text = f"a {type(value).__name__} that is too large to show"
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def one_line(text: object, longest: int = 300) -> str:
    """What somebody else says, such as an exception, on one line and cut where it is long.

    Args:
        text: An exception without a text gives the name of its type.
        longest: Letters at most.
    """
    return " ".join(str(text).split())[:longest] or type(text).__name__


def as_raised(error: BaseException) -> str:
    """An exception with the name of its type, on one line."""
    return one_line(f"{type(error).__name__}: {error}")


def quoted(path: object) -> str:
    """A path as a shell takes it, for commands that are shown to be repeated."""
    return shlex.quote(str(path))


def _cut(message: str) -> str:
    half = _LONGEST // 2
    message = message if len(message) <= _LONGEST else f"{message[:half]} … {message[-half:]}"
    # What a file or a name brings along must not move the cursor of a terminal.
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in message)


@contextmanager
def trying(do: str, path: object, errors: type[Exception] = OSError, advice: str = "") -> Iterator[None]:
    """A block in which an error of the system or of others becomes `cannot`.

    Args:
        do: As for `cannot`.
        path: As for `cannot`.
        errors: Which; default those of the system. A `UsageError` passes as it is.
        advice: As for `cannot`.
    """
    try:
        yield
    except UsageError:
        raise
    except errors as error:
        raise cannot(do, path, as_raised(error) if errors is Exception else error, advice) from error


def invalid_value(key: str, valid: str, found: object, advice: str = "") -> UsageError:
    """``KEY must be VALID, got FOUND``: a value that a key cannot have; what was found is shown shortened."""
    return _must("value", key, valid, shorten(found), advice)


def mismatch(key: str, valid: object, found: object, advice: str = "") -> UsageError:
    """``KEY must be VALID, got FOUND``: what does not fit something else, such as a shape; shown as it is."""
    return _must("mismatch", key, str(valid), str(found), advice)


def needs(key: str, valid: str, found: object = "", advice: str = "") -> UsageError:
    """``KEY needs VALID, got FOUND``: what asks for something else besides."""
    given = str(found)
    return _error("needs", f"{key} needs {valid}{given and f', got {given}'}", key, given, advice, valid)


def conflict(key: str, other: str, advice: str = "leave one of them out") -> UsageError:
    """``KEY does not go with OTHER``: two things that exclude each other; ``other`` is what was found."""
    return _error("conflict", f"{key} does not go with {other}", key, other, advice)


def missing(key: str, where: object = "", advice: str = "") -> UsageError:
    """``WHERE lacks KEY``, or ``no KEY``: what is not there; where it should be is what was found."""
    return _error("missing", f"{where} lacks {key}" if where else f"no {key}", key, str(where), advice)


def damaged(path: object, reason: object, advice: str = "") -> UsageError:
    """``PATH is damaged (REASON)``: a file that is not as it was written; an exception is a reason, too."""
    found = one_line(reason)
    return _error("damaged", f"{path} is damaged ({found})", path, found, advice)


def cannot(do: str, path: object, reason: object, advice: str = "") -> UsageError:
    """``cannot DO PATH: REASON``: what the system, a library or a service refuses; an exception is a reason, too."""
    found = one_line(getattr(reason, "strerror", None) or reason)
    return _error("failed", f"cannot {do} {path}: {found}", path, found, advice)


def not_installed(key: str, package: str, requirement: str, reason: Exception | None = None) -> UsageError:
    """``KEY needs PACKAGE, which is not installed; run: pip install 'REQUIREMENT' (REASON)``."""
    found, command = as_raised(reason) if reason else "", f"pip install '{requirement}'"
    line = f"{key} needs {package}, which is not installed; run: {command}{found and f' ({found})'}"
    return _error("not_installed", line, key, found or package, "", command)


def wrong(key: object, found: str, advice: str = "", kind: Kind = "value") -> UsageError:
    """``KEY FOUND``: whatever else is wrong, such as ``--seed is given twice``."""
    return _error(kind, f"{key} {found}", key, found, advice)


def unknown_name(kind: str, name: str, valid: Iterable[str], where: str = "", otherwise: str = "") -> UsageError:
    """``unknown KIND NAME in WHERE; HINT``: a name that does not exist.

    Args:
        kind: What the name stands for, such as ``"core"`` or ``"split"``.
        name: The name that was asked for.
        valid: The names that exist.
        where: Where the name was found, such as a file; empty leaves it out.
        otherwise: What to say where no name is near, and there are very many; default: the nearest of them.

    Returns:
        An error that proposes the nearest valid name; when none is near, it lists all, or the nearest of very many. Of
        ``core.units`` only what is in the group ``core`` counts, if there is such a group. The error's ``key`` is where
        the name was found, or else its kind.
    """
    names = sorted(valid)
    whole, name = name, name[:_LONGEST_NAME]  # the nearest of a very long one takes minutes to find
    group = name[: name.rfind(".") + 1]
    inside = [each for each in names if group and each.startswith(group)]
    names, group = (inside, group) if inside else (names, "")
    near = get_close_matches(name.removeprefix(group), [each.removeprefix(group) for each in names], n=1, cutoff=0.5)
    if near:
        hint = f"did you mean {group + near[0]!r}?"
    elif len(names) <= _LISTED_AT_MOST:
        hint = f"valid: {', '.join(names) or 'none'}"
    elif otherwise:
        hint = otherwise
    else:
        hint = f"nearest of {len(names)}: {', '.join(get_close_matches(name, names, n=3, cutoff=0.0))}"
    place = f" in {where}" if where else ""
    shown = shorten(whole, _LONGEST_NAME)
    line = f"unknown {kind} {shown}{place}; {hint}"
    return UsageError(line, key=where or kind, found=shown, valid=tuple(names), kind="name")


def _must(kind: Kind, key: str, valid: str, found: str, advice: str) -> UsageError:
    return _error(kind, f"{key} must be {valid}, got {found}", key, found, advice, valid)


def _error(kind: Kind, line: str, key: object, found: str, advice: str, valid: str = "") -> UsageError:
    line += advice and f"; {advice}"
    return UsageError(line, key=str(key), found=found or None, valid=valid or advice or None, kind=kind)
