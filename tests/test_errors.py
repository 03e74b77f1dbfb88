"""What an error says, in its line and in its fields."""

from __future__ import annotations

import ast
import pickle
import shlex
from pathlib import Path

import pytest

import rimrl
from rimrl.errors import (
    EnvironmentFaultError,
    NotFiniteError,
    RunFailedError,
    UsageError,
    cannot,
    conflict,
    damaged,
    invalid_value,
    mismatch,
    missing,
    needs,
    not_installed,
    quoted,
    trying,
    unknown_name,
    wrong,
)

KEYS = ["core.name", "core.unit_size", "core.num_units", "agent.learning_rate", "env.n_envs"]
MANY = [f"Name-v{number}" for number in range(50)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("core.num_unit", "did you mean 'core.num_units'?"),
        ("core.bogus", "valid: core.name, core.num_units, core.unit_size"),
        ("agnet.learning_rate", "did you mean 'agent.learning_rate'?"),
        ("n_env", "did you mean 'env.n_envs'?"),
        ("zzz", f"valid: {', '.join(sorted(KEYS))}"),
    ],
)
def test_a_group_that_exists_is_taken_as_meant(name: str, said: str) -> None:
    assert str(unknown_name("key", name, KEYS)) == f"unknown key {name!r}; {said}"


@pytest.mark.parametrize(
    ("error", "kind", "key", "found", "valid"),
    [
        (invalid_value("agent.n_epochs", "at least 1", 0), "value", "agent.n_epochs", "0", "at least 1"),
        (wrong("--seed", "is given twice", "give one"), "value", "--seed", "is given twice", "give one"),
        (wrong(Path("run"), "is finished", kind="state"), "state", "run", "is finished", None),
        (mismatch("the state", "of 4", [1, 2], "or None"), "mismatch", "the state", "[1, 2]", "of 4"),
        (needs("--gpus", "--ray"), "needs", "--gpus", None, "--ray"),
        (needs("use_sde", "a Box", "Discrete(2)", "leave it out"), "needs", "use_sde", "Discrete(2)", "a Box"),
        (conflict("--best", "an export", "leave it out"), "conflict", "--best", "an export", "leave it out"),
        (missing("run folder a/b"), "missing", "run folder a/b", None, None),
        (missing("'cores'", Path("a.yaml"), "add it"), "missing", "'cores'", "a.yaml", "add it"),
        (damaged(Path("a.zip"), ValueError("bad\nbyte"), "restore it"), "damaged", "a.zip", "bad byte", "restore it"),
        (cannot("write", Path("a"), OSError(28, "disk full")), "failed", "a", "disk full", None),
        (cannot("reach", "Ray", TimeoutError(), "start it"), "failed", "Ray", "TimeoutError", "start it"),
        (not_installed("--ray", "Ray", "rimrl[ray]"), "not_installed", "--ray", "Ray", "pip install 'rimrl[ray]'"),
        (unknown_name("core", "rmi", ["rim", "lstm"]), "name", "core", "'rmi'", ("lstm", "rim")),
        (unknown_name("core", "rmi", ["rim"], where="a.yaml"), "name", "a.yaml", "'rmi'", ("rim",)),
    ],
)
def test_an_error_says_in_fields_what_its_line_says(
    error: UsageError, kind: str, key: str, found: str | None, valid: str | tuple[str, ...] | None
) -> None:
    assert (error.kind, error.key, error.found, error.valid) == (kind, key, found, valid)
    for said in (key, found, valid):
        assert said is None or isinstance(said, tuple) or said in str(error)
    other_process: UsageError = pickle.loads(pickle.dumps(error))
    assert (str(other_process), vars(other_process)) == (str(error), vars(error))


def test_what_was_found_is_shortened() -> None:
    error = invalid_value("agent.n_epochs", "at least 1", "x" * 100)
    assert error.found is not None
    assert len(error.found) == 60
    assert error.found in str(error)


def test_who_knows_more_keeps_the_fields() -> None:
    error = needs("--gpus", "--ray", advice="see --help")
    more = error.within("trial 3: ", " (in a.yaml)")
    assert more.fields == error.fields
    assert str(more) == f"trial 3: {error} (in a.yaml)"
    fault = EnvironmentFaultError.of(error)
    assert (type(fault), str(fault), fault.fields) == (EnvironmentFaultError, str(error), error.fields)


def test_a_class_has_a_kind() -> None:
    kinds = [error("no such thing").kind for error in (UsageError, EnvironmentFaultError, NotFiniteError)]
    assert kinds == ["value", "environment", "not_finite"]


def test_what_others_refuse_becomes_one_line() -> None:
    with pytest.raises(UsageError) as refused, trying("write", Path("a"), advice="make room"):
        raise OSError(28, "disk full")
    assert refused.value.fields == cannot("write", "a", "disk full", "make room").fields
    with pytest.raises(UsageError) as refused, trying("make", "Env-v0", Exception):
        raise KeyError("width")
    assert (refused.value.key, refused.value.found) == ("Env-v0", "KeyError: 'width'")


@pytest.mark.parametrize("error", [needs("--gpus", "--ray"), ValueError("mine"), KeyboardInterrupt()])
def test_what_is_no_error_of_others_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as passed, trying("write", Path("a")):
        raise error
    assert passed.value is error


def test_refusals_in_the_package_have_fields() -> None:
    """All but `NotPlainError`, which says what a pickle holds: who reads the file refuses that with fields."""
    others = {"UsageError", "EnvironmentFaultError", "NotFiniteError", "UnreadableError", "MissingError"}
    plain: dict[str, list[str]] = {}
    for file in sorted(Path(rimrl.__file__).parent.rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.keywords:
                plain.setdefault(call.func.id, []).append(f"{file}:{call.lineno}")
    assert {name: places for name, places in plain.items() if name in others} == {}
    assert len(plain["NotPlainError"]) <= 15  # this number may only fall


def test_very_many_names_are_not_listed() -> None:
    assert "nearest of 50: " in str(unknown_name("name", "zzz", MANY))
    assert str(unknown_name("name", "zzz", MANY, otherwise="see the list")) == "unknown name 'zzz'; see the list"


@pytest.mark.parametrize("kind", [UsageError, RunFailedError])
@pytest.mark.parametrize("hostile", ["\x1b[2J\x1b[31mred", "a\nrimrl: all is well", "a\rb", "\u202egnp.exe", "\x9b1A"])
def test_what_is_echoed_cannot_move_the_cursor(kind: type[Exception], hostile: str) -> None:
    said = str(kind(f"no core {hostile}; valid: rim, …, größer"))
    assert said.isprintable()
    assert said.startswith("no core ")
    assert said.endswith("valid: rim, …, größer")


def test_paths_are_shown_as_a_shell_takes_them() -> None:
    for name in ("runs/a b", "runs/plain", "it's", "$HOME;ls"):
        assert shlex.split(quoted(Path(name))) == [name]
