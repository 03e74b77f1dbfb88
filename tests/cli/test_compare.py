"""``rimrl compare`` writes what it was asked for, whole, under the names and in the order that were asked for."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import pytest

from tests.commands import call, files, read_json, succeed
from tests.reporting.test_comparison import RATES, write

FIGURES = ("learning_curves", "final_scores", "performance_profile")


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``runs/lstm0`` to 2 and ``runs/rim0`` to 3 in the working directory."""
    monkeypatch.chdir(tmp_path)
    write(Path("runs"), "rim", RATES)
    write(Path("runs"), "lstm", RATES[:3] - 0.25)


def test_every_file_has_the_chosen_names_in_the_chosen_order() -> None:
    words = ("--label", "rim=RIM (ours)", "--label", "runs/lstm1=LSTM", "--order", "rim,LSTM", "--reference", "lstm")
    outputs = ("--json", "out/a.json", "--csv", "out/a.csv", "--latex", "out/a.tex", "--plot", "out/a.svg")
    answer = succeed("compare", "runs", *words, *outputs, "--figures", "figures", "--format", "svg")
    saved = read_json(Path("out/a.json"))
    assert list(saved["groups"]) == ["RIM (ours)", "LSTM"]
    assert saved["reference"] == "LSTM"
    with Path("out/a.csv").open(newline="") as file:
        assert list(dict.fromkeys(row["group"] for row in csv.DictReader(file))) == ["RIM (ours)", "LSTM"]
    assert " & RIM (ours) & LSTM \\\\" in Path("out/a.tex").read_text()
    assert answer.out.index("RIM (ours)") < answer.out.index("LSTM")
    drawn = [f"figures/{name}.svg" for name in FIGURES]
    assert sorted(map(str, Path("figures").iterdir())) == sorted(drawn)
    for name in ("out/a.json", "out/a.csv", "out/a.tex", "out/a.svg", *drawn):
        assert name in answer.out
    assert sorted(map(str, Path("out").iterdir())) == ["out/a.csv", "out/a.json", "out/a.svg", "out/a.tex"]


def test_the_first_column_is_the_reference() -> None:
    succeed("compare", "runs", "--json", "a.json")
    succeed("compare", "runs", "--order", "rim", "--json", "b.json")
    a, b = read_json(Path("a.json")), read_json(Path("b.json"))
    assert (a["reference"], b["reference"]) == ("lstm", "rim")
    assert list(b["groups"]) == ["rim", "lstm"]
    for name in ("lstm", "rim"):  # what is said of one group alone does not depend on its place
        assert a["groups"][name]["splits"] == b["groups"][name]["splits"]
        assert a["groups"][name]["generalisation_gap"] == b["groups"][name]["generalisation_gap"]


def test_figures_are_pdf_and_those_of_another_format_stay() -> None:
    succeed("compare", "runs", "--figures", "figures", "--format", "png")
    Path("figures/held_out_curves.pdf").write_bytes(b"of runs that had them")
    succeed("compare", "runs", "--figures", "figures")
    names = {path.name for path in Path("figures").iterdir()}
    assert names == {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "pdf")}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--csv", "x.json"), r"--csv.*CSV.*x\.json"),
        (("--latex", "x.csv"), r"--latex.*LaTeX.*x\.csv"),
        (("--json", "x.csv"), r"--json.*JSON.*x\.csv"),
        (("--csv", "x"), r"ends in \.csv"),
        (("--csv", "runs"), "write runs.*folder"),
        (("--csv", "runs/rim0/config.yaml/x.csv"), r"runs/rim0/config\.yaml is a file"),
        (("--latex", "pipe.tex"), r"pipe\.tex"),
        (("--plot", "x.docx"), r"x\.docx"),
        (("--figures", "runs/rim0/config.yaml"), r"runs/rim0/config\.yaml is a file"),
        (("--figures", "taken"), r"taken/final_scores\.pdf.*folder"),
        (("--figures", "new", "--format", "docx"), "invalid choice: 'docx'"),
        (("--format", "svg"), "--figures DIR"),
        (("--label", "rim"), "RUN_OR_GROUP=NAME"),
        (("--label", "rim=two\nlines"), "RUN_OR_GROUP=NAME"),
    ],
)
def test_what_could_not_be_written_is_refused_before_any_run_is_read(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo("pipe.tex")
    Path("taken/final_scores.pdf").mkdir(parents=True)
    monkeypatch.setattr("rimrl.cli.compare.read_comparison", lambda *_, **__: pytest.fail("a run was read"))
    before = sorted(str(path) for path in Path().rglob("*"))
    answer = call("compare", "runs", "--json", "good.json", "--csv", "good.csv", *words)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert re.search(said, answer.err)
    assert sorted(str(path) for path in Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--label", "rmi=RIM"), r"'rmi'.*'rim'\?"),
        (("--label", "runs=RIM"), "several columns"),
        (("--label", "rim=lstm"), "columns.*called 'lstm'"),
        (("--order", "rim,gru"), "unknown group 'gru'"),
        (("--order", "rim,rim"), "twice"),
        (("--reference", "gru"), "unknown group 'gru'"),
    ],
)
def test_columns_that_are_not_there_leave_nothing(words: tuple[str, ...], said: str) -> None:
    before = files(Path())
    outputs = ("--json", "a.json", "--csv", "a.csv", "--latex", "a.tex", "--figures", "figures", "--plot", "a.png")
    answer = call("compare", "runs", *outputs, *words)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert re.search(said, answer.err)
    assert files(Path()) == before


def test_a_table_that_cannot_be_made_leaves_the_old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails on the way to the last file leaves the first ones as they were."""
    outputs = ("--json", "a.json", "--csv", "a.csv", "--latex", "a.tex")
    succeed("compare", "runs", *outputs)
    before = files(Path())

    def fails(*_: object) -> str:
        raise MemoryError("out of memory")

    monkeypatch.setattr("rimrl.reporting.latex.latex_table", fails)
    assert call("compare", "runs", *outputs, "--label", "rim=RIM").code == 1
    assert files(Path()) == before


def test_figures_that_fail_leave_the_old_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    succeed("compare", "runs", "--figures", "figures")
    before = files(Path())

    def fails(*_: object) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr("rimrl.reporting.figures._profile", fails)
    assert call("compare", "runs", "--figures", "figures", "--label", "rim=RIM").code == 1
    assert files(Path()) == before


def test_help_says_how_columns_are_named() -> None:
    said = " ".join(succeed("compare", "--help").out.split())
    for word in ("RUN_OR_GROUP=NAME", "rim (core.num_active=3)", "--csv FILE", "--latex FILE", "--figures DIR"):
        assert word in said
