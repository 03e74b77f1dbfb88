"""Each row of the CSV is a number of the JSON, and each number of the JSON is a row."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from rimrl.reporting.csv_table import COLUMNS, csv_table
from tests.commands import read_json
from tests.reporting.test_comparison import RATES, compared, write

_OVER_SPLITS = (
    "held_out_interquartile_mean",
    "held_out_mean",
    "held_out_median",
    "optimality_gap",
    "generalisation_gap",
    "probability_of_improvement",
    "held_out_difference",
)


def expected(saved: dict[str, Any]) -> set[tuple[Any, ...]]:
    """Group, measure, split, seed, run, value, low and high of every number in the JSON."""
    found: set[tuple[Any, ...]] = set()
    for split, value in saved["random"].items():
        found.add(("random", "random", split, "", "", value, None, None))
    for label, group in saved["groups"].items():
        for run in group["runs"]:
            for split, score in run["scores"].items():
                found.add((label, "score", split, str(run["seed"]), run["path"], score, None, None))
        estimates = [(name, "", group[name]) for name in _OVER_SPLITS]
        estimates += [("interquartile_mean", split, each) for split, each in group["splits"].items()]
        estimates += [("difference", split, each) for split, each in group["differences"].items()]
        for name, split, each in estimates:
            if each is not None:
                found.add((label, name, split, "", "", each["value"], each["low"], each["high"]))
    return found


def read(text: str) -> list[tuple[Any, ...]]:
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == COLUMNS

    def number(cell: str) -> float | None:
        return float(cell) if cell else None

    return [
        (*(row[name] for name in COLUMNS[:5]), float(row["value"]), number(row["low"]), number(row["high"]))
        for row in rows
    ]


def test_rows_are_the_numbers_of_the_json(tmp_path: Path) -> None:
    paths = [*write(tmp_path, "rim", RATES), *write(tmp_path, "lstm", RATES[:3] - 0.25)]
    evaluation = read_json(paths[0] / "evaluation.json")
    evaluation["splits"]["new"]["random_success_rate"] = 0.125
    (paths[0] / "evaluation.json").write_text(json.dumps(evaluation))
    comparison = compared(*paths)
    (tmp_path / "numbers.json").write_text(comparison.json_text())
    saved = read_json(tmp_path / "numbers.json")
    assert saved["random"] == {"new": 0.125}
    rows = read(csv_table(comparison))
    assert len(rows) == len(set(rows))
    assert set(rows) == expected(saved)
    assert len(rows) == 1 + 4 * 3 + 3 * 3 + 2 * (3 + 5) + 3 + 2


def test_single_runs_have_no_bounds(tmp_path: Path) -> None:
    rows = read(csv_table(compared(*write(tmp_path, "rim", RATES[:1]))))
    assert {row[6:] for row in rows} == {(None, None)}
    assert {row[5] for row in rows if row[1:3] == ("score", "new")} == {0.7}


def test_any_label_is_read_back(tmp_path: Path) -> None:
    label = 'a "quoted", split; label'
    paths = write(tmp_path, "rim", RATES[:2])
    for path in paths:
        evaluation = read_json(path / "evaluation.json")
        (path / "evaluation.json").write_text(json.dumps(evaluation | {"config": label}))
    assert {row[0] for row in read(csv_table(compared(*paths)))} == {label}


def test_chance_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    paths = write(tmp_path, "rim", RATES[:2])
    evaluation = read_json(paths[0] / "evaluation.json")
    evaluation["splits"]["new"]["random_success_rate"] = float("nan")
    evaluation["splits"]["more"]["random_success_rate"] = 0.5
    (paths[0] / "evaluation.json").write_text(json.dumps(evaluation))
    comparison = compared(*paths)
    assert comparison.random == {"more": 0.5}
    assert not any(np.isnan(row[5]) for row in read(csv_table(comparison)))
