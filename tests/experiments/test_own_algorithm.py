"""An algorithm from outside is trained, saved, loaded, resumed, evaluated and exported like rimrl's own.

It is the one of docs/algorithms.md, imported from a file of its own.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sb3_contrib
import torch as th

import rimrl
from rimrl.agents.a2c import A2CConfig
from rimrl.agents.config import AgentConfig
from rimrl.agents.distributed import DistributedRanks
from rimrl.agents.ppo import PPOConfig
from rimrl.agents.registry import ALGORITHMS, algorithm_class, config_class, register_algorithm, saved_as
from rimrl.envs.vector import make_vec_env
from rimrl.errors import UsageError
from rimrl.experiments.config_files import load_config
from rimrl.experiments.ranks import shard_config
from tests.commands import SMALL, call, read_json, same_weights, succeed

ROOT = Path(__file__).resolve().parents[2]
SHRINK = 0.01
OWN = ("--agent.algorithm", "shrinking", "--agent.shrink", str(SHRINK), "--agent.learning_rate_schedule", "constant")
TRAIN = ("train", "recall/rim", *SMALL, "--agent.sequence_length", "16", "--agent.n_epochs", "3")
STEPS, HALF = "128", "64"


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The file of the page, imported; its algorithm is registered."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/algorithms.md").read_text(), flags=re.DOTALL)
    file = tmp_path_factory.mktemp("outside") / "shrinking.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location("shrinking", file)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["shrinking"] = found
    spec.loader.exec_module(found)
    yield found
    del sys.modules["shrinking"], ALGORITHMS["shrinking"]


@pytest.fixture(scope="module")
def run(module: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the algorithm; to look at, not to touch."""
    path = tmp_path_factory.mktemp("own") / "run"
    succeed(*TRAIN, *OWN, "--train.total_timesteps", STEPS, "--run-dir", path)
    return path


