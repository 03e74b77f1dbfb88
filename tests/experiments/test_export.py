"""``rimrl export``: what it writes plays like the run it came from, and nothing of others is overwritten."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import rimrl
from rimrl.errors import UsageError
from rimrl.experiments.config_files import load_config
from rimrl.experiments.inspect import record
from rimrl.experiments.run import Run
from tests.commands import SMALL, call, succeed

PLAY = ("--episodes", "3", "--split", "train", "--no-random", "--quiet")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    succeed("train", "distractors/rim", *SMALL, "--total-timesteps", "64", "--run-dir", run)
    succeed("evaluate", run, *PLAY)
    return run


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    folder = trained.parent / "out"
    succeed("export", trained, folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "out"))


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def wilson(rate: float, n: int) -> list[float]:
    """The rates p with |rate - p| = 1.96 sqrt(p (1 - p) / n), the roots of a quadratic."""
    z2 = 1.959964**2
    return sorted(np.roots([1 + z2 / n, -(2 * rate + z2 / n), rate * rate]).real.tolist())


def refuse(*words: str | Path) -> str:
    answer = call(*words)
    assert answer.code == 2, answer
    assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err
    return answer.err


def test_the_card_says_what_the_run_knows(trained: Path, exported: Path) -> None:
    assert {file.name for file in exported.iterdir()} == {"card.json", "model.safetensors", "README.md"}
    card, evaluation = read(exported / "card.json"), read(trained / "evaluation.json")
    assert card["rimrl_version"] == rimrl.__version__
    assert card["agent"]["num_timesteps"] == card["training"]["num_timesteps"] == 64
    assert card["environment"] == {"id": "distractors", "kwargs": {}, "efference_copies": False}
    known = evaluation["splits"]["train"]
    scores = card["evaluation"]["splits"]["train"]
    assert scores.pop("success_interval") == pytest.approx(wilson(known["success_rate"], 3))
    assert scores == {key: known[key] for key in scores}
    assert {"return_mean", "success_rate", "episodes", "held_out"} <= scores.keys()
    assert yaml.safe_load((trained / "config.yaml").read_text()) == card["config"]


def test_the_model_card_has_the_hubs_front_matter(trained: Path, exported: Path) -> None:
    _, front, text = (exported / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["library_name"] == "rimrl"
    assert "reinforcement-learning" in facts["tags"]
    (result,) = facts["model-index"][0]["results"]
    scores = read(trained / "evaluation.json")["splits"]["train"]
    shown = f"{scores['return_mean']:.2f} +/- {scores['return_std']:.2f}"
    assert result["metrics"][0]["value"] == shown
    assert shown in text


def test_an_export_is_evaluated_like_its_run(trained: Path, folder: Path) -> None:
    succeed("evaluate", folder, *PLAY)
    found, known = read(folder / "evaluation.json"), read(trained / "evaluation.json")
    assert found["splits"] == known["splits"]
    assert found["model"] == "model.safetensors"


def test_an_export_is_inspected_like_its_run(trained: Path, folder: Path) -> None:
    recordings = [record(Run.open(path), episodes=1, progress_bar=False) for path in (trained, folder)]
    known, found = ({name: np.asarray(each) for name, each in one.arrays.items()} for one in recordings)
    assert known.keys() == found.keys()
    for name, array in known.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_card_is_a_configuration(trained: Path, exported: Path) -> None:
    found, known = load_config(str(exported / "card.json")), load_config(str(trained / "config.yaml"))
    assert found == known


def test_an_export_replaces_an_export_and_its_scores(trained: Path, folder: Path) -> None:
    (folder / "evaluation.json").write_text("{}")
    (folder / "mine.txt").write_text("kept")
    succeed("export", trained, folder)
    assert not (folder / "evaluation.json").exists()
    assert (folder / "mine.txt").read_text() == "kept"


def test_folders_of_others_are_left_alone(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    assert "holds other files" in refuse("export", trained, tmp_path / "full")
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    assert "is a file" in refuse("export", trained, tmp_path / "full" / "thesis.tex")
    assert "holds other files" in refuse("export", trained, trained)


def test_a_run_without_an_agent_is_refused_and_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(trained / "config.yaml", tmp_path / "run")
    assert "no saved agent" in refuse("export", tmp_path / "run", tmp_path / "out")
    assert "no run folder" in refuse("export", tmp_path / "nothing", tmp_path / "out")
    assert "evaluation" in refuse("export", trained, tmp_path / "out", "--best")
    assert not (tmp_path / "out").exists()


def test_what_an_export_has_not_is_said(folder: Path, tmp_path: Path) -> None:
    assert "--best does not go with" in refuse("evaluate", folder, "--best", *PLAY)
    assert "export already" in refuse("export", folder, tmp_path / "again")
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refuse("evaluate", folder, *PLAY)


def test_an_export_brings_a_graph_on_request(trained: Path, exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    succeed("export", trained, tmp_path / "out", "--onnx")
    succeed("export", exported, tmp_path / "again", "--onnx")
    assert read(tmp_path / "again/card.json") == read(tmp_path / "out/card.json")
    assert (tmp_path / "again/policy.onnx").read_bytes() == (tmp_path / "out/policy.onnx").read_bytes()
    names = {"card.json", "model.safetensors", "README.md", "policy.onnx"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    card = read(tmp_path / "out/card.json")
    graph = card.pop("onnx")
    assert card == read(exported / "card.json")
    assert graph["file"] == "policy.onnx"
    assert {"logits", "value", "next_h"} <= {each["name"] for each in graph["outputs"]}
    assert graph["checked"]["largest_difference"] <= 1e-5
    text = (tmp_path / "out/README.md").read_text()
    for each in (*graph["inputs"], *graph["outputs"]):
        assert f"`{each['name']}`" in text
    succeed("evaluate", tmp_path / "out", *PLAY)
    succeed("export", trained, tmp_path / "out")
    assert not (tmp_path / "out/policy.onnx").exists()


def test_a_graph_that_would_be_wrong_leaves_nothing(
    trained: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(policy: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise UsageError("the graph is not the policy")

    monkeypatch.setattr("rimrl.experiments.export.write_onnx", refuses)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert "policy" in refuse("export", trained, folder, "--onnx")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    refuse("export", trained, tmp_path / "new", "--onnx")
    assert not (tmp_path / "new").exists()


def test_a_missing_extra_is_said_before_anything_is_done(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install 'rimrl[onnx]'" in refuse("export", trained, tmp_path / "out", "--onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (("name",), "../../elsewhere", "must be words"),
        (("name",), 3, "must be words"),
        (("env", "id"), "antigravity:Fly-v0", "module.*import"),
        (("env", "id"), "rimrl/Distractor-v0", "rimrl/Distractors-v0"),
        (("env", "n_envs"), "many", r"env\.n_envs"),
        (("core", "name"), "rimm", "'rim'"),
        (("train", "code"), "x", r"unknown key 'train\.code'"),
    ],
)
def test_a_configuration_of_others_is_checked(key: tuple[str, ...], value: object, expected: str, folder: Path) -> None:
    card = read(folder / "card.json")
    group = card["config"] if len(key) == 1 else card["config"][key[0]]
    group[key[-1]] = value
    (folder / "card.json").write_text(json.dumps(card))
    assert re.search(expected, refuse("evaluate", folder, *PLAY))
