"""Configurations: precedence, reloading, and the files that are shipped."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import rimrl
from rimrl.agents.a2c import A2CConfig
from rimrl.agents.bc import BCConfig
from rimrl.agents.ppo import PPOConfig
from rimrl.cores.registry import CORES, LEGACY_OPTION_VALUES, core_options, make_core
from rimrl.envs.vector import make_env
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.config_files import load_config, shipped_configs
from rimrl.runs.config import digest
from tests.commands import read_json, same_weights, succeed
from tests.demonstrations import write
from tests.shipped import shipped

OWN = """
name: papers/own
env:
  id: distractors
  n_envs: 5
  kwargs: {tiles: rgb, num_distractors: 2}
core:
  name: rim
  num_units: 4
  unit_size: 7
agent:
  learning_rate: 1.0e-05
train:
  seed: 7
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    file = tmp_path / "own.yaml"
    file.write_text(OWN)
    return str(file)


def test_a_file_is_read_over_the_defaults(own: str) -> None:
    config = load_config(own)
    assert config.name == "papers/own"
    assert config.env.n_envs == 5
    assert config.env.backend == "dummy"
    assert config.core.options["num_units"] == 4
    assert config.core.options["dynamics"] == "lstm"
    assert isinstance(config.agent, PPOConfig)
    assert config.agent.learning_rate == 1e-5
    assert config.agent.gamma == PPOConfig().gamma
    assert config.train.seed == 7


def test_every_option_of_every_core_has_its_constructor_default(own: str) -> None:
    for core in CORES:
        options = load_config(own, ["--core.name", core]).core.options
        defaults = {name: parameter.default for name, parameter in core_options(core).items()}
        kept = {"num_units": 4, "unit_size": 7} if core == "rim" else {}
        assert options == {**defaults, **kept}


def test_overrides_win_over_the_file(own: str) -> None:
    words = ["--env.n_envs", "3", "--core.num_units=2", "--agent.learning_rate", "0.5", "--train.seed", "9"]
    config = load_config(own, words)
    assert (config.env.n_envs, config.core.options["num_units"]) == (3, 2)
    assert (config.agent.learning_rate, config.train.seed) == (0.5, 9)
    assert config.core.options["unit_size"] == 7


def test_the_last_of_two_overrides_wins(own: str) -> None:
    assert load_config(own, ["--train.seed", "1", "--train.seed", "2"]).train.seed == 2


def test_short_flags_win_over_their_long_keys() -> None:
    keys = yaml.safe_load(
        succeed(
            "train", "distractors/rim", "--seed", "4", "--train.seed", "5", "--total-timesteps", "6", "--print-config"
        ).out
    )
    assert keys["train"]["seed"] == 4
    assert keys["train"]["total_timesteps"] == 6


def test_environment_arguments_are_merged_one_by_one(own: str) -> None:
    words = ["--env.kwargs.num_distractors", "4", "--env.kwargs.target_types", "[ball]"]
    assert load_config(own, words).env.kwargs == {"tiles": "rgb", "num_distractors": 4, "target_types": ["ball"]}


@pytest.mark.parametrize(
    ("words", "group", "name", "value"),
    [
        (["--agent.sequence_length", "null"], "agent", "sequence_length", None),
        (["--agent.net_arch", "[32,16]"], "agent", "net_arch", [32, 16]),
        (["--agent.net_arch", "[]"], "agent", "net_arch", []),
        (["--agent.learning_rate", "1e-4"], "agent", "learning_rate", 1e-4),
        (["--agent.gamma", "1"], "agent", "gamma", 1.0),
        (["--agent.normalize_advantage", "false"], "agent", "normalize_advantage", False),
        (["--agent.target_kl", "0.02"], "agent", "target_kl", 0.02),
        (["--core.competition", "null"], "core", "competition", "null"),
        (["--core.communication", "null"], "core", "communication", None),
        (["--core.input_attention", "false"], "core", "input_attention", False),
        (["--env.kwargs.tiles", "rgb"], "env", "kwargs", {"tiles": "rgb"}),
        (["--env.efference_copies", "true"], "env", "efference_copies", True),
        ([], "env", "efference_copies", False),
    ],
)
def test_values_have_their_types(words: list[str], group: str, name: str, value: Any) -> None:
    config = load_config("distractors/rim", words)
    found = config.core.options[name] if group == "core" else getattr(getattr(config, group), name)
    assert found == value
    assert type(found) is type(value)


