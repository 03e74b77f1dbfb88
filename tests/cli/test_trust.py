"""Agents whose files bring code along."""

from __future__ import annotations

from pathlib import Path

import rimrl
from tests.commands import succeed

LOADED: list[str] = []


class Halved:
    """A schedule of one's own, which notes that it has been unpickled."""

    def __call__(self, progress_remaining: float) -> float:
        return 1e-3 * progress_remaining / 2

    def __setstate__(self, state: dict[str, object]) -> None:
        LOADED.append("code ran")

    def __getstate__(self) -> dict[str, object]:
        return {"any": 1}


def test_code_in_an_agents_file_runs_on_request_alone(run: Path, tmp_path: Path) -> None:
    agent = rimrl.load(run)
    agent.learning_rate = Halved()
    agent.save(run / "model.zip")
    LOADED.clear()
    # A schedule is left out: it is needed for learning, not for playing.
    played = ("--episodes", "2", "--quiet")
    succeed("evaluate", run, *played, "--no-random", "--split", "train")
    succeed("inspect", run, *played)
    succeed("export", run, tmp_path / "untrusted")
    assert not LOADED
    succeed("evaluate", run, "--episodes", "2", "--trust", "--quiet", "--no-random", "--split", "train")
    assert LOADED
    succeed("export", run, tmp_path / "exported", "--trust")
    assert type(rimrl.load(tmp_path / "exported")) is type(agent)
