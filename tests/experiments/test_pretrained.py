"""Agents that come with rimrl: how they are made, loaded and named where a run is expected; shown on two tiny ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch as th
from safetensors.torch import load_file, save_file

import rimrl
from benchmarks import pretrained
from rimrl.agents.saved import shipped
from rimrl.errors import UsageError
from rimrl.experiments.config_files import load_config
from tests.commands import SMALL_ANY, call, files, read_json, succeed, weights

TINY = (*SMALL_ANY, "--agent.batch_size", "32", "--core.hidden_size", "12")
STEPS = {"recall/lstm": "64", "multiroom/rim": "64"}
WORDS = [word for word in TINY if word != "--quiet"]
EPISODES = 4


def load_tiny(name: str, words: Sequence[str] = ()) -> Any:
    """The configuration of a shipped agent, as small as those here."""
    return load_config(name, [*words, *WORDS, f"--train.total_timesteps={STEPS[name]}"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each."""
    folder = tmp_path_factory.mktemp("runs")
    found = {name: folder / name.replace("/", "-") for name in STEPS}
    for name, run in found.items():
        succeed("train", name, *TINY, "--seed", "5", "--total-timesteps", STEPS[name], "--run-dir", run)
    return found


@pytest.fixture(scope="module")
def made(runs: dict[str, Path]) -> Path:
    """Where the script has put the two agents, and the page with its table; not to be written to."""
    root, page = runs["recall/lstm"].parent / "trained", runs["recall/lstm"].parent / "page.md"
    page.write_text("before\n<!-- agents -->\nold\n<!-- end of agents -->\nafter\n")
    before = {name: files(run) for name, run in runs.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "AGENTS", dict.fromkeys(STEPS, 0))
        patch.setattr(pretrained, "load_config", load_tiny)
        words = [*map(str, runs.values()), "--episodes", str(EPISODES), "--root", str(root), "--page", str(page)]
        assert pretrained.main(words) == 0
    assert {name: files(run) for name, run in runs.items()} == before
    return root


