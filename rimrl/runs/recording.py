"""What units did step by step, as ``rimrl inspect`` keeps it, for agents and diagnostics alike.

recording.npz     one row a step: what was done, what came of it, and the core's trace
inspection.json   what was played, and the means over steps that the pictures show

Letters: S steps of all episodes together; N units and M input elements as in `rimrl.cores.base`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rimrl.usage import collapse, mutual_information, worst_share

RECORDING_FILES = ("recording.npz", "inspection.json")


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
    """

    facts: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    def save(self, folder: Path) -> None:
        """Write `RECORDING_FILES` into a folder."""
        np.savez_compressed(folder / "recording.npz", **self.arrays)  # type: ignore[arg-type]
        text = json.dumps(self.facts, indent=2, ensure_ascii=False)
        (folder / "inspection.json").write_text(text + "\n", encoding="utf-8")


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
