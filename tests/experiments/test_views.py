"""What an agent is shown, chosen in a configuration, holds in training, evaluation and inspection alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import rimrl
from rimrl.agents.extractors import EfferenceExtractor, MiniGridExtractor, NatureMap
from rimrl.agents.policies import RecurrentCorePolicy
from rimrl.envs.vector import make_vec_env
from rimrl.experiments.config_files import load_config
from rimrl.experiments.evaluate import DEFAULT_SEED
from rimrl.experiments.factory import make_agent, make_train_env
from rimrl.experiments.inspect import record
from rimrl.experiments.run import Run
from tests.commands import SMALL, read_json, succeed

SPLIT = "novel_shapes"
COPIES = ("--env.efference_copies", "true")


def of_config(*words: str) -> Any:
    config = load_config("distractors/rim", [*(word for word in SMALL if word != "--quiet"), *words])
    env = make_train_env(config)
    try:
        return make_agent(config, env)
    finally:
        env.close()


def first_episodes(agent: Any, n_envs: int) -> list[list[int]]:
    """The most probable actions of the first episode in each environment that evaluations play."""
    env = make_vec_env("distractors", SPLIT, n_envs=n_envs, seed=DEFAULT_SEED, efference_copies=True, max_steps=12)
    obs, state, starts = env.reset(), None, np.ones(n_envs, dtype=bool)
    episodes: list[list[int]] = [[] for _ in range(n_envs)]
    running = np.ones(n_envs, dtype=bool)
    while running.any():
        actions, state = agent.predict(obs, state, starts, deterministic=True)
        obs, _, starts, _ = env.step(actions)
        for i in np.flatnonzero(running):
            episodes[i].append(int(actions[i]))
        running &= ~starts
    env.close()
    return episodes


def test_copies_reach_training_evaluation_and_inspection(tmp_path: Path) -> None:
    """What `evaluate` and `inspect` say is what the saved agent does in the environment that shows the copies."""
    run = tmp_path / "run"
    evaluating = ("--train.eval_freq", "64", "--train.eval_episodes", "1")
    words = ("--env.kwargs.max_steps", "12", "--total-timesteps", "128", "--run-dir", run)
    succeed("train", "distractors/rim", *SMALL, *evaluating, *COPIES, *words)
    assert (run / "best_model.zip").exists()  # the evaluations during training showed the copies, too
    agent = rimrl.load(run)
    assert isinstance(agent.observation_space, spaces.Dict)
    assert agent.observation_space.spaces.keys() == {"image", "mission", "previous_action", "previous_reward"}

    played = first_episodes(agent, n_envs=3)
    succeed("evaluate", run, "--episodes", "3", "--deterministic", "--quiet", "--split", SPLIT, "--no-random")
    result = read_json(run / "evaluation.json")["splits"][SPLIT]
    assert result["length_mean"] == pytest.approx(np.mean([len(actions) for actions in played]))

    recording = record(Run.open(run), episodes=1, split=SPLIT, deterministic=True, progress_bar=False)
    np.testing.assert_array_equal(recording.arrays["action"], played[0])


@pytest.mark.parametrize(
    ("words", "inner", "positions"),
    [
        ((), MiniGridExtractor, 1),
        (("--agent.spatial", "true"), MiniGridExtractor, 50),
        (("--env.kwargs.tiles", "colors"), MiniGridExtractor, 1),
        (("--env.id", "ALE/Pong-v5", "--env.backend", "native", "--agent.spatial", "true"), NatureMap, 50),
    ],
)
def test_the_extractor_of_the_observation_stays_the_same(
    words: tuple[str, ...], inner: type[Any], positions: int
) -> None:
    policy = of_config(*words, *COPIES).policy
    assert isinstance(policy, RecurrentCorePolicy)
    extractor = policy.features_extractor
    assert isinstance(extractor, EfferenceExtractor)
    assert type(extractor.extractor) is inner
    assert extractor.num_positions == positions == policy.core.num_inputs
    plain = of_config(*words).policy.features_extractor
    assert type(plain) is inner
    assert {name for name, _ in plain.named_parameters()} == {
        name for name, _ in extractor.extractor.named_parameters()
    }


def test_features_dim_is_the_width_of_the_observations_features() -> None:
    policy = of_config("--agent.features_dim", "24", *COPIES).policy
    assert policy.features_dim == 24 + 4 + 1


@pytest.mark.parametrize(
    ("words", "pixels", "tiles"),
    [
        (("--env.kwargs.tiles", "colors"), 1, 49),
        (("--env.kwargs.tiles", "rgb"), 8, 49),
        (("--env.kwargs.tiles", "rgb", "--env.kwargs.tile_size", "4"), 4, 49),
        (("--env.kwargs.tiles", "colors", "--env.kwargs.tile_size", "4"), 1, 49),
        (("--env.kwargs.tiles", "colors", "--env.kwargs.agent_view_size", "5"), 1, 25),
        (("--env.kwargs.tiles", "rgb", "--env.kwargs.agent_view_size", "3"), 8, 9),
    ],
)
def test_pictures_are_read_by_their_tiles(words: tuple[str, ...], pixels: int, tiles: int) -> None:
    extractor = of_config(*words, "--agent.spatial", "true").policy.features_extractor
    assert isinstance(extractor, MiniGridExtractor)
    assert extractor.tiles.kernel_size == (pixels, pixels)
    assert extractor.num_positions == tiles
