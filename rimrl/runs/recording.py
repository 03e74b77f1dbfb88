"""What units did step by step, as ``rimrl inspect`` keeps it, for agents and sequence tasks alike.

recording.npz     one row a step: what was done, what came of it, and the core's trace
inspection.json   what was played, and the means over steps that the pictures show

Letters: S steps of all episodes together; N units and M input elements as in `rimrl.cores.base`.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rimrl.errors import damaged, one_line
from rimrl.reading import UnreadableError, read_bytes, read_json
from rimrl.runs.kinds import Kind, upgraded_facts
from rimrl.runs.validated import DamagedError, Fields
from rimrl.usage import collapse, mutual_information, worst_share

RECORDING_FILES = ("recording.npz", "inspection.json")
LARGEST_ARRAYS = 2**33
_ON_REQUEST = frozenset({"state_h", "state_c", "critic_state_h", "critic_state_c", "observation", "value"})
_MOST_ARRAYS = 1000
_MOST_UNITS = 4096
_LONGEST_TEXT = 1000


@dataclass(frozen=True)
class Recording:
    """What an agent and its units did, step by step.

    Attributes:
        facts: What was played, and means over steps: the content of ``inspection.json``.
        arrays: ``episode``, ``step`` (within the episode), ``fresh`` (the memory was empty: an episode's first step, or
            an Atari agent's first step of a life), ``action`` (for discrete actions the index of its name) and
            ``reward``, each ``[S, ...]``; ``event`` ``[S]`` where the environment reports any, ``""`` in steps without
            one; ``active`` ``[S, N]``; where the core has them ``input_attention`` ``[S, N, 1 + M]`` and
            ``communication_attention`` ``[S, N, N]``, as in `rimrl.cores.base.CoreTrace`.

            On request also, for L layers of width H in the core: ``state_h`` and ``state_c`` ``[S, L, H]``, the actor's
            memory after each step; ``critic_state_h`` and ``critic_state_c``, the same of a critic's own core;
            ``observation`` ``[S, ...]``, or ``observation.KEY`` for each part of a Dict, what the agent was shown
            before it acted; ``value`` ``[S]``, what the critic expected then.
    """

    facts: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    def save(self, folder: Path) -> None:
        """Write `RECORDING_FILES` into a folder."""
        np.savez_compressed(folder / "recording.npz", **self.arrays)  # type: ignore[arg-type]
        text = json.dumps(self.facts, indent=2, ensure_ascii=False)
        (folder / "inspection.json").write_text(text + "\n", encoding="utf-8")


def read_recording(folder: Path, largest: int = LARGEST_ARRAYS) -> Recording:
    """Read what `Recording.save` wrote.

    Args:
        folder: Holds `RECORDING_FILES`.
        largest: As for `read_npz`.

    Raises:
        UsageError: If a file is missing, is something else, or the two do not belong together; names what is wrong.
    """
    facts = read_json(folder / "inspection.json", follow=False)
    arrays = read_npz(folder / "recording.npz", largest)
    try:
        facts, kind = upgraded_facts(facts, "inspection")
        _check_recording(Fields(facts, "inspection"), arrays, kind)
    except DamagedError as error:
        raise UnreadableError.of(damaged(folder / "inspection.json", error)) from None
    return Recording(facts, arrays)


def read_npz(file: Path, largest: int = LARGEST_ARRAYS) -> dict[str, NDArray[Any]]:
    """Arrays of an ``.npz`` file, whose content takes no more memory than it says it does.

    Args:
        file: The file.
        largest: Bytes that all arrays may have together.

    Raises:
        UnreadableError: If it cannot be read, or holds something else than arrays of numbers and texts.
    """
    content = read_bytes(file, largest, follow=False)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
        if len(entries) > _MOST_ARRAYS or sum(entry.file_size for entry in entries) > largest:
            raise ValueError("it unpacks to far more than an inspection has")
        with np.load(io.BytesIO(content)) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # a damaged archive fails in every way
        raise UnreadableError.of(damaged(file, one_line(error, 120))) from None


def _check_recording(facts: Fields, arrays: Mapping[str, NDArray[Any]], kind: Kind) -> None:
    """Refuse what pictures could not be made of."""
    S, N = facts.integer("steps", 1, 2**31), facts.integer("units", 1, _MOST_UNITS)
    facts.integer(kind.reached, 0, 2**53)
    for name in ("split", "core"):
        facts.text(name, _LONGEST_TEXT)
    for name, length in (("titles", 2), ("action_names", None)):
        if name in facts:
            facts.texts(name, length)
    if sum(_check_episode(episode) for episode in facts.objects(kind.trials)) != S:
        raise DamagedError(f"its {kind.trials} and its steps do not belong together")
    _check_measures(facts, S, N)
    _check_arrays(arrays, S, N)
    for name in ("input_attention", "communication_attention"):
        if name in arrays:
            for row in facts.items(f"{name}_mean", N):
                if row is not None or name == "input_attention":  # a unit that was never active listened to nobody
                    Fields({"row": row}, f"inspection.{name}_mean").numbers("row", arrays[name].shape[2])


def _check_measures(facts: Fields, S: int, N: int) -> None:
    for name in ("collapse", "worst_share"):
        if name in facts:
            facts.number(name)
    if "mutual_information" in facts:
        bits = facts.nested("mutual_information")
        for name in bits.names():
            bits.number(name)
    occasions = facts.objects("active_frequency")
    for occasion in occasions:
        occasion.text("kind", _LONGEST_TEXT)
        occasion.text("when", _LONGEST_TEXT)
        if occasion.integer("steps", 0, S):
            occasion.numbers("units", N)
    if not occasions or occasions[0].integer("steps", 0, S) != S:
        raise DamagedError("inspection.active_frequency does not begin with all steps")


def _check_episode(episode: Fields) -> int:
    episode.number("return")
    if episode.raw("success") is not None:
        episode.switch("success")
    episode.switch("out_of_time")
    for name in ("task", "measure"):
        if name in episode:
            episode.text(name, _LONGEST_TEXT)
    episode.raw("task")
    return episode.integer("length", 1, 2**31)


def _check_arrays(arrays: Mapping[str, NDArray[Any]], S: int, N: int) -> None:
    # A sequence task has several inputs at once where an agent has one action.
    if "action" in arrays and arrays["action"].shape[:1] != (S,):
        raise DamagedError("the files do not belong together")
    for name, shape in (("active", (S, N)), ("reward", (S,)), ("action", None)):
        if name not in arrays:
            raise DamagedError(f"recording.npz lacks {name!r}")
        if shape not in (None, arrays[name].shape) or arrays[name].dtype.kind not in "biuf":
            raise _foreign(name, arrays[name])
    for name in ("input_attention", "communication_attention"):
        array = arrays.get(name)
        if array is None:
            continue
        fits = array.ndim == 3 and array.shape[:2] == (S, N) and array.dtype.kind == "f" and array.shape[2] >= 1
        if not fits or (name.startswith("communication") and array.shape[2] != N):
            raise _foreign(name, array)
    for name, array in arrays.items():
        on_request = name.partition(".")[0] in _ON_REQUEST
        if on_request and (array.shape[:1] != (S,) or array.dtype.kind not in "biuf"):
            raise _foreign(name, array)
    if arrays["active"].dtype.kind != "b":
        raise DamagedError(f"active in recording.npz is {arrays['active'].dtype}, not true or false")
    if not all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f"):
        raise DamagedError("recording.npz holds numbers that are not finite")


def _foreign(name: str, array: NDArray[Any]) -> DamagedError:
    return DamagedError(f"the files do not belong together: {name} in recording.npz is {array.dtype} {array.shape}")


def means_over_steps(
    arrays: Mapping[str, NDArray[Any]],
    units_per_layer: Sequence[int],
    action_names: Sequence[str] | None,
    phase_names: Sequence[str] = (),
    episode: str = "an episode",
    outcomes: tuple[str, str] = ("reward above zero", "reward below zero"),
) -> dict[str, Any]:
    """How often each unit is active, and when; how evenly units are used; where their attention goes.

    Args:
        arrays: Those of a `Recording`, with ``phase`` where phases are named.
        units_per_layer: As `rimrl.cores.base.RecurrentCore` has it.
        action_names: Names of what ``action`` counts.
        phase_names: Names of what ``phase`` counts.
        episode: What steps without a break are called.
        outcomes: What ``reward`` above and below zero is called.
    """
    active = arrays["active"]
    # Where all units start from the same state the first step is decided by a tie, and would colour the actions.
    later = ~arrays["fresh"]
    occasions = [
        ("all", "all steps", np.ones(len(active), dtype=bool)),
        ("first", f"first step of {episode}", ~later),
        ("later", "all later steps", later),
    ]
    occasions += [("phase", name, arrays["phase"] == i) for i, name in enumerate(phase_names)]
    if action_names is not None:
        occasions += [("action", name, later & (arrays["action"] == i)) for i, name in enumerate(action_names)]
    occasions += [
        ("reward", outcomes[0], later & (arrays["reward"] > 0)),
        ("reward", outcomes[1], later & (arrays["reward"] < 0)),
    ]
    return {
        "active_frequency": [
            {"kind": kind, "when": when, "steps": int(chosen.sum()), "units": _mean(active[chosen])}
            for kind, when, chosen in occasions
        ],
        **_usage(arrays, units_per_layer, action_names is not None),
        "input_attention_mean": _mean(arrays["input_attention"]) if "input_attention" in arrays else None,
        "communication_attention_mean": (
            [_mean(arrays["communication_attention"][active[:, n], n]) for n in range(active.shape[1])]
            if "communication_attention" in arrays
            else None
        ),
    }


def _usage(arrays: Mapping[str, NDArray[Any]], layers: Sequence[int], named_actions: bool) -> dict[str, Any]:
    """The measures of `rimrl.usage`; None for a core without units."""
    active = arrays["active"]
    if active.shape[1] == 1:
        return {"collapse": None, "worst_share": None, "mutual_information": None}
    frequencies = active.mean(axis=0)
    fresh = arrays["fresh"]
    # As among the frequencies, actions and rewards are looked at where the choice of units is not decided by a tie.
    events = {"action": (arrays["action"], ~fresh)} if named_actions else {}
    events |= {"reward": (np.sign(arrays["reward"]), ~fresh), "first_step": (fresh, fresh | True)}
    events |= {name: (arrays[name], fresh | True) for name in ("phase", "event") if name in arrays}
    return {
        "collapse": collapse(frequencies, layers),
        "worst_share": worst_share(frequencies, layers),
        "mutual_information": {
            name: mutual_information(active[chosen], event[chosen], layers)
            for name, (event, chosen) in events.items()
            if chosen.any()
        },
    }


def _mean(rows: NDArray[Any]) -> list[Any] | None:
    """Mean over the first axis as plain lists; None over no rows."""
    mean: list[Any] | None = rows.mean(axis=0, dtype=np.float64).tolist() if len(rows) else None
    return mean
