"""Runs at Weights & Biases and MLflow, read back from what these keep on this machine."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from rimrl.experiments.sweep import Sweep
from rimrl.experiments.sweep_config import ask
from rimrl.runs.checkpoint_files import found
from rimrl.runs.tracking import Tracking
from tests.commands import call, read_json, same_weights, succeed
from tests.trackers import wandb_files

CARTPOLE = (
    *("recall/rim", "--env.id", "CartPole-v1", "--env.n_envs", "4", "--agent.n_steps", "16", "--quiet"),
    *("--agent.batch_size", "32", "--core.hidden_size", "12", "--core.num_units", "3", "--core.num_active", "2"),
    *("--agent.learning_rate_schedule", "constant", "--train.resume_freq", "64"),
    *("--train.eval_freq", "64", "--train.eval_episodes", "1"),
)
COPYING = (
    *("sequence", "copying", "--core", "lstm", "--num-updates", "4", "--core.hidden_size", "8", "--quiet"),
    *("--train.log_freq", "2", "--train.batch_size", "4", "--train.test_sequences", "8", "--train.eval_sequences", "4"),
)


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of the test's own, and talk to nobody."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB__DISABLE_STATS": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_PROJECT", "WANDB_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every scalar that TensorBoard has of a run."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def same(stored: list[tuple[int, float]], points: list[tuple[int, float]]) -> bool:
    """Whether two curves have the same steps and values; TensorBoard's are float32."""
    steps, values = zip(*points, strict=True)
    return [step for step, _ in stored] == list(steps) and [value for _, value in stored] == pytest.approx(
        list(values), rel=1e-6, nan_ok=True
    )


