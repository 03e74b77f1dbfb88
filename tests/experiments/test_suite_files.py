"""Suites in YAML files: read, refused, and taken from training to the report."""

from __future__ import annotations

import csv
import os
import re
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import yaml

from rimrl.envs.splits import Suite
from rimrl.envs.vector import make_env
from rimrl.errors import UsageError
from rimrl.experiments.suite_files import read_suite
from tests.commands import Answer, call, files, read_json, same_weights
from tests.experiments.test_own_modules import HERE, HOSTILE, forgetting, refused, within

POLE = {"id": "CartPole-v1"}
CUE = """
name: cue
description: Remember a cue; the held-out wait is longer.
imports: [own_env]
splits:
  train: {id: Own/Cue-v0, description: Two steps.}
  longer: {id: "own_env:Own/Cue-v0", kwargs: {delay: 4}, description: Four steps.}
"""
CONFIG = """
env: {id: suites/cue.yaml, n_envs: 4}
core: {name: lstm, hidden_size: 8}
agent: {n_steps: 16, batch_size: 32, learning_rate_schedule: constant}
train: {total_timesteps: 128, eval_freq: 64, eval_episodes: 4}
"""
TRUST = ("--import", "own_env", "--quiet")
SPLITS = "--train.eval_splits=[train, longer]"


def folder_with_suite(folder: Path) -> Path:
    """An environment, a suite in a folder of its own, and a configuration that names it."""
    shutil.copy(HERE / "own_env.py", folder)
    (folder / "suites").mkdir()
    (folder / "suites/cue.yaml").write_text(CUE)
    (folder / "all.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with an evaluated sweep over two seeds, one worked on here and one in a process of its own."""
    folder = folder_with_suite(tmp_path_factory.mktemp("outside"))
    words = ("--seeds", "0,1", "--evaluate", "--episodes", "4", "--quiet", SPLITS, "--run-dir", "sweep")
    within(folder, "sweep", "all.yaml", *words, "--trial", "0")
    within(folder, "sweep", "all.yaml", *words)
    return folder


@pytest.fixture
def own(outside: Path, tmp_path: Path) -> Path:
    """A copy of the folder, without the file of the suite, which the runs do not need."""
    shutil.copytree(outside, tmp_path / "own")
    shutil.rmtree(tmp_path / "own/suites")
    asked = tmp_path / "own/sweep/sweep.yaml"
    asked.write_text(asked.read_text().replace(str(outside), str(tmp_path / "own")))
    return tmp_path / "own"


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "progress.csv").open() as stream:
        return list(csv.DictReader(stream))


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_file_says_what_a_suite_is(tmp_path: Path) -> None:
    file = tmp_path / "poles.yaml"
    file.write_text("splits: {train: {id: CartPole-v0}, longer: {id: CartPole-v1, kwargs: {max_episode_steps: 700}}}")
    suite, modules = read_suite(file)
    assert (suite.name, suite.train.env_id, modules) == ("poles", "CartPole-v0", ())
    (longer,) = suite.held_out
    assert (longer.name, longer.env_id) == ("longer", "CartPole-v1")
    env = make_env(suite, "longer")
    assert env.spec is not None
    assert env.spec.max_episode_steps == 700


