"""How much was searched before the runs of a report: read from folders of ``rimrl tune``, and matched with groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rimrl.errors import UsageError, damaged, mismatch, missing, shorten
from rimrl.reading import read_json
from rimrl.reporting.groups import Group
from rimrl.runs.added import with_added
from rimrl.runs.config import dotted
from rimrl.runs.validated import DamagedError, Fields
from rimrl.runs.yaml_files import read_yaml

STATES = ("complete", "pruned", "diverged", "unfit")
_RESULT, _ASKED = "tuning.json", "tuning.yaml"
_SWEEP = "sweep.yaml"
# Runs of a search lie in trial_000/seed_0, those of a sweep in core=rim/seed_0 or seed_0.
_LEVELS = 3
# What a trial and a run of its configuration have in common; `train` says how long, how often and with which seed.
_GROUPS = ("env.", "core.", "agent.")
_MOST_TRIALS = 10_000
_LONGEST = 4096


@dataclass(frozen=True)
class Search:
    """A search.

    Attributes:
        folder: Where it is.
        trials: How many have ended.
        states: How many of them ended in each of `STATES`.
        steps: Environment steps of all of them together.
        space: What was searched of each key, in words.
        settings: What every trial has, by dotted keys: the environment, the core and the agent, without what was
            searched.
        values: What complete trials tried, by their numbers.
        best: Number of the best; None if none is complete.
    """

    folder: Path
    trials: int
    states: Mapping[str, int]
    steps: int
    space: Mapping[str, str]
    settings: Mapping[str, Any]
    values: Mapping[int, Mapping[str, Any]]
    best: int | None

    @property
    def effort(self) -> str:
        """Trials and steps, in words."""
        states = ", ".join(f"{self.states[state]} {state}" for state in STATES if self.states[state])
        return f"{self.trials} trials{f' ({states})' if states else ''}, {self.steps:,} steps"

    def difference(self, config: Mapping[str, Any]) -> str | None:
        """The first key in which a run's configuration is not that of a trial; None if it is, but for the values."""
        theirs = _settings(config)
        for key in dict.fromkeys([*self.settings, *theirs]):
            if key not in self.space and not _same(self.settings.get(key), theirs.get(key)):
                return key
        return None

    def trial_of(self, config: Mapping[str, Any]) -> int | None:
        """The number of the complete trial whose values a run has; None if there is none."""
        theirs = _settings(config)
        numbers = sorted(self.values, key=lambda number: (number != self.best, number))
        fits = (n for n in numbers if all(_same(value, theirs.get(key)) for key, value in self.values[n].items()))
        return None if self.difference(config) is not None else next(fits, None)


@dataclass(frozen=True)
class Searched:
    """A group of runs and the search that its configuration comes from.

    Attributes:
        group: The runs.
        search: The search; None if none is known.
        trial: Number of the trial that has their values.
    """

    group: Group
    search: Search | None = None
    trial: int | None = None

    @property
    def taken(self) -> str:
        """Which trial it is, in words."""
        if self.search is None or self.trial is None:
            return "–"
        return f"{self.trial}, the best" if self.trial == self.search.best else f"{self.trial}, not the best"

    @property
    def is_another(self) -> bool:
        """Whether the runs have the values of a trial that is not the best, and are none of the search's own."""
        if self.search is None or self.trial == self.search.best:
            return False
        return not self.group.runs[0].path.resolve().is_relative_to(self.search.folder.resolve())


def searched(groups: Sequence[Group], folders: Sequence[Path] = ()) -> list[Searched]:
    """Which search each group's configuration comes from.

    Args:
        groups: What is reported.
        folders: Those of searches that the user names. Besides, runs that lie in the folder of a search name it, and so
            do those of a sweep whose configuration is its ``best.yaml``.

    Returns:
        One entry for each group; empty where no search is known of any.

    Raises:
        UsageError: If a folder that the user names holds no search, is damaged, or has no trial with the configuration
            of any group.
    """
    asked = [read_search(folder) for folder in folders]
    found = [_of_group(group, [*asked, *_named_by(group)]) for group in groups]
    for search in asked:
        if all(each.search is not search for each in found):
            raise _unmatched(search, groups)
    return found if any(each.search for each in found) else []


