"""Every command's ``--help`` ends with examples that it takes."""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path

import pytest

from rimrl.cli import parser
from rimrl.cli.parser import Parser, config_among
from rimrl.experiments.config_files import load_config
from tests.commands import succeed

VERBS = next(each for each in parser()._actions if isinstance(each, argparse._SubParsersAction)).choices
AT_ONCE = ("compare", "export", "list", "report")
PLAYED = ("evaluate", "inspect", "watch")


def examples(*verbs: str) -> list[str]:
    """The examples of some commands."""
    return [example for verb in verbs for example in VERBS[verb].examples]


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_examples_as_they_are_typed(verb: str) -> None:
    found = VERBS[verb]
    assert isinstance(found, Parser)
    assert found.examples
    lines = found.format_help().splitlines()
    for example in found.examples:
        assert f"  {example}" in lines
        assert shlex.split(example)[:2] == ["rimrl", verb]


@pytest.mark.parametrize("example", examples(*VERBS))
def test_the_parser_takes_each_example(example: str) -> None:
    options, rest = parser().parse_known_args(shlex.split(example)[1:])
    assert options.takes_overrides or not rest
    if options.name in ("train", "sweep") and getattr(options, "resume", None) is None:
        config, overrides = config_among(rest)
        assert config is not None
        load_config(config, overrides)


def test_examples_of_trained_agents_run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rim", "lstm"):
        shutil.copytree(trained, tmp_path / "runs" / name)
    for example in examples(*AT_ONCE):
        succeed(*shlex.split(example)[1:])
    for example in examples(*PLAYED):
        succeed(*shlex.split(example)[1:], "--episodes", "1", "--quiet")
    for file in ("comparison.png", "table.csv", "report.html", "rim.gif", "exported/rim/card.json"):
        assert (tmp_path / file).is_file(), file
