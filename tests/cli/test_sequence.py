"""Bad input to ``rimrl sequence``, and to other verbs with its runs: one line, exit code 2, and nothing left."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.commands import call, files, succeed
from tests.sequence.small import COPYING


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RIMRL_MNIST", raising=False)


def refuse(*words: str) -> str:
    before = files(Path())
    answer = call(*words)
    assert answer.code == 2, answer
    assert answer.err.startswith("rimrl: ")
    assert answer.err.count("\n") == 1, answer.err
    assert len(answer.err) < 600
    assert files(Path()) == before
    return answer.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("", ["TASK", "copying, adding"]),
        ("copyin", ["unknown task 'copyin'", "'copying'"]),
        ("own.yaml", ["no configuration file own.yaml"]),
        ("copying more", ["'more'"]),
        ("copying --preset huge", ["unknown preset 'huge'", "cpu, paper"]),
        ("sequence/copying_cpu --preset cpu", ["--preset"]),
        ("copying --core riglst", ["unknown core 'riglst'", "'riglstm'", "--core"]),
        ("copying --core nmt", ["unknown core 'nmt'"]),
        ("copying --ablation no_comms", ["unknown ablation 'no_comms'", "'no_communication'"]),
        ("copying --core lstm --ablation no_communication", ["core 'lstm'", "ablation", "rim and brims", "none"]),
        ("copying --core riglstm --ablation no_communication", ["it has: no_cell_selection", "no_soft_update"]),
        ("copying --core lstm --core.num_active 2", ["unknown key 'core.num_active'"]),
        ("copying --task.blank 3", ["unknown key 'task.blank'", "'task.blanks'"]),
        ("copying --task.blanks many", ["task.blanks", "integer", "'many'"]),
        ("copying --task.blanks -4", ["blanks", "number", "0", "-4"]),
        ("copying --task.test_blanks []", ["test_blanks"]),
        ("copying --task.name adding", ["--task.name", "leave it out"]),
        ("copying --core.num_active 7", ["core 'rim': num_active", "1 to num_units 6", "got 7"]),
        ("copying --data here", ["unknown key 'task.data'"]),
        ("copying --model.dropout 1", ["model.dropout", "0", "1", "1"]),
        ("copying --seed -1", ["train.seed must be between 0 and 4294967295"]),
        ("copying --num-updates 0", ["train.num_updates must be positive"]),
        ("copying --train.device tpu", ["device"]),
        ("copying --accept-changes", ["--resume"]),
        ("copying --runs a", ["--runs", "sequence lesion"]),
        ("--resume nowhere", ["run folder nowhere"]),
        ("--resume . --run-dir new", ["--run-dir", "--resume"]),
        ("--resume .", ["rimrl sequence"]),
        ("adding --task.length 1", ["num_marked 2", "1 steps"]),
        ("mnist --data nowhere", ["no folder nowhere", "train-images-idx3-ubyte.gz"]),
        ("mnist --data .", ["no file", "t10k-images-idx3-ubyte.gz", "0fa7898d509279e4"]),
        ("mnist --task.resolution 40", ["resolution", "number", "4", "28", "40"]),
        ("balls --task.balls 0", ["balls", "numbers", "balls"]),
        ("balls --task.test_balls [4,'4-4']", ["test_balls names one twice"]),
        ("copying --task.test_blanks 5", ["task.test_blanks", "list", "'5'"]),
        ("copying --core lstm --core.name gru", ["--core", "--core.name"]),
        ("copying --core=", ["unknown core ''"]),
        (
            "copying --ablation no_communication --core.communication gated",
            ["--ablation no_communication", "core.communication"],
        ),
        (
            "copying --ablation no_input_attention --core.num_active 3",
            ["--ablation no_input_attention", "core.num_active"],
        ),
        ("copying --ablation no_communication --ablation no_input_attention", ["--ablation", "one mechanism"]),
        ("copying --train.learning_rate .inf", ["train.learning_rate", "positive", "finite"]),
        ("copying --train.num_threads 100000", ["train.num_threads must be from 1 to 1024"]),
        ("copying --train.batch_size 1000001", ["train.batch_size must be from 1 to 1000000"]),
        (f"copying --run-dir {'n' * 300}", ["write", "run folder"]),
        ("lesion --runs a --seed 3", ["unexpected argument '--seed'"]),
        ("balls --model.embedding_size null", ["needs model.embedding_size"]),
    ],
)
def test_bad_input(words: str, named: list[str]) -> None:
    message = refuse("sequence", *words.split(), "--quiet")
    for name in named:
        assert name in message


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("task: {name: copying, blanks: 3, blanks: 4}", ["'blanks'", "twice"]),
        ("task: {name: copying}\ntask: {name: adding}", ["'task'", "twice"]),
        ("task: {name: copying}\ntrain: {seed: 2001-99-99}", ["is not valid YAML", "month", "1..12"]),
        ("task: {name: copying, blanks: !!int abc}", ["is not valid YAML"]),
        ("task: " + "[" * 3000, ["is not valid YAML"]),
        ("x: {m: &m {a: 1, a: 2}}", ["key 'a'", "twice"]),
        ("x: {b: &b {a: 1}, m: &m {<<: *b, a: 2}}\ny: {<<: *m}", ["'task'", "copying"]),
        ("name: 3\ntask: {name: copying}", ["own.yaml", "text", "3"]),
        ("name: ../elsewhere\ntask: {name: copying}", ["configuration", "'../elsewhere'"]),
        ("name: /elsewhere\ntask: {name: copying}", ["configuration"]),
        ("name: ''\ntask: {name: copying}", ["configuration"]),
        (f"name: {'n' * 300}\ntask: {{name: copying}}", ["name", "configuration", "250 bytes at most"]),
        ('name: "a\\0b"\ntask: {name: copying}', ["configuration"]),
    ],
)
def test_a_file_that_is_bad(content: str, named: list[str]) -> None:
    Path("own.yaml").write_text(content)
    message = refuse("sequence", "own.yaml", "--quiet")
    for name in named:
        assert name in message


def test_sizes_beyond_memory_end_with_one_line() -> None:
    words = ("--core", "lstm", "--core.hidden_size", "2000000000", "--quiet")
    answer = call("sequence", "copying", *words, "--run-dir", "run")
    assert answer.code == 1
    assert "memory" in answer.err
    assert answer.err.count("\n") == 1
    assert not Path("run").exists()


def test_a_model_that_diverged_is_not_evaluated() -> None:
    succeed("sequence", *COPYING, "--num-updates", "1", "--train.eval_freq", "0", "--run-dir", "run")
    weights = load_file("run/model.safetensors")
    weights["decoder.weight"].fill_(math.inf)
    save_file(weights, "run/model.safetensors")
    assert re.search(r"run: .*cross_entropy on 4_blanks .*finite", refuse("evaluate", "run", "--quiet"))
    Path("run/evaluation.json").write_text(
        '{"suite": "a", "config": "a", "splits": {"s": {"held_out": true, "episodes": 1, "mse": Infinity}}}'
    )
    assert re.search(r"run/evaluation\.json: mse on s .*finite", refuse("compare", "run"))


@pytest.mark.parametrize("content", ["", "- a", "task: [", "\udc80"])
def test_a_damaged_configuration_is_named(content: str) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_bytes(content.encode(errors="surrogateescape"))
    assert "run/config.yaml" in refuse("sequence", "--resume", "run")


def test_a_file_of_an_experiment_is_no_sequence_task() -> None:
    Path("own.yaml").write_text("env: {id: distractors}\n")
    assert {"own.yaml", "'task'", "copying,"} <= set(refuse("sequence", "own.yaml").replace(";", "").split())
    Path("own.yaml").write_text("task: {name: copying}\nagent: {}\n")
    assert re.search(r"'agent'.*own\.yaml", refuse("sequence", "own.yaml"))
    Path("own.yaml").write_text("task: {name: copyin}\n")
    assert re.search(r"'copyin'.*own\.yaml \(task\.name\)", refuse("sequence", "own.yaml"))


def test_keys_are_listed_and_nothing_is_trained() -> None:
    answer = succeed("sequence", "copying", "--core", "riglstm", "--ablation", "no_soft_update", "--print-config")
    assert "soft_update: false" in answer.out
    assert files(Path()) == {}


def test_presets_are_listed() -> None:
    answer = succeed("list", "configs")
    assert "sequence/mnist_paper" in answer.out


def test_other_verbs_say_what_a_sequence_task_is_not() -> None:
    succeed("sequence", *COPYING, "--num-updates", "1", "--train.eval_freq", "0", "--run-dir", "run")
    assert "holds no agent" in refuse("watch", "run")
    assert "rimrl sequence --resume run" in refuse("train", "--resume", "run")
    assert "holds no agent" in refuse("export", "run", "out")
    assert "--suite does not go with" in refuse("evaluate", "run", "--suite", "distractors")
    assert "--deterministic does not go with" in refuse("inspect", "run", "--deterministic")
    assert "--record does not go with" in refuse("inspect", "run", "--record", "states")
    assert "'train9'; valid: 4_blanks, 9_blanks; or any other N_blanks" in refuse("inspect", "run", "--split", "train9")
    assert "unknown split '5_blank'; did you mean" in refuse("evaluate", "run", "--split", "5_blank")
    assert "from 0 to 100000, got 999999" in refuse("evaluate", "run", "--split", "999999_blanks")
    assert "episodes must be" in refuse("evaluate", "run", "--episodes", "0")
    assert re.search(r"seed .*\b0\b.*4294967295.* -1", refuse("inspect", "run", "--seed", "-1"))
    assert "--episodes must be at most 9" in refuse("inspect", "run", "--split", "99999_blanks", "--episodes", "10")
    assert "is finished, at 1 updates" in refuse("sequence", "--resume", "run")
    assert "'finished'" in refuse("sequence", "copying", "--run-dir", "run")


def test_a_run_is_tested_on_a_length_that_it_was_not_configured_with() -> None:
    succeed("sequence", *COPYING, "--num-updates", "1", "--train.eval_freq", "0", "--run-dir", "run")
    before = splits(Path("run"))
    answer = succeed("evaluate", "run", "--split", "6_blanks", "--quiet")
    assert "6_blanks" in answer.out
    after = splits(Path("run"))
    assert list(after) == [*before, "6_blanks"]
    assert all(after[name] == before[name] for name in before)
    assert after["6_blanks"]["held_out"]

    words = ("--num-updates", "1", "--train.eval_freq", "0", "--task.test_blanks", "[6]", "--run-dir", "other")
    succeed("sequence", *COPYING, *words)
    assert splits(Path("other"))["6_blanks"] == after["6_blanks"]
    assert " on 6_blanks: " in succeed("inspect", "run", "--split", "6_blanks", "--episodes", "2").out


def splits(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "evaluation.json").read_text())["splits"]
    return found
