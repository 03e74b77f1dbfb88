"""The LaTeX table holds the numbers of the JSON, and prints any name as it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rimrl.reporting.latex import escaped, latex_table
from tests.commands import read_json
from tests.reporting.test_comparison import RATES, compared, write

_COMMANDS = {
    "textbackslash": "\\",
    "textasciitilde": "~",
    "textasciicircum": "^",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "char34": '"',
}


def printed(text: str) -> str:
    """What TeX makes of a text, which must be balanced and of known commands."""
    out, depth, i = "", 0, 0
    while i < len(text):
        letter = text[i]
        if letter == "\\":
            command = re.match(r"\\(?:(char34|[a-zA-Z]+)(\{\})?|([#$%&_{}]))", text[i:])
            assert command is not None, text[i:]
            if command[1]:
                assert command[2] == "{}", text[i:]  # or it would swallow the space behind it
                out += _COMMANDS[command[1]]
            else:
                out += command[3]
            i += len(command[0])
            continue
        assert letter not in '#$%&_^~"', text  # special, and not escaped
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
        out += "" if letter in "{}" else letter
        i += 1
    assert depth == 0
    return out


@pytest.mark.parametrize(
    "text",
    ["plain", "100 % & more", r"a\b{c}", "x_1^2 ~ $y$ #3", "[start", "*star", '"q" <t> |u|', "a--b---c----d", "é → 東"],
)
def test_any_text_is_printed_as_it_is(text: str) -> None:
    found = escaped(text)
    assert printed(found) == text
    assert "--" not in found  # a ligature
    assert not found.startswith(("[", "*"))  # an option of the end of the row above


def test_lines_of_names_cannot_end_a_row_or_a_comment() -> None:
    assert escaped("a\nb\tc\u2028d") == "a b c d"


def table(text: str) -> dict[str, list[str]]:
    """Rows by their names, in order; checks the frame."""
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    opening = re.fullmatch(r"\\begin\{tabular\}\{(l(r+))\}", lines[0])
    assert opening is not None
    assert lines[-1] == r"\end{tabular}"
    inside = [line.strip() for line in lines[1:-1]]
    assert inside[0] == r"\toprule"
    assert inside[-1] == r"\bottomrule"
    rows: dict[str, list[str]] = {}
    for line in inside[1:-1]:
        if line == r"\midrule":
            continue
        assert line.endswith(r" \\")
        cells = [cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\"))]
        assert len(cells) == len(opening[1])
        rows[printed(cells[0])] = cells[1:]
    return rows


def cell(estimate: dict[str, Any] | None) -> str:
    """An estimate of the JSON as the table should write it."""
    if estimate is None:
        return "--"
    value, low, high = (f"{estimate[name]:.2f}".replace("-", "$-$") for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def test_cells_are_the_numbers_of_the_json(tmp_path: Path) -> None:
    paths = [*write(tmp_path, "rim", RATES), *write(tmp_path, "lstm", RATES[:3] - 0.25)]
    evaluation = read_json(paths[0] / "evaluation.json")
    evaluation["splits"]["new"]["random_success_rate"] = 0.125
    (paths[0] / "evaluation.json").write_text(json.dumps(evaluation))
    comparison = compared(*paths)
    (tmp_path / "numbers.json").write_text(comparison.json_text())
    groups = read_json(tmp_path / "numbers.json")["groups"]
    rows = table(latex_table(comparison))

    def of(name: str) -> list[str]:
        return [cell(group[name]) for group in groups.values()]

    assert rows == {
        "split": ["random", "rim", "lstm"],
        "train": ["--", *(cell(group["splits"]["train"]) for group in groups.values())],
        "new (held out)": ["0.12", *(cell(group["splits"]["new"]) for group in groups.values())],
        "more (held out)": ["--", *(cell(group["splits"]["more"]) for group in groups.values())],
        "held-out splits together": ["", *of("held_out_interquartile_mean")],
        "mean of these": ["", *of("held_out_mean")],
        "generalisation gap": ["", *of("generalisation_gap")],
        "difference": ["", *of("held_out_difference")],
        "probability of improvement": ["", *of("probability_of_improvement")],
        "runs": ["", "4", "3"],
    }
    assert "$-$" in rows["difference"][2]


def test_comments_say_what_the_numbers_need(tmp_path: Path) -> None:
    text = latex_table(compared(*write(tmp_path, "rim", RATES), *write(tmp_path, "lstm", RATES[:1])))
    comments = [line for line in text.splitlines() if line.startswith("%")]
    assert r"\usepackage{booktabs}" in comments[0]
    assert any("lstm has 1 run" in line for line in comments)


def test_small_losses_keep_their_exponents(tmp_path: Path) -> None:
    losses = np.array([[0.1, 0.00001234], [0.1, 0.00001234]])
    paths = write(tmp_path, "rim", losses, "mse")
    for path in paths:
        text = (path / "evaluation.json").read_text()
        (path / "evaluation.json").write_text(text.replace('"return_mean"', '"other"'))
    (number,) = table_of_losses(latex_table(compared(*paths)))
    assert number.startswith(r"$1.2 \times 10^{-5}$")


def table_of_losses(text: str) -> list[str]:
    return [line.split("&")[1].strip() for line in text.splitlines() if line.strip().startswith("new (held out)")]


def test_names_of_runs_are_escaped_everywhere(tmp_path: Path) -> None:
    paths = write(tmp_path, "rim", RATES[:2])
    for path in paths:
        evaluation = read_json(path / "evaluation.json")
        splits = {f"{name}_50% \\end{{tabular}}": each for name, each in evaluation["splits"].items()}
        (path / "evaluation.json").write_text(json.dumps(evaluation | {"config": "[x]\n& $y", "splits": splits}))
    text = latex_table(compared(*paths))
    rows = table(text)
    assert [printed(name) for name in rows["split"]] == ["[x] & $y"]
    assert "new_50% \\end{tabular} (held out)" in rows
    assert text.count("\\end{tabular}") == 1