def test_modules_are_named_and_not_imported(tmp_path: Path) -> None:
    (tmp_path / "cue.yaml").write_text(CUE.replace("[own_env]", "[nowhere]"))
    assert read_suite(tmp_path / "cue.yaml").modules == ("nowhere", "own_env")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2]", "'splits'"),
        ({"splits": []}, "'splits'"),
        ({"splits": {}}, "splits of"),
        ({"splits": {"train": POLE | {"held_out": True}}}, "exactly one"),
        ({"splits": {"train": POLE, "other": POLE | {"held_out": False}}}, "train, other"),
        ({"splits": {"main": POLE | {"held_out": False}}}, "'train'"),
        ({"splits": {"train": POLE}, "descripton": ""}, "'description'"),
        ({"splits": {"train": POLE | {"kwarg": {}}}}, "'kwargs'"),
        ({"splits": {"train": POLE | {"kwargs": {"a": {"b": {1: 2}}}}}}, "texts.*keys"),
        ("splits: {train: {id: CartPole-v1, kwargs: {since: 2024-01-01}}}", "kwargs.*split 'train'"),
        ("splits: {train: {id: CartPole-v1, kwargs: {a: " + "[" * 20 + "]" * 20 + "}}}", "nested"),
        ("splits: {train: {id: CartPole-v1}, train: {id: CartPole-v0}}", "twice"),
        ("splits: {train: {id: !!python/object/apply:os.system [true]}}", "not valid YAML"),
        ("splits: &a {train: *a}", "alias"),
        ("splits: {train: {id: CartPole-v1", "not valid YAML"),
        ({"splits": {"train": POLE}, "imports": "own_env"}, "imports of"),
        ({"splits": {"train": POLE}, "imports": ["own env"]}, "imports of"),
        ({"splits": {"train": POLE}, "name": "recall"}, "taken"),
        ({"splits": {"train": POLE}, "name": "../poles"}, "name.*suite"),
        ({"splits": {"train": POLE}, "name": "other.yaml"}, "name.*suite"),
        ({"splits": {"train": POLE} | {f"s{i}": POLE for i in range(500)}}, "500"),
        ("#" * 2**19, "MiB"),
    ],
)
def test_what_is_no_suite_is_refused_in_one_line(content: object, said: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(UsageError) as refusal:
        read_suite(file)
    assert re.search(said, str(refusal.value))
    assert "own.yaml" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def trained(folder: Path, *words: str) -> Answer:
    with chdir(folder):
        return call("train", "recall/lstm", *words, "--run-dir", "run", "--quiet")


def test_a_pipe_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("pipe.yaml", "none.yaml"):
        answer = trained(tmp_path, "--env.id", name)
        assert (answer.code, answer.err.count("\n")) == (2, 1)
        assert name in answer.err


@pytest.mark.parametrize(
    ("train", "other", "said"),
    [
        (POLE, {"id": "Acrobot-v1"}, "observations of 'other'"),
        (
            {"id": "MiniGrid-Empty-5x5-v0"},
            {"id": "MiniGrid-Empty-5x5-v0", "kwargs": {"agent_view_size": 5}},
            "'image'.*'other'",
        ),
        (POLE, POLE | {"kwargs": {"sutton_barto": True}}, "'sutton_barto_reward'"),
        (POLE, {"id": "CartPol-v1"}, "'CartPole-v1'"),
    ],
)
def test_splits_that_do_not_fit_are_refused_before_training(train: Any, other: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"splits": {"train": train, "other": other}}))
    answer = trained(tmp_path, "--env.id", "own.yaml", "--env.n_envs", "2")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert re.search(said, answer.err)
    assert not (tmp_path / "run").exists()


def test_a_configuration_is_held_against_the_suite_it_holds(tmp_path: Path) -> None:
    suite = {"name": "poles", "splits": {"train": POLE}}
    for content, said in (
        ({"env": {"id": "CartPole-v1"}, "suite": suite}, "'poles'"),
        ({"suite": {"name": "poles"}}, "'splits'"),
        (suite, "holds a suite"),
    ):
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
        answer = call("train", tmp_path / "own.yaml", "--print-config")
        assert (answer.code, answer.err.count("\n")) == (2, 1)
        assert said in answer.err
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"suite": suite}))
    assert yaml.safe_load(call("train", tmp_path / "own.yaml", "--print-config").out)["env"]["id"] == "poles"
    other = yaml.safe_load(call("train", tmp_path / "own.yaml", "--print-config", "--env.id", "CartPole-v0").out)
    assert other["env"]["id"] == "CartPole-v0"
    assert "suite" not in other


# -- from training to the report --------------------------------------------------------------------------------------


def test_a_run_holds_its_suite(own: Path) -> None:
    config = yaml.safe_load((own / "sweep/seed_0/config.yaml").read_text())
    assert config["env"]["id"] == config["suite"]["name"] == "cue"
    assert config["imports"] == ["own_env"]
    assert config["suite"]["splits"]["longer"] == {
        "id": "own_env:Own/Cue-v0",
        "kwargs": {"delay": 4},
        "held_out": True,
        "description": "Four steps.",
    }


def test_runs_do_not_need_the_file(own: Path) -> None:
    before = read_json(own / "sweep/seed_0/evaluation.json")
    within(own, "evaluate", "sweep/seed_0", *TRUST, "--episodes", "4")
    splits = read_json(own / "sweep/seed_0/evaluation.json")["splits"]
    assert splits == before["splits"]
    assert {name: (each["held_out"], each["length_mean"]) for name, each in splits.items()} == {
        "train": (False, 3.0),
        "longer": (True, 5.0),
    }
    within(own, "inspect", "sweep/seed_0", *TRUST, "--episodes", "2", "--split", "longer")
    assert read_json(own / "sweep/seed_0/inspection/longer/inspection.json")["suite"] == "cue"
    within(own, "export", "sweep/seed_0", "exported", "--import", "own_env")
    assert "own_env" in refused(own, "evaluate", "exported")
    within(own, "evaluate", "exported", *TRUST, "--episodes", "4")
    assert read_json(own / "exported/evaluation.json")["splits"]["longer"] == splits["longer"]


