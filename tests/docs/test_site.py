"""The site is what the code says: generated pages are complete, links hold, and what is printed to be typed works."""

from __future__ import annotations

import argparse
import base64
import dataclasses
import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rimrl.agents.ppo import RecurrentPPO
from rimrl.agents.registry import ALGORITHMS, config_class
from rimrl.cli import parser
from rimrl.cli.parser import config_among
from rimrl.cores.registry import CORES, core_options
from rimrl.envs import suites
from rimrl.experiments.config import AgentTrainConfig, EnvConfig
from rimrl.experiments.config_files import load_config

ROOT = Path(__file__).parents[2]
WRITTEN = ("index.md", "get-started.md", "how-do-i.md", "concepts.md", "masks.md")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_source", ROOT / "docs" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source(site: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "docs"
    site.prepare(folder)
    return folder


def rows(page: str) -> dict[str, str]:
    """First cell of each row of the page's tables, in code, with the rest of the row."""
    return dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", page, flags=re.MULTILINE))


def test_every_page_is_in_the_navigation(source: Path) -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r"[\w/.-]+\.md", text[text.index("\nnav:") :]))
    assert named == {path.relative_to(source).as_posix() for path in source.rglob("*.md")}


def test_every_key_has_a_row_with_its_default_and_its_meaning(source: Path) -> None:
    text = (source / "reference/configuration.md").read_text()
    sections = {part.partition("\n")[0]: part for part in re.split(r"^##+ ", text, flags=re.MULTILINE)}
    agents = {f"agent with `algorithm: {name}`": config_class(name) for name in ALGORITHMS}
    tables: dict[str, Any] = {"env": EnvConfig, **agents, "train": AgentTrainConfig}
    for title, cls in tables.items():
        found = rows(sections[title])
        assert len(found) == len(dataclasses.fields(cls))
        for field in dataclasses.fields(cls):
            _, default, meaning = re.split(r" (?<!\\)\| ", found[f"{title.split()[0]}.{field.name}"], maxsplit=2)
            made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            assert default == ("required" if made is dataclasses.MISSING else f"`{made!r}`"), field.name
            assert len(meaning) > 10, field.name
    for name in CORES:
        assert rows(sections[name]).keys() == {f"core.{option}" for option in core_options(name)}


def test_defaults_in_python_differ_where_the_page_says(source: Path) -> None:
    arguments = inspect.signature(RecurrentPPO.__init__).parameters
    defaults = {field.name: field.default for field in dataclasses.fields(config_class("ppo"))}
    both = {name for name in defaults.keys() & arguments.keys() if defaults[name] is not dataclasses.MISSING}
    different = {name: arguments[name].default for name in both if arguments[name].default != defaults[name]}
    text = (source / "reference/configuration.md").read_text()
    said = dict(re.findall(r"`(\w+)` \((\d+) in Python\)", text))
    assert {name: str(default) for name, default in different.items()} == said


