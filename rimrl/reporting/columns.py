"""Which columns a comparison has: what they are called, and which comes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rimrl.errors import UsageError, invalid_value, shorten, unknown_name, wrong
from rimrl.reporting.groups import Group

_LONGEST_NAME = 200


def check_label(word: str) -> None:
    """Refuse what cannot be a label, before any run is read.

    Args:
        word: ``RUN_OR_GROUP=NAME``.

    Raises:
        UsageError: If there is no ``=``, nothing on one of its sides, or a letter that no file can show.
    """
    column, _, name = (part.strip() for part in word.rpartition("="))
    if not column or not name or not word.isprintable():
        raise invalid_value("--label", "RUN_OR_GROUP=NAME on one line, such as rim=RIM", word)


def arranged(groups: Sequence[Group], labels: Sequence[str] = (), order: str | None = None) -> list[Group]:
    """Groups with other names and in another order.

    A group is found by its label, by one of its run folders, or by a folder whose runs are all its own.

    Args:
        groups: As `rimrl.reporting.groups.group_runs` makes them.
        labels: ``RUN_OR_GROUP=NAME`` each. Labels may hold ``=`` themselves: the longest part before one of them that
            names a group counts.
        order: Groups that come first, with commas between them, by their old names or by those of `labels`; the others
            follow as they are. Default: all stay where they are.

    Returns:
        The groups.

    Raises:
        UsageError: If a group is not found or found twice, or two would be called alike.
    """
    names: dict[str, str] = {}
    for word in labels:
        old, name = _labelled(groups, word)
        if names.setdefault(old, name) != name:
            raise wrong("--label", f"calls {old!r} both {names[old]!r} and {name!r}", kind="conflict")
    renamed = [replace(group, label=names.get(group.label, group.label)) for group in groups]
    for i, group in enumerate(renamed):
        if any(other.label == group.label for other in renamed[:i]):
            raise wrong(
                "two columns",
                f"would be called {shorten(group.label)}",
                "give --label another NAME for one",
                "conflict",
            )
    if order is None:
        return renamed
    first = _ordered(groups, renamed, order)
    return [*first, *(group for group in renamed if group not in first)]


def find_column(renamed: Sequence[Group], groups: Sequence[Group], name: str) -> Group:
    """A group by its new label, its old one, or a folder of its runs.

    Args:
        renamed: What `arranged` made of `groups`.
        groups: The same groups under their old labels, in any order.
        name: What it is called.

    Raises:
        UsageError: If there is none.
    """
    found = _column(renamed, groups, name)
    if found is None:
        raise _unknown(name, renamed)
    return found


def _labelled(groups: Sequence[Group], word: str) -> tuple[str, str]:
    """The old label of the group that a new one is for, and the new one."""
    check_label(word)
    parts = word.split("=")
    for end in range(len(parts) - 1, 0, -1):
        column, name = "=".join(parts[:end]).strip(), "=".join(parts[end:]).strip()
        group = _find(groups, column)
        if group is None or not name:
            continue
        if name.startswith("_") or len(name) > _LONGEST_NAME:  # a legend leaves out what begins so
            raise invalid_value("a NAME of --label", f"at most {_LONGEST_NAME} letters and not begin with '_'", name)
        return group.label, name
    raise _unknown(word.rpartition("=")[0].strip(), groups)


def _ordered(groups: Sequence[Group], renamed: Sequence[Group], order: str) -> list[Group]:
    """The groups that come first."""
    first: list[Group] = []
    pieces = order.split(",")
    while pieces:
        for end in range(len(pieces), 0, -1):  # labels may hold commas, too
            group = _column(renamed, groups, ",".join(pieces[:end]).strip())
            if group is not None:
                break
        else:
            raise _unknown(pieces[0].strip(), renamed)
        if group in first:
            raise wrong("--order", f"names {shorten(group.label)} twice")
        first.append(group)
        pieces = pieces[end:]
    return first


def _column(renamed: Sequence[Group], groups: Sequence[Group], name: str) -> Group | None:
    found = _by_label(renamed, name)
    if found is not None:
        return found
    old = _find(groups, name)
    return None if old is None else next(group for group in renamed if group.runs is old.runs)


def _find(groups: Sequence[Group], name: str) -> Group | None:
    """The group that is called so, or that runs of this folder are of.

    Raises:
        UsageError: If the folder holds runs of several groups.
    """
    named = _by_label(groups, name)
    if named is not None or not name:
        return named
    folder = Path(name).resolve() if "\0" not in name else None
    below = [
        group
        for group in groups
        if any(folder in (run.path.resolve(), *run.path.resolve().parents) for run in group.runs)
    ]
    if len(below) > 1:
        listed = ", ".join(group.label for group in below)
        raise wrong(shorten(name), f"holds runs of several columns ({listed})", "name one of them")
    return below[0] if below else None


def _by_label(groups: Sequence[Group], name: str) -> Group | None:
    return next((group for group in groups if group.label == name), None)


def _unknown(name: str, groups: Sequence[Group]) -> UsageError:
    return unknown_name("group", name, [group.label for group in groups])
