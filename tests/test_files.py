"""Files take their place whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from rimrl.errors import UsageError
from rimrl.files import replacing, replacing_file
from tests.commands import files


def test_files_take_their_place_together(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with replacing(folder, ["one", "two"]) as partial:
        (partial / "one").write_text("1")
        (partial / "two").write_text("2")
        assert not (folder / "one").exists()
    assert files(folder) == {"one": b"1", "two": b"2"}
    (folder / "mine").write_text("kept")
    with replacing(folder, ["one", "two"]) as partial:
        (partial / "two").write_text("3")
    assert files(folder) == {"mine": b"kept", "two": b"3"}


def test_a_failure_changes_nothing(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "one").write_text("1")

    def fill(folder: Path) -> None:
        with replacing(folder, ["one"]) as partial:
            (partial / "one").write_text("half")
            raise KeyboardInterrupt

    for folder in (old, tmp_path / "new" / "deep"):
        with pytest.raises(KeyboardInterrupt):
            fill(folder)
    assert files(tmp_path) == {"old": None, "old/one": b"1"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot write the folder .*taken"), replacing(tmp_path / "taken" / "x", []):
        pytest.fail("nothing to fill")
    assert files(tmp_path) == {"taken": b"a file"}


@pytest.mark.parametrize("old", [None, "old"])
def test_a_file_takes_its_place_at_the_end(tmp_path: Path, old: str | None) -> None:
    file = tmp_path / "page.html"
    if old is not None:
        file.write_text(old)
    with replacing_file(file) as partial:
        partial.write_text("half")
        assert partial.suffix == ".html"  # by which writers choose a format
        assert (file.read_text() if file.exists() else None) == old
        partial.write_text("whole")
    assert files(tmp_path) == {"page.html": b"whole"}


def test_a_failure_leaves_the_old_file_and_no_new_folder(tmp_path: Path) -> None:
    old, new = tmp_path / "old.html", tmp_path / "a" / "b" / "new.html"
    old.write_text("old")

    def fill(file: Path) -> None:
        with replacing_file(file) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    for file in (old, new):
        with pytest.raises(KeyboardInterrupt):
            fill(file)
    assert files(tmp_path) == {"old.html": b"old"}


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"cannot write .*page.html: No space left"),
        replacing_file(tmp_path / "page.html"),
    ):
        raise OSError(28, "No space left on device")
    assert files(tmp_path) == {}


@pytest.mark.parametrize(("name", "why"), [("folder", "it is a folder"), ("taken/page.html", "taken is a file")])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken").write_text("a file")
    before = files(tmp_path)
    with pytest.raises(UsageError, match=rf"cannot write .*{why}"), replacing_file(tmp_path / name):
        pytest.fail("nothing to fill")
    assert files(tmp_path) == before
