"""The commands of docs/sequence-tasks.md are ones that rimrl takes, and its tables say what is configured."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from rimrl.sequence.ablations import ABLATIONS
from rimrl.sequence.config_files import load_sequence, shipped_presets
from rimrl.sequence.registry import TASKS
from tests.commands import succeed

PAGE = (Path(__file__).resolve().parents[2] / "docs/sequence-tasks.md").read_text(encoding="utf-8")
LOOPS = {
    "$seed": ["0", "1", "2"],
    "${core}": ["lstm", "gru", "rim", "riglstm", "rmc"],
    "$core": ["lstm", "gru", "rim", "riglstm", "rmc"],
    "$mechanism": ["cell_selection", "input_selection", "hidden_selection", "soft_update"],
}


def commands() -> list[str]:
    lines = re.findall(r"^ {4,}(rimrl sequence (?!lesion|--).+)$", PAGE, re.MULTILINE)
    assert len(lines) > 15
    return lines


@pytest.mark.parametrize("line", commands())
def test_a_command_is_taken(line: str) -> None:
    expanded = [line]
    for name, values in LOOPS.items():
        expanded = [each.replace(name, value) for each in expanded for value in (values if name in each else [""])]
    for each in expanded:
        answer = succeed(*shlex.split(each)[1:], "--print-config")
        assert yaml.safe_load(answer.out)["task"]["name"] in TASKS


def test_loops_of_the_page_are_those_that_are_tested() -> None:
    written = dict(re.findall(r"^ +for (\w+) in (.+); do$", PAGE, re.MULTILINE))
    assert {f"${name}": values.split() for name, values in written.items()} == {
        name: values for name, values in LOOPS.items() if "{" not in name
    }


def table(heading: str) -> list[list[str]]:
    """Cells of the rows below a table's heading."""
    rows = PAGE.partition(heading)[2].partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if not row.startswith("|---")]


def numbers(text: str) -> list[float]:
    return [float(each.replace(" ", "")) for each in re.findall(r"(?<![\dx])\d[\d ]*(?:e-\d)?(?![\dx])", text)]


@pytest.mark.parametrize("row", table("| task | `cpu`: width"), ids=lambda row: row[0])
def test_sizes_of_the_presets(row: list[str]) -> None:
    task = row[0].strip("`")
    cpu, paper = load_sequence(task, "lstm", "cpu"), load_sequence(task, "lstm", "paper")
    for config, cell in ((cpu, row[1]), (paper, row[2])):
        said = numbers(re.sub(r"\([^)]*\)", "", cell))
        expected = [config.core.options["hidden_size"], config.train.num_updates, config.train.batch_size]
        assert said[:3] == expected
    assert numbers(re.sub(r"\([^)]*\)", "", row[2]))[3] == paper.train.learning_rate


def test_every_task_ablation_and_preset_is_on_the_page() -> None:
    assert [row[0] for row in table("| task | what goes in ")] == [f"`{name}`" for name in TASKS]
    listed = table("| `--ablation` |")
    assert {row[0].strip("`"): tuple(row[1].split(", ")) for row in listed} == {
        name: ablation.cores for name, ablation in ABLATIONS.items()
    }
    assert len(shipped_presets()) == 2 * len(TASKS)