def test_every_option_of_every_command_has_a_row(source: Path) -> None:
    text = (source / "reference/commands.md").read_text()
    verbs = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    sections = dict(re.findall(r"^## rimrl (\w+)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    assert set(sections) == set(verbs.choices)
    for name, verb in verbs.choices.items():
        for option, action in verb._option_string_actions.items():
            old_name = option not in action.option_strings
            if action.help is not argparse.SUPPRESS and action.dest != "help" and not old_name:
                assert f"`{option}" in sections[name] or f", {option}" in sections[name], f"{name} {option}"


@pytest.mark.parametrize("file", sorted((ROOT / "docs/notebooks").glob("*.ipynb")), ids=lambda file: file.stem)
def test_a_notebook_is_a_page_with_its_cells_outputs_and_pictures(source: Path, file: Path) -> None:
    page = source / "notebooks" / f"{file.stem}.md"
    text = page.read_text()
    assert f"]({file.name})" in text
    assert (page.parent / file.name).read_bytes() == file.read_bytes()
    pictures = [(page.parent / name).read_bytes() for name in re.findall(r"!\[[^\]]+\]\(([\w.-]+)\)", text)]
    cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    blocks = re.findall(r"^```(\w+)\n(.*?)\n```$", text, flags=re.MULTILINE | re.DOTALL)
    assert [block for language, block in blocks if language == "python"] == ["".join(cell["source"]) for cell in cells]
    printed = ["".join(output["text"]).rstrip() for output in outputs if "text" in output]
    assert [block for language, block in blocks if language == "text"] == printed
    assert pictures == [base64.b64decode(output["data"]["image/png"]) for output in outputs if "data" in output]


@pytest.mark.parametrize(
    ("text", "page", "expected"),
    [
        ("[a](../sweeps.md)", "cores/rim.md", "[a](../sweeps.md)"),
        ("[a](../sweeps.md#ray)", "cores/rim.md", "[a](../sweeps.md#ray)"),
        ("[`rim.py`](../../rimrl/cores/rim.py)", "cores/rim.md", "`rim.py`"),
        ("[a](docs/sweeps.md)", "contributing.md", "[a](sweeps.md)"),
        ("[a](../README.md)", "sweeps.md", "[a](index.md)"),
        ("[a](https://example.org/x.md)", "sweeps.md", "[a](https://example.org/x.md)"),
        ("[a](#below)", "sweeps.md", "[a](#below)"),
        ("[a](notebooks/n.ipynb)", "sweeps.md", "[a](notebooks/n.md)"),
        ("![a](results/a.png)", "sweeps.md", "![a](results/a.png)"),
        ("```\n[a](gone.md)\n```\n", "sweeps.md", "```\n[a](gone.md)\n```\n"),
    ],
)
def test_links_out_of_the_docs_become_words(site: ModuleType, text: str, page: str, expected: str) -> None:
    pages = {"cores/rim.md", "sweeps.md", "index.md", "contributing.md", "notebooks/n.md"}
    assert site.relinked(text, page, pages) == expected


def commands(page: Path) -> list[list[str]]:
    """The words of every `rimrl` line in a page's blocks, without those that a shell would have to fill in."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    blocks = [block for language, block in fenced if language in ("", "sh", "bash", "console")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [
        words[1:]
        for line in lines
        if re.match(r"\s*(\$ )?rimrl \w", line)
        and not re.search(r"[$<>…|;&]|\.\.\.|`", line.split(" #")[0].lstrip(" $"))
        for words in [shlex.split(line.lstrip(" $"), comments=True)]
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_ones_that_rimrl_takes(page: Path) -> None:
    for words in commands(page):
        options, rest = parser().parse_known_args(words)
        assert options.takes_overrides or not rest, words
        if words[0] == "train" and options.resume is None:
            config, overrides = config_among(rest)
            assert config is not None, words
            if not config.endswith((".yaml", ".json")) and "my_" not in " ".join(words):  # modules of the reader's own
                load_config(config, overrides)


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a page registers is not there for the next test."""
    monkeypatch.setattr(suites, "_OWN", {})
    before = set(CORES)
    yield
    for name in CORES.keys() - before:
        del CORES[name]


@pytest.mark.parametrize("page", [ROOT / "docs" / page for page in WRITTEN], ids=lambda page: page.stem)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        short = re.sub(r"learn\([\d_]+\)", "learn(128)", block)
        exec(compile(short, str(page), "exec"), {})


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(source: Path) -> None:
    config = source.parent / "mkdocs.yml"
    text = (ROOT / "mkdocs.yml").read_text()
    config.write_text(re.sub(r"^docs_dir: .*$", "docs_dir: docs", text, flags=re.MULTILINE))
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(config)],
        cwd=source.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((source.parent / "build/site").rglob("*.html"))
    assert len(pages) > len(list(source.rglob("*.md")))  # the page for links that lead nowhere, besides
    tags = r"(?:script|img|iframe)\b[^>]* src|link\b[^>]* rel=\"?(?:stylesheet|preload)\b[^>]* href"
    loads = rf"<(?:{tags})=\"?(https?:[^\" >]+)"
    for page in pages:
        assert re.findall(loads, page.read_text(encoding="utf-8")) == [], page.name
