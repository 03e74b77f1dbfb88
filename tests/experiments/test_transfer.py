"""A transfer: what is planned, trained and trained again, and what is refused before anything is."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import yaml

import rimrl
from rimrl.errors import UsageError
from rimrl.experiments.config_files import shipped_transfers
from rimrl.experiments.transfer import Transfer
from rimrl.experiments.transfer_config import METHODS, load_transfer
from rimrl.runs.checkpoint_files import found
from rimrl.studies.record import Record
from tests.commands import call, command, read_json, same_weights, spawn, succeed

TINY: dict[str, Any] = {
    "cores": {"lstm": "multiroom/lstm"},
    "sources": [{"env": "multiroom", "name": "rooms"}],
    "targets": [{"env": "MiniGrid-LavaGapS5-v0", "name": "lava", "kwargs": {"mission": False}}],
    "seeds": [0, 1],
    "source_timesteps": 256,
    "target_timesteps": 1024,
    "random_episodes": 4,
    "overrides": {
        "env.n_envs": 8,
        "agent.n_steps": 16,
        "agent.batch_size": 64,
        "train.eval_freq": 0,
        "train.resume_freq": 512,
        "core.hidden_size": 8,
    },
}


def write(folder: Path, **changes: Any) -> Path:
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY, **changes}))
    return file


@pytest.mark.parametrize("name", list(shipped_transfers()))
def test_shipped_transfers_can_be_planned(name: str, tmp_path: Path) -> None:
    config = load_transfer(name)
    assert config.methods == list(METHODS)
    first, second, third, *_ = shipped_transfers()[name].read_text().splitlines()
    assert first == f"# rimrl transfer {name}"
    assert (second, third[:2]) == ("#", "# ")
    copy = tmp_path / "copy.yaml"
    copy.write_text(config.to_yaml())
    assert load_transfer(str(copy)) == config


@pytest.mark.slow
def test_the_papers_protocol(tmp_path: Path) -> None:
    config = load_transfer("transfer/atari")
    assert [task.name for task in config.sources] == ["Pong", "River Raid", "Seaquest"]
    assert len(config.targets) == 12
    transfer = Transfer(config, tmp_path / "none")
    # For each of 3 seeds and 2 cores: 3 sources; on 12 targets 3 methods from each source and 3 from none.
    assert len(transfer.all_trials) == 3 * 2 * (3 + 12 * (3 * 3 + 3))
    assert not (tmp_path / "none").exists()


def of_games(folder: Path, *games: str, **changes: Any) -> Path:
    source, *targets = ({"env": f"sticky/{game}", "name": game} for game in games)
    tasks = {"cores": {"lstm": "atari-small/pong/lstm"}, "sources": [source], "targets": targets, "seeds": [0]}
    return write(folder, **{**tasks, "overrides": {"env.n_envs": 1}, **changes})


@pytest.mark.parametrize("target", ["Boxing", "Qbert"])  # 18 actions; six, as many as Pong has, and others
def test_an_action_head_is_not_taken_for_other_actions(target: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"'{target}'.*'Pong'.*'finetune'.*env\.kwargs\.full_action_space: true"):
        Transfer(load_transfer(str(of_games(tmp_path, "Pong", target))), tmp_path / "out")


@pytest.mark.parametrize(
    ("target", "changes"),
    [
        ("Qbert", {"overrides": {"env.n_envs": 1, "env.kwargs.full_action_space": True}}),
        ("Qbert", {"methods": ["scratch", "frozen", "progressive"]}),  # with new heads
        ("SpaceInvaders", {}),  # the actions of Pong
    ],
)
def test_an_action_head_is_taken_for_the_same_actions(target: str, changes: dict[str, Any], tmp_path: Path) -> None:
    Transfer(load_transfer(str(of_games(tmp_path, "Pong", target, **changes))), tmp_path / "out")


def test_the_plan_puts_sources_first_and_says_where_each_target_starts(tmp_path: Path) -> None:
    trials = Transfer(load_transfer(str(write(tmp_path))), tmp_path / "out").all_trials
    assert [trial.seed for trial in trials] == [0] * 7 + [1] * 7
    assert trials[0].target is None
    by_method = {trial.method: trial.config.agent for trial in trials[1:7]}
    assert {method: (agent.trunk, agent.init_from is not None) for method, agent in by_method.items()} == {
        "scratch": ("learned", False),
        "finetune": ("learned", True),
        "frozen": ("frozen", True),
        "random": ("frozen", False),
        "progressive": ("progressive", True),
        "progressive_random": ("progressive", False),
    }
    assert all(agent.init_from in (None, str(tmp_path / "out" / trials[0].name)) for agent in by_method.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sorces": []}, ["unknown key 'sorces'", "'sources'?"]),
        ({"methods": ["fintune"]}, ["unknown method 'fintune'", "'finetune'"]),
        ({"seeds": [0, 0]}, ["seeds", "different integers"]),
        ({"seeds": "all"}, ["seeds", "got 'all'"]),
        ({"target_timesteps": -5}, ["target_timesteps", "positive integer, got -5"]),
        ({"cores": {"rim": "multiroom/rmi"}}, ["unknown configuration 'multiroom/rmi'"]),
        ({"overrides": {"agent.n_stps": 3}}, ["agent.n_stps", "agent.n_steps"]),
        ({"targets": ["MiniGrid-LavaGabS5-v0"]}, ["MiniGrid-LavaGabS5-v0", "'MiniGrid-LavaGapS5-v0'?"]),
        ({"targets": [{"env": "unlock", "nam": "x"}]}, ["unknown key 'nam'", "targets in"]),
        ({"targets": ["unlock", "unlock"]}, ["different names"]),
        ({"sources": [{"env": "unlock", "runs": {"gru": "x"}}]}, ["unknown core 'gru'"]),
        ({"sources": [{"env": "unlock", "runs": {"lstm": ["a", "b", "c"]}}]}, ["2 seeds"]),
        ({"sources": [{"env": "unlock", "runs": {"lstm": "nowhere"}}]}, ["run folder nowhere"]),
        # BabyAI tasks show an instruction beside the tiles.
        (
            {"targets": ["goto-local"]},
            ["'rooms'", "'goto-local'", "mission"],
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    answer = call("transfer", write(tmp_path, **changes), "--run-dir", tmp_path / "out", "--quiet")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    for word in words:
        assert word in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"frame_stack": 2},
        {"env_wrapper": "gymnasium.wrappers.TimeAwareObservation"},
        {"efference_copies": True},
    ],
)
def test_what_a_task_cannot_bring_along_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    task = tmp_path / "task.yaml"
    task.write_text(yaml.safe_dump({"env": {"id": "unlock", **change}, "core": {"name": "lstm"}}))
    answer = call("transfer", write(tmp_path, targets=[str(task)]), "--run-dir", tmp_path / "out", "--quiet")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert f"env.{next(iter(change))}" in answer.err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("x")
    answer = call("transfer", write(tmp_path), "--run-dir", tmp_path / "out", "--quiet")
    assert answer.code == 2
    assert "than a transfer" in answer.err


def curve_by_hand(monitor: Path, total: int) -> list[float]:
    """Twenty bins, one after the other, as the documentation says."""
    with monitor.open() as opened:
        next(opened)
        episodes = [(float(row["r"]), int(row["l"])) for row in csv.DictReader(opened)]
    inside: list[list[float]] = [[] for _ in range(20)]
    position = 0
    for value, length in episodes:
        position += length
        inside[min(19, int(position // (total / 20)))].append(value)
    places = [float(i) for i, each in enumerate(inside) if each]
    points = [sum(each) / len(each) for each in inside if each]
    return [float(np.interp(float(i), places, points)) for i in range(20)]


@pytest.mark.slow
def test_from_sources_to_scores_and_on_after_an_interruption(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("transfer", write(tmp_path), "--run-dir", out, "--quiet")
    succeed(*words)
    result = read_json(out / "transfer.json")
    assert {run["status"] for run in result["runs"]} == {"finished"}
    assert (out / "matrix.png").stat().st_size > 1000

    areas = {}
    for run in result["runs"]:
        if run["target"]:
            curve = curve_by_hand(out / run["path"] / "monitor.csv", 1024)
            assert run["curve"] == pytest.approx(curve)
            areas[run["method"], run["seed"]] = sum(curve) / 20
    random = result["random"]["lava"]["return_mean"]
    for score in result["scores"]:
        ours = np.mean([areas[score["method"], seed] for seed in (0, 1)])
        scratch = np.mean([areas["scratch", seed] for seed in (0, 1)])
        for kind, offset in (("raw", 0.0), ("offset", random)):
            if scratch > offset:
                assert score[kind]["value"] == pytest.approx((ours - offset) / (scratch - offset))
            else:
                assert score[kind] is None

    # Frozen weights are those of the source, after all of the training.
    source = rimrl.load(out / "sources/lstm/rooms/seed_1").policy.state_dict()
    frozen = rimrl.load(out / "targets/lstm/lava/frozen-from-rooms/seed_1").policy.state_dict()
    beside = rimrl.load(out / "targets/lstm/lava/progressive-from-rooms/seed_1").policy.state_dict()
    for key, value in source.items():
        if key.startswith(("features_extractor.", "lstm_actor.")):
            module, _, rest = key.partition(".")
            assert th.equal(frozen[key], value)
            assert th.equal(beside[f"{module}.source.{rest}"], value)

    # One run is lost and begins anew, one was cut short and goes on: with the same outcome, and no other is touched.
    lost, cut = (out / f"targets/lstm/lava/{name}/seed_1" for name in ("scratch", "finetune-from-rooms"))
    shutil.rmtree(lost)
    facts = read_json(cut / "environment.json")
    (cut / "environment.json").write_text(json.dumps(facts | {"status": "interrupted"}))
    last = found(cut)[0]
    assert int(last.name) == 1024
    shutil.rmtree(last)
    others = {file: file.stat().st_mtime_ns for file in out.rglob("model.zip") if file.parent not in (lost, cut)}
    before = result["scores"]
    assert "pending" in succeed(*words, "--plan").out
    succeed(*words)
    assert {file: file.stat().st_mtime_ns for file in others} == others
    assert read_json(lost / "environment.json")["status"] == "finished"
    assert [each["num_timesteps"] for each in read_json(cut / "environment.json")["resumed"]] == [512]
    assert read_json(out / "transfer.json")["scores"] == before

    answer = call(*words, "--target-timesteps", "2048")
    assert answer.code == 2
    assert re.search(r"train\.total_timesteps 1024.*2048", answer.err)


@pytest.mark.slow
def test_source_runs_that_exist_are_taken_and_have_to_fit(tmp_path: Path) -> None:
    shared = [f"--{key}={value}" for key, value in TINY["overrides"].items()]
    succeed("train", "multiroom/lstm", *shared, "--total-timesteps", "256", "--run-dir", tmp_path / "made", "--quiet")
    source = {"env": "multiroom", "name": "rooms", "runs": {"lstm": str(tmp_path / "made")}}
    file = write(tmp_path, sources=[source], seeds=[3], methods=["scratch", "frozen"])
    succeed("transfer", file, "--run-dir", tmp_path / "out", "--quiet")
    assert not (tmp_path / "out/sources").exists()
    frozen = rimrl.load(tmp_path / "out/targets/lstm/lava/frozen-from-rooms/seed_3").policy.state_dict()
    made = rimrl.load(tmp_path / "made").policy.state_dict()
    assert th.equal(frozen["lstm_actor.rnn.weight_hh_l0"], made["lstm_actor.rnn.weight_hh_l0"])
    wider = write(tmp_path, sources=[source], overrides=TINY["overrides"] | {"core.hidden_size": 9})
    with pytest.raises(UsageError, match="core of the source run"):
        Transfer(load_transfer(str(wider)), tmp_path / "other")


# -- who trains, and what happens when something breaks ---------------------------------------------------------------

SHORT = {"methods": ["scratch", "finetune"], "seeds": [0]}
NAMES = [
    "sources/lstm/rooms/seed_0",
    *(f"targets/lstm/lava/{name}/seed_0" for name in ("scratch", "finetune-from-rooms")),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transfer by one worker, without a break."""
    folder = tmp_path_factory.mktemp("alone")
    succeed("transfer", write(folder, **SHORT), "--run-dir", folder / "out", "--jobs", "1", "--quiet")
    return folder / "out"


