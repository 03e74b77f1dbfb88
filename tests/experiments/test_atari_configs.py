"""The paper's Atari set-up, for every game of its table by argument."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import pytest

from rimrl.agents.ppo import PPOConfig
from rimrl.envs.atari_games import find_game
from rimrl.envs.suites import get_suite
from rimrl.envs.vector import resolve
from rimrl.errors import UsageError
from rimrl.experiments.config_files import load_config
from tests.commands import call, read_json, succeed

CORES = ("rim", "lstm", "riglstm", "feedforward")

# Goyal et al. (2021), Table 7, in its order and spelling.
TABLE_7 = [
    "Alien",
    "Amidar",
    "Assault",
    "Asterix",
    "Asteroids",
    "Atlantis",
    "BankHeist",
    "BattleZone",
    "BeamRider",
    "Bowling",
    "Boxing",
    "Breakout",
    "Centipede",
    "ChopperCommand",
    "CrazyClimber",
    "DemonAttack",
    "DoubleDunk",
    "Enduro",
    "FishingDerby",
    "Freeway",
    "Gopher",
    "Gravitar",
    "IceHockey",
    "Jamesbond",
    "Kangaroo",
    "Krull",
    "KungFuMaster",
    "NameThisGame",
    "Pong",
    "PrivateEye",
    "Qbert",
    "Riverraid",
    "RoadRunner",
    "Robotank",
    "SpaceInvaders",
    "StarGunner",
    "TimePilot",
    "UpNDown",
    "VideoPinball",
    "WizardOfWor",
    "Zaxxon",
]


@pytest.mark.parametrize("game", TABLE_7)
def test_every_game_of_table_7_has_its_configuration(game: str) -> None:
    config = load_config(f"atari/{game}/rim")
    assert config.env.id == f"sticky/{game}"
    assert config.name == f"atari/{find_game(game).rom}/rim"
    assert get_suite(config.env.id).train.env_id in gymnasium.registry


def test_the_setup_is_that_of_the_paper() -> None:
    """App. D.8: Kostrikov's PPO, with its games: no sticky actions, lives that end. Table 7: six RIMs, five active."""
    config = load_config("atari/pong/rim")
    assert isinstance(config.agent, PPOConfig)
    minibatches = config.env.n_envs * config.agent.n_steps // config.agent.batch_size
    assert (config.env.n_envs, config.agent.n_steps, minibatches, config.agent.n_epochs) == (8, 128, 4, 4)
    assert (config.agent.learning_rate, config.agent.learning_rate_schedule) == (2.5e-4, "linear")
    assert (config.agent.gamma, config.agent.gae_lambda) == (0.99, 0.95)
    assert (config.agent.clip_range, config.agent.ent_coef) == (0.1, 0.01)
    assert (config.agent.vf_coef, config.agent.max_grad_norm) == (0.5, 0.5)
    assert (config.core.options["num_units"], config.core.options["num_active"]) == (6, 5)
    _, played = resolve(config.env.id, **config.env.kwargs)
    assert config.train.total_timesteps * played["frameskip"] == 40_000_000
    assert (played["repeat_action_probability"], played["terminal_on_life_loss"], played["noop_max"]) == (0, True, 30)


@pytest.mark.parametrize("core", CORES)
def test_configurations_differ_in_their_core_alone(core: str) -> None:
    rim, other = load_config("atari/pong/rim"), load_config(f"atari/pong/{core}")
    assert (other.agent, other.train) == (rim.agent, rim.train)
    assert other.core.name == core
    assert other.core.options["hidden_size"] == rim.core.options["hidden_size"]
    assert other.env.kwargs == {"frame_stack": 4 if core == "feedforward" else 1}


FLICKER_CORES = ("rim", "riglstm", "lstm", "gru", "feedforward", "feedforward_one_frame")


@pytest.mark.parametrize("core", FLICKER_CORES)
def test_small_configurations_differ_in_core_and_frames_alone(core: str) -> None:
    rim, flickering = load_config("atari-small/pong/rim"), load_config(f"atari-small-flicker/pong/{core}")
    configs = [flickering, *([] if core == "feedforward_one_frame" else [load_config(f"atari-small/pong/{core}")])]
    for config in configs:
        assert (config.agent, config.train) == (rim.agent, rim.train)
        assert config.core.name == core.removesuffix("_one_frame")
        assert config.core.options["hidden_size"] == rim.core.options["hidden_size"]
        assert config.env.kwargs == {"preset": "small", "frame_stack": 4 if core == "feedforward" else 1}
        assert (config.env.n_envs, config.env.backend) == (rim.env.n_envs, "native")
    assert [config.env.id for config in configs] == ["flicker/Pong", "sticky/Pong"][: len(configs)]


