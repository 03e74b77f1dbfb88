"""``rimrl imitate`` leaves a run of an agent, which every command takes, and which goes on as if nothing had been."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rimrl
from rimrl.agents.bc import RecurrentBC
from rimrl.experiments.callbacks import Stopping
from tests.commands import SMALL_ANY, Answer, call, read_json, same_weights, succeed
from tests.demonstrations import linear_episodes, write

UPDATE = 4 * 16  # steps of SMALL_ANY
STEPS = 6 * UPDATE
SMALL_LSTM = (*SMALL_ANY, "--core.name", "lstm", "--core.hidden_size", "8")
LENGTHS = (25, 10, 40, 30, 12, 18)
CLOCK = {"time/fps", "time/time_elapsed"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("demonstrations") / "data", linear_episodes(LENGTHS))


def imitate(data: str, run: Path, *words: str) -> Answer:
    """Clone into a run folder."""
    played = ("--env.id", "perturbed/Pendulum", "--env.kwargs.max_episode_steps", "20")
    small = (*SMALL_LSTM, "--total-timesteps", str(STEPS), "--agent.validation_freq", "2")
    return call("imitate", "recall/rim", "--data", data, *played, *small, *words, "--run-dir", run)


@pytest.fixture(scope="module")
def whole(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    run = tmp_path_factory.mktemp("imitation") / "whole"
    answer = imitate(data, run)
    assert answer.code == 0, answer.err
    return run


def progress(run: Path) -> list[dict[str, str]]:
    """Rows of progress.csv without the clock."""
    with (run / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if value and name not in CLOCK} for row in rows]


def test_progress_has_the_loss_of_every_update_and_validations(data: str, whole: Path) -> None:
    rows = progress(whole)
    assert [int(row["time/total_timesteps"]) for row in rows] == list(range(UPDATE, STEPS + 1, UPDATE))
    assert all(np.isfinite(float(row["train/loss"])) for row in rows)
    assert ["validation/loss" in row for row in rows] == [True, True, False, True, False, True]
    agent = RecurrentBC("MlpPolicy", "Pendulum-v1", data=data, policy_kwargs={"core": "lstm"})
    held_out = sum(np.array(LENGTHS)[agent._held_out])
    assert float(rows[-1]["train/epochs"]) == pytest.approx(STEPS / (sum(LENGTHS) - held_out))


@pytest.mark.parametrize("at", [UPDATE, 3 * UPDATE + 20])
def test_a_stopped_run_goes_on_to_the_same_end(
    at: int, data: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_step(self: Any) -> bool:
        self._stop.requested = self.num_timesteps >= at
        return not self._stop.requested

    with monkeypatch.context() as patch:
        patch.setattr(Stopping, "_on_step", on_step)
        answer = imitate(data, tmp_path / "run")
    assert answer.code == 130
    assert answer.err.endswith(f": rimrl train --resume {tmp_path / 'run'}\n")
    # What was counted of an update that did not come does not count.
    assert read_json(tmp_path / "run/environment.json")["num_timesteps"] == (at - 1) // UPDATE * UPDATE
    assert succeed("train", "--resume", tmp_path / "run", "--quiet").err == ""
    assert same_weights(tmp_path / "run", whole)
    assert progress(tmp_path / "run") == progress(whole)


def test_every_command_takes_the_run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    succeed("evaluate", whole, "--episodes", "1", "--no-random", "--quiet")
    splits = read_json(whole / "evaluation.json")["splits"]
    assert splits.keys() == {"train", "noise_0.1", "noise_0.2", "noise_0.5"}
    assert len({split["return_mean"] for split in splits.values()}) == 4
    assert "noise_0.5" in succeed("compare", whole).out
    succeed("report", whole, "--output", "report.html")
    succeed("inspect", whole, "--episodes", "1", "--split", "noise_0.1", "--quiet", "--output", "inspection")
    succeed("export", whole, "exported")
    seen = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    ours, exported = (rimrl.load(path).predict(seen, deterministic=True)[0] for path in (whole, Path("exported")))
    np.testing.assert_array_equal(ours, exported)


def test_a_run_with_a_rim_evaluates_on_its_way(data: str, tmp_path: Path) -> None:
    rim = ("--core.name", "rim", "--core.hidden_size", "12", "--core.num_units", "3", "--core.num_active", "2")
    some = ("--total-timesteps", str(2 * UPDATE), "--train.eval_freq", str(UPDATE), "--train.eval_episodes", "1")
    answer = imitate(data, tmp_path / "run", *rim, *some, "--agent.normalize_observations", "true")
    assert answer.code == 0, answer.err
    assert (tmp_path / "run/best_model.zip").is_file()
    assert any("units/active_2" in row for row in progress(tmp_path / "run"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--env.id", "MountainCarContinuous-v0"), "observations"),
        (("--env.id", "CartPole-v1"), "observations"),
        (("--env.efference_copies", "true"), "observations"),
        (("--agent.use_masking", "true"), "use_masking"),
        (("--agent.validation_share", "1.5"), "agent.validation_share"),
        (("--agent.algorithm", "ppo"), "agent.data"),
        (("--data", "nobody/nothing-v0"), "nobody/nothing-v0"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(
    words: tuple[str, ...], said: str, data: str, tmp_path: Path
) -> None:
    answer = imitate(data, tmp_path / "run", *words)
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
    assert said in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [("recall/rim",), ("--data", "pendulum/expert-v0")])
def test_configuration_and_demonstrations_are_required(words: tuple[str, ...]) -> None:
    answer = call("imitate", *words)
    assert (answer.code, len(answer.err.splitlines())) == (2, 1)


def test_a_clone_trained_without_its_verb_needs_demonstrations(tmp_path: Path) -> None:
    answer = call("train", "imitation/lstm", "--env.id", "Pendulum-v1", "--run-dir", tmp_path / "run")
    assert answer.code == 2
    assert "--data" in answer.err
    assert not (tmp_path / "run").exists()