def assert_same(out: Path, alone: Path) -> None:
    """The same weights, curves and scores, each from one attempt."""
    assert all(same_weights(out / name, alone / name) for name in NAMES)
    ours, theirs = (read_json(folder / "transfer.json") for folder in (out, alone))
    assert ours["scores"] == theirs["scores"]
    assert ours["random"] == theirs["random"]
    for one, other in zip(ours["runs"], theirs["runs"], strict=True):
        assert one["status"] == "finished"
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.slow
def test_two_workers_give_what_one_gives(tmp_path: Path, alone: Path) -> None:
    succeed("transfer", write(tmp_path, **SHORT), "--run-dir", tmp_path / "out", "--jobs", "2", "--quiet")
    assert_same(tmp_path / "out", alone)


@pytest.mark.slow
def test_a_job_array_in_any_order_gives_what_one_worker_gives(tmp_path: Path, alone: Path) -> None:
    words = ("transfer", write(tmp_path, **SHORT), "--run-dir", tmp_path / "out", "--quiet")
    lines = [command(*words, "--trial", str(number)) for number in (2, 0, 1)]
    tasks = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for line in lines]
    errors = [task.communicate(timeout=300)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0] * 3, errors
    assert read_json(tmp_path / "out/transfer.json")["random"] == {}
    succeed(*words)
    assert_same(tmp_path / "out", alone)


