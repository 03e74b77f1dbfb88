"""One small trained and evaluated run that many tests look at, on one thread, which is faster for tiny networks."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch as th

from tests.commands import SMALL_PPO, call, succeed

TRAINED_STEPS = 1024
TRAIN = (
    *("train", "distractors/rim", "--seed", "3", "--total-timesteps", str(TRAINED_STEPS)),
    *(*SMALL_PPO, "--core.hidden_size", "24", "--core.num_units", "3", "--core.num_active", "2"),
    *(
        "--env.n_envs",
        "8",
        "--agent.n_steps",
        "32",
        "--agent.batch_size",
        "128",
        "--train.eval_freq",
        "512",
        "--train.eval_episodes",
        "2",
    ),
    *("--train.checkpoint_freq", "512"),
)
EPISODES = 5


def pytest_collection_finish() -> None:
    """Ten thousand collected tests are millions of objects, which the garbage collector would visit again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(threads)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and evaluated run folder; to look at, not to touch."""
    path = tmp_path_factory.mktemp("session") / "rim"
    assert call(*TRAIN, "--run-dir", path).code == 0
    succeed("evaluate", path, "--episodes", str(EPISODES), "--quiet")
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run folder, named ``run`` in the working directory; for tests that change it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "run")
    return Path("run")
