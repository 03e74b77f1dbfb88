"""Training: the same seed gives the same weights, and whatever stops it leaves a loadable agent."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import rimrl
from rimrl.experiments.config_files import load_config
from rimrl.experiments.run import Run
from rimrl.experiments.train import train
from tests.commands import SMALL, SMALL_PPO, call, command, read_json, same_weights, spawn, succeed, weights
from tests.conftest import EPISODES, TRAIN

BREAKS = "rimrl-test/Breaks-v0"
BREAKS_AT = 50


class BreaksEnv(gymnasium.Env[np.ndarray[Any, Any], np.int64]):
    """Raises at a step of its life."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray[Any, Any], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps > BREAKS_AT:
            raise ZeroDivisionError("the simulator broke")
        return np.zeros(1, np.float32), 1.0, self.steps % 10 == 0, False, {}


@pytest.fixture
def breaks(tmp_path: Path) -> Iterator[Path]:
    """A configuration whose environment breaks down."""
    gymnasium.register(BREAKS, lambda **_: BreaksEnv(), disable_env_checker=True)
    file = tmp_path / "breaks.yaml"
    file.write_text(f"env: {{id: {BREAKS}}}\n")
    yield file
    del gymnasium.registry[BREAKS]


def test_the_same_seed_gives_the_same_weights_in_another_process(trained: Path, tmp_path: Path) -> None:
    answer = spawn(*TRAIN, "--run-dir", tmp_path / "again")
    assert answer.code == 0, answer.err
    assert same_weights(trained, tmp_path / "again")
    succeed("evaluate", tmp_path / "again", "--episodes", str(EPISODES), "--quiet")
    assert (tmp_path / "again/evaluation.json").read_bytes() == (trained / "evaluation.json").read_bytes()
    # The best agent so far and the episodes are the same, too; only the clock differs.
    episodes = [list(csv.reader((run / "monitor.csv").open()))[2:] for run in (trained, tmp_path / "again")]
    assert [(r, length) for r, length, *_ in episodes[0]] == [(r, length) for r, length, *_ in episodes[1]]


@pytest.mark.parametrize("core", ["rim", "lstm"])
def test_another_seed_gives_other_weights(core: str, tmp_path: Path) -> None:
    def run(name: str, seed: int) -> Path:
        words = ("--core.name", core, "--core.hidden_size", "12", "--seed", str(seed), "--total-timesteps", "192")
        succeed("train", "distractors/rim", *SMALL_PPO, *words, "--run-dir", tmp_path / name)
        return tmp_path / name

    one, same, other = run("one", 1), run("same", 1), run("other", 2)
    assert same_weights(one, same)
    assert not same_weights(one, other)
    ours, theirs = weights(one), weights(other)
    assert not any(value.equal(theirs[name]) for name, value in ours.items())


def test_training_moves_the_weights(trained: Path) -> None:
    def saved(name: str) -> dict[str, Any]:
        return rimrl.load(trained / name).policy.state_dict()

    early, late = saved("checkpoints/model_512_steps.zip"), saved("model.zip")
    assert not any(value.equal(late[name]) for name, value in early.items())


def test_an_environment_that_breaks_leaves_the_agent(breaks: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("--env.n_envs", "2", "--agent.n_steps", "16", "--agent.batch_size", "16", "--train.eval_freq", "0")
    answer = call("train", breaks, *words, "--quiet", "--run-dir", run)
    assert answer.code == 1
    assert "ZeroDivisionError: the simulator broke at step 100" in answer.err
    assert f"step 96: rimrl train --resume {run}" in answer.err
    facts = read_json(run / "environment.json")
    assert facts["status"] == "failed"
    assert facts["num_timesteps"] == 2 * BREAKS_AT
    assert rimrl.load(run).num_timesteps == 2 * BREAKS_AT
    assert len((run / "monitor.csv").read_text().splitlines()) == 2 + 2 * BREAKS_AT // 10
    assert len((run / "progress.csv").read_text().splitlines()) == 1 + 3
    refused = call("train", breaks, "--run-dir", run)
    assert refused.code == 2
    assert "'failed'" in refused.err


def test_train_may_be_called_from_a_thread(tmp_path: Path) -> None:
    words = [word for word in SMALL if word != "--quiet"]
    config = load_config("distractors/rim", [*words, "--train.total_timesteps", "64"])
    outcomes: list[bool] = []
    worker = threading.Thread(target=lambda: outcomes.append(train(config, tmp_path / "run", progress_bar=False)[1]))
    worker.start()
    worker.join()
    assert outcomes == [True]


def test_training_leaves_no_thread_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    succeed(*TRAIN, "--run-dir", tmp_path / "run")
    assert set(threading.enumerate()) <= before


def test_signal_handlers_are_given_back(trained: Path, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    succeed("train", "distractors/rim", *SMALL, "--total-timesteps", "64", "--run-dir", tmp_path / "run")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def interrupted(run: Path, number: signal.Signals, *words: str, group: bool = False) -> tuple[int, str]:
    """Begin a training, send it a signal after a few updates, and wait for its end."""
    training = subprocess.Popen(
        command("train", "distractors/rim", *SMALL, "--total-timesteps", "10000000", *words, "--run-dir", run),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        progress = run / "progress.csv"
        while not (progress.exists() and progress.read_text().count("\n") > 3):
            assert training.poll() is None, "it ended on its own"
            assert time.monotonic() < deadline, "it never began"
            time.sleep(0.05)
        (os.killpg if group else os.kill)(training.pid, number)
        _, err = training.communicate(timeout=60)
    finally:
        training.kill()
    return training.returncode, err


def assert_left_in_order(run: Path) -> None:
    """The files of a run that was stopped are whole, and agree with each other."""
    facts = read_json(run / "environment.json")
    assert facts["status"] == "interrupted"
    agent = rimrl.load(run)
    assert agent.num_timesteps == facts["num_timesteps"] > 0
    with (run / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert max(int(row["time/total_timesteps"]) for row in rows) <= facts["num_timesteps"]
    header, *episodes = (run / "monitor.csv").read_text().splitlines()
    assert header.startswith("#{")
    assert episodes[0] == "r,l,t,is_success"
    assert all(len(line.split(",")) == 4 for line in episodes)
    assert sum(int(line.split(",")[1]) for line in episodes[1:]) <= facts["num_timesteps"]
    assert not [path.name for path in run.iterdir() if "partial" in path.name]
    assert Run.open(run).config.train.total_timesteps == 10_000_000
    succeed("evaluate", run, "--split", "train", "--episodes", "1", "--no-random", "--quiet")
    assert read_json(run / "evaluation.json")["num_timesteps"] == facts["num_timesteps"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_training_and_keeps_the_agent(number: signal.Signals, tmp_path: Path) -> None:
    code, err = interrupted(tmp_path / "run", number)
    assert code == 130
    run = tmp_path / "run"
    assert f"{run / 'model.zip'};" in err
    assert err.endswith(f": rimrl train --resume {run}\n")
    assert_left_in_order(tmp_path / "run")


@pytest.mark.slow
def test_ctrl_c_with_environments_in_processes_of_their_own(tmp_path: Path) -> None:
    # A terminal sends Ctrl-C to the whole process group.
    code, err = interrupted(
        tmp_path / "run", signal.SIGINT, "--env.backend", "subproc", "--env.n_envs", "2", group=True
    )
    assert code == 130, err
    assert_left_in_order(tmp_path / "run")
