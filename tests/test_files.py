"""Files take their place whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rimrl.errors import UsageError
from rimrl.files import appending, locked, replacing, replacing_file, write_text, write_together
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
    with pytest.raises(UsageError, match=r"folder .*taken"), replacing(tmp_path / "taken" / "x", []):
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


def test_names_of_temporary_files_cannot_be_guessed(tmp_path: Path) -> None:
    names = set()
    for _ in range(20):
        with replacing_file(tmp_path / "page.html") as partial:
            names.add(partial.name)
            assert partial.stat().st_size == 0
    assert len(names) == 20


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "page.html").symlink_to(tmp_path / "mine")
    write_text(tmp_path / "page.html", "page", tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "page.html").is_symlink()


@pytest.mark.parametrize("name", ["link/file", "link/deep/file", "deep/../link/file"])
def test_a_link_below_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    for folder in (outside / "deep", inside / "deep"):
        folder.mkdir(parents=True)
    (inside / "link").symlink_to(outside)
    before = files(outside)
    for write in (
        lambda: write_text(inside / name, "new", inside),
        lambda: appending(inside / name, inside),
        lambda: replacing((inside / name).parent, ["file"], inside).__enter__(),
    ):
        with pytest.raises(UsageError, match="is a link"):
            write()
    assert files(outside) == before


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "scratch")
    write_text(tmp_path / "run" / "deep" / "file", "new", tmp_path / "run")
    assert files(tmp_path / "scratch") == {"deep": None, "deep/file": b"new"}


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_logs_and_locks_are_files_of_their_own(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "log"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError):
        appending(place)
    with pytest.raises(UsageError), locked(place, "taken"):
        pytest.fail("it is no file")
    assert not (tmp_path / "elsewhere").exists()


def test_files_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("old")
    (tmp_path / "two").mkdir()
    with pytest.raises(UsageError, match=r"two.*folder"):
        write_together({tmp_path / "one": "new", tmp_path / "two": "new"})
    assert files(tmp_path) == {"one": b"old", "two": None}
    write_together({tmp_path / "one": "new", tmp_path / "three": "new"})
    assert files(tmp_path) == {"one": b"new", "two": None, "three": b"new"}


def test_new_files_have_the_permissions_of_any_file(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode
