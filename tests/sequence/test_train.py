"""Training on a sequence task: what it leaves, how it is stopped, and that it goes on to the same end."""

from __future__ import annotations

import csv
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch as th
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rimrl.errors import UsageError
from rimrl.reporting.groups import group_runs
from rimrl.reporting.results import read_runs
from rimrl.runs import checkpoint_files
from rimrl.sequence import train as training
from rimrl.sequence.evaluate import split_result
from rimrl.sequence.run import SequenceRun, make_run_task
from tests import paths
from tests.commands import Answer, call, command, files, read_json, rewrite, succeed
from tests.sequence.small import COPYING

UPDATES = 12
# Dropout draws while it learns: a run that goes on must draw the same.
WORDS = (
    *(*COPYING, "--core.input_dropout", "0.2", "--train.log_freq", "3", "--train.eval_freq", "4"),
    *("--train.resume_freq", "5", "--train.learning_rate", "0.01", "--train.learning_rate_schedule", "constant"),
)
CLOCK = "time/time_elapsed"
Stop = Callable[[int], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    run = tmp_path_factory.mktemp("sequence") / "whole"
    succeed("sequence", *WORDS, "--num-updates", str(UPDATES), "--run-dir", run)
    return run


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    """Stops trainings in this process after an update, by a signal."""
    learn_once = training.ModelLearner._learn_once

    def at(update: int) -> None:
        def learn(self: training.ModelLearner) -> None:
            learn_once(self)
            if self.reached == update:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(training.ModelLearner, "_learn_once", learn)

    return at


def begin(run: Path, *words: str) -> Answer:
    return call("sequence", *WORDS, "--num-updates", str(UPDATES), *words, "--run-dir", run)


def progress(run: Path) -> list[dict[str, str]]:
    with (run / "progress.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if value and name != CLOCK} for row in csv.DictReader(file)]


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag != CLOCK]
    # Files that begin within one second are read in the order of their processes' numbers.
    return {tag: sorted((event.step, event.value) for event in events.Scalars(tag)) for tag in tags}


def assert_same_run(one: Path, other: Path) -> None:
    ours, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(th.equal(ours[name], theirs[name]) for name in ours)
    last = [checkpoint_files.read(checkpoint_files.found(run)[0]) for run in (one, other)]
    assert last[0].tensors.keys() == last[1].tensors.keys()
    assert all(th.equal(last[0].tensors[name], last[1].tensors[name]) for name in last[0].tensors)
    assert progress(one) == progress(other)
    assert scalars(one) == scalars(other)
    assert read_json(one / "evaluation.json") == read_json(other / "evaluation.json")


@pytest.mark.parametrize("at", [1, 7, 10])
def test_a_stopped_run_goes_on_to_the_same_end_bit_for_bit(at: int, whole: Path, tmp_path: Path, stop: Stop) -> None:
    run = tmp_path / "run"
    stop(at)
    answer = begin(run)
    assert answer.code == 130
    assert f"{run / 'model.safetensors'};" in answer.err
    assert answer.err.endswith(f": rimrl sequence --resume {run}\n")
    assert answer.err.count("\n") == 1
    assert int(checkpoint_files.found(run)[0].name) == at
    assert not (run / "evaluation.json").exists()
    assert read_json(run / "environment.json")["status"] == "interrupted"
    stop(10**9)
    succeed("sequence", "--resume", run, "--quiet")
    assert_same_run(whole, run)
    facts = read_json(run / "environment.json")
    assert (facts["status"], facts["num_updates"]) == ("finished", UPDATES)
    assert facts["core_backend"] == ("native" if paths.compiled() else "torch")
    assert [note["num_updates"] for note in facts["resumed"]] == [at]


def test_a_killed_run_goes_on_from_its_last_checkpoint(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    child = subprocess.Popen(command("sequence", *WORDS, "--num-updates", "100000", "--run-dir", run))
    deadline = time.monotonic() + 100
    while not checkpoint_files.found(run) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.wait()
    reached = int(checkpoint_files.found(run)[0].name)
    if reached > UPDATES:
        pytest.skip("it was too fast to be killed in time")
    rewrite(run, "100000", str(UPDATES))
    succeed("sequence", "--resume", run, "--quiet")
    assert_same_run(whole, run)


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(whole: Path, tmp_path: Path, stop: Stop) -> None:
    run = tmp_path / "run"
    stop(11)
    begin(run)
    latest = checkpoint_files.found(run)[0]
    (latest / "tensors.safetensors").write_bytes(b"nothing")
    stop(10**9)
    answer = succeed("sequence", "--resume", run, "--quiet")
    assert f"checkpoint {latest} is damaged" in answer.err
    assert answer.err.endswith(" step 10\n")
    assert_same_run(whole, run)


def test_more_updates_are_those_of_a_longer_run(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    succeed("sequence", *WORDS, "--num-updates", "8", "--run-dir", run)
    succeed("sequence", "--resume", run, "--num-updates", str(UPDATES), "--quiet")
    ours, theirs = load_file(run / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(th.equal(ours[name], theirs[name]) for name in ours)


def test_the_log_says_how_evenly_units_are_used(whole: Path) -> None:
    rows = progress(whole)
    assert rows
    for row in rows:
        shares = [float(row[f"units/active_{unit}"]) / 2 for unit in range(3)]  # two of three at every step
        missing = sum(max(1 / 3 - share, 0) for share in shares)
        assert float(row["units/collapse"]) == pytest.approx(3 / 2 * missing, abs=1e-6)
        assert float(row["units/worst_share"]) == pytest.approx(1 - 3 * min(shares), abs=1e-6)


def test_another_length_of_a_falling_learning_rate_must_be_accepted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(run, "--train.learning_rate_schedule", "linear")
    answer = call("sequence", "--resume", run, "--num-updates", "20", "--quiet")
    assert answer.code == 2
    assert "learning rate" in answer.err
    rows = progress(run)
    assert [float(row["train/learning_rate"]) for row in rows if row["time/updates"] == "12"] == [
        pytest.approx(0.01 / 12)
    ]
    succeed("sequence", "--resume", run, "--num-updates", "20", "--accept-changes", "--quiet")
    assert read_json(run / "environment.json")["num_updates"] == 20


def test_nan_ends_the_training_and_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    learn_once = training.ModelLearner._learn_once

    def learn(self: training.ModelLearner) -> None:
        learn_once(self)
        if self.reached == 7:
            with th.no_grad():
                self.model.decoder.weight.fill_(math.nan)  # type: ignore[operator]

    monkeypatch.setattr(training.ModelLearner, "_learn_once", learn)
    answer = begin(run)
    assert answer.code == 2
    assert re.search(r"loss .*finite", answer.err)
    assert f"rimrl sequence --resume {run} --train.learning_rate" in answer.err
    assert [int(path.name) for path in checkpoint_files.found(run)] == [5]


def test_less_than_a_run_has_had_is_refused(tmp_path: Path, stop: Stop) -> None:
    run = tmp_path / "run"
    stop(8)
    begin(run)
    before = files(run)
    answer = call("sequence", "--resume", run, "--num-updates", "7", "--quiet")
    assert answer.code == 2
    assert answer.err == f"rimrl: --num-updates must be at least 8, which {run} has had already, got 7\n"
    assert files(run) == before


def test_changes_that_no_checkpoint_fits_are_named(tmp_path: Path, stop: Stop) -> None:
    run = tmp_path / "run"
    stop(8)
    begin(run)
    before = files(run)
    answer = call("sequence", "--resume", run, "--core.hidden_size", "24", "--accept-changes", "--quiet")
    assert answer.code == 2
    assert f"no checkpoint of {run} that fits what changed (core.hidden_size 12 -> 24)" in answer.err
    assert files(run) == before


def test_what_was_killed_before_its_first_checkpoint_starts_again_or_stays_as_it_is(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("rimrl.runs.lifecycle._carry_out", lambda *_: True)
        patched.setattr("rimrl.sequence.evaluate.evaluate", lambda run, progress_bar: {"splits": {}})
        begin(run)
    (run / "progress.csv").write_text("a row\n")
    before = files(run)
    answer = call("sequence", "--resume", run, "--core.num_active", "7", "--accept-changes", "--quiet")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert files(run) == before

    answer = succeed("sequence", "--resume", run, "--quiet")
    assert answer.err.startswith(f"rimrl: {run} ")
    assert answer.err.count("\n") == 1
    assert_same_run(whole, run)


def test_a_failure_that_leaves_no_checkpoint_can_start_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(th.optim.Adam, "step", fail_for_memory)
        answer = begin(run)
    assert answer.code == 1
    assert f"so start again: rimrl sequence --resume {run}" in answer.err
    assert not (run / "model.safetensors").exists()
    succeed("sequence", "--resume", run, "--quiet")


def test_weights_that_are_not_finite_at_the_end_are_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    learn_once = training.ModelLearner._learn_once

    def learn(self: training.ModelLearner) -> None:
        learn_once(self)
        if self.reached == UPDATES:
            with th.no_grad():
                self.model.decoder.weight.fill_(math.nan)  # type: ignore[operator]

    monkeypatch.setattr(training.ModelLearner, "_learn_once", learn)
    answer = begin(run)
    assert answer.code == 2
    assert re.search(r"weights .*finite", answer.err)
    assert read_json(run / "environment.json")["status"] == "failed"
    assert not (run / "model.safetensors").exists()


def test_a_failure_leaves_no_model_of_an_earlier_update(
    tmp_path: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stop(8)
    begin(run)
    assert (run / "model.safetensors").exists()

    def break_within_a_step(self: training.ModelLearner) -> None:
        self._stepping = True
        raise MemoryError

    monkeypatch.setattr(training.ModelLearner, "_learn_once", break_within_a_step)
    answer = call("sequence", "--resume", run, "--quiet")
    assert answer.code == 1
    assert f"step 8: rimrl sequence --resume {run}" in answer.err
    assert not (run / "model.safetensors").exists()
    assert f"rimrl sequence --resume {run}" in call("evaluate", run, "--quiet").err


def fail_for_memory(*_: object) -> None:
    raise MemoryError


def test_others_may_read_the_weights(whole: Path) -> None:
    assert (whole / "model.safetensors").stat().st_mode == (whole / "config.yaml").stat().st_mode


def test_facts_that_are_no_facts_do_not_stop_a_run(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "environment.json").write_text('{"num_updates": 1e999}')
    succeed("evaluate", run, "--quiet")
    (run / "environment.json").write_text("[]")
    succeed("sequence", "--resume", run, "--num-updates", "13", "--quiet")
    assert read_json(run / "environment.json")["num_updates"] == 13


# -- what a run leaves ------------------------------------------------------------------------------------------------


def test_an_evaluation_says_what_was_scored_and_nothing_of_an_agent(whole: Path) -> None:
    facts = read_json(whole / "evaluation.json")
    assert facts.keys() == {"kind", "suite", "config", "core", "model", "num_updates", "seed", "splits"}
    assert facts["kind"] == "sequence"
    assert (facts["suite"], facts["core"], facts["num_updates"]) == ("sequence/copying", "rim", UPDATES)
    assert {name: split["held_out"] for name, split in facts["splits"].items()} == {"4_blanks": False, "9_blanks": True}
    for split in facts["splits"].values():
        assert split["sequences"] == len(split["sequence_cross_entropy"]) == 70
        assert split["cross_entropy"] == pytest.approx(sum(split["sequence_cross_entropy"]) / 70, abs=1e-5)
        assert split["random_cross_entropy"] == pytest.approx(math.log(8))
        assert split["settings"]["blanks"] in (4, 9)
        assert not any(name.startswith(("env_", "episode")) for name in split)


def test_an_evaluation_is_in_eval_mode_and_every_batch_starts_afresh(whole: Path) -> None:
    run = SequenceRun.open(whole)
    task = make_run_task(run.config)
    model = run.load_model(task).train()  # with dropout, if nobody puts that off
    one = split_result(task, model, task.splits[1], 1_000_000, 70)
    assert one == read_json(whole / "evaluation.json")["splits"]["9_blanks"]
    assert model.training
    alone = task.scores(model.eval(), task.evaluation_batch(task.splits[1], 1_000_000, 1, 64)).metric[:6]
    assert one["sequence_cross_entropy"][64:] == pytest.approx(alone.tolist(), abs=1e-5)


def test_compare_report_and_evaluate_read_it(whole: Path, tmp_path: Path) -> None:
    answer = succeed("compare", whole, "--plot", tmp_path / "picture.png")
    assert "sequence/copying: cross entropy" in answer.out
    assert "9_blanks (held out)" in answer.out
    value = read_json(whole / "evaluation.json")["splits"]["9_blanks"]["cross_entropy"]
    assert f"{value:.2f}" in answer.out
    succeed("report", whole, "--output", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "rimrl sequence" in page
    assert "guess reaches" in page
    before = read_json(whole / "evaluation.json")
    succeed("evaluate", whole, "--quiet")
    assert read_json(whole / "evaluation.json") == before


def test_runs_of_two_seeds_are_one_group(whole: Path, tmp_path: Path) -> None:
    succeed("sequence", *WORDS, "--num-updates", str(UPDATES), "--seed", "1", "--run-dir", tmp_path / "other")
    (group,) = group_runs(read_runs([whole, tmp_path / "other"]))
    assert group.label == "rim"
    assert [run.seed for run in group.runs] == [0, 1]


def test_a_run_repeats_from_its_own_configuration(whole: Path, tmp_path: Path) -> None:
    succeed("sequence", whole / "config.yaml", "--run-dir", tmp_path / "again", "--quiet")
    assert_same_run(whole, tmp_path / "again")


def test_a_model_of_another_configuration_is_refused(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text((whole / "config.yaml").read_text().replace("hidden_size: 12", "hidden_size: 15"))
    (run / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes())
    opened = SequenceRun.open(run)
    with pytest.raises(UsageError, match=r"model\.safetensors.*damaged"):
        opened.load_model(make_run_task(opened.config))
