"""A core is registered whole: with a transcription that it is held to, a page, and an experiment."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from rimrl.cores.registry import CORES, core_class
from rimrl.experiments.config_files import load_config, shipped_configs

ROOT = Path(__file__).parents[2]
PAGES = {"gru": "lstm"}
"""Cores that share the page of another."""


@pytest.mark.parametrize("name", CORES)
def test_a_reference_test_builds_the_core(name: str) -> None:
    used = re.compile(rf"\b{core_class(name).__name__}\(|make_core\(\s*\"{name}\"|\"{name}\"")
    tests = [file.read_text(encoding="utf-8") for file in (ROOT / "tests/reference").glob("test_*.py")]
    assert any(used.search(text) for text in tests), f"no test in tests/reference holds {name!r} to a transcription"


@pytest.mark.parametrize("name", CORES)
def test_a_page_describes_the_core(name: str) -> None:
    page = ROOT / "docs/cores" / f"{PAGES.get(name, name)}.md"
    assert page.is_file(), f"no page {page.relative_to(ROOT)}"
    assert f"`{name}`" in page.read_text(encoding="utf-8") or f'"{name}"' in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CORES)
def test_an_experiment_trains_the_core(name: str) -> None:
    assert f"distractors/{name}" in shipped_configs()
    assert load_config(f"distractors/{name}").core.name == name


def test_no_function_of_a_core_is_longer_than_sixty_lines() -> None:
    for file in (ROOT / "rimrl/cores").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{file.name}: {node.name}"