def test_another_core_keeps_the_width_and_drops_the_rest() -> None:
    rim = load_config("distractors/rim")
    gru = load_config("distractors/rim", ["--core.name", "gru"])
    assert gru.core.options["hidden_size"] == rim.core.options["hidden_size"]
    assert gru.core.options.keys() == core_options("gru").keys()
    assert (gru.env, gru.agent, gru.train) == (rim.env, rim.agent, rim.train)


def test_another_algorithm_keeps_what_it_shares() -> None:
    ppo = load_config("distractors/rim")
    a2c = load_config("distractors/rim", ["--agent.algorithm", "a2c"])
    assert isinstance(a2c.agent, A2CConfig)
    assert a2c.agent.gamma == ppo.agent.gamma
    assert a2c.agent.n_steps == ppo.agent.n_steps
    assert not hasattr(a2c.agent, "clip_range")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--agent.algorithm", "a2c"],
        ["--core.name", "feedforward"],
        ["--env.efference_copies", "true"],
        ["--core.communication", "null", "--core.dynamics", "gru", "--core.input_dropout", "0.1"],
        ["--agent.learning_rate", "1e-5", "--agent.net_arch", "[3,4]", "--agent.clip_range_vf", "0.1"],
        ["--env.kwargs.tiles", "rgb", "--env.kwargs.target_types", "[ball,box]", "--train.device", "cpu"],
    ],
)
def test_what_is_written_reads_back_equal(words: list[str], tmp_path: Path) -> None:
    config = load_config("distractors/rim", words)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(str(tmp_path / "config.yaml")) == config


def test_the_file_of_a_run_is_complete(trained: Path) -> None:
    written = yaml.safe_load((trained / "config.yaml").read_text())
    config = load_config(str(trained / "config.yaml"))
    assert written["name"] == config.name == "distractors/rim"
    for group in ("env", "agent", "train"):
        settings = getattr(config, group)
        assert is_dataclass(settings)
        assert written[group].keys() == {entry.name for entry in fields(settings)}
    assert written["core"] == {"name": "rim", **config.core.options}


def test_the_file_of_a_run_repeats_it(trained: Path, tmp_path: Path) -> None:
    succeed("train", trained / "config.yaml", "--run-dir", tmp_path / "again", "--quiet")
    assert same_weights(trained, tmp_path / "again")
    assert load_config(str(tmp_path / "again/config.yaml")) == load_config(str(trained / "config.yaml"))


@pytest.mark.parametrize("core", ["rim", "riglstm", "lstm"])
def test_the_file_of_an_older_run_still_says_what_was_trained(core: str, tmp_path: Path) -> None:
    """It has every option but those added since, which get the values of then; its checkpoints still fit."""
    older = yaml.safe_load(load_config(f"distractors/{core}").to_yaml())
    added = {key: value for key, value in LEGACY_OPTION_VALUES.items() if older["core"].pop(key, "absent") != "absent"}
    for group, key in (key.split(".") for key in ExperimentConfig.added if not key.startswith("core.")):
        del older[group][key]
    for key in ("optimizer_kwargs", "features_extractor_kwargs"):
        del older["agent"][key]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(older))
    config = load_config(str(file))
    assert added
    assert {"name": core, **config.core.options} == {**older["core"], **added}
    then = {
        f"{group}.{key}": value
        for group in ("env", "core", "agent", "train")
        for key, value in older[group].items()
        if key != "kwargs" and f"{group}.{key}" not in config.kind.free
    }
    assert config.identity() == digest(then)
    assert load_config(str(file), ["--core.forget_bias=1"]).identity() != config.identity()
    assert load_config(str(file), ["--agent.critic_gradient=0.5"]).identity() != config.identity()
    assert load_config(str(file), ["--agent.use_masking=true"]).identity() != config.identity()