def test_tables_and_pages(own: Path) -> None:
    within(own, "compare", "sweep", "--json", "numbers.json", "--figures", "figures", "--plot", "picture.svg")
    numbers = read_json(own / "numbers.json")
    assert (numbers["suite"], numbers["trained"], numbers["held_out"]) == ("cue", ["train"], ["longer"])
    scores = [run["scores"] for run in numbers["groups"]["all"]["runs"]]
    gap = sum(each["train"] - each["longer"] for each in scores) / len(scores)
    assert numbers["groups"]["all"]["generalisation_gap"]["value"] == pytest.approx(gap)
    assert (own / "figures/held_out_curves.pdf").is_file()
    within(own, "report", "sweep", "--output", "report.html")
    page = (own / "report.html").read_text()
    assert re.search(r"success rate .*longer", page)
    assert "--import own_env" in page


def test_resuming_with_another_suite_is_refused_by_key(own: Path) -> None:
    run = "sweep/seed_0"
    more = ("--resume", run, *TRUST, "--total-timesteps", "192")
    (own / "suites").mkdir()
    (own / "suites/cue.yaml").write_text(CUE.replace("delay: 4", "delay: 6"))
    assert "suite.splits.longer.kwargs.delay 4 -> 6" in refused(own, "train", "all.yaml", *more)
    assert re.search(r"kwargs\.delay 4.* 6", refused(own, "sweep", "sweep", *TRUST))
    within(own, "train", *more)  # as the run has it
    assert read_json(own / run / "environment.json")["num_timesteps"] == 192
    said = refused(own, "evaluate", run, *TRUST, "--suite", "suites/cue.yaml")
    assert "'cue'" in said
    (own / "suites/other.yaml").write_text((own / "suites/cue.yaml").read_text().replace("name: cue", "name: other"))
    within(own, "evaluate", run, *TRUST, "--suite", "suites/other.yaml", "--episodes", "2")
    other = read_json(own / run / "evaluation-other.json")
    assert other["splits"]["longer"]["env_kwargs"] == {"delay": 6}
    assert other["splits"]["train"]["held_out"] is False  # the same that it was trained on
    within(own, "compare", run, "--suite", "suites/other.yaml")


# -- imports ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["imports", "suite", "id"])
@pytest.mark.parametrize("verb", [("evaluate", "RUN"), ("train", "--resume", "RUN"), ("train", "RUN/config.yaml")])
def test_a_stored_suite_imports_nothing_by_itself(verb: tuple[str, ...], place: str, own: Path) -> None:
    run = (own / "sweep/seed_0").rename(own / "RUN")
    (own / "hostile.py").write_text(HOSTILE.format(str(own / "ran")))
    (run / "environment.json").unlink()
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["imports"] = ["hostile"] if place == "imports" else []
    if place == "suite":
        content["suite"]["imports"] = ["hostile"]
    content["suite"]["splits"] |= dict.fromkeys(("train", "longer"), POLE)
    if place == "id":
        content["suite"]["splits"]["longer"] = {"id": "hostile:CartPole-v1"}
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    before = files(run)
    assert "--import hostile" in refused(own, *verb)
    assert not (own / "ran").exists()
    assert files(run) == before
    with forgetting(), chdir(own):
        call(*verb, "--import", "hostile", "--print-config")
    assert (own / "ran").exists()


def test_files_of_suites_that_a_study_names_import_nothing(tmp_path: Path) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE.format(str(tmp_path / "ran")))
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump({"imports": ["hostile"], "splits": {"train": POLE}}))
    (tmp_path / "config_of_evil.yaml").write_text("env: {id: evil.yaml}")
    evil = str(tmp_path / "evil.yaml")
    for number, (config, over, overrides) in enumerate(
        [
            ("recall/lstm", {"env": [evil]}, {}),
            ("recall/lstm", {}, {"env.id": evil}),
            (str(tmp_path / "config_of_evil.yaml"), {}, {}),
        ]
    ):
        study = tmp_path / str(number)
        study.mkdir()
        asked = {"config": config, "seeds": [0], "over": over, "overrides": overrides}
        (study / "sweep.yaml").write_text(yaml.safe_dump(asked))
        assert "--import hostile" in refused(tmp_path, "sweep", study, "--plan")
        assert not (tmp_path / "ran").exists()
    (tmp_path / "0/suite.yaml").write_text((tmp_path / "evil.yaml").read_text())  # beside what studies leave behind
    assert "--import hostile" in refused(tmp_path, "train", "recall/lstm", "--env.id", "0/suite.yaml", "--print-config")
    assert not (tmp_path / "ran").exists()


# -- evaluations in training ------------------------------------------------------------------------------------------


