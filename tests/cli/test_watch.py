"""``rimrl watch``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import call, files, succeed


def test_watch_films_every_step(run: Path) -> None:
    before = files(run)
    answer = succeed("watch", run, "--episodes", "2", "--quiet")
    file = run / "watch" / "train.gif"
    assert answer.err == ""
    assert f"film: {file}" in answer.out
    with Image.open(file) as film:
        assert f"2 episodes, {film.n_frames} steps" in answer.out  # type: ignore[attr-defined]
    assert {name: content for name, content in files(run).items() if not name.startswith("watch")} == before


def test_options(run: Path, tmp_path: Path) -> None:
    words = ("--split", "all_novel", "--episodes", "1", "--deterministic", "--best", "--seed", "5", "--fps", "20")
    for name in ("one.gif", "again.gif"):
        succeed("watch", run, *words, "--quiet", "--output", tmp_path / "films" / name)
    assert not (run / "watch").exists()
    one, again = (tmp_path / "films" / name for name in ("one.gif", "again.gif"))
    assert one.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--split", "novel_shape"), "'novel_shapes'"),
        (("run", "--episodes", "0"), "at least 1"),
        (("run", "--fps", "0"), "fps.*0"),
        (("run", "--fps", "fast"), "invalid float value"),
        (("run", "--best"), r"best_model\.zip"),
        (("run", "--output", "film.avi"), r"\.gif or \.mp4"),
        (("run", "--output", "run/config.yaml/film.gif"), r"cannot write run/config\.yaml/film\.gif"),
        (("run", "--output", "folder.gif"), "folder"),
        (("nowhere",), "run folder nowhere"),
        ((".",), "run folder"),
        ((), "RUN"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(run: Path, words: tuple[str, ...], said: str) -> None:
    (run / "best_model.zip").unlink()
    Path("folder.gif").mkdir()
    before = files(Path())
    answer = call("watch", *words)
    assert answer.code == 2
    assert answer.out == ""
    assert len(answer.err.splitlines()) == 1
    assert re.search(said, answer.err)
    assert files(Path()) == before


def test_a_damaged_model_leaves_no_folder(run: Path) -> None:
    (run / "model.zip").write_bytes((run / "model.zip").read_bytes()[:1000])
    answer = call("watch", run, "--quiet")
    assert (answer.code, len(answer.err.splitlines())) == (2, 1)
    assert not (run / "watch").exists()
