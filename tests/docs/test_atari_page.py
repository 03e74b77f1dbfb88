"""The table of docs/results/atari.md says what the file beside it says."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs/results/atari.md"
SETTINGS: list[dict[str, Any]] = json.loads((PAGE.parent / "atari/pong_search.json").read_text(encoding="utf-8"))[
    "settings"
]


def table_after(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1]
    first = text[text.index("\n|") + 1 :]
    lines = itertools.takewhile(lambda line: line.startswith("|"), first.splitlines())
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_row_has_every_setting_and_score() -> None:
    head, _, *table = table_after("## The search for settings")
    steps = [str(int(float(cell.removesuffix("M")) * 1_000_000)) for cell in head if cell.endswith("M")]
    assert {step for entry in SETTINGS for step in entry["returns"]} == set(steps)
    assert len(table) == len(SETTINGS)
    for cells, entry in zip(table, SETTINGS, strict=True):
        said = dict(zip(head, cells, strict=True))
        assert said["core"] == f"`{entry['core']}`"
        assert said["active"] == str(entry.get("num_active", ""))
        assert said["initialisation"].strip("`") == entry.get("initialization", "")
        assert (said["normalised"] == "yes") is entry["normalize_observations"]
        for name, key in {"learning rate": "learning_rate", "minibatch": "batch_size", "entropy": "ent_coef"}.items():
            assert float(said[name]) == entry[key]
        assert float(said["falls to 0 at"].removesuffix("M")) * 1_000_000 == entry["schedule"]
        assert said["seed"] == str(entry["seed"])
        scores = [cell for name, cell in said.items() if name.endswith("M")]
        assert scores == [f"{entry['returns'][step]:.1f}" if step in entry["returns"] else "" for step in steps]


COMPARED: dict[str, Any] = json.loads((PAGE.parent / "atari/pong.json").read_text(encoding="utf-8"))["groups"]


def test_scores_of_all_seeds() -> None:
    head, _, *table = table_after("## Five seeds")
    assert [cell for cell in head if cell.isdigit()] == ["2", "3", "4", "5", "6"]
    assert [row[:2] for row in table] == [
        [f"`{core}`", split] for core in ("rim", "lstm") for split in ("train", "sticky")
    ]
    for core, split, *cells in table:
        group = COMPARED[core.strip("`")]
        assert [run["seed"] for run in group["runs"]] == [2, 3, 4, 5, 6]
        assert {run["num_timesteps"] for run in group["runs"]} == {2_000_896}
        scores = [f"{run['scores'][split]:.1f}" for run in group["runs"]]
        mean = group["splits"][split]
        assert cells == [*scores, f"{mean['value']:.1f} [{mean['low']:.1f}, {mean['high']:.1f}]"]


def test_scores_and_curves_of_other_cores() -> None:
    curves = json.loads((PAGE.parent / "atari/pong_curves.json").read_text(encoding="utf-8"))
    head, _, *table = table_after("### Other cores")
    steps = [str(int(float(cell.removesuffix("M")) * 1_000_000)) for cell in head if cell.endswith("M")]
    assert len(steps) == 3
    expected = []
    for core, group in COMPARED.items():
        for run in [] if core in ("rim", "lstm") else group["runs"]:
            values = [run["scores"]["train"], run["scores"]["sticky"]]
            values += [curves[core][str(run["seed"])][step] for step in steps]
            expected.append([f"`{core}`", str(run["seed"]), *(f"{value:.1f}" for value in values)])
    assert sorted(table) == sorted(expected)


def test_scores_of_the_trained_agent_are_those_of_the_table() -> None:
    table = (PAGE.parents[1] / "pretrained.md").read_text(encoding="utf-8")
    (row,) = [line for line in table.splitlines() if line.startswith("| `atari-small/pong/rim`")]
    train, sticky = re.findall(r"(?:train|sticky) (\S+ \[.+?\])", row)
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"scores {train} in Pong as it was trained and {sticky} with sticky actions" in text


def test_scores_and_curves_on_flickering_screens() -> None:
    measured = json.loads((PAGE.parent / "atari/flicker.json").read_text(encoding="utf-8"))
    head, _, *table = table_after("## Flickering screens")
    cores = [cell.strip("`") for cell in head[2:]]
    assert cores == list(measured)
    runs = [measured[core]["2"] for core in cores]
    assert [row[0].strip("`") for row in table] == list(runs[0]["scores"])
    for split, _, *cells in table:
        scores = [run["scores"][split.strip("`")] for run in runs]
        assert cells == [f"{score['mean']:.1f} [{score['low']:.1f}, {score['high']:.1f}]" for score in scores]
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    most = max(score["wins"] for core in ("rim", "lstm") for score in measured[core]["2"]["scores"].values())
    assert f"The RIM and the LSTM win at most {most} of 30 games" in text
    assert measured["gru"]["2"]["scores"]["train"]["wins"] == 30
    assert "it wins all of 30 games as trained" in text
    curves = {row[0].strip("`"): row[1:] for row in table_after("The last 100 training games average:")[2:]}
    for core, run in zip(cores, runs, strict=True):
        steps = ("500000", "1000000", "1500000", "2000000")
        assert curves[core] == [f"{run['curve'][step]:.1f}" for step in steps]
