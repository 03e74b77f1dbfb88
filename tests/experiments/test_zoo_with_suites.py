"""Wrappers, callbacks and normalisation together with suites in files, evaluated splits and callers' callbacks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import yaml
from stable_baselines3.common.callbacks import BaseCallback

from rimrl.errors import UsageError
from rimrl.experiments.config_files import changed, load_config
from rimrl.experiments.resuming import resume
from rimrl.experiments.train import train
from tests.commands import read_json, same_weights, succeed
from tests.experiments.test_own_modules import HERE, HOSTILE, MARKING, forgetting, refused, within
from tests.experiments.test_suite_files import SPLITS, folder_with_suite, rows

PAID = ("--env.env_wrapper", '[{"own_parts.Paid": {"a": 2.0, "b": 0.5}}]', "--env.frame_stack", "3")
TRUST = ("--import", "own_env", "--import", "own_parts", "--quiet")
SCALED = """
import gymnasium
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv

class Scaled(CartPoleEnv):
    def __init__(self, high=1.0, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.observation_space = gymnasium.spaces.Box(np.float32(-high), np.float32(high), (4,), np.float32)

gymnasium.register("Own/Scaled-v0", Scaled)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The working directory, with the file of a suite, a configuration that names it, and parts of the user's own."""
    shutil.copy(HERE / "own_parts.py", folder_with_suite(tmp_path))
    with forgetting(), chdir(tmp_path):
        yield tmp_path


def paid(split: dict[str, Any]) -> list[float]:
    """Returns of episodes that pay 1 for success, made twice as much, and a half for every step."""
    lengths, successes = split["episode_lengths"], split["episode_successes"]
    return [2.0 * success + 0.5 * length for success, length in zip(successes, lengths, strict=True)]


def test_splits_are_played_with_the_wrappers_and_for_the_true_rewards(folder: Path) -> None:
    words = (*PAID, "--agent.normalize", '{"norm_obs": false}', SPLITS, "--agent.learning_rate", "1e-30", "--quiet")
    succeed("train", "all.yaml", *words, "--run-dir", "run")  # steps so small that the agent stays what it is
    scored = (*TRUST, "--episodes", "4", "--n-envs", "4", "--no-random")
    succeed("evaluate", "run", *scored, "--seed", "100000")
    for name, split in read_json(folder / "run/evaluation.json")["splits"].items():
        assert split["episode_returns"] == paid(split)
        assert (split["held_out"], split["env_kwargs"]["frame_stack"]) == (name == "longer", 3)
        drawn = {float(row[f"eval/return_mean_{name}"]) for row in rows(folder / "run") if row["eval/mean_reward"]}
        assert [*drawn] == pytest.approx([split["return_mean"]])
    succeed("evaluate", "run", *scored, "--env.kwargs.delay", "6")
    split = read_json(folder / "run/evaluation-delay=6.json")["splits"]["train"]
    assert (set(split["episode_lengths"]), split["episode_returns"]) == ({7}, paid(split))


def test_evaluated_splits_leave_no_trace_in_the_scale_of_rewards(folder: Path) -> None:
    common = ("train", "all.yaml", *PAID, "--agent.normalize", "true", "--quiet")
    succeed(*common, SPLITS, "--run-dir", "with")
    succeed(*common, "--run-dir", "without")
    assert same_weights(folder / "with", folder / "without")


def test_splits_have_to_fit_together_as_they_are_wrapped(folder: Path) -> None:
    (folder / "own_scaled.py").write_text(SCALED)
    splits = {"train": {"id": "Own/Scaled-v0"}, "other": {"id": "Own/Scaled-v0", "kwargs": {"high": 2.0}}}
    (folder / "suites/cue.yaml").write_text(yaml.safe_dump({"imports": ["own_scaled"], "splits": splits}))
    common = ("train", "all.yaml", "--total-timesteps", "64", "--train.eval_freq", "0", "--quiet")
    assert "observations of 'other'" in refused(folder, *common, "--run-dir", "run")
    rescaled = '{"gymnasium.wrappers.RescaleObservation": {"min_obs": 0.0, "max_obs": 1.0}}'
    within(folder, *common, "--env.env_wrapper", rescaled, "--run-dir", "run")


def test_games_in_the_suite_of_a_file_stack_their_frames_themselves(folder: Path) -> None:
    splits = {"train": {"id": "CartPole-v1"}, "other": {"id": "ALE/Pong-v5"}}
    (folder / "suites/cue.yaml").write_text(yaml.safe_dump({"splits": splits}))
    with pytest.raises(UsageError, match=r"env\.kwargs\.frame_stack"):
        load_config("all.yaml", ["--env.frame_stack=2"])


# -- trust ------------------------------------------------------------------------------------------------------------


def test_every_module_of_a_run_has_to_be_named(folder: Path) -> None:
    """Of its suite and of its wrappers to play it; of its callbacks, too, to train it."""
    succeed("train", "all.yaml", "--quiet", "--run-dir", "run")
    (folder / "run/environment.json").unlink()
    content = yaml.safe_load((folder / "run/config.yaml").read_text())
    content["suite"]["splits"]["longer"]["id"] = "hostile_env:Own/Cue-v0"
    content["env"]["env_wrapper"] = [{"hostile_wrapper.Wrapper": {}}]
    content["train"]["callback"] = [{"hostile_callback.Callback": {}}]
    (folder / "run/config.yaml").write_text(yaml.safe_dump(content))
    names = ["hostile_env", "hostile_wrapper", "hostile_callback"]
    for name in names:
        (folder / f"{name}.py").write_text(MARKING.format(f"{folder / name}.ran"))
    with (folder / "hostile_wrapper.py").open("a") as stream:
        stream.write("from own_parts import Paid as Wrapper\n")
    verbs = {("evaluate", "run"): 2, ("evaluate", "run", "--env.kwargs.delay", "3"): 2, ("train", "--resume", "run"): 3}
    for verb, needed in verbs.items():
        for missing in names[:needed]:
            given = [word for name in ["own_env", *names] if name != missing for word in ("--import", name)]
            assert f"--import {missing}" in refused(folder, *verb, *given)
            assert not (folder / f"{missing}.ran").exists()
            for mark in folder.glob("*.ran"):
                mark.unlink()
    within(folder, "evaluate", "run", *TRUST, "--import", "hostile_env", "--import", "hostile_wrapper")
    assert not (folder / "hostile_callback.ran").exists()


def test_a_changed_configuration_keeps_its_classes_and_names_no_others(folder: Path) -> None:
    words = [*PAID, "--train.callback=own_parts.Noting"]
    config = changed(load_config("all.yaml", words), ["--agent.learning_rate=lin_1e-3"])
    assert config.flat() == load_config("all.yaml", [*words, "--agent.learning_rate=lin_1e-3"]).flat()
    assert config.played == load_config("all.yaml").played
    (folder / "hostile.py").write_text(HOSTILE.format(str(folder / "ran")))
    with pytest.raises(UsageError, match="--import hostile"):
        changed(config, ["--train.callback=hostile.Callback"])
    assert not (folder / "ran").exists()


# -- early ends -------------------------------------------------------------------------------------------------------


class Once(BaseCallback):
    """Ends a training at a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def _on_step(self) -> bool:
        assert self.n_calls * 4 == self.num_timesteps
        return self.num_timesteps != self._at


def test_a_callers_callback_interrupts_what_one_of_the_configuration_ends(folder: Path) -> None:
    ending = '--train.callback={"own_parts.Ending": {"after": 100}}'
    config = load_config("all.yaml", [*PAID, ending])
    whole, finished = train(config, folder / "whole", progress_bar=False)
    assert (finished, whole.ended_early, whole.status) == (True, "a callback asked for it", "finished")
    run, finished = train(config, folder / "run", progress_bar=False, callback=Once(72))
    assert (finished, run.ended_early, run.status) == (False, None, "interrupted")
    assert resume(run, config, progress_bar=False, callback=Once(0))
    assert (run.ended_early, run.status) == (whole.ended_early, "finished")
    assert read_json(folder / "run/environment.json")["num_timesteps"] == 100
    assert same_weights(folder / "whole", folder / "run")
