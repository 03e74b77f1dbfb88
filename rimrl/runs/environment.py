"""Reading ``environment.json``: how a run ended, what it ran on, and the configuration that it was trained with.

What is not as it was written counts as not recorded: nothing but messages and decisions to go on hangs on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from rimrl.errors import UsageError, mismatch, shorten
from rimrl.reading import MEGABYTE, read_json
from rimrl.runs.config import dotted
from rimrl.runs.kinds import AGENT, KINDS, Kind

FILE = "environment.json"
Status = Literal["running", "interrupted", "failed", "finished"]
_TEXTS = ("time", "python", "commit", "system", "processor", "core_backend", "ended_early")
_INTEGERS = {**{kind.reached: 2**53 for kind in KINDS.values()}, "processes": 2**16, "cpu_count": 2**20}
_LONGEST = 500
_MOST_NOTES = 1000
_OF_THE_MACHINE = frozenset({"train.device", "train.num_threads", "env.backend"})
"""Keys that whoever plays a run on another machine may change in its ``config.yaml``."""


def run_facts(run: Path) -> dict[str, Any]:
    """What ``environment.json`` of a run says, as far as it is there and of the right kind.

    Args:
        run: The run folder.

    Returns:
        ``status``, ``num_timesteps`` or ``num_updates``, ``processes``, ``time``, ``versions``, ``resumed`` and the
        rest of what `rimrl.runs.folder.RunFolder.set_status` writes.
    """
    try:
        found = read_json(run / FILE, MEGABYTE, follow=False)
    except UsageError:
        return {}
    if not isinstance(found, dict):
        return {}
    facts: dict[str, Any] = {}
    if found.get("status") in get_args(Status):
        facts["status"] = found["status"]
    for name, most in _INTEGERS.items():
        value = found.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
            facts[name] = value
    facts |= {name: found[name] for name in _TEXTS if _is_short(found.get(name))}
    versions, resumed = found.get("versions"), found.get("resumed")
    if isinstance(versions, Mapping):
        facts["versions"] = {name: value for name, value in versions.items() if _is_short(name) and _is_short(value)}
    if isinstance(found.get("config"), dict):
        facts["config"] = found["config"]
    if isinstance(resumed, list):
        facts["resumed"] = [note for note in resumed[-_MOST_NOTES:] if isinstance(note, dict)]
    return facts


def refuse_edited(run: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration that is not the one with which a run was trained: it would describe another agent.

    Args:
        run: The run folder. Folders of earlier versions do not say how they were trained, and are taken as they are.
        config: Content of its ``config.yaml``.

    Raises:
        UsageError: Names the first key that differs; keys of the machine may.
    """
    recorded = run_facts(run).get("config")
    if recorded is None:
        return
    trained, now = dict(dotted(_as_json(recorded))), dict(dotted(_as_json(config)))
    for key in dict.fromkeys([*trained, *now]):
        if trained.get(key) != now.get(key) and key not in _OF_THE_MACHINE:
            raise mismatch(
                f"{key} in {run / 'config.yaml'}",
                f"{shorten(trained.get(key))}, as trained",
                shorten(now.get(key)),
                "put that back",
            )


def _as_json(config: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(config, default=str))


def run_status(run: Path) -> Status | None:
    """How far the run in a folder is; None if that cannot be read."""
    return run_facts(run).get("status")


def run_reached(run: Path, kind: Kind) -> int | None:
    """How many steps or updates a run has had; None where that is not known."""
    facts = run_facts(run)
    return facts.get(kind.reached, facts.get(AGENT.reached))  # under which earlier versions noted updates


def run_processes(run: Path) -> int:
    """How many processes train, or trained, in a run folder; 1 where that is not known."""
    return max(1, int(run_facts(run).get("processes", 1)))


def _is_short(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST
