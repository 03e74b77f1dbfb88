"""The exceptions that the command line prints as one line.

`UsageError` means that the caller asked for something that does not exist or does not fit, and exits with code 2;
Python code sees a `ValueError`. `RunFailedError` means that a run broke, and exits with code 1.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from difflib import get_close_matches

_LISTED_AT_MOST = 20
_LONGEST = 4000
_LONGEST_NAME = 200


class UsageError(ValueError):
    """Bad input from the user: says what is wrong, where, and what would be valid.

    Args:
        message: One sentence; the middle of a very long one is left out.
        key: What was given wrongly: an option, a key of a configuration, a field of a file.
        found: What was given, as the sentence shows it.
        valid: What would be valid: a description, or the names that exist.

    Attributes:
        key: As given, or None. Errors from `invalid_value` and `unknown_name` have all three.
        found: As given, or None.
        valid: As given, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        found: str | None = None,
        valid: str | tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(_cut(message))
        self.key, self.found, self.valid = key, found, valid


class EnvironmentFaultError(UsageError):
    """An environment returned what none may return: other settings do not help."""


class NotFiniteError(UsageError):
    """A network's numbers became NaN or infinite, as where learning has diverged."""


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


def quoted(path: object) -> str:
    """A path as a shell takes it, for commands that are shown to be repeated."""
    return shlex.quote(str(path))


def _cut(message: str) -> str:
    half = _LONGEST // 2
    message = message if len(message) <= _LONGEST else f"{message[:half]} … {message[-half:]}"
    # What a file or a name brings along must not move the cursor of a terminal.
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in message)


def invalid_value(key: str, valid: str, found: object) -> UsageError:
    """Build the error for a value that a key cannot have.

    Args:
        key: What has the value, such as ``"agent.n_epochs"``.
        valid: What it must be, such as ``"at least 1"``.
        found: The value that was given; the error shows it shortened.
    """
    shown = shorten(found)
    return UsageError(f"{key} must be {valid}, got {shown}", key=key, found=shown, valid=valid)


def unknown_name(kind: str, name: str, valid: Iterable[str], where: str = "", otherwise: str = "") -> UsageError:
    """Build the error for a name that does not exist.

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
    names = inside or names
    rests = {each[len(group) :] if inside else each: each for each in names}
    near = [rests[rest] for rest in get_close_matches(name[len(group) :] if inside else name, rests, n=1, cutoff=0.5)]
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif len(names) <= _LISTED_AT_MOST:
        hint = f"valid: {', '.join(names) or 'none'}"
    elif otherwise:
        hint = otherwise
    else:
        hint = f"nearest of {len(names)}: {', '.join(get_close_matches(name, names, n=3, cutoff=0.0))}"
    place = f" in {where}" if where else ""
    shown = shorten(whole, _LONGEST_NAME)
    return UsageError(f"unknown {kind} {shown}{place}; {hint}", key=where or kind, found=shown, valid=tuple(names))