def remarks(found: Sequence[Searched]) -> Iterator[str]:
    """What a reader should know of the effort, a sentence each."""
    known = {each.group.label: each.search for each in found if each.search is not None}
    unknown = [each.group.label for each in found if each.search is None]
    if known and unknown:
        yield f"a search is known for {', '.join(known)}, and none for {', '.join(unknown)}"
    if len({(search.trials, search.steps) for search in known.values()}) > 1:
        efforts = "; ".join(f"{label}: {search.effort}" for label, search in known.items())
        yield f"configurations were searched with different effort ({efforts})"
    others = [each.group.label for each in found if each.is_another]
    if others:
        yield f"the values of {', '.join(others)} are those of a trial that is not the best of its search"


def read_search(folder: Path) -> Search:
    """Read the folder of a search.

    Raises:
        UsageError: If it holds none, or its files are damaged.
    """
    if not (folder / _RESULT).is_file():
        raise missing(_RESULT, folder, "give a folder of rimrl tune, which holds a search")
    result, asked = read_json(folder / _RESULT, follow=False), read_yaml(folder / _ASKED, follow=False)
    try:
        return _read(folder, Fields(result, "tuning"), Fields(asked, "tuning"))
    except DamagedError as error:
        raise damaged(f"the search in {folder}", error, f"run rimrl tune {folder} again") from None


def _read(folder: Path, result: Fields, asked: Fields) -> Search:
    effort, space, experiment = result.nested("search"), asked.nested("space"), asked.raw("experiment")
    if not isinstance(experiment, dict):
        raise DamagedError("tuning.experiment is no JSON object")
    values = {}
    for trial in result.objects("trials")[:_MOST_TRIALS]:
        if trial.has("result") and trial.raw("result") == "complete":
            tried = trial.nested("values")
            values[trial.integer("number")] = {key: tried.raw(key) for key in tried.names()}
    return Search(
        folder,
        effort.integer("trials"),
        {state: effort.integer(state) for state in STATES},
        effort.integer("steps"),
        {key: space.text(key, _LONGEST) for key in space.names()},
        _settings(with_added(experiment)),
        values,
        result.nested("best").integer("number") if "best" in result else None,
    )


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in dotted(config) if str(key).startswith(_GROUPS)}


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same: choices of a search are words, and what is off may be missing."""
    if isinstance(one, str) and not isinstance(other, str):
        try:
            one = yaml.safe_load(one)
        except (yaml.YAMLError, ValueError):
            return False
    off = (None, False)
    return one == other or (one in off and other in off)


def _of_group(group: Group, searches: Sequence[Search]) -> Searched:
    for search in searches:
        trial = search.trial_of(group.runs[0].config)
        if trial is not None:
            return Searched(group, search, trial)
    return Searched(group)


def _named_by(group: Group) -> Iterator[Search]:
    """Searches that the first run of a group lies in, or that the sweep around it names, as far as they can be read."""
    for above in group.runs[0].path.resolve().parents[:_LEVELS]:
        for folder in (above, _of_sweep(above)):
            if folder is not None and (folder / _RESULT).is_file():
                try:
                    yield read_search(folder)
                except UsageError:  # nobody has asked for it
                    continue


def _of_sweep(folder: Path) -> Path | None:
    """The folder of the configuration that a sweep repeats; None if there is no sweep, or it repeats a shipped one."""
    file = folder / _SWEEP
    try:
        content = read_yaml(file, follow=False) if file.is_file() else None
    except UsageError:
        return None
    config = content.get("config") if isinstance(content, dict) else None
    return Path(config).parent if isinstance(config, str) and config.endswith("best.yaml") else None


def _unmatched(search: Search, groups: Sequence[Group]) -> UsageError:
    beginning = f"no run here has the configuration of a complete trial of {search.folder}"
    for group in groups:
        key = search.difference(group.runs[0].config)
        if key is None:
            keys = ", ".join(search.space)
            return UsageError(f"{beginning}: {group.label} has other values of {keys}", key=keys, kind="mismatch")
    key, theirs = search.difference(groups[0].runs[0].config), _settings(groups[0].runs[0].config)
    assert key is not None
    has, had = shorten(theirs.get(key)), shorten(search.settings.get(key))
    return mismatch(key, f"{had}, as in the search", f"{has} for {groups[0].label}").within(f"{beginning}: ")