def test_wandb_has_the_curves_the_configuration_and_the_evaluation(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    where = ("--track", "wandb", "--track-project", "poles")
    succeed("train", *CARTPOLE, "--total-timesteps", "128", "--run-dir", run, *where)
    succeed("evaluate", run, "--episodes", "2", "--no-random", "--quiet", "--track", "wandb")
    training, evaluation = wandb_files(tmp_path)
    for name, points in curves(run).items():
        assert same([(row["_step"], row[name]) for row in training.rows if name in row], points), name
    assert (training.run.project, training.run.run_group, training.exit_code) == ("poles", "", 0)
    assert training.config["core"]["name"] == "rim"
    assert training.config["train"]["total_timesteps"] == 128
    assert evaluation.run.run_id == training.run.run_id == read_json(run / "tracking.json")["wandb"]["id"]
    scores = read_json(run / "evaluation.json")["splits"]["train"]
    assert evaluation.summary["evaluation/train/return_mean"] == scores["return_mean"]
    assert evaluation.summary["evaluation/train/episodes"] == 2


def test_mlflow_has_every_step_once_though_the_run_went_back(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    run = tmp_path / "run"
    succeed("train", *CARTPOLE, "--total-timesteps", "128", "--run-dir", run, "--track", "mlflow")
    shutil.rmtree(found(run)[0])  # as if the machine had gone down before it was written
    more = ("--total-timesteps", "192", "--quiet", "--track", "mlflow")
    succeed("train", "--resume", run, *more)
    succeed("inspect", run, "--episodes", "1", "--quiet", "--track", "mlflow")
    assert read_json(run / "environment.json")["resumed"][0]["num_timesteps"] == 64

    client: Any = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("rimrl")
    (stored,) = client.search_runs([experiment.experiment_id])
    clocks = ("time/fps", "time/time_elapsed")  # differ between the two times
    for name, points in curves(run).items():
        history = [(point.step, point.value) for point in client.get_metric_history(stored.info.run_id, name)]
        assert [step for step, _ in history] == [step for step, _ in points], name
        assert name in clocks or same(history, points), name
    assert [step for step, _ in curves(run)["eval/mean_reward"]] == [64, 128, 192]
    assert stored.info.status == "FINISHED"
    assert stored.data.params["core.num_active"] == "2"
    folder = Path(client.download_artifacts(stored.info.run_id, ""))
    assert (folder / "config.yaml").read_text() == (run / "config.yaml").read_text()
    drawn = {file.name for file in (folder / "inspection/train").iterdir()}
    assert drawn == {file.name for file in (run / "inspection/train").glob("*.png")} != set()

    untracked = tmp_path / "untracked"
    succeed("train", *CARTPOLE, "--total-timesteps", "192", "--run-dir", untracked)
    assert same_weights(run, untracked)
    assert (run / "config.yaml").read_text() == (untracked / "config.yaml").read_text()


def test_cells_of_a_sweep_are_runs_of_one_group(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    words = ("--seeds", "4", "--total-timesteps", "64", "--evaluate", "--episodes", "1", "--trial", "0")
    succeed("sweep", *CARTPOLE, *words, "--run-dir", tmp_path / "sweep", "--track", "wandb")
    training, evaluation = wandb_files(tmp_path)
    assert training.run.run_group == evaluation.run.run_group == f"{tmp_path.name}/sweep"
    assert training.run.display_name == "seed_4"
    assert training.config["train"]["seed"] == 4
    assert "evaluation/train/return_mean" in evaluation.summary


def test_trainings_of_a_search_are_runs_of_one_group(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    pytest.importorskip("optuna")
    words = ("--space", "agent.learning_rate=1e-3,2e-3", "--seeds", "4", "--total-timesteps", "64", "--episodes", "1")
    succeed(
        "tune", *CARTPOLE, *words, "--trials", "1", "--trial", "0", "--run-dir", tmp_path / "tune", "--track", "wandb"
    )
    training, evaluation = wandb_files(tmp_path)
    assert training.run.run_group == evaluation.run.run_group == f"{tmp_path.name}/tune"
    assert training.run.display_name == "trial_000/seed_4"
    assert "evaluation/train/return_mean" in evaluation.summary


def test_trials_of_a_sweep_carry_the_tracker(tmp_path: Path) -> None:
    sweep = Sweep(ask("recall/rim", "0..1", [], []), tmp_path / "sweep", check=False, tracking=Tracking("mlflow", "p"))
    assert [cell.tracking for cell in sweep.trials] == [Tracking("mlflow", "p")] * 2
    assert "mlflow" not in sweep.description()


def test_a_sequence_task_is_tracked_with_its_scores(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    succeed(*COPYING, "--run-dir", run, "--track", "wandb")
    training, evaluation = wandb_files(tmp_path)
    assert [row["_step"] for row in training.rows if "train/loss" in row] == [2, 4]
    assert training.config["task"]["name"] == "copying"
    for split, scores in read_json(run / "evaluation.json")["splits"].items():
        assert evaluation.summary[f"evaluation/{split}/cross_entropy"] == scores["cross_entropy"]


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
@pytest.mark.parametrize("verb", [("train", *CARTPOLE), COPYING, ("sweep", *CARTPOLE)])
def test_a_tracker_that_is_not_installed_is_named_before_the_work(
    verb: tuple[str, ...], tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    answer = call(*verb, "--run-dir", tmp_path / "run", "--track", tracker)
    assert (answer.code, answer.out) == (2, "")
    assert f"pip install 'rimrl[{tracker}]'" in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--track-project", "p"], "--track"), (["--track", "tensorbord"], "wandb"), (["--track", ""], "")],
)
def test_options_that_make_no_sense(words: list[str], said: str, tmp_path: Path) -> None:
    answer = call("train", *CARTPOLE, "--run-dir", tmp_path / "run", *words)
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
    assert said in answer.err
    assert not (tmp_path / "run").exists()


def test_a_store_that_does_not_answer_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://at.all")
    answer = call("train", *CARTPOLE, "--run-dir", tmp_path / "run", "--track", "mlflow")
    assert answer.code == 2
    assert "MLFLOW_TRACKING_URI" in answer.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_tensorboard_lists_the_run_with_its_settings_and_last_scores(trained: Path) -> None:
    events = EventAccumulator(str(trained), size_guidance={"scalars": 0}).Reload()
    contents = {tag: each.plugin_data.content for tag, each in events.summary_metadata.items()}
    start: plugin_data_pb2.SessionStartInfo = metadata.parse_session_start_info_plugin_data(
        contents[metadata.SESSION_START_INFO_TAG]
    )
    assert start.hparams["core.num_active"].number_value == 2
    assert start.hparams["agent.algorithm"].string_value == "ppo"
    assert json.loads(start.hparams["agent.net_arch"].string_value) == []
    experiment = metadata.parse_experiment_plugin_data(contents[metadata.EXPERIMENT_TAG])
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert metrics == ["rollout/ep_rew_mean", "eval/mean_reward"]
    assert set(metrics) <= set(events.Tags()["scalars"])