def saved(file: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        content: dict[str, Any] = json.loads(archive.read("data"))
    return content


def with_data(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a ``.zip`` with other values in its data; None takes one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data":
                data = json.loads(content) | changes
                content = json.dumps({key: value for key, value in data.items() if value is not None}).encode()
            new.writestr(name, content)
    return target


# -- one run, from end to end -----------------------------------------------------------------------------------------


def test_training_uses_the_option(run: Path, tmp_path: Path) -> None:
    agent = rimrl.load(run)
    assert saved(run / "model.zip")["algorithm"] == type(agent).__name__ == "ShrinkingPPO"
    assert (agent.shrink, agent.n_epochs, agent.num_timesteps) == (SHRINK, 3, int(STEPS))  # type: ignore[attr-defined]
    succeed(*TRAIN, *OWN[:2], *OWN[4:], "--train.total_timesteps", STEPS, "--run-dir", tmp_path / "none")
    succeed(*TRAIN, *OWN[4:], "--train.total_timesteps", STEPS, "--run-dir", tmp_path / "ppo")
    assert same_weights(tmp_path / "none", tmp_path / "ppo")  # weights that shrink by nothing are PPO's
    assert not same_weights(run, tmp_path / "ppo")


def test_a_run_goes_on_as_if_it_had_not_stopped(run: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    succeed(*TRAIN, *OWN, "--train.total_timesteps", HALF, "--run-dir", half)
    succeed("train", "--resume", half, "--total-timesteps", STEPS, "--quiet")
    assert same_weights(half, run)


def test_learning_on_from_a_file_goes_on_with_the_option(run: Path, tmp_path: Path) -> None:
    file = with_data(run / "model.zip", tmp_path / "agent.zip", learning_rate=1e-30)
    agent = rimrl.load(file, env=make_vec_env("recall", n_envs=4), device="cpu")
    before = [parameter.clone() for parameter in agent.policy.parameters()]
    agent.learn(agent.n_steps * 4)
    th.testing.assert_close([(1 - SHRINK) * each for each in before], list(agent.policy.parameters()))


def test_it_is_evaluated_exported_and_evaluated_again(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    succeed("evaluate", own, "--episodes", "2", "--quiet")
    succeed("export", own, tmp_path / "export")
    assert read_json(tmp_path / "export/card.json")["agent"]["algorithm"] == "ShrinkingPPO"
    assert type(rimrl.load(tmp_path / "export")) is algorithm_class("shrinking")
    evaluated = read_json(own / "evaluation.json")["splits"]
    succeed("evaluate", tmp_path / "export", "--episodes", "2", "--quiet")
    assert read_json(tmp_path / "export/evaluation.json")["splits"] == evaluated
    assert load_config(str(tmp_path / "export/card.json")).agent.arguments()["shrink"] == SHRINK


def test_processes_share_what_ppo_shares(module: ModuleType) -> None:
    config = load_config("distractors/lstm", ("--agent.algorithm", "shrinking"))
    share: Any = shard_config(config, DistributedRanks(None, 1, 4)).agent  # type: ignore[arg-type]
    assert isinstance(share, module.ShrinkingConfig)
    assert share.batch_size == config.agent.arguments()["batch_size"] // 4


def test_an_option_out_of_range_is_refused(module: ModuleType, tmp_path: Path) -> None:
    answer = call(*TRAIN, *OWN[:2], "--agent.shrink", "2", "--run-dir", tmp_path / "run")
    assert answer.code == 2
    assert "agent.shrink must be between 0 and 1, got 2" in answer.err
    assert not (tmp_path / "run").exists()


# -- which algorithm a file is of -------------------------------------------------------------------------------------


@pytest.mark.parametrize("trust", [False, True])
def test_a_file_of_an_algorithm_that_is_not_registered_is_refused(
    run: Path, trust: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ALGORITHMS, "shrinking")
    with pytest.raises(UsageError, match=r"ShrinkingPPO.*register_algorithm"):
        rimrl.load(run, trust=trust)
    assert call("evaluate", run).code == 2


@pytest.mark.parametrize("trust", [False, True])
def test_a_file_without_a_name_is_loaded_by_what_it_holds(run: Path, trust: bool, tmp_path: Path) -> None:
    file = with_data(run / "model.zip", tmp_path / "old.zip", algorithm=None)
    assert type(rimrl.load(file, trust=trust)) is rimrl.RecurrentPPO
    file = with_data(run / "model.zip", tmp_path / "old.zip", algorithm=None, n_epochs=None)
    assert type(rimrl.load(file)) is rimrl.RecurrentA2C


def test_unmodified_contrib_loads_the_file(run: Path) -> None:
    theirs = sb3_contrib.RecurrentPPO.load(run / "model.zip", device="cpu")
    th.testing.assert_close(theirs.policy.state_dict(), rimrl.load(run).policy.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{"shrink": "much"}, {"shrink": 2.0}, {"algorithm": 3}, {"algorithm": "Shrinking"}])
def test_a_file_with_values_that_do_not_fit_is_refused(run: Path, changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        rimrl.load(with_data(run / "model.zip", tmp_path / "bad.zip", **changes))
    assert next(iter(changes)) in str(refused.value)


def test_a_value_that_no_file_could_bring_back_is_refused_before_learning(module: ModuleType) -> None:
    with pytest.raises(UsageError, match="shrink"):
        module.ShrinkingPPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, shrink=1.5)


class Derived(rimrl.RecurrentA2C):
    """Not registered."""


def test_a_class_that_is_not_registered_is_saved_as_what_it_is_derived_from(tmp_path: Path) -> None:
    Derived("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "agent.zip")
    assert saved(tmp_path / "agent.zip")["algorithm"] == saved_as(Derived) == "RecurrentA2C"
    assert type(rimrl.load(tmp_path / "agent.zip")) is rimrl.RecurrentA2C


# -- what cannot be registered ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DerivedConfig(A2CConfig):
    algorithm: str = "derived"


@dataclass(frozen=True)
class WithPath(A2CConfig):
    algorithm: str = "derived"
    file: Path = Path("notes")


@dataclass(frozen=True)
class WithUnknown(A2CConfig):
    algorithm: str = "derived"
    unheard_of: int = 3


@dataclass(frozen=True)
class OtherPPO(PPOConfig):
    """Has PPO's name."""


@pytest.mark.parametrize(
    ("name", "algorithm", "config", "said"),
    [
        ("derived", sb3_contrib.RecurrentPPO, DerivedConfig, "RecurrentOnPolicyAlgorithm"),
        ("derived", Derived, dict, "AgentConfig"),
        ("deriven", Derived, DerivedConfig, r"DerivedConfig\.algorithm must be 'deriven'"),
        ("derived", Derived, WithUnknown, "unheard_of"),
        (
            "derived",
            type("Derived", (Derived,), {"__init__": lambda self, *_, **__: None}),
            WithPath,
            r"WithPath\.file",
        ),
        ("ppo", Derived, OtherPPO, "taken by RecurrentPPO"),
        ("derived", rimrl.RecurrentA2C, DerivedConfig, "taken.*algorithm 'a2c'"),
    ],
)
def test_what_does_not_fit_is_not_registered(name: str, algorithm: Any, config: Any, said: str) -> None:
    before = dict(ALGORITHMS)
    with pytest.raises(UsageError, match=said):
        register_algorithm(name, algorithm, config)
    assert before == ALGORITHMS


def test_a_notebook_may_register_a_class_again(monkeypatch: pytest.MonkeyPatch) -> None:
    register_algorithm("derived", Derived, DerivedConfig)
    again = type("Derived", (Derived,), {"__module__": __name__})
    register_algorithm("derived", again, DerivedConfig)
    assert algorithm_class("derived") is again
    monkeypatch.delitem(ALGORITHMS, "derived")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_is_registered_fits_together(name: str) -> None:
    config = config_class(name)
    assert issubclass(config, AgentConfig)
    assert config().algorithm == name
    assert ALGORITHMS[name].saved_as == algorithm_class(name).__name__
    for option, value in config().arguments().items():
        assert config.checked(option, value, option) == value