@pytest.mark.slow
def test_a_ray_gives_what_one_worker_gives(cluster: str, tmp_path: Path, alone: Path) -> None:
    words = ("transfer", write(tmp_path, **SHORT), "--run-dir", "out", "--ray", cluster, "--quiet")
    answer = spawn(*words, cwd=tmp_path)  # its folder has no full name: a source's is relative, too
    assert answer.code == 0, answer.err
    assert_same(tmp_path / "out", alone)


@pytest.mark.slow
def test_a_killed_transfer_keeps_others_out_and_goes_on(tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "out"
    words = ("transfer", write(tmp_path, **SHORT), "--run-dir", out, "--jobs", "1", "--quiet")
    with subprocess.Popen(command(*words), stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 240
            while not found(out / NAMES[1]):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            worker = Record(out, NAMES[1]).attempts[-1]["pid"]
            os.kill(worker, signal.SIGSTOP)
            refused = call(*words)
        finally:
            process.kill()
    os.kill(worker, signal.SIGKILL)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert str(out) in refused.err
    source = out / NAMES[0] / "model.zip"
    before = source.stat().st_mtime_ns
    succeed(*words)
    assert source.stat().st_mtime_ns == before
    attempts = {name: [each["state"] for each in Record(out, name).attempts] for name in NAMES}
    assert attempts == {NAMES[0]: ["finished"], NAMES[1]: ["failed", "finished"], NAMES[2]: ["finished"]}
    (note,) = read_json(out / NAMES[1] / "environment.json")["resumed"]
    assert (note["num_timesteps"], note["exact"]) == (512, True)
    assert all(same_weights(out / name, alone / name) for name in NAMES)


@pytest.mark.slow
def test_a_target_whose_source_fails_is_not_trained_and_the_others_are(tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "out"
    words = ("transfer", write(tmp_path, **SHORT), "--run-dir", out, "--quiet")
    notes = out / NAMES[0] / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    (out / "transfer.yaml").write_text("")
    answer = call(*words)
    assert answer.code == 1
    assert "1 of 3 runs failed" in answer.err.splitlines()[-1]
    assert "score" in answer.out
    status = [run["status"] for run in read_json(out / "transfer.json")["runs"]]
    assert status == ["failed", "finished", "blocked"]
    assert not (out / NAMES[2]).exists()
    assert notes.read_text() == "mine"
    notes.unlink()
    notes.parent.rmdir()
    succeed(*words)
    assert all(same_weights(out / name, alone / name) for name in NAMES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--jobs", "0"), "--jobs.*1, got 0"),
        (("--gpus", "1"), "--gpus needs --ray; see rimrl transfer --help"),
        (("--trial", "0", "--jobs", "2"), "--trial.*--ray and --jobs"),
        (("--trial", "14"), "--trial.*run from 0 to 13, got 14"),
    ],
)
def test_options_that_do_not_fit_are_refused(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    answer = call("transfer", write(tmp_path), "--run-dir", tmp_path / "out", *words)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert re.search(said, answer.err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("written", [("3..5",), ("3,4,5",), ("3", "4", "5")])
def test_seeds_are_written_as_for_a_sweep(written: tuple[str, ...], tmp_path: Path) -> None:
    answer = succeed("transfer", "transfer/small", "--seeds", *written, "--run-dir", tmp_path / "out", "--plan")
    assert {int(seed) for seed in re.findall(r"seed_(\d+)", answer.out)} == {3, 4, 5}
