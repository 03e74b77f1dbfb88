"""What each kind of change touches, counted in a copy of the package to which one of each was added."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rimrl.cores.registry import CORES

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = Path(__file__).parent / "additions"
CONFIG = "env: {id: coins, n_envs: 2}\ncore: {name: leaky}\nagent: {n_steps: 8, batch_size: 8}\n"
SMALL = "--train.test_sequences 8 --train.batch_size 4"
PRESET = "task: {name: parity, length: 4}\ncore: {hidden_size: 12}\ncores: {rim: {num_units: 3, num_active: 2}}\n"
SUITE = """COINS = Suite(
    name="coins",
    description="Say on which side the coin lies; held out are coins seen through noise.",
    splits=(
        EnvSplit("train", "rimrl/Coin-v0", False, "Clear."),
        EnvSplit("noisy", "rimrl/Coin-v0", True, "Through noise.", {"noise": 1.0}),
    ),
)

SUITES: Mapping"""


PROGRAM = """
import json, sys
from contextlib import redirect_stdout
from io import StringIO
from rimrl.cli import main

printed = []
for words in sys.argv[1:]:
    with redirect_stdout(StringIO()) as out:
        if main(words.split()) != 0:
            sys.exit(f"rimrl {words}")
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


@dataclass(frozen=True)
class Addition:
    """What a contributor does.

    Attributes:
        most: How many files of the package the kind may touch.
        new: Text of each new file, or the sample that it is.
        changed: In each file that is there, texts and what each becomes.
    """

    most: int
    new: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


ADDITIONS = {
    "core": Addition(
        3,
        {"cores/leaky.py": "core.py", "configs/spaces/leaky.yaml": "core.leak: 0.1..0.9\n"},
        {
            "cores/registry.py": {
                "_SHIPPED =": 'CORES["leaky"] = CoreEntry("rimrl.cores.leaky:Leaky", "leaks", "-")\n_SHIPPED ='
            }
        },
    ),
    "environment": Addition(
        2,
        {"envs/coin.py": "environment.py"},
        {"envs/registration.py": {"_PROBES = {": '_PROBES = {\n    "rimrl/Coin-v0": "rimrl.envs.coin:CoinEnv",'}},
    ),
    "suite": Addition(
        1, {}, {"envs/suites.py": {"SUITES: Mapping": SUITE, "UNLOCK, LAYOUTS)": "UNLOCK, LAYOUTS, COINS)"}}
    ),
    "algorithm": Addition(
        2,
        {"agents/shrinking.py": "algorithm.py"},
        {
            "agents/registry.py": {
                '    "a2c": _of(': '    "shrinking": _of("rimrl.agents.shrinking", "ShrinkingPPO", "ShrinkingConfig"),'
                '\n    "a2c": _of('
            }
        },
    ),
    "command": Addition(
        2,
        {"cli/count.py": "verb.py"},
        {"cli/__init__.py": {"_VERBS = (": "from rimrl.cli import count\n\n_VERBS = (count, "}},
    ),
    "sequence task": Addition(
        4,
        {
            "sequence/parity.py": "sequence_task.py",
            "configs/sequence/parity_cpu.yaml": PRESET,
            "configs/sequence/parity_paper.yaml": PRESET,
        },
        {
            "sequence/registry.py": {
                "TASKS: dict[str, TaskEntry] = {": "TASKS: dict[str, TaskEntry] = {\n"
                '    "parity": TaskEntry("rimrl.sequence.parity:Parity", "odd or even"),'
            }
        },
    ),
}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package that has one more of each kind."""
    folder = tmp_path_factory.mktemp("grown")
    package = folder / "rimrl"
    shutil.copytree(ROOT / "rimrl", package, ignore=shutil.ignore_patterns("__pycache__"))
    for addition in ADDITIONS.values():
        for name, text in addition.new.items():
            assert not (package / name).exists()
            sample = SAMPLES / text
            (package / name).write_text(sample.read_text() if text.endswith(".py") else text)
        for name, edits in addition.changed.items():
            changed = (package / name).read_text()
            for old, new in edits.items():
                assert changed.count(old) == 1, f"{name} has {changed.count(old)} times {old}"
                changed = changed.replace(old, new)
            (package / name).write_text(changed)
    return folder


def rimrl(grown: Path, *commands: str) -> list[str]:
    """What commands of the copy print, one after the other in a process of theirs."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *commands],
        cwd=grown,
        env={**os.environ, "PYTHONPATH": str(grown), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed: list[str] = json.loads(done.stdout)
    return printed


def test_what_was_done_is_all_that_differs(grown: Path) -> None:
    """So the other tests show that these files are enough; each kind may touch as many as CONTRIBUTING.md says."""
    contributing = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    for kind, addition in ADDITIONS.items():
        touched = {*addition.new, *addition.changed}
        assert len(touched) == addition.most
        assert re.search(rf"\b{kind} {len(touched)}\b", contributing), kind
    ours, theirs = files_of(ROOT / "rimrl"), files_of(grown / "rimrl")
    differ = {name for name in ours | theirs if ours.get(name) != theirs.get(name)}
    assert differ == {name for addition in ADDITIONS.values() for name in (*addition.new, *addition.changed)}


def files_of(package: Path) -> dict[str, bytes]:
    """Every file's content, but for what Python makes."""
    found = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in found}


def test_an_algorithm_trains_a_core_on_a_suite_of_an_environment(grown: Path) -> None:
    (grown / "coins.yaml").write_text(CONFIG)
    *_, envs, suites, cores, plan = rimrl(
        grown,
        "train coins.yaml --agent.algorithm shrinking --agent.shrink 0.5 --total-timesteps 32 --train.eval_freq 0 "
        "--run-dir run",
        "evaluate run --episodes 4 --no-random --quiet",
        *("list envs", "list suites", "list cores", "tune coins.yaml --trials 1 --run-dir search --plan"),
    )
    splits = json.loads((grown / "run" / "evaluation.json").read_text())["splits"]
    assert set(splits) == {"train", "noisy"}
    assert "rimrl/Coin-v0" in envs
    assert "coins" in suites
    assert "leaky" in cores
    assert "trial_000" in plan


def test_a_sequence_task_trains_every_core(grown: Path) -> None:
    words = f"--num-updates 2 --quiet {SMALL}"
    rimrl(grown, *(f"sequence parity --core {core} --run-dir parity-{core} {words}" for core in ("rim", "leaky")))
    for core in ("rim", "leaky"):
        splits = json.loads((grown / f"parity-{core}" / "evaluation.json").read_text())["splits"]
        assert set(splits) == {"trained"}


def test_a_verb_answers(grown: Path) -> None:
    (printed,) = rimrl(grown, "count")
    assert int(printed) == len(CORES) + 1
