"""What is said of names that do not exist."""

from __future__ import annotations

import pickle
import shlex
from pathlib import Path

import pytest

from rimrl.errors import RunFailedError, UsageError, invalid_value, quoted, unknown_name

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


def test_an_error_says_in_fields_what_its_line_says() -> None:
    value = invalid_value("agent.n_epochs", "at least 1", "x" * 100)
    assert (value.key, value.valid) == ("agent.n_epochs", "at least 1")
    name = unknown_name("core", "rmi", ["rim", "lstm"], where="core.name in a.yaml")
    assert (name.key, name.found, name.valid) == ("core.name in a.yaml", "'rmi'", ("lstm", "rim"))
    assert unknown_name("core", "rmi", ["rim"]).key == "core"
    for error in (value, name):
        assert error.key is not None
        assert error.found is not None
        assert error.key in str(error)
        assert error.found in str(error)
        other_process: UsageError = pickle.loads(pickle.dumps(error))
        assert (str(other_process), vars(other_process)) == (str(error), vars(error))
    assert vars(UsageError("no such thing")) == {"key": None, "found": None, "valid": None}


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
