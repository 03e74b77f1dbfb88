"""Agents on the Hub: only card and weights travel, and only what can be loaded. The Hub is a folder here."""

from __future__ import annotations

import inspect
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

import rimrl
from rimrl.agents.saved.exported import write_exported
from rimrl.errors import UsageError
from tests.agents.test_exported import make_agent
from tests.agents.test_saving import play
from tests.commands import call, succeed

API = huggingface_hub.HfApi
DOWNLOAD = huggingface_hub.hf_hub_download


class FakeHub:
    """Keeps repositories in a folder; calls that the real Hub's client would not take fail."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []

    def create_repo(self, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(API.create_repo).bind(self, *args, **kwargs).arguments
        (self.root / given["repo_id"]).mkdir(parents=True, exist_ok=given.get("exist_ok", False))

    def upload_folder(self, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(API.upload_folder).bind(self, *args, **kwargs).arguments
        for file in Path(given["folder_path"]).iterdir():
            if any(fnmatch(file.name, pattern) for pattern in given["allow_patterns"]):
                shutil.copy(file, self.root / given["repo_id"] / file.name)

    def hf_hub_download(self, *args: Any, **kwargs: Any) -> str:
        given = inspect.signature(DOWNLOAD).bind(*args, **kwargs).arguments
        self.asked.append(given["filename"])
        file = self.root / given["repo_id"] / (given.get("revision") or "") / given["filename"]
        if not file.is_file():
            raise huggingface_hub.errors.EntryNotFoundError(f"404\nno {file.name}")
        return str(file)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
    return fake


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    write_exported(make_agent(), folder)
    return folder


def test_what_is_pushed_comes_back_and_nothing_else(hub: FakeHub, exported: Path, tmp_path: Path) -> None:
    (exported / "README.md").write_text("An agent.")
    (exported / "notes.txt").write_text("private")
    succeed("push", exported, "someone/agent")
    there = hub.root / "someone" / "agent"
    assert {file.name for file in there.iterdir()} == {"card.json", "model.safetensors", "README.md"}
    (there / "setup.py").write_text("raise SystemExit")
    (there / "model.zip").write_bytes(b"a pickle")
    succeed("pull", "someone/agent", tmp_path / "pulled")
    assert {file.name for file in (tmp_path / "pulled").iterdir()} == {"card.json", "model.safetensors"}
    assert set(hub.asked) == {"card.json", "model.safetensors"}
    known = rimrl.load(exported, device="cpu")
    for found in (rimrl.load(tmp_path / "pulled", device="cpu"),):
        for a, b in zip(play(found, known.observation_space, 2), play(known, known.observation_space, 2), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_readme_that_leads_elsewhere_is_not_pushed(hub: FakeHub, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("private")
    (exported / "README.md").symlink_to(tmp_path / "key")
    answer = call("push", exported, "someone/agent")
    assert answer.code == 2
    assert "README.md" in answer.err
    assert "link" in answer.err
    assert not hub.root.exists()


def test_an_address_of_the_hub_is_loaded(hub: FakeHub, exported: Path) -> None:
    succeed("push", exported, "someone/agent")
    shutil.copytree(hub.root / "someone" / "agent", hub.root / "someone" / "agent" / "v1")
    for address in ("hf://someone/agent", "hf://someone/agent@v1"):
        assert rimrl.load(address, device="cpu").policy_kwargs["core"] == "rim"


def test_what_could_not_be_loaded_is_neither_pushed_nor_pulled(hub: FakeHub, exported: Path, tmp_path: Path) -> None:
    succeed("push", exported, "someone/agent")
    weights = hub.root / "someone" / "agent" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    answer = call("pull", "someone/agent", tmp_path / "pulled")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "pulled").exists()
    (exported / "card.json").write_text("{}")
    assert call("push", exported, "someone/other").code == 2
    assert not (hub.root / "someone" / "other").exists()


@pytest.mark.parametrize("name", ["agent", "a/b/c", "../agent", "a/../b", "", "a b/c", "hf://"])
def test_names_that_are_none_are_refused(name: str, hub: FakeHub, exported: Path, tmp_path: Path) -> None:
    for words in (("push", exported, name), ("pull", name, tmp_path / "pulled")):
        answer = call(*words)
        assert answer.code == 2
        assert "Hugging Face Hub" in answer.err
    assert not hub.root.exists()


def test_what_is_not_there_is_said_in_one_line(hub: FakeHub, tmp_path: Path) -> None:
    answer = call("pull", "someone/nothing", tmp_path / "pulled")
    assert answer.code == 2
    assert "cannot pull someone/nothing" in answer.err
    assert answer.err.count("\n") == 1
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    assert "holds other files" in call("pull", "someone/nothing", tmp_path / "full").err


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install 'rimrl\[hub\]'"):
        rimrl.load("hf://someone/agent")