@pytest.fixture
def box(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them in the place of those that come with rimrl; the working directory is empty."""
    root = Path(shutil.copytree(made, tmp_path / "trained"))
    monkeypatch.setattr(shipped, "ROOT", root)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return root


def refuse(*words: str | Path) -> str:
    answer = call(*words)
    assert answer.code == 2, answer
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err
    return answer.err


def test_the_weights_are_those_of_the_run_in_half_precision(runs: dict[str, Path], box: Path) -> None:
    for name, run in runs.items():
        loaded = rimrl.pretrained(name, device="cpu").policy.state_dict()
        known = weights(run)
        assert loaded.keys() == known.keys()
        for key, tensor in known.items():
            assert loaded[key].dtype == tensor.dtype
            assert th.equal(loaded[key], tensor.half().float()), key
        stored = (box / name / "model.safetensors").stat().st_size
        assert stored < sum(tensor.numel() for tensor in load_file(box / name / "model.safetensors").values()) * 3


def test_the_card_says_with_what_it_was_trained_and_what_it_reaches(box: Path) -> None:
    card = read_json(box / "multiroom/rim/card.json")
    assert card["name"] == card["config"]["name"] == "multiroom/rim"
    assert card["config"]["train"]["seed"] == 5
    splits = card["evaluation"]["splits"]
    assert {name: split["held_out"] for name, split in splits.items()} == {"train": False, "n4_s5": True, "n6": True}
    for split in splits.values():
        assert split["episodes"] == EPISODES
        low, high = split["success_interval"]
        assert 0 <= low <= split["success_rate"] <= high <= 1
        assert high - low > 0.48  # Wilson's interval of 4 episodes is at least z^2 / (n + z^2) wide


def test_the_table_in_the_page_is_that_of_the_cards(made: Path) -> None:
    before, head, _, *rows, last, after = (made.parent / "page.md").read_text().splitlines()
    assert (before, head, last, after) == ("before", "<!-- agents -->", "<!-- end of agents -->", "after")
    assert rows[0].startswith("|---")
    found = {row.split("`")[1]: row for row in rows[1:]}
    assert list(found) == list(STEPS)
    for name, row in found.items():
        scores = read_json(made / name / "card.json")["evaluation"]["splits"]
        cells = [cell.strip() for cell in row.split("|")[2:4]]
        assert cells == ["5", STEPS[name]]
        assert all(f"{split} {score['success_rate']:.2f}" in row for split, score in scores.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("--core.hidden_size=24", "core.hidden_size"),
        ("--agent.gamma=0.5", "agent.gamma"),
        ("--train.total_timesteps=128", "train.total_timesteps"),
        ("--env.id=distractors", "valid: recall/lstm, multiroom/rim"),
    ],
)
def test_a_run_with_another_configuration_is_not_shipped(
    change: str,
    said: str,
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pretrained, "AGENTS", dict.fromkeys(STEPS, 0))
    monkeypatch.setattr(pretrained, "load_config", load_tiny)
    run = tmp_path / "run"
    succeed("train", "recall/lstm", *TINY, "--train.total_timesteps", "64", *change.split("="), "--run-dir", run)
    page = tmp_path / "page.md"
    words = [str(run), str(runs["multiroom/rim"]), "--root", str(tmp_path / "root"), "--page", str(page)]
    assert pretrained.main(words) == 2
    assert not page.exists()
    assert said in capsys.readouterr().err
    assert not (tmp_path / "root").exists()


def test_what_is_named_is_trained_once_with_the_seed(
    made: Path, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "AGENTS", dict.fromkeys(STEPS, 0))
    monkeypatch.setattr(pretrained, "load_config", load_tiny)
    shutil.copy(made.parent / "page.md", tmp_path)
    words = ["recall/lstm", "--seed", "5", "--episodes", "1", "--root", "root", "--page", "page.md"]
    assert pretrained.main(words) == 0
    assert {file.parent.name for file in Path("root").rglob("card.json")} == {"lstm"}
    found, known = (root / "recall/lstm/model.safetensors" for root in (Path("root"), made))
    assert found.read_bytes() == known.read_bytes()
    before = files(Path("runs"))
    assert pretrained.main(words) == 0
    assert files(Path("runs")) == before
    assert pretrained.main([str(runs["recall/lstm"]), *words]) == 2


def test_an_agent_is_evaluated_as_its_card_says(box: Path) -> None:
    before = files(box)
    for name in STEPS:
        words = ("--episodes", str(EPISODES), "--n-envs", "32", "--split", "train", "--quiet")
        succeed("evaluate", f"pretrained:{name}", *words)
        found = read_json(Path("runs/pretrained") / name / "evaluation.json")["splits"]["train"]
        said = read_json(box / name / "card.json")["evaluation"]["splits"]["train"]
        said.pop("success_interval")
        assert {key: found[key] for key in said} == said
    assert files(box) == before


def test_verbs_take_the_name_in_the_place_of_a_run(box: Path) -> None:
    before = files(box)
    name, folder = "pretrained:multiroom/rim", Path("runs/pretrained/multiroom/rim")
    assert "not been evaluated" in refuse("compare", name)
    succeed("inspect", name, "--episodes", "1", "--quiet")
    assert (folder / "inspection/train/raster.png").is_file()
    succeed("watch", name, "--episodes", "1", "--quiet")
    assert (folder / "watch/train.gif").is_file()
    succeed("evaluate", name, "--episodes", "2", "--split", "train", "--quiet")
    succeed("compare", name, "--json", "numbers.json")
    assert read_json(Path("numbers.json"))["suite"] == "multiroom"
    succeed("report", name)
    assert "multiroom" in Path("report.html").read_text()
    assert files(box) == before


def test_they_are_listed(box: Path) -> None:
    answer = succeed("list", "pretrained")
    for name in STEPS:
        assert f"pretrained:{name}" in answer.out


def test_a_training_starts_from_one(box: Path) -> None:
    words = [word for word in TINY if word != "--agent.learning_rate"]
    succeed(
        *("train", "recall/lstm", *words, "--agent.init_from", "pretrained:recall/lstm"),
        *("--agent.learning_rate", "1e-12", "--total-timesteps", "64", "--run-dir", "on"),
    )
    known = rimrl.load("pretrained:recall/lstm", device="cpu").policy.state_dict()
    for key, tensor in weights(Path("on")).items():
        th.testing.assert_close(tensor, known[key], rtol=0, atol=1e-6)


def test_an_environment_is_for_learning_on_and_has_to_fit(box: Path) -> None:
    env = rimrl.make_env("recall")
    agent = rimrl.pretrained("recall/lstm", env=env, device="cpu")
    assert agent.get_env() is not None
    with pytest.raises(UsageError) as refused:
        rimrl.pretrained("recall/lstm", env=rimrl.make_env("rimrl/RepeatPrevious-v0"), device="cpu")
    assert "does not fit" in str(refused.value)
    assert "damaged" not in str(refused.value)


@pytest.mark.parametrize("name", ["recall/lsmt", "recal/lstm", "pretrained:recall/lstm", "../trained/recall/lstm", ""])
def test_an_unknown_name_is_one_line_with_the_nearest(name: str, box: Path) -> None:
    with pytest.raises(UsageError) as refused:
        rimrl.pretrained(name)
    assert "recall/lstm" in str(refused.value)
    assert "recall/lstm" in refuse("evaluate", f"pretrained:{name}")
    assert files(Path()) == {}


def test_the_bare_name_is_no_run_and_the_refusal_names_the_agent(box: Path) -> None:
    assert "pretrained:recall/lstm" in refuse("evaluate", "recall/lstm")
    assert "pretrained" not in refuse("evaluate", "nowhere/lstm")


def test_a_folder_that_is_called_so_can_be_named(box: Path, runs: dict[str, Path]) -> None:
    Path("pretrained:recall").mkdir()
    shutil.copytree(runs["multiroom/rim"], "pretrained:recall/lstm")
    words = ("--episodes", "1", "--split", "train", "--no-random", "--quiet")
    succeed("evaluate", "./pretrained:recall/lstm", *words)
    assert read_json(Path("pretrained:recall/lstm/evaluation.json"))["suite"] == "multiroom"
    succeed("evaluate", "pretrained:recall/lstm", *words)
    assert read_json(Path("runs/pretrained/recall/lstm/evaluation.json"))["suite"] == "recall"


def test_another_agent_in_the_folder_is_left_alone(box: Path) -> None:
    folder = Path("runs/pretrained/recall/lstm")
    shutil.copytree(box / "multiroom/rim", folder)
    before = files(folder)
    assert str(folder) in refuse("evaluate", "pretrained:recall/lstm", "--quiet")
    assert files(folder) == before


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lose(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def garble(folder: Path) -> None:
    file = folder / "card.json"
    file.write_text(file.read_text()[:300])


def misshape(folder: Path) -> None:
    card = read_json(folder / "card.json")
    card["agent"]["policy_kwargs"]["core_kwargs"]["hidden_size"] += 1
    (folder / "card.json").write_text(json.dumps(card))


def diverge(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("damage", [cut, lose, garble, misshape, diverge])
def test_damaged_files_are_one_line_that_names_the_agent(damage: Any, box: Path) -> None:
    damage(box / "recall/lstm")
    with pytest.raises(UsageError) as refused:
        rimrl.pretrained("recall/lstm")
    said = str(refused.value)
    assert "\n" not in said
    assert "'recall/lstm'" in said
    assert str(box / "recall/lstm") in said
    assert str(box / "recall/lstm") in refuse("evaluate", "pretrained:recall/lstm", "--quiet")
    assert files(Path()) == {}