def test_evaluations_on_splits_change_nothing_and_go_on(outside: Path, tmp_path: Path) -> None:
    run = outside / "sweep/seed_1"
    common = ("train", "all.yaml", "--seed", "1", "--quiet")
    within(outside, *common, "--run-dir", tmp_path / "without")
    assert same_weights(run, tmp_path / "without")
    for one, other in zip(rows(run), rows(tmp_path / "without"), strict=True):
        assert {name: one[name] for name in other if not name.startswith("time/")} == {
            name: value for name, value in other.items() if not name.startswith("time/")
        }
    within(outside, *common, SPLITS, "--total-timesteps", "64", "--run-dir", tmp_path / "half")
    within(outside, "train", "--resume", tmp_path / "half", *TRUST, "--total-timesteps", "128")
    assert same_weights(run, tmp_path / "half")
    for name in ("eval/success_rate_train", "eval/success_rate_longer", "eval/return_mean_longer"):
        values = [row[name] for row in rows(run)]
        assert sum(value != "" for value in values) == 2
        assert [row[name] for row in rows(tmp_path / "half")] == values


def test_a_curve_is_the_score_of_the_split(outside: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("--seed", "1", SPLITS, "--agent.learning_rate", "1e-30", "--quiet", "--run-dir", run)
    within(outside, "train", "all.yaml", *words)  # steps so small that the agent stays what it is
    within(outside, "evaluate", run, *TRUST, "--episodes", "4", "--n-envs", "4", "--seed", "100001")
    splits = read_json(run / "evaluation.json")["splits"]
    for name, scores in splits.items():
        drawn = {float(row[f"eval/success_rate_{name}"]) for row in rows(run) if row[f"eval/success_rate_{name}"]}
        assert drawn == {scores["success_rate"]}


@pytest.mark.parametrize(
    ("splits", "said"),
    [("[longr]", "'longer'"), ("[longer, longer]", "twice"), ("longer", "a list")],
)
def test_splits_that_there_are_not(splits: str, said: str, outside: Path, tmp_path: Path) -> None:
    words = ("train", "all.yaml", f"--train.eval_splits={splits}", "--quiet", "--run-dir", tmp_path / "run")
    assert said in refused(outside, *words)
    assert not (tmp_path / "run").exists()


# -- other arguments of the environment -------------------------------------------------------------------------------


def test_other_arguments_are_a_result_of_their_own(own: Path) -> None:
    run = own / "sweep/seed_0"
    before = (run / "evaluation.json").read_bytes()
    played = (*TRUST, "--episodes", "2", "--no-random")
    answer = within(own, "evaluate", "sweep/seed_0", *played, "--env.kwargs.delay", "7")
    assert "delay=7" in answer.err
    found = read_json(run / "evaluation-delay=7.json")
    assert found["changed_kwargs"] == {"delay": 7}
    for split in found["splits"].values():
        assert (split["length_mean"], split["env_kwargs"], split["held_out"]) == (8.0, {"delay": 7}, True)
    within(own, "evaluate", "sweep/seed_0", *played, "--env.kwargs.delay=2")  # what the constructor has anyhow
    same = read_json(run / "evaluation-delay=2.json")["splits"]
    assert not same["train"]["held_out"]
    assert (run / "evaluation.json").read_bytes() == before
    table = within(own, "compare", "sweep", "--json", "numbers.json")
    assert "delay" not in table.err
    assert read_json(own / "numbers.json")["held_out"] == ["longer"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--env.kwargs.dely", "7"), "'delay'"),
        (("--env.kwargs.delay", "seven"), "TypeError"),
        (("--env.kwargs.seed", "7"), "env.kwargs.seed"),
        (("--env.n_envs", "7"), "--env.kwargs"),
        (("--episode", "7"), "one argument"),
        (("--epsiodes", "7"), "--epsiodes"),
        (("--env.kwargs.delay",), "needs a value"),
    ],
)
def test_arguments_that_do_not_fit(words: tuple[str, ...], said: str, own: Path) -> None:
    before = files(own / "sweep")
    if words[0] == "--episode":  # an abbreviation, as before
        within(own, "evaluate", "sweep/seed_0", *TRUST, *words)
        return
    assert said in refused(own, "evaluate", "sweep/seed_0", *TRUST, *words)
    assert files(own / "sweep") == before


def test_a_suite_is_the_same_wherever_it_is_made_known(tmp_path: Path) -> None:
    """Two files of the same splits are equal; another value is not."""
    for name, delay in (("a", 4), ("b", 4), ("c", 5)):
        (tmp_path / f"{name}.yaml").write_text(CUE.replace("delay: 4", f"delay: {delay}"))
    a, b, c = (read_suite(tmp_path / f"{name}.yaml").suite for name in "abc")
    assert isinstance(a, Suite)
    assert a == b != c