@pytest.mark.parametrize("name", list(shipped_configs()))
def test_a_shipped_file_opens_with_its_command(name: str) -> None:
    first, *rest = shipped_configs()[name].read_text().splitlines()
    command = f"rimrl imitate {name} --data " if shipped(name).agent.algorithm == "bc" else f"rimrl train {name}"
    assert first.startswith(f"# {command}")
    assert command.endswith("--data ") or first == f"# {command}"
    assert any(line.startswith("# ") for line in rest)
    config = shipped(name)
    assert config.name == name
    assert make_core(config.core.name, 8, **config.core.options).output_size == config.core.options["hidden_size"]


# Of these no two configurations need to differ for a training to be another one.
WHEN = frozenset(
    f"train.{key}" for key in ("total_timesteps", "eval_freq", "eval_episodes", "checkpoint_freq", "resume_freq")
)


def covering() -> list[str]:
    """Shipped configurations in which each value of each key occurs; that with most values that are new comes next."""
    values = {
        name: {(key, repr(value)) for key, value in shipped(name).flat().items() if key not in WHEN}
        for name in shipped_configs()
    }
    found: list[str] = []
    while left := set().union(*values.values()).difference(*(values[name] for name in found)):
        found.append(max(values, key=lambda name: len(values[name] & left)))
    return found


@pytest.mark.parametrize("name", covering())
def test_a_shipped_configuration_trains(name: str, tmp_path: Path) -> None:
    if name.startswith("popgym/"):
        pytest.importorskip("popgym", reason="needs POPGym: pip install 'rimrl[popgym]'")
    config = shipped(name)
    few, n_steps = config.env.n_envs // 8, min(config.agent.n_steps, 16)
    steps = 2 * few * n_steps
    fewer: tuple[str, ...] = ("--env.n_envs", str(few), "--agent.n_steps", str(n_steps))
    updates = 2
    verb: tuple[str, ...] = ("train",)
    if isinstance(config.agent, BCConfig):
        pytest.importorskip("mujoco", reason="needs MuJoCo: pip install 'gymnasium[mujoco]'")
        env = make_env(config.env.id)
        rng = np.random.default_rng(0)
        demonstrated = [(rng.normal(size=(9, 17)), rng.uniform(-1, 1, (8, 6)).astype(np.float32)) for _ in range(4)]
        data = write(tmp_path / "data", demonstrated, env.observation_space, env.action_space)
        verb, fewer = ("imitate",), (*fewer, "--data", data)
    if isinstance(config.agent, PPOConfig):
        fewer += ("--agent.batch_size", str(min(few * n_steps, config.agent.batch_size // 8)))
        updates *= config.agent.n_epochs
    succeed(*verb, name, "--run-dir", tmp_path / "run", "--quiet", "--total-timesteps", str(steps), *fewer)
    assert read_json(tmp_path / "run/environment.json")["num_timesteps"] == steps
    agent = rimrl.load(tmp_path / "run")
    assert agent._n_updates == updates


@pytest.mark.parametrize("suite", ["distractors", "popgym/repeat_previous"])
def test_shipped_configurations_differ_in_their_core_alone(suite: str) -> None:
    rim, *others = (load_config(f"{suite}/{core}") for core in ("rim", "lstm", "gru"))
    for other in others:
        assert (rim.env, rim.agent, rim.train) == (other.env, other.agent, other.train)
        assert rim.core.options["hidden_size"] == other.core.options["hidden_size"]


def test_every_key_that_is_listed_can_be_set() -> None:
    keys = yaml.safe_load(succeed("train", "distractors/rim", "--print-config").out)
    words = [
        f"--{group}.{key}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"
        for group in ("env", "core", "agent", "train")
        for key, value in keys[group].items()
    ]
    assert yaml.safe_load(succeed("train", "distractors/rim", *words, "--print-config").out) == keys
