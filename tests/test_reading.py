"""Nothing is read but regular files, and of them no more than they may hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rimrl.errors import RunFailedError, UsageError, shorten
from rimrl.reading import MissingError, UnreadableError, parse_json, read_bytes, read_json, read_rows, read_text
from rimrl.runs.yaml_files import read_yaml

READERS: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda file: read_bytes(file, 1000),
    "text": lambda file: read_text(file, 1000),
    "json": lambda file: read_json(file, 1000),
    "rows": lambda file: read_rows(file, 1000),
    "yaml": lambda file: read_yaml(file, most=1000),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_no_file_is_refused_at_once(read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"1" * 1001)
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "large", "folder", "loop", "device", "missing", "n" * 300, "a\0b", "large/deep"):
        with pytest.raises(UnreadableError) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_links_are_followed_where_they_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("[1]")
    (tmp_path / "link").symlink_to("file")
    assert read_json(tmp_path / "link") == [1]
    for read in (read_json, read_text, read_rows, read_yaml):
        with pytest.raises(UnreadableError, match="is a link"):
            read(tmp_path / "link", follow=False)
    with pytest.raises(MissingError):
        read_json(tmp_path / "none", follow=False)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1,]", "{} {}", "9" * 101, "-" + "9" * 200, "1" + "0" * 400, "[" * 65 + "]" * 65, "[" * 10**6),
        '{"a":' * 66 + "1" + "}" * 66,
    ],
    ids=range(10),
)
def test_json_out_of_bounds(text: str) -> None:
    for content in (text, text.encode()):
        with pytest.raises(UnreadableError) as caught:
            parse_json(content, "it")
        assert len(str(caught.value)) < 300


def test_json_within_bounds() -> None:
    value = {"a": [1, 2.5, None, True, "x"], "b": {"c": 2**128}}
    assert parse_json(json.dumps(value), "it") == value
    assert parse_json("9" * 100, "it") == int("9" * 100)
    assert parse_json("[" * 64 + "]" * 64, "it")
    assert parse_json("[Infinity]", "it") == [float("inf")]
    with pytest.raises(UnreadableError, match="Infinity"):
        parse_json("[Infinity]", "it", strict=True)
    with pytest.raises(UnreadableError, match="lists and objects"):
        parse_json("[" + "[]," * 2_000_001 + "1]", "it")


def test_yaml_counts_what_aliases_stand_for(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: &a [1, 2]\nb: &b {x: *a, y: *a}\nc: {<<: *b, z: 3}\n")
    assert read_yaml(file) == {"a": [1, 2], "b": {"x": [1, 2], "y": [1, 2]}, "c": {"x": [1, 2], "y": [1, 2], "z": 3}}
    file.write_text("a: &a [1, 2]\nb: [" + ", ".join(["*a"] * 10) + "]\n")
    assert len(read_yaml(file, most_values=50)["b"]) == 10
    with pytest.raises(UsageError, match="more than 30 values"):
        read_yaml(file, most_values=30)


def test_long_values_are_cut() -> None:
    assert shorten("short") == "'short'"
    assert shorten("line\nbreak \x1b[31m") == r"'line\nbreak \x1b[31m'"
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]
    for value in ("x" * 10**6, [0] * 10**6, 10**5000, nested, {"a": "b" * 1000}):
        assert len(shorten(value)) <= 60
    for kind in (UsageError, RunFailedError):
        text = str(kind("begin " + "x" * 10**6 + " end"))
        assert len(text) < 5000
        assert text.startswith("begin")
        assert text.endswith("end")
