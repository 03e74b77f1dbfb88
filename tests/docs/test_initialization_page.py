"""The tables of docs/results/initialization.md say what the files beside them say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rimrl.cores.initialization import SMALL, STARTS
from rimrl.cores.registry import core_options

PAGE = Path(__file__).resolve().parents[2] / "docs/results/initialization.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("suite", ["distractors", "recall"])
def test_runs_are_those_of_the_file(suite: str) -> None:
    groups: dict[str, Any] = json.loads((PAGE.parent / f"initialization/{suite}.json").read_text())["groups"]
    table = TEXT.partition(f"[{suite}.json]")[2]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| ([\d., ]+) \| (\S+ \[.+\]) \|$", table, re.MULTILINE)[: len(groups)]
    assert {f"{core} (core.initialization={start})" for core, start, *_ in rows} == set(groups)
    for core, start, runs, mean in rows:
        group = groups[f"{core} (core.initialization={start})"]
        assert runs.split(", ") == [f"{run['scores']['train']:.2f}" for run in group["runs"]]
        estimate = group["splits"]["train"]
        assert mean == f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def test_names_mean_what_the_page_says() -> None:
    rows = re.findall(r"^\| `(\w+)`( \(default\))? \| (\S+) \| (\S+) \| (\S+) \| (\w+) units? \|$", TEXT, re.MULTILINE)
    assert [row[0] for row in rows] == list(STARTS)
    for name, default, *scales, bound in rows:
        start = STARTS[name]
        found = [None if scale == "Xavier" else float(scale) for scale in scales]
        assert found == [start.scores, start.values, start.communication]
        assert (bound == "all") == start.whole_width
        assert bool(default) == (core_options("rim")["initialization"].default == name)
    assert SMALL == 0.01
