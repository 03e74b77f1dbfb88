"""Names and order of columns: found by label, run or folder, and refused where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rimrl.errors import UsageError
from rimrl.reporting.columns import arranged, check_label, find_column
from rimrl.reporting.groups import Group, group_runs
from rimrl.reporting.results import read_runs
from tests.reporting.results import split, write_run


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Group]:
    """Groups ``rim (core.num_active=2)``, ``rim (core.num_active=3)``, ``lstm`` and ``a,b`` of two seeds each."""
    monkeypatch.chdir(tmp_path)
    paths = []
    for folder, config, core in (
        ("rims/two", "x/rim", {"name": "rim", "num_active": 2}),
        ("rims/three", "x/rim", {"name": "rim", "num_active": 3}),
        ("lstm", "x/lstm", {"name": "lstm"}),
        ("others", "x/a,b", {"name": "gru"}),
    ):
        for seed in range(2):
            settings = {"name": config, "core": core, "train": {"seed": seed}}
            paths.append(write_run(Path(folder) / f"seed_{seed}", {"train": split()}, config, settings=settings))
    return group_runs(read_runs(paths))


LABELS = ["rim (core.num_active=2)", "rim (core.num_active=3)", "lstm", "a,b"]


def labels(groups: list[Group]) -> list[str]:
    return [group.label for group in groups]


def test_without_wishes_all_stays(groups: list[Group]) -> None:
    assert labels(groups) == LABELS
    assert arranged(groups) == groups


@pytest.mark.parametrize(
    ("word", "place", "name"),
    [
        ("lstm=LSTM", 2, "LSTM"),
        (" lstm = An LSTM ", 2, "An LSTM"),
        ("rim (core.num_active=3)=RIM", 1, "RIM"),
        ("rim (core.num_active=3)=K=3", 1, "K=3"),
        ("lstm=a=b", 2, "a=b"),
        ("a,b=GRU", 3, "GRU"),
        ("lstm/seed_1=one run stands for its column", 2, "one run stands for its column"),
        ("./lstm/seed_1/=LSTM", 2, "LSTM"),
        ("rims/two=a folder of one column", 0, "a folder of one column"),
        ("others=GRU", 3, "GRU"),
        ("lstm=lstm", 2, "lstm"),
    ],
)
def test_a_column_gets_another_name(word: str, place: int, name: str, groups: list[Group]) -> None:
    found = arranged(groups, [word])
    assert labels(found) == [name if i == place else label for i, label in enumerate(LABELS)]
    assert [group.runs for group in found] == [group.runs for group in groups]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("lstm", [2, 0, 1, 3]),
        ("lstm,rim (core.num_active=3)", [2, 1, 0, 3]),
        ("a,b", [3, 0, 1, 2]),
        ("lstm, a,b ,rims/three", [2, 3, 1, 0]),
        ("new name,lstm/seed_0", [0, 2, 1, 3]),
        ("rims/two,lstm", [0, 2, 1, 3]),
        ("rim (core.num_active=2),lstm", [0, 2, 1, 3]),
    ],
)
def test_columns_come_in_another_order(order: str, expected: list[int], groups: list[Group]) -> None:
    found = arranged(groups, ["rims/two=new name"], order)
    names = ["new name", *LABELS[1:]]
    assert labels(found) == [names[i] for i in expected]
    assert [group.runs for group in found] == [groups[i].runs for i in expected]
    np.testing.assert_array_equal(
        find_column(found, groups, LABELS[0]).runs, find_column(found, groups, "new name").runs
    )


def test_names_may_be_exchanged(groups: list[Group]) -> None:
    found = arranged(groups, ["lstm=a,b", "a,b=lstm"], "lstm")
    assert labels(found) == ["lstm", *LABELS[:2], "a,b"]
    assert found[0].runs is groups[3].runs  # by its new name


@pytest.mark.parametrize(
    ("words", "order", "said"),
    [
        (["lsmt=LSTM"], None, "unknown group 'lsmt'.*'lstm'"),
        (["rim=RIM"], None, "unknown group 'rim'"),
        (["rims=RIM"], None, "several columns"),
        (["nowhere/lstm=LSTM"], None, "unknown group 'nowhere/lstm'"),
        (["lstm=A", "others=A"], None, r"columns.*called 'A'"),
        (["lstm=a,b"], None, r"columns.*called 'a,b'"),
        (["lstm=A", "lstm/seed_0=B"], None, r"both 'A'.*'B'"),
        (["lstm=_A"], None, "begin with '_'"),
        ([f"lstm={'A' * 201}"], None, "at most 200 letters"),
        ([], "lsmt", "unknown group 'lsmt'.*'lstm'"),
        ([], "lstm,,", "unknown group ''"),
        ([], "", "unknown group ''"),
        ([], "lstm,others,lstm/seed_0", "names 'lstm' twice"),
        ([], "lstm\0", "unknown group"),
    ],
)
def test_what_is_refused(words: list[str], order: str | None, said: str, groups: list[Group]) -> None:
    with pytest.raises(UsageError, match=said):
        arranged(groups, words, order)


@pytest.mark.parametrize("word", ["rim", "=RIM", "rim=", " = ", "rim=two\nlines", "rim=\x1b[31m", ""])
def test_what_can_be_no_label(word: str) -> None:
    with pytest.raises(UsageError, match="RUN_OR_GROUP=NAME"):
        check_label(word)
