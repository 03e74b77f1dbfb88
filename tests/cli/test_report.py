"""``rimrl report``."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.commands import call, files, read_json, succeed
from tests.reporting.pages import make_runs, parsed


def test_a_page_about_a_real_run(run: Path) -> None:
    before = files(run)
    answer = succeed("report", run)
    assert answer.err == ""
    assert answer.out.splitlines()[-1] == "report: report.html"
    tree = parsed(Path("report.html").read_text(encoding="utf-8"))
    assert answer.out.splitlines()[0] == tree.one(class_="verdict").text
    shown = {
        cell.attributes["data-split"]: float(cell.attributes["data-score"])
        for cell in tree.all("td")
        if "data-split" in cell.attributes
    }
    splits = read_json(run / "evaluation.json")["splits"]
    assert shown == {name: result["success_rate"] for name, result in splits.items()}
    assert files(run) == before


def test_folders_of_runs_are_searched_and_what_was_not_evaluated_is_said(tmp_path: Path) -> None:
    paths = make_runs(tmp_path / "sweep")
    (paths[5] / "evaluation.json").unlink()
    answer = succeed("report", tmp_path / "sweep", "--output", tmp_path / "pages" / "report.html")
    assert [line for line in answer.err.splitlines() if line.startswith("note:") and line.endswith(f": {paths[5]}")]
    tree = parsed((tmp_path / "pages" / "report.html").read_text(encoding="utf-8"))
    assert len(tree.one(aria_label="Scores of every run").all("tr")) == 1 + 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--output", "run"), "write run.*folder"),
        (("run", "--output", "run/config.yaml/report.html"), r"run/config\.yaml is a file"),
        (("run", "other"), "different suites"),
        (("new",), "new.*rimrl evaluate new"),
        (("sweep",), "sweep.*evaluated"),
        (("run", "--suite", "memory"), "rimrl evaluate run --suite memory"),
        (("nowhere",), "run folder nowhere"),
        (("empty",), "run folder"),
        ((), "RUN"),
        (("run", "--foo"), "'--foo'"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(run: Path, words: tuple[str, ...], said: str) -> None:
    for name in ("new", "sweep/new", "other"):
        shutil.copytree(run, name)
    for name in ("new", "sweep/new"):
        (Path(name) / "evaluation.json").unlink()
    other = Path("other/evaluation.json")
    other.write_text(other.read_text().replace('"distractors"', '"memory"'))
    Path("empty").mkdir()
    Path("report.html").write_text("an older page")
    before = files(Path())
    answer = call("report", *words)
    assert answer.code == 2
    assert answer.out == ""
    assert len(answer.err.splitlines()) == 1
    assert re.search(said, answer.err)
    assert files(Path()) == before
