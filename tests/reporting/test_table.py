"""The table: every cell is a figure of a file, in its row and column."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from rimrl.reporting.results import RunResults, read_runs
from rimrl.reporting.table import comparison_table
from tests.commands import read_json
from tests.reporting.results import results, split


def rows(*runs: RunResults) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table as printed around its rule; cells have at least two spaces between them."""
    out = StringIO()
    Console(file=out, width=500).print(comparison_table(list(runs)))
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.getvalue().splitlines()]
    (rule,) = (number for number, cells in enumerate(lines) if cells and set(cells[0]) == {"─"})
    return lines[rule - 1], [cells for cells in lines[rule + 1 :] if cells]


def test_figures_stand_where_they_belong(tmp_path: Path) -> None:
    random: dict[str, Any] = {"random_return_mean": 0.06, "random_success_rate": 0.1}
    rim = results(tmp_path / "rim", {"train": split(**random), "new": split(True, success_rate=1, return_mean=0.875)})
    lstm = results(tmp_path / "lstm", {"train": split(episodes=30), "more": split(True)}, "distractors/lstm")
    header, body = rows(rim, lstm)
    assert header == ["split", "episodes", "random", "rim", "lstm"]
    assert body == [
        ["train", "20/30", "0.10 (0.06)", "0.25 (0.12)", "0.25 (0.12)"],
        ["new (held out)", "20", "-", "1.00 (0.88)", "-"],
        ["more (held out)", "20", "-", "-", "0.25 (0.12)"],
    ]


def test_without_success_the_return_stands_alone(tmp_path: Path) -> None:
    run = results(tmp_path / "run", {"train": split(success_rate=None, return_mean=-123.456)})
    header, body = rows(run)
    assert header == ["split", "episodes", "rim"]
    assert body == [["train", "20", "-123.46"]]


def test_the_title_names_what_the_cells_hold(tmp_path: Path) -> None:
    with_success = results(tmp_path / "a", {"train": split()})
    without = results(tmp_path / "b", {"train": split(success_rate=None)})
    assert comparison_table([with_success]).title == "distractors: success rate (mean return)"
    assert comparison_table([without]).title == "distractors: mean return"


def test_the_random_policy_comes_from_the_first_run_that_played_it(tmp_path: Path) -> None:
    without = results(tmp_path / "a", {"train": split()}, "a")
    first = results(tmp_path / "b", {"train": split(random_return_mean=0.1, random_success_rate=0.2)}, "b")
    second = results(tmp_path / "c", {"train": split(random_return_mean=0.3, random_success_rate=0.4)}, "c")
    assert rows(without, first, second)[1][0][2] == "0.20 (0.10)"


def test_a_real_evaluation(trained: Path) -> None:
    header, body = rows(*read_runs([trained]))
    assert header == ["split", "episodes", "random", "rim"]
    splits = read_json(trained / "evaluation.json")["splits"]
    assert len(body) == len(splits)
    for (name, result), row in zip(splits.items(), body, strict=True):
        assert row == [
            f"{name} (held out)" if result["held_out"] else name,
            str(result["episodes"]),
            f"{result['random_success_rate']:.2f} ({result['random_return_mean']:.2f})",
            f"{result['success_rate']:.2f} ({result['return_mean']:.2f})",
        ]


def test_a_narrow_terminal_cuts_no_figure(tmp_path: Path) -> None:
    runs = [results(tmp_path / f"{k}", {"train": split()}, f"a/a_rather_long_name_{k}") for k in range(6)]
    out = StringIO()
    Console(file=out, width=70).print(comparison_table(runs))
    assert "…" not in out.getvalue()
