"""Runs that are stopped go on as if they had not been; whatever breaks leaves a checkpoint and one line."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.monitor import ResultsWriter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rimrl
from rimrl.envs.distractors import ObjectPickingEnv
from rimrl.envs.vector_state import worker_processes
from rimrl.experiments.callbacks import Stopping
from rimrl.experiments.run import Run
from rimrl.runs import checkpoint_files
from tests.commands import SMALL, Answer, call, files, read_json, rewrite, same_weights, spawn, succeed

UPDATE = 64  # steps of an iteration of SMALL
STEPS = 6 * UPDATE
WORDS = (
    *("distractors/rim", *SMALL, "--train.eval_freq", "96", "--train.eval_episodes", "2"),
    *(
        "--agent.learning_rate_schedule",
        "constant",
        "--train.resume_freq",
        str(2 * UPDATE),
        "--train.checkpoint_freq",
        "128",
    ),
)
CLOCK = {"time/fps", "time/time_elapsed"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    run = tmp_path_factory.mktemp("resuming") / "whole"
    succeed("train", *WORDS, "--total-timesteps", str(STEPS), "--run-dir", run)
    return run


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stops trainings in this process at a step, as a signal would."""

    def at(step: int) -> None:
        def on_step(self: Any) -> bool:
            self._stop.requested = self.num_timesteps >= step
            return not self._stop.requested

        monkeypatch.setattr(Stopping, "_on_step", on_step)

    return at


def begin(run: Path, *words: str) -> Answer:
    return call("train", *WORDS, "--total-timesteps", str(STEPS), *words, "--run-dir", run)


def progress(run: Path) -> list[dict[str, str]]:
    """Rows of progress.csv as they are written, without the clock."""
    with (run / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if value and name not in CLOCK} for row in rows]


def episodes(run: Path) -> list[list[str]]:
    """Rows of monitor.csv without the clock."""
    return [[*row[:2], *row[3:]] for row in csv.reader((run / "monitor.csv").read_text().splitlines()[1:])]


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    # Files that begin within one second are read in the order of their processes' numbers.
    return {
        tag: sorted((event.step, event.value) for event in events.Scalars(tag))
        for tag in events.Tags()["scalars"]
        if tag not in CLOCK
    }


def assert_same_run(one: Path, other: Path) -> None:
    assert same_weights(one, other)
    ours, theirs = rimrl.load(one), rimrl.load(other)
    for a, b in zip(_state_tensors(ours), _state_tensors(theirs), strict=True):
        assert th.equal(a, b)
    assert episodes(one) == episodes(other)
    assert progress(one) == progress(other)
    assert scalars(one).keys() == scalars(other).keys()
    for tag, values in scalars(one).items():
        np.testing.assert_allclose(values, scalars(other)[tag], rtol=1e-6, err_msg=tag)


def _state_tensors(agent: Any) -> list[th.Tensor]:
    state = agent.policy.optimizer.state_dict()["state"]
    return [value for entry in state.values() for value in entry.values()]


