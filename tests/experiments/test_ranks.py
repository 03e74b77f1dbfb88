"""``torchrun … rimrl train``: one training over several processes, its run folder, and how all of them end."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

import rimrl
from rimrl.agents.distributed import DistributedRanks
from rimrl.agents.ppo import PPOConfig
from rimrl.agents.ranks import Ranks
from rimrl.envs.distractors import ObjectPickingEnv
from rimrl.errors import UsageError
from rimrl.experiments import factory
from rimrl.experiments import train as training
from rimrl.experiments.callbacks import Stopping
from rimrl.experiments.config_files import load_config
from rimrl.experiments.ranks import shard_config
from rimrl.runs import checkpoint_files
from tests.agents.ranks import free_port, launched, on_ranks
from tests.commands import SMALL, Answer, call, files, read_json, same_weights

UPDATE = 64  # steps of an iteration of SMALL, over both ranks
STEPS = 6 * UPDATE
WORDS = (
    *("train", "distractors/rim", *SMALL, "--agent.learning_rate_schedule", "constant"),
    *("--train.eval_freq", "128", "--train.eval_episodes", "2", "--train.resume_freq", str(2 * UPDATE)),
)


# -- shares -----------------------------------------------------------------------------------------------------------


def share(rank: int, size: int, *words: str) -> Any:
    return shard_config(load_config("distractors/lstm", words), DistributedRanks(None, rank, size))  # type: ignore[arg-type]


def test_shares_add_up_to_the_whole() -> None:
    whole = load_config("distractors/lstm", ("--train.seed", "7"))
    shares = [share(rank, 4, "--train.seed", "7") for rank in range(4)]
    assert isinstance(whole.agent, PPOConfig)
    assert sum(one.env.n_envs for one in shares) == whole.env.n_envs
    assert sum(one.agent.batch_size for one in shares) == whole.agent.batch_size
    seeds = [one.train.seed + env for one in shares for env in range(one.env.n_envs)]
    assert seeds == [7 + env for env in range(whole.env.n_envs)]  # those of one process
    assert {one.agent.learning_rate for one in shares} == {whole.agent.learning_rate}


@pytest.mark.parametrize(
    ("size", "words", "said"),
    [
        (3, (), "env.n_envs 64 cannot be shared by 3 processes; use --env.n_envs 66"),
        (
            2,
            ("--agent.batch_size", "64"),
            "64 is not whole sequences of 64 steps for each of 2 processes; use --agent.batch_size 128",
        ),
        (
            4,
            ("--agent.batch_size", "250"),
            "agent.batch_size 250 cannot be shared by 4 processes; use --agent.batch_size 252",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(size: int, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        share(0, size, *words)
    assert said in str(refused.value)


# -- trainings --------------------------------------------------------------------------------------------------------


def run_command(
    words: tuple[str, ...], ranks: Ranks, stop_at: int | None = None, breaks: str | None = None
) -> dict[str, Any]:
    """Run a command on a rank; the second one may be stopped or break."""
    made: list[Any] = []
    make_agent = factory.make_agent

    def noted(*arguments: Any) -> Any:
        made.append(make_agent(*arguments))
        return made[-1]

    vars(training)["make_agent"] = noted
    if stop_at is not None and ranks.rank == 1:
        Stopping._on_step = lambda self: _stop(self, stop_at)  # type: ignore[method-assign]
    if breaks is not None and ranks.rank == 1:
        _BREAK[breaks]()
    begun = time.monotonic()
    answer = call(*words)
    (agent,) = made or [None]
    return {
        "answer": (answer.code, answer.out, answer.err),
        "weights": None if agent is None else agent.policy.state_dict(),
        "first": None if agent is None else np.array(agent.rollout_buffer.observations["image"][0]),
        "num_timesteps": None if agent is None else agent.num_timesteps,
        "seconds": time.monotonic() - begun,
    }


def _stop(callback: Any, at: int) -> bool:
    callback._stop.requested = callback.num_timesteps >= at
    return not callback._stop.requested


def _break_environment() -> None:
    real, steps = ObjectPickingEnv.step, []

    def breaks(self: Any, action: Any) -> Any:
        steps.append(action)
        if len(steps) == 3 * 16 * 2 + 10:  # in the fourth rollout of two environments
            raise ZeroDivisionError("the simulator\nbroke")
        return real(self, action)

    ObjectPickingEnv.step = breaks  # type: ignore[method-assign]


def _break_update() -> None:
    real = rimrl.RecurrentPPO._loss

    def breaks(self: Any, *words: Any) -> Any:
        if self.num_timesteps == 3 * UPDATE:
            raise RuntimeError("out of memory")
        return real(self, *words)

    rimrl.RecurrentPPO._loss = breaks  # type: ignore[method-assign, assignment]


_BREAK = {"environment": _break_environment, "update": _break_update}


def rows(run: Path) -> list[list[str]]:
    """Episodes of monitor.csv without the clock."""
    return [[*row[:2], *row[3:]] for row in csv.reader((run / "monitor.csv").read_text().splitlines()[1:])]


def said(found: list[dict[str, Any]]) -> list[Answer]:
    return [Answer(*one["answer"]) for one in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A run of two ranks that nothing stopped."""
    folder = tmp_path_factory.mktemp("ranks")
    words = (*WORDS, "--total-timesteps", str(STEPS), "--run-dir", str(folder / "whole"))
    return folder / "whole", on_ranks(partial(run_command, words), folder)


