"""Runs `rimrl` commands, in this process or in one of their own, at a scale at which a training takes a second."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch as th

import rimrl
from rimrl.cli import main

# A RIM as small as they come; for options that only some cores or algorithms have, see `SMALL_ANY`.
SMALL_ANY = ("--env.n_envs", "4", "--agent.n_steps", "16", "--train.eval_freq", "0", "--quiet")
SMALL_PPO = (*SMALL_ANY, "--agent.batch_size", "32")
SMALL = (*SMALL_PPO, "--core.hidden_size", "12", "--core.num_units", "3", "--core.num_active", "2")
STEPS = 128


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str


def call(*words: str | Path) -> Answer:
    """Run a command in this process."""
    out, err = StringIO(), StringIO()
    threads = th.get_num_threads()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = main([str(word) for word in words])
            except SystemExit as leaving:  # argparse's --help and --version
                code = leaving.code if isinstance(leaving.code, int) else 0
    finally:
        th.set_num_threads(threads)
    return Answer(code, out.getvalue(), err.getvalue())


def succeed(*words: str | Path) -> Answer:
    """Run a command that must succeed in this process."""
    answer = call(*words)
    assert answer.code == 0, answer.err
    return answer


def command(*words: str | Path) -> list[str]:
    """The command line of a process of its own."""
    return [sys.executable, "-m", "rimrl", *map(str, words)]


def spawn(*words: str | Path, cwd: Path | None = None) -> Answer:
    """Run a command in a process of its own."""
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=300, check=False, cwd=cwd)
    return Answer(done.returncode, done.stdout, done.stderr)


def files(root: Path) -> dict[str, bytes | None]:
    """Everything below a folder with its content; None for a folder."""
    return {str(p.relative_to(root)): None if p.is_dir() else p.read_bytes() for p in sorted(root.rglob("*"))}


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def weights(run: Path) -> dict[str, th.Tensor]:
    """The policy's weights."""
    return rimrl.load(run).policy.state_dict()


def same_weights(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same policy, bit for bit."""
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(th.equal(value, theirs[name]) for name, value in ours.items())


def rewrite(run: str | Path, old: str, new: str) -> None:
    """Change a run's ``config.yaml`` as if it had been trained so, by a version that noted nothing of that."""
    config, environment = Path(run) / "config.yaml", Path(run) / "environment.json"
    content = config.read_text()
    assert old in content
    config.write_text(content.replace(old, new))
    if environment.is_file():
        facts = json.loads(environment.read_text())
        facts.pop("config", None)
        environment.write_text(json.dumps(facts))
