"""Files that anybody may have written: every verb ends well or with one line and code 2, and writes nowhere else."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from rimrl.experiments.sweep import Sweep
from rimrl.experiments.sweep_config import ask
from tests.commands import Answer, call, files, succeed
from tests.conftest import TRAINED_STEPS

EVALUATE = ("evaluate", "run", "--episodes", "1", "--split", "train", "--no-random", "--quiet")
INSPECT = ("inspect", "run", "--episodes", "1", "--quiet")
WATCH = ("watch", "run", "--episodes", "1", "--quiet")
RESUME = ("train", "--resume", "run", "--total-timesteps", str(TRAINED_STEPS + 256), "--accept-changes", "--quiet")
DROPPED = object()
DEEP = '"@deep@"'
# Wrong types, null, too large, too deep, and words that a terminal or a table would take for commands.
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2.5, 10**30, float("nan"), float("inf"), "", "x" * 5000, "[/b]\x1b[31m"),
    *([], [None], {}, {"a": {"b": 1}}, "@huge@", "@deep@", DROPPED),
)


@pytest.fixture(scope="module")
def inspected(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained run with an inspection."""
    folder = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(trained, folder)
    succeed("inspect", folder, "--episodes", "2", "--quiet")
    return folder


@pytest.fixture
def run(inspected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(inspected, tmp_path / "run")
    return Path("run")


def orderly(*words: str | Path) -> Answer:
    """Run a command, which must end well or with one line that fits on a screen."""
    begun = time.monotonic()
    answer = call(*words)
    assert answer.code in (0, 2), answer
    if answer.code == 2:
        assert answer.err.startswith("rimrl: ")
        assert answer.err.count("\n") == 1, answer.err
        assert len(answer.err) < 1500
    assert time.monotonic() - begun < 60
    return answer


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the fields of plain data are; of a list its first entry stands for all."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in inside:
        yield (*above, key)
        yield from places(inner, (*above, key))


def mutated(content: Any, place: tuple[Any, ...], value: Any) -> str:
    """Plain data with another value in one place, as JSON, which is YAML, too."""
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value is DROPPED:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    text = json.dumps(content)
    return text.replace('"@huge@"', f"1{400 * '0'}").replace(DEEP, f"{3000 * '['}{3000 * ']'}")


@pytest.mark.parametrize(
    ("name", "load", "number", "verbs"),
    [
        ("evaluation.json", json.loads, 50, [("compare", "run"), ("report", "run")]),
        ("environment.json", json.loads, 8, [("report", "run"), EVALUATE]),
        ("inspection/train/inspection.json", json.loads, 20, [("report", "run")]),
        ("config.yaml", yaml.safe_load, 25, [("compare", "run"), ("report", "run")]),
        ("config.yaml", yaml.safe_load, 15, [EVALUATE]),
    ],
)
def test_any_field_may_hold_anything(
    name: str, load: Callable[[str], Any], number: int, verbs: list[tuple[str, ...]], run: Path
) -> None:
    original = (run / name).read_text()
    content = load(original)
    pairs = [(place, value) for place in places(content) for value in VALUES]
    before = {name: files(Path())[name] for name in ("run/model.zip", "run/progress.csv")}
    for place, value in random.Random(0).sample(pairs, number):
        (run / name).write_text(mutated(content, place, value))
        for words in verbs:
            try:
                orderly(*words)
            except Exception as error:
                raise AssertionError(f"{words} with {str(value)[:30]} at {place} of {name}") from error
    after = files(Path())
    assert {name: after[name] for name in before} == before
    assert {path for path in after if "/" not in path} <= {"run", "report.html"}


WRONG = [
    "",
    "{",
    "3",
    "[]",
    "null",
    "\x00",
    "[" * 100_000,
    '{"a":' * 5000,
    "9" * 5000,
    f"1{400 * '0'}",
    '{"splits": 3}',
]


@pytest.mark.parametrize("content", WRONG)
def test_a_file_that_holds_something_else(content: str, run: Path) -> None:
    for name in ("evaluation.json", "environment.json", "config.yaml", "inspection/train/inspection.json"):
        original = (run / name).read_text()
        (run / name).write_text(content)
        for words in [("compare", "run"), ("report", "run"), *([EVALUATE] if name == "config.yaml" else [])]:
            orderly(*words)
        (run / name).write_text(original)


BOMB = "a: &a [1, 2, 3]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]\n" for p, c in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    "content",
    [
        *("train: 3", "a: &a [*a]", "a: &a {b: *a}", BOMB, f"env: {BOMB!r}", "[" * 10_000, "{a: " * 1000),
        *("env: !!set {a, b}", "env: {id: 0x" + "f" * 9999 + "}", "env: {id: " + "9:" * 3000 + "9}"),
        "\n".join(f"k{i}: 1" for i in range(30_000)),
        "x: " + "y" * 2**21,
    ],
    ids=range(12),
)
def test_yaml_that_is_made_to_harm(content: str, run: Path) -> None:
    (run / "config.yaml").write_text(content)
    for words in [("compare", "run"), EVALUATE, ("train", "run/config.yaml", "--run-dir", "new", "--quiet")]:
        answer = orderly(*words)
        assert answer.code == 2
    assert not Path("new").exists()