@pytest.mark.parametrize(
    "at", [2 * UPDATE + 4, *(pytest.param(at, marks=pytest.mark.slow) for at in (40, 5 * UPDATE + 60))]
)
def test_a_stopped_run_goes_on_to_the_same_end(at: int, whole: Path, tmp_path: Path, stop: Any) -> None:
    run = tmp_path / "run"
    stop(at)
    answer = begin(run)
    assert answer.code == 130
    assert f"{run / 'model.zip'};" in answer.err
    assert answer.err.endswith(f": rimrl train --resume {run}\n")
    assert answer.err.count("\n") == 1
    assert int(checkpoint_files.found(run)[0].name) == at // UPDATE * UPDATE
    stop(10**9)
    answer = succeed("train", "--resume", run, "--quiet")
    assert answer.err == ""
    assert_same_run(whole, run)
    facts = read_json(run / "environment.json")
    assert (facts["status"], facts["num_timesteps"]) == ("finished", STEPS)
    (note,) = facts["resumed"]
    assert (note["num_timesteps"], note["exact"], note["changes"]) == (at // UPDATE * UPDATE, True, [])
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {path.name for path in (whole / "checkpoints").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["frozen", "progressive"])
def test_a_transfer_goes_on(trunk: str, whole: Path, tmp_path: Path, stop: Any) -> None:
    words = ("--agent.init_from", str(whole), "--agent.trunk", trunk)
    assert begin(tmp_path / "whole", *words).code == 0
    stop(2 * UPDATE + 4)
    assert begin(tmp_path / "run", *words).code == 130
    stop(10**9)
    assert succeed("train", "--resume", tmp_path / "run", "--quiet").err == ""
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("--agent.learning_rate_schedule", "linear"),
        ("--agent.algorithm", "a2c", "--agent.n_steps", "16"),
        ("--core.name", "lstm", "--agent.core_sharing", "separate", "--env.efference_copies", "true"),
        ("--core.name", "lstm", "--env.id", "CartPole-v1", "--agent.normalize_observations", "true"),
    ],
    ids=["linear", "a2c", "lstm", "normalized"],
)
def test_other_schedules_algorithms_and_cores(words: tuple[str, ...], tmp_path: Path, stop: Any) -> None:
    words = ("distractors/lstm" if "lstm" in words else "distractors/rim", *_fitting_words(words), "--quiet")
    words = (*words, "--total-timesteps", "256", "--train.eval_freq", "0")
    succeed("train", *words, "--run-dir", tmp_path / "whole")
    stop(150)
    assert call("train", *words, "--run-dir", tmp_path / "run").code == 130
    stop(10**9)
    assert succeed("train", "--resume", tmp_path / "run", "--quiet").err == ""
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def _fitting_words(words: tuple[str, ...]) -> tuple[str, ...]:
    common = ("--env.n_envs", "4", "--core.hidden_size", "12")
    if "a2c" in words:
        return (*common, *words, "--core.num_units", "3", "--core.num_active", "2")
    if "lstm" in words:
        return (*common, *words[2:], "--agent.n_steps", "16", "--agent.batch_size", "32")
    return (*SMALL, *words)


