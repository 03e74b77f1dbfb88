"""Help and version answer at once, because nothing heavy is imported for them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import rimrl
from tests.commands import call, spawn

HEAVY = ("torch", "stable_baselines3", "sb3_contrib", "minigrid", "matplotlib", "jsonargparse", "tensorboard", "pygame")

MODULES_AFTER = """
import json, sys
from rimrl.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["list", "suites"]])
def test_light_commands_import_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", MODULES_AFTER, *words], capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert imported.isdisjoint(HEAVY), imported.intersection(HEAVY)


def test_help_names_every_verb() -> None:
    answer = spawn("--help")
    assert answer.code == 0
    assert answer.err == ""
    assert all(verb in answer.out for verb in ("train", "evaluate", "compare", "inspect", "report", "watch", "list"))


def test_version() -> None:
    answer = call("--version")
    assert answer.code == 0
    assert answer.out == f"rimrl {rimrl.__version__}\n"


@pytest.mark.parametrize("verb", ["train", "evaluate", "compare", "inspect", "report", "watch", "list"])
def test_each_verb_has_help(verb: str) -> None:
    answer = call(verb, "--help")
    assert answer.code == 0
    assert f"rimrl {verb}" in answer.out
