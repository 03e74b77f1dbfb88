"""The tables of docs/results/sequence-tasks.md say what the files beside them say."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.commands import succeed

PAGE = Path(__file__).resolve().parents[2] / "docs/results/sequence-tasks.md"


LOOPS = {"$seed": "0", "$core": "rim", "${part}": "cell"}


def commands() -> list[str]:
    """What the page says to train with, its variables filled in."""
    text = PAGE.read_text(encoding="utf-8")
    variables = LOOPS | {f"${name}": value for name, value in re.findall(r'^ {4}([A-Z]+)="(.+)"$', text, re.MULTILINE)}
    lines = re.findall(r"^ {4,}(rimrl sequence (?!lesion)[^#\n]+)", text, re.MULTILINE)
    for name, value in variables.items():
        lines = [line.replace(name, value) for line in lines]
    return lines


@pytest.mark.parametrize("line", commands())
def test_a_command_is_taken(line: str) -> None:
    assert "$" not in line
    succeed(*shlex.split(line)[1:], "--print-config")


def groups(name: str) -> dict[str, list[dict[str, Any]]]:
    """Runs of each group of a file."""
    results = json.loads((PAGE.parent / f"sequence-tasks/{name}.json").read_text(encoding="utf-8"))
    return {label: group["runs"] for label, group in results["groups"].items()}


def rows(head: str) -> list[list[str]]:
    """Cells of the table below that head."""
    lines = PAGE.read_text(encoding="utf-8").partition(f"\n{head}\n")[2].splitlines()[1:]
    end = next(number for number, line in enumerate([*lines, ""]) if not line.startswith("|"))
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines[:end]]


def printed(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}".replace("e-0", "e-")


@pytest.mark.parametrize(
    ("name", "head", "splits"),
    [
        (
            "copying",
            "| run | what differs | seed | updates | 50 blanks | 200 blanks | 800 blanks |",
            ("50_blanks", "200_blanks", "800_blanks"),
        ),
        (
            "copying_more",
            "| run | what differs | seed | updates | 50 blanks | 200 blanks | tested on 800 blanks |",
            ("50_blanks", "200_blanks", "800_blanks"),
        ),
        (
            "adding_more",
            "| run | what differs | seed | updates | 50 steps | 200 steps |",
            ("50_steps", "200_steps"),
        ),
        (
            "adding_longer",
            "| run | what differs | seed | updates | 50 steps | tested on 200 steps |",
            ("50_steps", "200_steps"),
        ),
        (
            "copying_50",
            "| run | what differs | seed | updates | 50 blanks | 200 blanks |",
            ("50_blanks", "200_blanks"),
        ),
    ],
)
def test_a_table_lists_every_run(name: str, head: str, splits: tuple[str, ...]) -> None:
    shown = {row[0]: row[2:] for row in rows(head)}
    expected = {
        Path(run["path"]).name: [
            str(run["seed"]),
            f"{run.get('num_updates', run.get('num_timesteps')):,}".replace(",", " "),  # older files' name
            *(printed(run["scores"][split]) for split in splits),
        ]
        for runs in groups(name).values()
        for run in runs
    }
    assert shown == expected


@pytest.mark.parametrize("row", rows("| core | 50 steps | 200 steps |"), ids=lambda row: row[0])
def test_adding_shows_median_and_worst_of_five_seeds(row: list[str]) -> None:
    core, *cells = row
    runs = groups("adding")[core]
    assert [run["seed"] for run in runs] == [0, 1, 2, 3, 4]
    assert {run["num_timesteps"] for run in runs} == {4000}
    for cell, split in zip(cells, ("50_steps", "200_steps"), strict=True):
        errors = [run["scores"][split] for run in runs]
        assert cell == f"{printed(median(errors))} ({printed(max(errors))})"


def test_adding_shows_every_core() -> None:
    assert {row[0] for row in rows("| core | 50 steps | 200 steps |")} == groups("adding").keys()


def test_adding_says_how_probable_it_is_that_soft_updating_helps() -> None:
    results = json.loads((PAGE.parent / "sequence-tasks/adding_soft_update.json").read_text(encoding="utf-8"))
    better = results["groups"]["riglstm_no_soft_update"]["probability_of_improvement"]
    interval = f"{better['value']:.2f} [{better['low']:.3f}, {better['high']:.3f}]"
    assert interval in " ".join(PAGE.read_text(encoding="utf-8").split())


RESOLUTIONS = ("14x14", "16x16", "19x19", "24x24")
MNIST_HEAD = "| core | 14x14 | 16x16 | 19x19 | 24x24 | papers at 16x16, 19x19, 24x24 |"


def test_mnist_shows_every_run() -> None:
    shown = {row[0]: row[1:5] for row in rows(MNIST_HEAD)}
    expected = {
        core: [f"{100 * run['scores'][split]:.1f}" for split in RESOLUTIONS] for core, (run,) in groups("mnist").items()
    }
    assert shown == expected


BALLS = ("4_balls", "6-8_balls", "4_balls_curtain")


def test_balls_shows_every_run() -> None:
    shown = {(row[0], row[1]): row[2:] for row in rows("| core | seed | 4 balls | 6 to 8 | 4 and a curtain |")}
    expected = {
        (core, str(run["seed"])): [f"{run['scores'][split]:.0f}" for split in BALLS]
        for core, runs in groups("balls").items()
        for run in runs
    }
    assert shown == expected


def test_copying_says_what_gtrxl_reaches() -> None:
    ((run,),) = groups("copying_gtrxl").values()
    short, long = (printed(run["scores"][split]) for split in ("50_blanks", "200_blanks"))
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"after {run['num_updates']} it ends at {short} with 50 blanks and at {long} with 200" in text


def test_balls_say_what_scoff_reaches() -> None:
    scores = [[f"{run['scores'][split]:.0f}" for split in BALLS] for run in groups("balls_scoff")["scoff"]]
    four, more, curtain = (", ".join(column) for column in zip(*scores, strict=True))
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"{four} with 4 balls, {more} with 6 to 8, and {curtain} behind the curtain" in text


def test_text_shows_every_run() -> None:
    shown = {row[0]: row[1:] for row in rows("| core | trained on | held out |")}
    for core, (run,) in groups("text").items():
        assert shown[core] == [f"{run['scores'][split]:.2f}" for split in ("train", "test")]