def test_a_finished_run_goes_on_only_for_more_steps(whole: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    succeed("train", *WORDS, "--total-timesteps", str(4 * UPDATE), "--run-dir", short)
    before = files(short)
    refused = call("train", "--resume", short, "--quiet")
    assert refused.code == 2
    assert "is finished, at 256 steps; give a larger --total-timesteps" in refused.err
    assert files(short) == before
    succeed("train", "--resume", short, "--total-timesteps", str(STEPS), "--quiet")
    assert_same_run(whole, short)


def test_differences_need_to_be_accepted(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    before = files(run)
    words = ("train", "--resume", run, "--quiet", "--total-timesteps", str(STEPS + UPDATE))
    for given, named in (
        (("--agent.learning_rate", "0.001"), "agent.learning_rate 0.0015 -> 0.001"),
        (("--seed", "5"), "train.seed 0 -> 5"),
        (("--core.num_active", "1"), "core.num_active 2 -> 1"),
        (("--agent.learning_rate_schedule", "linear"), "falls to zero"),
    ):
        refused = call(*words, *given)
        assert refused.code == 2
        assert named in refused.err
        assert "--accept-changes" in refused.err
        assert refused.err.count("\n") == 1
    assert files(run) == before
    # What cannot be gone on with is refused even so, and nothing is lost.
    refused = call(*words, "--core.hidden_size", "24", "--accept-changes")
    assert refused.code == 2
    assert "should be" in refused.err
    assert files(run) == before
    succeed(*words, "--agent.learning_rate", "0.001", "--accept-changes")
    facts = read_json(run / "environment.json")
    assert "agent.learning_rate 0.0015 -> 0.001" in facts["resumed"][0]["changes"]
    assert rimrl.load(run).num_timesteps == STEPS + UPDATE
    assert rimrl.load(run).learning_rate == 0.001


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--resume", "nowhere"), "run folder nowhere"),
        (("--resume", "."), "run folder"),
        (("distractors/rim", "--accept-changes"), "--accept-changes needs --resume"),
        (("--resume", "{run}", "--run-dir", "other"), "--run-dir does not go with --resume"),
        (("distractors/lstm", "--resume", "{run}"), "core.name rim -> lstm"),
        (("--resume", "{run}", "--core.num_actve", "3"), "'core.num_active'?"),
    ],
)
def test_bad_input(
    words: tuple[str, ...], said: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = call("train", *(word.format(run=whole) for word in words))
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1


def test_a_run_that_is_being_trained_is_left_alone(whole: Path) -> None:
    before = files(whole)
    with Run.open(whole).locked():
        answer = call("train", "--resume", whole, "--total-timesteps", str(STEPS + UPDATE), "--quiet")
    assert answer.code == 2
    assert "another process" in answer.err
    assert files(whole) == before


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_again(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(whole / "config.yaml", run)
    (run / "monitor.csv").write_text('#{"t_st')
    before = files(run)
    assert call("train", "--resume", run, "--core.num_active", "7", "--accept-changes", "--quiet").code == 2
    assert files(run) == before
    answer = succeed("train", "--resume", run, "--quiet")
    assert answer.err.startswith(f"rimrl: {run} ")
    assert answer.err.count("\n") == 1
    assert_same_run(whole, run)


def test_less_than_a_run_has_had_is_refused(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    facts = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(facts | {"status": "interrupted"}))
    before = files(run)
    answer = call("train", "--resume", run, "--total-timesteps", "64", "--accept-changes", "--quiet")
    assert answer.code == 2
    told = f"--total-timesteps must be at least {STEPS}, which {run} has had already, got 64"
    assert answer.err == f"rimrl: {told}\n"
    assert files(run) == before


def test_a_run_that_ended_past_its_total_but_was_killed_before_it_said_so_goes_on(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    rewrite(run, f"total_timesteps: {STEPS}", f"total_timesteps: {STEPS - 1}")
    facts = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(facts | {"status": "running"}))
    succeed("train", "--resume", run, "--accept-changes", "--quiet")
    assert json.loads((run / "environment.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_environments_that_cannot_be_replayed_begin_anew(
    whole: Path, tmp_path: Path, stop: Any, monkeypatch: Any
) -> None:
    run = tmp_path / "run"
    stop(200)
    assert begin(run).code == 130
    stop(10**9)
    monkeypatch.setattr("rimrl.envs.replay.Replayable.replay", lambda self, record: "led elsewhere")
    answer = succeed("train", "--resume", run, "--quiet")
    assert "episodes begin anew at step 192" in answer.err
    assert answer.err.endswith(": led elsewhere\n")
    assert answer.err.count("\n") == 1
    assert rimrl.load(run).num_timesteps == STEPS
    assert read_json(run / "environment.json")["resumed"][0]["exact"] is False


# -- what breaks ------------------------------------------------------------------------------------------------------


def assert_goes_on(run: Path, whole: Path, answer: Answer, *said: str) -> None:
    """A run broke with one line and code 1; it goes on to the same end once the cause is gone."""
    assert answer.code == 1, answer.err
    assert answer.err.count("\n") == 1
    for part in (*said, f"rimrl train --resume {run}"):
        assert part in answer.err
    assert not list(run.rglob("*partial*"))
    assert read_json(run / "environment.json")["status"] in ("failed", "running")
    assert succeed("train", "--resume", run, "--quiet").err == ""
    assert_same_run(whole, run)


def test_a_full_disk_at_a_checkpoint(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, real, written = tmp_path / "run", checkpoint_files._write_synced, []

    def full(file: Path, content: bytes) -> None:
        written.append(file)
        if len(written) > 6:  # the first checkpoint has four files
            file.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        real(file, content)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_files, "_write_synced", full)
        answer = begin(run)
    assert [path.name for path in checkpoint_files.found(run)] == [f"{2 * UPDATE:012d}"]
    assert_goes_on(run, whole, answer, "the disk is full", "make room", f"from step {2 * UPDATE}")


@pytest.mark.slow
def test_a_full_disk_at_a_log(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, rows = tmp_path / "run", []

    def full(self: Any, row: Any) -> None:
        rows.append(row)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(ResultsWriter, "write_row", full)
        answer = begin(run)
    assert_goes_on(run, whole, answer, "the disk is full", "from step 0")


@pytest.mark.slow
def test_an_environment_that_raises(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, real, steps = tmp_path / "run", ObjectPickingEnv.step, []

    def breaks(self: Any, action: Any) -> Any:
        steps.append(action)
        if len(steps) == 300:
            raise ZeroDivisionError("the simulator\nbroke")
        return real(self, action)

    with monkeypatch.context() as patched:
        patched.setattr(ObjectPickingEnv, "step", breaks)
        answer = begin(run)
    assert "Traceback" in (run / "traceback.txt").read_text()
    assert_goes_on(run, whole, answer, "the environment raised ZeroDivisionError: the simulator broke at step")


@pytest.mark.slow
def test_an_update_that_breaks(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, real = tmp_path / "run", rimrl.RecurrentPPO._loss

    def breaks(self: Any, *words: Any) -> Any:
        if self.num_timesteps == 3 * UPDATE and self._n_updates % 4 == 2:  # half of the weights' update is done
            raise RuntimeError("out of memory")
        return real(self, *words)

    with monkeypatch.context() as patched:
        patched.setattr(rimrl.RecurrentPPO, "_loss", breaks)
        answer = begin(run)
    assert [path.name for path in checkpoint_files.found(run)] == [f"{2 * UPDATE:012d}"]
    assert_goes_on(run, whole, answer, "training broke with RuntimeError: out of memory")


@pytest.mark.slow
def test_weights_that_are_not_finite_are_no_checkpoint(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = tmp_path / "run", rimrl.RecurrentPPO.train

    def spoil(self: Any) -> None:
        real(self)
        if self.num_timesteps == 4 * UPDATE:
            with th.no_grad():
                next(iter(self.policy.value_net.parameters())).fill_(float("nan"))

    with monkeypatch.context() as patched:
        patched.setattr(rimrl.RecurrentPPO, "train", spoil)
        answer = begin(run)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert re.search(rf"step {2 * UPDATE} .*: rimrl train --resume {run}", answer.err)
    succeed("train", "--resume", run, "--quiet")
    assert_same_run(whole, run)


@pytest.mark.slow
def test_a_worker_that_dies(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"

    def kill(self: Any) -> bool:
        if self.num_timesteps == 3 * UPDATE + 4:
            worker_processes(self.training_env)[1].kill()
        return True

    with monkeypatch.context() as patched:
        patched.setattr(Stopping, "_on_step", kill)
        answer = begin(run, "--env.backend", "subproc")
    assert_goes_on(run, whole, answer, "the process of an environment died")


# -- kill -9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path) -> None:
    words = [*WORDS, "--agent.learning_rate_schedule", "linear", "--total-timesteps", "3200"]
    assert spawn("train", *words, "--run-dir", tmp_path / "whole").code == 0
    kills = 0
    for number in range(12):
        run = tmp_path / f"run_{number}"
        command = [sys.executable, "-m", "tests.experiments.kills", str(run), str(min(5, 20 - kills)), str(number)]
        answer = subprocess.run([*command, *words], capture_output=True, text=True, check=False, timeout=900)
        assert answer.returncode == 0, answer.stderr
        assert "Traceback" not in answer.stderr
        kills += int(answer.stdout.split()[-1])
        assert_same_run(tmp_path / "whole", run)
        if kills == 20:
            break
    assert kills == 20
