"""The tables of docs/results/generalisation.md say what the files beside them say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rimrl.envs.suites import get_suite

PAGE = Path(__file__).resolve().parents[2] / "docs/results/generalisation.md"
FILES = ("distractors", "multiroom", "multiroom_a2c", "memory")


def tables() -> list[dict[str, list[str]]]:
    """Every table of the page: cells by the name in the first column."""
    found: list[dict[str, list[str]]] = []
    before = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| core |"):
            found.append({"core": cells[1:]})
        elif line.startswith("| `") and before.startswith("|"):
            found[-1][cells[0].strip("`")] = cells[1:]
        before = line
    return found


def printed(estimate: dict[str, float] | None) -> str:
    return "-" if estimate is None else f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


@pytest.mark.parametrize(("name", "table"), list(zip(FILES, tables(), strict=True)))
def test_tables_are_those_of_the_files(name: str, table: dict[str, list[str]]) -> None:
    results: dict[str, Any] = json.loads((PAGE.parent / f"generalisation/{name}.json").read_text(encoding="utf-8"))
    splits = [*results["trained"], *results["held_out"]]
    assert table.pop("core")[: len(splits)] == [split.replace("_", " ") for split in splits]
    assert table.keys() == results["groups"].keys()
    for core, cells in table.items():
        group = results["groups"][core]
        expected = [group["splits"][split] for split in splits]
        expected += [group["held_out_interquartile_mean"], group["generalisation_gap"]]
        expected.append(group.get("probability_of_improvement"))
        assert cells == [printed(each) for each in expected], core


@pytest.mark.parametrize(("name", "memoryless"), [("distractors", 0.96), ("multiroom", 1.0), ("memory", None)])
def test_suites_that_hardly_ask_for_memory_say_so(name: str, memoryless: float | None) -> None:
    results: dict[str, Any] = json.loads((PAGE.parent / f"generalisation/{name}.json").read_text(encoding="utf-8"))
    trained = {core: group["splits"]["train"]["value"] for core, group in results["groups"].items()}
    assert (trained["feedforward"] > max(trained.values()) - 0.1) == (memoryless is not None)
    assert get_suite(name).memoryless == memoryless
    assert memoryless is None or f"{memoryless:.2f}" == f"{trained['feedforward']:.2f}"


@pytest.mark.parametrize("name", FILES)
def test_every_core_has_five_runs_of_the_same_length(name: str) -> None:
    results: dict[str, Any] = json.loads((PAGE.parent / f"generalisation/{name}.json").read_text(encoding="utf-8"))
    runs = {core: group["runs"] for core, group in results["groups"].items()}
    assert {core: [run["seed"] for run in each] for core, each in runs.items()} == {
        core: [0, 1, 2, 3, 4] for core in runs
    }
    assert len({run["num_timesteps"] for each in runs.values() for run in each}) == 1