@pytest.mark.parametrize(
    "content",
    [
        *("a" * 200_000, f"time/total_timesteps,a\n1,{'9' * 200_000}\n", '"' * 1001, "a,b\n1,x\n", "\x00,a\n1,2\n"),
        f"time/total_timesteps\n{'9' * 5000}\n",
    ],
    ids=range(6),
)
def test_a_damaged_learning_curve(content: str, run: Path) -> None:
    (run / "progress.csv").write_text(content)
    for words in (("compare", "run", "--plot", "a.png"), ("report", "run")):
        orderly(*words)


@pytest.mark.parametrize("content", ["", "#{}\n", '#{"t_start": "a"}\n', "#" + "[" * 100_000, "#{\n" * 3])
def test_a_damaged_list_of_episodes(content: str, run: Path) -> None:
    (run / "monitor.csv").write_text(content)
    answer = orderly(*RESUME)
    assert answer.code == 2


@pytest.mark.parametrize("number", ["9" * 30, "9" * 5000, "0", "-1", "1000000000"])
@pytest.mark.parametrize("verb", ["evaluate", "inspect", "watch"])
@pytest.mark.parametrize("flag", ["--episodes", "--seed"])
def test_numbers_that_cannot_be_played(flag: str, verb: str, number: str, run: Path) -> None:
    if flag == "--seed" and number in ("0", "1000000000"):
        pytest.skip("a seed")
    before = files(run)
    assert orderly(verb, "run", "--quiet", flag, number).code == 2
    assert files(run) == before


def test_a_suite_without_a_name_changes_nothing(run: Path) -> None:
    before = files(run)
    assert orderly(*EVALUATE, "--suite", "").code == 2
    assert orderly("compare", "run", "--suite", "").code == 2
    assert files(run) == before


@pytest.mark.parametrize(
    "words",
    [
        *(
            ("compare", "run", "--json", "{}"),
            ("compare", "run", "--plot", "{}.png"),
            ("report", "run", "--output", "{}"),
        ),
        *(("inspect", "run", "--output", "{}"), ("watch", "run", "--output", "{}.gif"), ("export", "run", "{}")),
        *(("compare", "{}"), ("evaluate", "{}"), ("report", "{}"), ("inspect", "{}"), ("train", "--resume", "{}")),
        *(("train", "{}.yaml"), ("train", "distractors/rim", "--run-dir", "{}"), ("compare", "run", "--suite", "{}")),
        *(
            ("sweep", "distractors/rim", "--run-dir", "{}"),
            ("evaluate", "run", "--suite", "{}"),
            ("transfer", "{}.yaml"),
        ),
        ("sweep", "{}"),
    ],
)
def test_a_name_of_300_letters(words: tuple[str, ...], run: Path) -> None:
    before = files(Path())
    assert orderly(*(word.format("n" * 300) for word in words)).code == 2
    assert files(Path()) == before