@pytest.mark.parametrize("env_id", ["flicker/Pong", "sticky/Pong"])
def test_a_small_game_is_that_of_legacy_on_another_screen(env_id: str) -> None:
    _, small = resolve(env_id, preset="small")
    _, legacy = resolve(env_id)
    assert {key for key in small if small[key] != legacy.get(key)} == {"preset", "screen_size"}


def test_the_released_variant_is_that_of_the_authors_code() -> None:
    """blocks_atari, commit 22a5de8; PPO and width are those of the paper's own configuration."""
    paper, released = load_config("atari/pong/rim"), load_config("atari/pong/rim_released")
    assert (released.agent, released.train, released.env.id) == (paper.agent, paper.train, paper.env.id)
    assert released.env.kwargs == {"frame_stack": 4}
    options = released.core.options
    assert options["hidden_size"] == 6 * 85
    expected = {
        "num_units": 6,
        "num_active": 4,
        "dynamics": "gru",
        "competition": "units",
        "initialization": "released",
    }
    expected |= {"input_heads": 1, "input_key_size": 64, "input_value_size": 340, "input_dropout": 0.1}
    expected |= {"communication": "gated", "communication_heads": 4, "communication_dropout": 0.1}
    expected |= {"communication_key_size": 32, "communication_value_size": 32}
    assert {key: options[key] for key in expected} == expected


def test_another_game_changes_the_game_alone() -> None:
    pong, other = load_config("atari/pong/lstm"), load_config("atari/spaceinvaders/lstm")
    assert (other.name, other.env.id) == ("atari/space_invaders/lstm", "sticky/SpaceInvaders")
    assert (other.core, other.agent, other.train) == (pong.core, pong.agent, pong.train)
    flickering = load_config("atari-small-flicker/spaceinvaders/gru")
    assert (flickering.name, flickering.env.id) == ("atari-small-flicker/space_invaders/gru", "flicker/SpaceInvaders")
    assert (other.env.n_envs, other.env.backend, other.env.kwargs) == (
        pong.env.n_envs,
        pong.env.backend,
        pong.env.kwargs,
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("atari/pongg/rim", r"'pongg'.*'atari/pongg/rim'.*'pong'\?"),
        ("atari/alien/rimm", r"'atari/alien/rimm'.*'atari/alien/rim'\?"),
        ("atari/pong", r"'atari/pong'.*'atari/pong/.*'\?"),
        ("atari-small/pongg/rim", r"'pongg'.*'atari-small/pongg/rim'.*'pong'\?"),
        ("atari-small/alien/rimm", r"'atari-small/alien/rimm'.*'atari-small/alien/rim'\?"),
        ("atari-smal/alien/rim", r"'atari-smal/alien/rim'.*'atari-small/.*'\?"),
    ],
)
def test_mistakes_are_named(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(name)


def test_a_suite_is_stored_under_one_name() -> None:
    assert load_config("atari/pong/rim", ["--env.id", "modes/space_invaders"]).env.id == "modes/SpaceInvaders"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env.id", "modes/pongg"], ["'pongg'", "'pong'"]),
        (["--env.id", "modes/Assault"], ["Assault", "mode"]),
        (["--env.kwargs.preset", "lagacy"], ["unknown preset 'lagacy'", "'legacy'"]),
        (["--env.kwargs.mode", "1"], ["mode ", "backend 'native'", "'subproc'"]),
        (["--env.backend", "dummy", "--env.kwargs.mode", "9"], ["Pong", "mode 9", "0, 1"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words: list[str], said: list[str], tmp_path: Path) -> None:
    answer = call("train", "atari/pong/rim", *words, "--run-dir", tmp_path / "run", "--quiet")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert all(part in answer.err for part in said)
    assert not (tmp_path / "run").exists()


def test_every_split_of_the_suite_is_evaluated(tmp_path: Path) -> None:
    short = ("--env.kwargs.max_num_frames_per_episode", "80", "--core.hidden_size", "12", "--agent.features_dim", "8")
    few = ("--env.n_envs", "2", "--agent.n_steps", "16", "--agent.batch_size", "32", "--total-timesteps", "32")
    for env_id, held_out in (
        ("sticky/Pong", {"sticky"}),
        ("modes/Pong", {"difficulty_1", "difficulty_2", "difficulty_3", "mode_1"}),
    ):
        run = tmp_path / env_id
        succeed("train", "atari/pong/lstm", "--env.id", env_id, *short, *few, "--run-dir", run, "--quiet")
        succeed("evaluate", run, "--episodes", "1", "--n-envs", "1", "--no-random", "--quiet")
        splits = read_json(run / "evaluation.json")["splits"]
        assert splits.keys() == {"train"} | held_out
        assert {name for name, split in splits.items() if split["held_out"]} == held_out
