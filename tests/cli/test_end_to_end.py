"""The main job, end to end: train, evaluate, compare, list."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import rimrl
from rimrl.cores.registry import CORES, make_core
from rimrl.envs.suites import DISTRACTORS, SUITES, get_suite
from rimrl.experiments.config_files import load_config, shipped_configs, shipped_transfers
from rimrl.sequence.config_files import shipped_presets
from rimrl.sequence.registry import TASKS
from tests.commands import SMALL, SMALL_ANY, SMALL_PPO, STEPS, call, read_json, rewrite, spawn, succeed
from tests.conftest import EPISODES, TRAINED_STEPS


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_folder_holds_what_it_promises(trained: Path) -> None:
    expected = {
        *("config.yaml", "environment.json", "model.zip", "best_model.zip", "checkpoints", "resume"),
        *("monitor.csv", "progress.csv", "evaluation.json"),
    }
    tensorboard = {name for name in names(trained) if name.startswith("events.out.tfevents")}
    assert len(tensorboard) == 1
    assert names(trained) - tensorboard == expected
    assert names(trained / "checkpoints") == {"model_512_steps.zip", "model_1024_steps.zip"}


def test_environment_json_says_what_ran_where(trained: Path) -> None:
    facts = read_json(trained / "environment.json")
    assert facts["status"] == "finished"
    assert facts["num_timesteps"] == TRAINED_STEPS
    assert {"torch", "stable-baselines3", "sb3-contrib", "gymnasium", "rimrl"} <= facts["versions"].keys()
    assert "not installed" not in facts["versions"].values()
    assert facts["python"].startswith("3.")
    assert facts["core_backend"] == make_core("rim", 8).backend


def test_monitor_csv_holds_every_episode(trained: Path) -> None:
    header, *lines = (trained / "monitor.csv").read_text().splitlines()
    assert json.loads(header.removeprefix("#"))["env_id"] == DISTRACTORS.train.env_id
    episodes = list(csv.DictReader(lines))
    assert episodes
    assert all(episode["is_success"] in {"True", "False"} for episode in episodes)
    # A success is the only thing that pays.
    assert all((float(episode["r"]) > 0) == (episode["is_success"] == "True") for episode in episodes)
    # Unfinished episodes of the 8 environments, at most 64 steps each, are missing.
    assert 0 <= TRAINED_STEPS - sum(int(episode["l"]) for episode in episodes) <= 8 * 64


def test_progress_csv_holds_every_update(trained: Path) -> None:
    with (trained / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = {int(row["time/total_timesteps"]) for row in rows}
    assert steps == set(range(256, TRAINED_STEPS + 1, 256))
    last = [row for row in rows if row["train/loss"]][-1]
    assert {"rollout/ep_rew_mean", "rollout/success_rate", "train/loss", "train/value_loss"} <= last.keys()
    # Two of the three units are active at every step.
    assert sum(float(last[f"units/active_{unit}"]) for unit in range(3)) == pytest.approx(2.0)


def test_evaluation_json(trained: Path) -> None:
    evaluation = read_json(trained / "evaluation.json")
    assert evaluation["suite"] == "distractors"
    assert list(evaluation["splits"]) == [split.name for split in DISTRACTORS.splits]
    for split in DISTRACTORS.splits:
        result = evaluation["splits"][split.name]
        assert result["held_out"] is split.held_out
        assert result["episodes"] == EPISODES
        for who in ("", "random_"):
            assert isinstance(result[f"{who}return_mean"], float)
            successes = result[f"{who}success_rate"] * EPISODES
            assert successes == pytest.approx(round(successes))
            assert result[f"{who}return_mean"] <= result[f"{who}success_rate"] + 1e-6
        assert 1 <= result["length_mean"] <= 64


def test_compare_prints_a_table_and_saves_a_picture(trained: Path, tmp_path: Path) -> None:
    answer = succeed("compare", trained, trained, "--plot", tmp_path / "comparison.png")
    for name, result in read_json(trained / "evaluation.json")["splits"].items():
        (line,) = [line for line in answer.out.splitlines() if line.split()[:1] == [name]]
        assert ("(held out)" in line) is result["held_out"]
        assert f"{result['success_rate']:.2f} ({result['return_mean']:.2f})" in line
        assert f"{result['random_success_rate']:.2f} ({result['random_return_mean']:.2f})" in line
        assert str(EPISODES) in line.split()
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_seeds_are_compared_with_intervals(run: Path, tmp_path: Path) -> None:
    rates = []
    for seed in (3, 4, 5):
        folder = Path(f"sweep/rim/{seed}")
        shutil.copytree(run, folder)
        rewrite(folder, "seed: 3", f"seed: {seed}")
        evaluation = read_json(folder / "evaluation.json")
        rates.append(evaluation["splits"]["train"]["success_rate"] + 0.2 * (seed - 4))
        evaluation["splits"]["train"]["success_rate"] = rates[-1]
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
    shutil.copytree(run, "lstm")
    rewrite("lstm", "name: distractors/rim", "name: distractors/lstm")
    Path("lstm/evaluation.json").write_text(
        Path("lstm/evaluation.json").read_text().replace('"distractors/rim"', '"distractors/lstm"')
    )

    answer = succeed("compare", "sweep", "lstm", "--plot", "picture.png", "--json", "numbers.json")
    numbers = read_json(Path("numbers.json"))
    rim = numbers["groups"]["rim"]
    assert [each["scores"]["train"] for each in rim["runs"]] == rates
    train = rim["splits"]["train"]
    assert train["value"] == pytest.approx(sum(rates) / 3)  # of three scores none is cut
    (line,) = [line for line in answer.out.splitlines() if line.split()[:1] == ["train"]]
    assert f"{train['value']:.2f} [{train['low']:.2f}, {train['high']:.2f}]" in line
    assert Path("picture.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert "note: lstm has 1 run: too few" in answer.err
    # Named one by one, and one of them twice: the same runs, the same answer.
    named = [f"sweep/rim/{seed}" for seed in (5, 3, 4, 3)]
    assert succeed("compare", *named, "lstm").out + "picture: picture.png\nnumbers: numbers.json\n" == answer.out


def test_evaluate_prints_the_same_table_as_compare(run: Path) -> None:
    evaluated = succeed("evaluate", run, "--episodes", "2", "--no-random", "--quiet")
    assert "train" in evaluated.out
    assert evaluated.out == succeed("compare", run).out
    assert "random" not in evaluated.out


def test_runs_of_different_suites_get_a_table_each(run: Path) -> None:
    other = Path(shutil.copytree(run, "other"))
    rewrite(other, "id: distractors", "id: rimrl/Distractors-v0")
    evaluated = succeed("evaluate", run, other, "--episodes", "1", "--no-random", "--quiet")
    tables = [succeed("compare", path).out for path in (run, other)]
    assert evaluated.out == "".join(tables)
    assert ["novel_shapes" in table for table in tables] == [True, False]


def test_progress_goes_to_standard_error_unless_quiet(run: Path) -> None:
    loud = succeed("evaluate", run, "--episodes", "1", "--split", "train")
    quiet = succeed("evaluate", run, "--episodes", "1", "--split", "train", "--quiet")
    assert "evaluate run" in loud.err
    assert quiet.err == ""
    assert loud.out == quiet.out


def test_best_model_is_evaluated_on_request(run: Path) -> None:
    (run / "model.zip").unlink()
    succeed("evaluate", run, "--best", "--episodes", "1", "--split", "train", "--quiet")
    assert read_json(run / "evaluation.json")["model"] == "best_model.zip"


@pytest.mark.parametrize("core", ["lstm", "gru", "feedforward"])
def test_another_core_on_the_rim_configuration(core: str, tmp_path: Path) -> None:
    succeed(
        *("train", "distractors/rim", "--core.name", core, *SMALL_PPO),
        *("--total-timesteps", str(STEPS), "--run-dir", tmp_path / core),
    )
    config = yaml.safe_load((tmp_path / core / "config.yaml").read_text())
    assert config["core"]["name"] == core
    assert config["core"]["hidden_size"] == load_config("distractors/rim").core.options["hidden_size"]
    assert "num_units" not in config["core"]
    assert rimrl.load(tmp_path / core).policy.lstm_actor.__class__.__name__.lower() == core


def test_rgb_tiles(tmp_path: Path) -> None:
    run = tmp_path / "rgb"
    succeed(
        "train", "distractors/rim", "--env.kwargs.tiles", "rgb", *SMALL, "--total-timesteps", "64", "--run-dir", run
    )
    image = rimrl.load(run).observation_space["image"]  # type: ignore[index]
    assert image.dtype == "uint8"
    succeed("evaluate", run, "--episodes", "1", "--no-random", "--quiet")
    assert len(read_json(run / "evaluation.json")["splits"]) == len(DISTRACTORS.splits)


def test_a2c(tmp_path: Path) -> None:
    run = tmp_path / "a2c"
    succeed(
        *("train", "distractors/rim", "--agent.algorithm", "a2c", *SMALL_ANY),
        *("--total-timesteps", str(STEPS), "--run-dir", run),
    )
    assert isinstance(rimrl.load(run), rimrl.RecurrentA2C)
    succeed("evaluate", run, "--split", "train", "--episodes", "2", "--quiet")


@pytest.mark.parametrize("suite", ["memory", "recall", "tmaze"])
def test_a_suite_with_a_file_of_ones_own(suite: str, tmp_path: Path) -> None:
    file, run = tmp_path / "own.yaml", tmp_path / "run"
    file.write_text(f"env: {{id: {suite}}}\ncore: {{name: rim}}\n")
    succeed("train", file, *SMALL, "--total-timesteps", "64", "--run-dir", run)
    held_out = get_suite(suite).held_out[-1].name
    succeed("evaluate", run, "--split", held_out, "--episodes", "1", "--no-random", "--quiet")
    assert list(read_json(run / "evaluation.json")["splits"]) == [held_out]


@pytest.mark.parametrize(
    ("env_id", "success"), [("rimrl/RepeatPrevious-v0", True), ("CartPole-v1", False), ("Pendulum-v1", False)]
)
def test_a_single_environment(env_id: str, success: bool, tmp_path: Path) -> None:
    file, run = tmp_path / "single.yaml", tmp_path / "run"
    file.write_text(f"env: {{id: {env_id}}}\ncore: {{name: gru, hidden_size: 8}}\n")
    succeed("train", file, *SMALL_PPO, "--total-timesteps", str(STEPS), "--run-dir", run)
    answer = succeed("evaluate", run, "--episodes", "2", "--quiet")
    evaluation = read_json(run / "evaluation.json")
    assert evaluation["suite"] == env_id
    assert evaluation["config"] == "single"
    assert list(evaluation["splits"]) == ["train"]
    result = evaluation["splits"]["train"]
    assert result["held_out"] is False
    assert isinstance(result["success_rate"], float) is success
    assert (result["success_rate"] is None) is not success
    assert f"{result['return_mean']:.2f}" in answer.out
    succeed("compare", run, run, "--plot", tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text()[:1000]


@pytest.mark.slow
def test_environments_in_processes_of_their_own(tmp_path: Path) -> None:
    run, same = tmp_path / "subproc", tmp_path / "dummy"
    few = ("--env.n_envs", "2", "--total-timesteps", "64", "--agent.batch_size", "16")
    succeed("train", "distractors/rim", *SMALL, *few, "--env.backend", "subproc", "--run-dir", run)
    succeed("train", "distractors/rim", *SMALL, *few, "--run-dir", same)
    episodes = [(path / "monitor.csv").read_text().splitlines()[2:] for path in (run, same)]
    assert [line.split(",")[:2] for line in episodes[0]] == [line.split(",")[:2] for line in episodes[1]]
    succeed("evaluate", run, "--split", "all_novel", "--episodes", "2", "--no-random", "--quiet")


@pytest.mark.parametrize(
    ("backend", "package", "env_id", "options"),
    [
        ("envpool", "envpool", "MiniGrid-Empty-5x5-v0", ("--env.kwargs.max_steps", "9")),
        ("native", "ale_py", "ALE/Pong-v5", ("--env.kwargs.max_num_frames_per_episode", "40")),
    ],
)
def test_a_native_backend_trains_and_the_original_evaluates(
    backend: str, package: str, env_id: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    pytest.importorskip(package)
    few = ("--env.n_envs", "2", "--total-timesteps", "64", "--agent.batch_size", "16")
    run = tmp_path / "run"
    config = tmp_path / "config.yaml"
    config.write_text(f"env: {{id: {env_id}, backend: {backend}}}\n")
    succeed("train", config, *SMALL_PPO, *few, *options, "--run-dir", run)
    assert read_json(run / "environment.json")["status"] == "finished"
    lengths = {int(line.split(",")[1]) for line in (run / "monitor.csv").read_text().splitlines()[2:]}
    assert lengths
    assert max(lengths) <= 10
    succeed("evaluate", run, "--episodes", "2", "--no-random", "--quiet")
    assert (run / "evaluation.json").is_file()


def test_the_default_folder_is_the_first_free_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "distractors" / "rim_1").mkdir(parents=True)
    answer = succeed("train", "distractors/rim", *SMALL, "--total-timesteps", "64")
    assert "rimrl evaluate runs/distractors/rim_2" in answer.out
    assert (tmp_path / "runs/distractors/rim_2/model.zip").is_file()


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    succeed("train", "distractors/rim", *SMALL, "--total-timesteps", "64", "--run-dir", tmp_path)
    assert (tmp_path / "model.zip").is_file()


def test_keys_prints_the_configuration_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = succeed("train", "distractors/rim", "--core.num_active", "3", "--print-config")
    shown = yaml.safe_load(answer.out)
    assert shown["core"]["num_active"] == 3
    assert set(shown) == {"name", "env", "core", "agent", "train"}
    assert list(tmp_path.iterdir()) == []


def first_column(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line[2:3].strip()]


def test_list() -> None:
    listed: dict[str, Any] = {what: first_column(succeed("list", what).out) for what in ("cores", "configs", "envs")}
    assert listed["cores"] == ["core", *CORES]
    assert {"rim", "lstm", "gru", "feedforward"} < CORES.keys()
    assert listed["configs"][1:] == [*shipped_configs(), *shipped_transfers(), *shipped_presets()]
    assert first_column(succeed("list", "tasks").out) == ["task", *TASKS]
    assert {split.env_id for split in DISTRACTORS.splits} < set(listed["envs"])
    suites = succeed("list", "suites").out
    assert all(split.name in suites for split in DISTRACTORS.splits)
    assert suites.count("held out") >= len(DISTRACTORS.held_out)
    noted = [suite.memoryless for suite in SUITES.values() if suite.memoryless is not None]
    assert [
        float(score) for score in re.findall(r"feed-forward policy reaches (\d\.\d\d)", " ".join(suites.split()))
    ] == noted


def test_nothing_is_cut_from_a_table_of_many_runs(trained: Path) -> None:
    out = succeed("compare", *[trained] * 6).out
    assert "…" not in out


@pytest.mark.slow
@pytest.mark.parametrize("words", [("train", "distractors/rim"), ("sequence", "copying")])
def test_print_config_is_taken_under_its_old_name(words: tuple[str, ...]) -> None:
    assert succeed(*words, "--keys").out == succeed(*words, "--print-config").out  # old name


def test_end_to_end_in_processes_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = ("train", "distractors/rim", "--seed", "1", *SMALL, "--total-timesteps", str(STEPS), "--run-dir", "run")
    assert spawn(*train, cwd=tmp_path).code == 0
    monkeypatch.chdir(tmp_path)
    succeed("evaluate", "run", "--episodes", "2", "--quiet")
    answer = spawn("compare", "run", "--plot", "comparison.png", cwd=tmp_path)
    assert answer.code == 0
    assert answer.err == ""
    assert call("compare", tmp_path / "run").out in answer.out
    again = call(*train)
    assert again.code == 2
    assert again.err.count("\n") == 1
