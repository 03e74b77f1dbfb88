"""The Pong agent that comes with rimrl, in sb3-contrib with the wrappers of Stable-Baselines3."""

from __future__ import annotations

import math
from pathlib import Path

import ale_py  # noqa: F401 (registers its ids)
import numpy as np
import pytest
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecTransposeImage

import rimrl
from rimrl.agents.saved.shipped import shipped_agents
from tests.commands import read_json

NAME = "atari-small/pong/rim"
GAMES = 16
DEVIATIONS = 5  # of the difference of two means: one in a million


@pytest.mark.slow
def test_it_scores_in_plain_contrib_what_its_card_says(tmp_path: Path) -> None:
    rimrl.pretrained(NAME, device="cpu").save(tmp_path / "pong.zip")
    assert (tmp_path / "pong.zip").stat().st_size < 5_000_000
    agent = RecurrentPPO.load(tmp_path / "pong.zip", device="cpu")
    assert type(agent) is RecurrentPPO
    every_frame = {"frameskip": 1, "repeat_action_probability": 0.0}
    games = make_atari_env("ALE/Pong-v5", n_envs=8, seed=1, env_kwargs=every_frame, wrapper_kwargs={"screen_size": 42})
    scores, _ = evaluate_policy(
        agent,
        VecTransposeImage(games),
        n_eval_episodes=GAMES,
        deterministic=False,
        return_episode_rewards=True,
        warn=False,
    )
    said = read_json(shipped_agents()[NAME] / "card.json")["evaluation"]["splits"]["train"]
    spread = max(said["return_std"], 1.0) * math.sqrt(1 / GAMES + 1 / said["episodes"])
    assert abs(np.mean(scores) - said["return_mean"]) < DEVIATIONS * spread