@pytest.mark.slow
def test_one_run_of_two_ranks(whole: tuple[Path, list[dict[str, Any]]]) -> None:
    run, (one, other) = whole
    assert [answer.code for answer in said([one, other])] == [0, 0]
    assert sorted(answer.err for answer in said([one, other])) == ["", ""]
    assert [bool(answer.out) for answer in said([one, other])].count(True) == 1
    # One agent, which is what was saved, and other environments on each rank.
    saved = rimrl.load(run)
    for name, value in saved.policy.state_dict().items():
        assert th.equal(one["weights"][name], value)
        assert th.equal(other["weights"][name], value)
    assert not np.array_equal(one["first"], other["first"])
    assert one["num_timesteps"] == other["num_timesteps"] == saved.num_timesteps == STEPS
    facts = read_json(run / "environment.json")
    assert (facts["status"], facts["processes"], facts["num_timesteps"]) == ("finished", 2, STEPS)
    # Its monitor has every episode: those that ended, and at most one that goes on in each of four environments.
    lengths = [int(row[1]) for row in rows(run)[1:]]
    going_on = STEPS - sum(lengths)
    assert 0 <= going_on < 4 * 64
    with (run / "progress.csv").open(newline="") as file:
        logged = [row for row in csv.DictReader(file) if row["time/iterations"]]
    assert [int(row["time/total_timesteps"]) for row in logged] == [UPDATE * n for n in range(1, 7)]
    mean = np.mean([float(row[0]) for row in rows(run)[1:]])
    assert float(logged[-1]["rollout/ep_rew_mean"]) == pytest.approx(mean, rel=1e-5)
    assert load_config(str(run / "config.yaml")).env.n_envs == 4
    assert (run / "best_model.zip").exists()


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_end(whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = (*WORDS, "--total-timesteps", str(STEPS), "--run-dir", str(run))
    stopped = said(on_ranks(partial(run_command, words, stop_at=3 * UPDATE + 20), tmp_path))
    assert [answer.code for answer in stopped] == [130, 130]
    assert "".join(answer.err for answer in stopped) == (
        f"rimrl: interrupted; the agent so far is in {run / 'model.zip'}; to go on: "
        f"torchrun --standalone --nproc-per-node 2 -m rimrl train --resume {run}\n"
    )
    assert int(checkpoint_files.found(run)[0].name) == 3 * UPDATE
    # One process cannot go on with it, and leaves it as it is.
    before = files(run)
    refused = call("train", "--resume", run, "--quiet")
    assert refused.code == 2
    assert "number of processes" in refused.err
    assert ", got 1; " in refused.err
    assert refused.err.endswith(f"torchrun --standalone --nproc-per-node 2 -m rimrl train --resume {run}\n")
    assert files(run) == before
    resumed = on_ranks(partial(run_command, ("train", "--resume", str(run), "--quiet")), tmp_path)
    assert [answer.code for answer in said(resumed)] == [0, 0]
    assert [answer.err for answer in said(resumed)] == ["", ""]
    assert same_weights(whole[0], run)
    assert rows(whole[0]) == rows(run)
    for one, other in zip(whole[1], resumed, strict=True):
        assert all(th.equal(value, other["weights"][name]) for name, value in one["weights"].items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("breaks", "at", "what"),
    [
        ("environment", 3 * UPDATE, "the environment raised ZeroDivisionError: the simulator broke"),
        ("update", 2 * UPDATE, "training broke with RuntimeError: out of memory"),
    ],
)
def test_what_breaks_one_ends_all_with_one_line(breaks: str, at: int, what: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = (*WORDS, "--total-timesteps", str(STEPS), "--run-dir", str(run))
    found = on_ranks(partial(run_command, words, breaks=breaks), tmp_path)
    assert [answer.code for answer in said(found)] == [1, 1]
    told = "".join(answer.err for answer in said(found))
    assert told.count("\n") == 1
    assert what in told
    assert f"step {at}: torchrun --standalone --nproc-per-node 2 -m rimrl train --resume {run}" in told
    assert max(one["seconds"] for one in found) < 60
    assert read_json(run / "environment.json")["status"] == "failed"
    assert "Error" in (run / "traceback.txt").read_text()
    assert int(checkpoint_files.found(run)[0].name) == at


@pytest.mark.slow
def test_bad_input_is_told_once(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    words = (*WORDS, "--run-dir", str(taken))
    found = said(on_ranks(partial(run_command, words), tmp_path))
    assert [answer.code for answer in found] == [2, 2]
    assert "".join(answer.err for answer in found).count("\n") == 1
    assert "already holds" in "".join(answer.err for answer in found)
    assert [path.name for path in taken.iterdir()] == ["file"]


# -- as torchrun does it ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_torchrun(whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    words = (*WORDS, "--total-timesteps", str(STEPS), "--run-dir", str(tmp_path / "run"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rimrl"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"trained distractors/rim: {tmp_path / 'run'}\nnext: rimrl evaluate {tmp_path / 'run'}\n"
    assert same_weights(whole[0], tmp_path / "run")
    assert rows(whole[0]) == rows(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("kill") is None, reason="needs signals")
def test_a_rank_that_is_killed_ends_the_others(tmp_path: Path) -> None:
    run, port = tmp_path / "run", free_port()
    words = (*WORDS, "--total-timesteps", "1000000", "--run-dir", str(run))
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "rimrl", *words],
            env={**os.environ, **launched(rank, 2, port)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for _ in range(1200):
            if checkpoint_files.found(run):
                break
            time.sleep(0.1)
        ranks[1].send_signal(signal.SIGKILL)
        _, told = ranks[0].communicate(timeout=120)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert ranks[0].returncode == 1
    assert told.count("\n") == 1
    assert "was killed" in told
    assert "rimrl train --resume" in told