@pytest.mark.parametrize("words", [("report", "run", "--output", "pipe"), ("compare", "run", "--json", "pipe")])
def test_a_pipe_is_not_written_to(words: tuple[str, ...], run: Path) -> None:
    os.mkfifo("pipe")
    assert orderly(*words).code == 2
    assert Path("pipe").is_fifo()


def test_folders_in_circles_end(run: Path) -> None:
    folder = Path("all")
    folder.mkdir()
    for name in "abc":
        (folder / name).symlink_to(".")
    run.rename(folder / "run")
    assert "rim" in succeed("compare", folder).out


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("seeds", [-1]), ("seeds", [10**30]), ("seeds", ["a"]), ("seeds", []), ("seeds", [0, 0]), ("seeds", None)),
        *(
            ("seeds", list(range(20_000))),
            ("over", {"core": []}),
            ("over", 3),
            ("overrides", [1]),
            ("config", "y" * 5000),
        ),
        *(("experiments", {"": 3}), ("config", None), ("over", {"core": ["rim"] * 2})),
    ],
)
def test_a_damaged_sweep(key: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Sweep(ask("distractors/rim", "0"), Path("sweep"), check=False).opened("busy"):
        pass
    content = yaml.safe_load(Path("sweep/sweep.yaml").read_text())
    Path("sweep/sweep.yaml").write_text(json.dumps(content | {key: value}))
    before = files(Path())
    for words in (("sweep", "sweep", "--plan"), ("sweep", "sweep", "--trial", "0", "--quiet")):
        assert orderly(*words).code == 2
    assert files(Path()) == before


@pytest.mark.parametrize(
    "words",
    [
        *(("--seeds", "0..9999,10000..19999"), ("--seeds", "0..99999999"), ("--seeds", "9" * 5000), ("--seeds", "0,0")),
        ("--seeds", "0..9999", "--over", "agent.gamma=" + ",".join(f"0.{i}" for i in range(1, 100))),
    ],
)
def test_more_runs_than_any_sweep_has(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert orderly("sweep", "distractors/rim", *words, "--plan").code == 2


@pytest.mark.parametrize(
    "override",
    [
        *("agent.ent_coef=.inf", "agent.vf_coef=.inf", "agent.ent_coef=-.inf", "core.hidden_size=" + "9" * 40),
        *("agent.n_steps=" + "9" * 40, "env.n_envs=" + "9" * 40, "train.total_timesteps=" + "9" * 40),
        *("agent.net_arch=[" + "9" * 40 + "]", "train.eval_episodes=" + "9" * 40, "env.kwargs.size=" + "9" * 40),
        *("core.num_units=" + "9" * 40, "agent.features_dim=" + "9" * 40, "agent.batch_size=" + "9" * 40),
        *("agent.n_epochs=" + "9" * 40, "core.num_active=" + "9" * 5000, "core.name=" + "9" * 100_000),
    ],
)
def test_numbers_that_nothing_is_made_of(override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert orderly("train", "distractors/rim", f"--{override}", "--run-dir", "new", "--quiet").code == 2
    assert files(Path()) == {}


@pytest.mark.parametrize("env_id", ["CartPole-v1", "rimrl/TMaze-v0", "MountainCarContinuous-v0", 3, "a:b", None])
def test_a_card_of_another_environment(env_id: Any, run: Path) -> None:
    succeed("export", "run", "exported")
    card = json.loads(Path("exported/card.json").read_text())
    card["config"]["env"]["id"] = env_id
    Path("exported/card.json").write_text(json.dumps(card))
    before = files(Path("exported"))
    for verb in ("evaluate", "inspect", "watch"):
        assert orderly(verb, "exported", "--episodes", "1", "--quiet").code == 2
    assert files(Path("exported")) == before


def test_an_inspection_on_a_full_disk(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    before = files(run)
    with monkeypatch.context() as patched, suppress(OSError):
        patched.setattr("numpy.savez_compressed", full)
        answer = orderly(*INSPECT)
        assert answer.code == 2
        assert "No space left" in answer.err
    assert files(run) == before
