"""What users of rl-baselines3-zoo configure: spelling, refusals, going on after a stop, trust, early ends."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import yaml
from stable_baselines3.common.callbacks import CheckpointCallback, EveryNTimesteps
from stable_baselines3.common.utils import set_random_seed
from torch import nn

import rimrl
from rimrl.agents.saved.options import OPTIMIZERS
from rimrl.errors import UsageError
from rimrl.experiments.callbacks import Stopping, counters_of, restore_counters
from rimrl.experiments.config import ExperimentConfig
from rimrl.experiments.config_files import load_config
from rimrl.experiments.factory import make_agent, make_train_env
from rimrl.experiments.run import Run
from rimrl.imports import import_modules
from rimrl.runs.tensors import optimizer_state, restore_optimizer
from rimrl.runs.validated import Fields
from tests.commands import SMALL_PPO, Answer, call, read_json, rewrite, same_weights, succeed
from tests.experiments.test_own_modules import HERE, HOSTILE, forgetting
from tests.experiments.test_resuming import assert_same_run

UPDATE = 64  # steps of a rollout of the file below
FILE = """
imports: [own_parts]
env:
  id: CartPole-v1
  n_envs: 4
core: {name: lstm, hidden_size: 8}
agent: {n_steps: 16, batch_size: 32}
train: {total_timesteps: 384, eval_freq: 0, eval_episodes: 2, resume_freq: 128}
"""
EVERYTHING = (
    *("--env.frame_stack", "2", "--agent.learning_rate", "lin_1e-3", "--agent.learning_rate_warmup", "0.4"),
    *("--env.env_wrapper", '["gymnasium.wrappers.TimeAwareObservation", {"own_parts.Paid": {"a": 2.0}}]'),
    *("--agent.normalize", "true", "--agent.activation_fn", "nn.ReLU", "--agent.ortho_init", "false"),
    *("--agent.optimizer_class", "RAdam", "--agent.optimizer_kwargs.weight_decay", "0.01"),
    *("--train.callback", "own_parts.Noting", "--train.eval_freq", "96"),
)
OF_PPO = ("--agent.clip_range", "lin_0.3", "--agent.clip_range_vf", "0.2", "--agent.clip_range_vf_schedule", "cosine")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The working directory, with the parts of the user's own and a configuration that names their module."""
    for file in HERE.glob("*.py"):
        shutil.copy(file, tmp_path)
    (tmp_path / "own.yaml").write_text(FILE)
    with forgetting(), chdir(tmp_path):
        yield tmp_path


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop trainings in this process at a step, as a signal would."""

    def on_step(self: Any) -> bool:
        self._stop.requested = self.num_timesteps >= step
        return not self._stop.requested

    monkeypatch.setattr(Stopping, "_on_step", on_step)


def refused(*words: str | Path) -> str:
    """What a command says that must be refused in one line."""
    answer = call(*words)
    assert (answer.code, answer.err.count("\n")) == (2, 1), answer.err
    return answer.err


def train(run: str, *words: str) -> Answer:
    return call("train", "own.yaml", "--quiet", *words, "--run-dir", run)


# -- spelling ---------------------------------------------------------------------------------------------------------


def agent_of(folder: Path, **keys: Any) -> Any:
    file = folder / "spelled.yaml"
    content = yaml.safe_load(FILE)
    for key, value in keys.items():
        group, name = key.split("__")
        content[group][name] = value
    file.write_text(yaml.safe_dump(content))
    return load_config(str(file))


def test_the_zoos_words_mean_the_same_in_files_and_on_the_command_line(folder: Path) -> None:
    config = agent_of(
        folder,
        agent__learning_rate="lin_3e-4",
        agent__clip_range="lin_0.2",
        agent__normalize="dict(norm_obs=True, norm_reward=False)",
        env__env_wrapper=["gymnasium.wrappers.ClipReward", {"own_parts.Paid": {"a": 2.0}}, {"own_parts:Paid": None}],
        train__callback={"own_parts.Ending": {"after": 5}},
    )
    agent = config.agent
    assert (agent.learning_rate, agent.learning_rate_schedule) == (3e-4, "linear")
    assert (agent.clip_range, agent.clip_range_schedule) == (0.2, "linear")
    assert (agent.normalize_observations, agent.normalize_rewards) == (True, False)
    assert config.env.env_wrapper == [
        {"gymnasium.wrappers.ClipReward": {}},
        {"own_parts.Paid": {"a": 2.0}},
        {"own_parts.Paid": {}},
    ]
    assert config.train.callback == [{"own_parts.Ending": {"after": 5}}]
    assert config.modules == ("own_parts",)
    words = (
        *("--agent.learning_rate=lin_3e-4", "--agent.clip_range=lin_0.2", "--agent.normalize={'norm_reward': False}"),
        '--env.env_wrapper=["gymnasium.wrappers.ClipReward", {"own_parts.Paid": {"a": 2.0}}, "own_parts.Paid"]',
        '--train.callback={"own_parts.Ending": {"after": 5}}',
    )
    assert load_config("own.yaml", words).flat() == config.flat()
    (folder / "again.yaml").write_text(config.to_yaml())
    assert load_config("again.yaml").flat() == config.flat()


def test_the_page_shows_a_configuration_that_can_be_read(folder: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/zoo.md").read_text()
    (block,) = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "env_wrapper" in block]
    for name in ("own_wrappers", "own_callbacks"):
        (folder / f"{name}.py").touch()
    (folder / "page.yaml").write_text(block.replace("my_", "own_"))
    config = load_config("page.yaml")
    assert config.env.env_wrapper[1] == {"own_wrappers.Shaped": {"scale": 0.1}}
    assert config.modules == ("own_wrappers", "own_callbacks")
    assert config.played_modules == ("own_wrappers",)


@pytest.mark.parametrize(("value", "wanted"), [("true", (True, True)), ("false", (False, False))])
def test_normalize_is_a_switch(value: str, wanted: tuple[bool, bool], folder: Path) -> None:
    agent = load_config("own.yaml", ["--agent.normalize", value]).agent
    assert (agent.normalize_observations, agent.normalize_rewards) == wanted


def test_no_key_of_theirs_changes_who_is_older(folder: Path) -> None:
    """Checkpoints of runs that are older than these keys still fit."""
    config = load_config("own.yaml")
    for key, value in ExperimentConfig.added.items():
        assert key.startswith("core.") or config.flat()[key] == value
    assert load_config("own.yaml", ["--env.frame_stack=2"]).identity() != config.identity()
    assert load_config("own.yaml", ["--agent.optimizer_kwargs.eps=1"]).identity() != config.identity()


# -- refusals ---------------------------------------------------------------------------------------------------------

WRONG = {
    ("--env.frame_stack", "0"): "env.frame_stack must be at least 1",
    ("--env.frame_stack", "2", "--env.id", "ALE/Pong-v5"): "env.kwargs.frame_stack",
    ("--env.frame_stack", "2", "--env.id", "ALE/Pong-v5", "--env.backend", "native"): "native",
    ("--env.env_wrapper", "gymnasium.wrappers.ClipReward", "--env.backend", "envpool"): "envpool",
    ("--env.env_wrapper", "gymnasium.wrappers.ClipRewards"): "did you mean 'ClipReward'",
    ("--env.env_wrapper", "gymnasium.wrappers.vector.ClipReward"): "no Wrapper",
    ("--env.env_wrapper", "own_parts.Noting"): "no Wrapper",
    ("--env.env_wrapper", "own_missing.Wrapper"): "own_missing",
    ("--env.env_wrapper", "Wrapper"): "must be classes named as",
    ("--env.env_wrapper", '[{"own_parts.Paid": {"a": 1}, "own_parts.Paid2": {}}]'): "one mapping",
    ("--env.env_wrapper", '{"own_parts.Paid": 3}'): "arguments by name",
    ("--env.env_wrapper", '{"own_parts.Paid": {"c": 3}}'): "'c'",
    ("--env.env_wrapper", '{"own_parts.Paid": {"a": 1}}', "--env.kwargs.wrappers", "3"): "env.kwargs.wrappers",
    ("--train.callback", "own_parts.Paid"): "no BaseCallback",
    ("--train.callback", "own_parts.Ending"): "'after'",
    ("--agent.learning_rate", "lin_x"): "lin_3e-4",
    ("--agent.learning_rate", "lin_0"): "positive",
    ("--agent.learning_rate", "lin_1e-3", "--agent.learning_rate_schedule", "cosine"): "leave one of them out",
    ("--agent.learning_rate_schedule", "exponential"): "learning_rate_schedule",
    ("--agent.learning_rate_warmup", "1.0"): "less than 1",
    ("--agent.clip_range_vf_schedule", "linear"): "a value of agent.clip_range_vf, got null",
    ("--agent.normalize", '{"clip_obs": 5}'): "norm_obs and norm_reward",
    ("--agent.normalize", "true", "--agent.normalize_rewards", "false"): "leave one of them out",
    ("--agent.activation_fn", "Relu"): "did you mean 'ReLU'",
    ("--agent.activation_fn", "own_parts.Slow"): "no Module",
    ("--agent.optimizer_class", "Adams"): "'Adam",
    ("--agent.optimizer_class", "own_parts.Faster"): "'Faster'",
    ("--agent.optimizer_class", "SGD", "--agent.optimizer_kwargs.betas", "3"): "'betas'",
    ("--agent.optimizer_class", "SGD", "--agent.optimizer_kwargs.lr", "3"): "agent.learning_rate",
    ("--agent.algorithm", "a2c", "--agent.optimizer_kwargs.alpha", "0.9"): "agent.use_rms_prop",
    ("--agent.features_extractor_class", "own_parts.Paid"): "no BaseFeaturesExtractor",
    ("--agent.features_extractor_class", "own_parts.Twice", "--agent.features_dim", "3"): "features_dim",
    ("--agent.features_extractor_class", "own_parts.Twice", "--agent.features_extractor_kwargs.c", "3"): "'c'",
    ("--agent.features_extractor_kwargs.by", "3"): "features_extractor_class",
    ("--agent.features_extractor_class", "NatureCNN"): "images",
    ("--agent.use_sde", "true"): "continuous",
    ("--agent.sde_sample_freq", "4"): "use_sde",
    ("--agent.sde_sample_freq", "0", "--agent.use_sde", "true"): "-1",
    ("--train.stop_reward", "3"): "train.eval_freq",
    ("--train.stop_reward", ".inf", "--train.eval_freq", "64"): "finite",
    ("--train.stop_after_evals", "0", "--train.eval_freq", "64"): "at least 1",
    ("--train.stop_min_evals", "2", "--train.eval_freq", "64"): "stop_after_evals",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_what_does_not_fit_is_refused_in_one_line_before_anything_is_written(
    words: tuple[str, ...], folder: Path
) -> None:
    assert WRONG[words] in refused("train", "own.yaml", "--quiet", *words, "--run-dir", "run")
    assert not Path("run").exists()


# -- what reaches the agent -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_options_reach_the_policy(algorithm: str, folder: Path) -> None:
    words = [
        *("--agent.algorithm", algorithm, "--agent.activation_fn", "ELU", "--agent.optimizer_class", "own_parts.Slow"),
        *("--agent.optimizer_kwargs.momentum", "0.5", "--agent.features_extractor_class", "own_parts.Twice"),
        *("--agent.features_extractor_kwargs.by", "3.0", "--agent.log_std_init", "-2", "--env.id", "Pendulum-v1"),
        *("--agent.use_sde", "true", "--agent.sde_sample_freq", "4"),
    ]
    config = load_config("own.yaml", words)
    env = make_train_env(config)
    agent = make_agent(config, env)
    policy = agent.policy
    kinds = {type(module) for module in policy.mlp_extractor.policy_net.modules()}
    assert nn.ELU in kinds
    assert nn.Tanh not in kinds
    assert type(policy.optimizer).__name__ == "Slow"
    assert policy.optimizer.defaults["momentum"] == 0.5
    assert policy.features_extractor.by == 3.0
    assert (agent.use_sde, agent.sde_sample_freq) == (True, 4)
    assert bool((policy.log_std == -2).all())
    env.close()


def test_defaults_are_the_policys_own(folder: Path) -> None:
    """Files of runs that ask for none of it hold no further arguments, and learning draws what it drew."""
    config = load_config("own.yaml")
    env = make_train_env(config)
    agent = make_agent(config, env)
    assert agent.policy_kwargs.keys() == {"net_arch", "core", "core_kwargs", "core_sharing", "trunk"}
    assert (agent.learning_rate, agent.use_sde) == (3e-4, False)
    assert type(agent.policy.optimizer) is th.optim.Adam
    env.close()


def test_wrappers_go_around_whatever_is_played(folder: Path) -> None:
    words = ("--env.env_wrapper", '[{"own_parts.Paid": {"a": 3.0}}, {"own_parts.Paid": {"b": 1.0}}]')
    assert train("run", *words, "--total-timesteps", "64").code == 0
    played = ("--episodes", "3", "--quiet")
    succeed("evaluate", "run", *played, "--no-random")
    succeed("inspect", "run", *played)
    split = read_json(folder / "run/evaluation.json")["splits"]["train"]
    assert split["episode_returns"] == [4.0 * length for length in split["episode_lengths"]]
    assert [list(entry) for entry in split["env_kwargs"]["env_wrapper"]] == [["own_parts.Paid"], ["own_parts.Paid"]]
    rows = [line.split(",") for line in (folder / "run/monitor.csv").read_text().splitlines()[2:]]
    assert rows
    assert all(float(row[0]) == 4 * int(row[1]) for row in rows)
    with np.load(next(folder.glob("run/inspection/*/recording.npz"))) as recording:
        assert set(np.asarray(recording["reward"]).flatten()) == {4.0}


# -- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "at"),
    [
        (OF_PPO, 2 * UPDATE + 8),
        pytest.param((*OF_PPO, "--env.backend", "subproc"), 4 * UPDATE + 4, marks=pytest.mark.slow),
        pytest.param(("--agent.algorithm", "a2c"), 3 * UPDATE + 12, marks=pytest.mark.slow),
        pytest.param(
            ("--agent.algorithm", "a2c", "--env.id", "Pendulum-v1", "--agent.use_sde", "true"),
            3 * UPDATE,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_stopped_run_with_all_of_it_goes_on_to_the_same_end(
    words: tuple[str, ...], at: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*EVERYTHING, *words)
    assert train("whole", *words).code == 0
    stop_at(at, monkeypatch)
    assert train("run", *words).code == 130
    stop_at(10**9, monkeypatch)
    assert succeed("train", "--resume", "run", "--quiet", "--import", "own_parts").err == ""
    assert_same_run(folder / "whole", folder / "run")


def test_state_dependent_exploration_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--env.id", "Pendulum-v1", "--agent.use_sde", "true", "--agent.sde_sample_freq", "8")
    assert train("whole", *words).code == 0
    stop_at(2 * UPDATE + 8, monkeypatch)
    assert train("run", *words).code == 130
    stop_at(10**9, monkeypatch)
    succeed("train", "--resume", "run", "--quiet", "--import", "own_parts")
    assert same_weights(folder / "whole", folder / "run")


@pytest.mark.parametrize("name", [*OPTIMIZERS, "momentum"])
def test_every_optimiser_goes_on_from_its_state(name: str) -> None:
    cls: Any = th.optim.SGD if name == "momentum" else OPTIMIZERS[name]
    options = {"momentum": 0.9} if name == "momentum" else {}

    def begun() -> tuple[nn.Linear, th.optim.Optimizer]:
        set_random_seed(0)
        model = nn.Linear(3, 2)
        return model, cls(model.parameters(), lr=0.05, **options)

    def step(model: nn.Linear, optimizer: th.optim.Optimizer, number: int) -> None:
        optimizer.zero_grad()
        x = th.arange(6.0).view(2, 3) * (number + 1)
        (model(x) ** 2).mean().backward()
        optimizer.step()

    model, optimizer = begun()
    for number in range(3):
        step(model, optimizer, number)
    tensors, scalars = optimizer_state(optimizer)
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    other, restored = begun()
    other.load_state_dict(model.state_dict())
    restore_optimizer(restored, tensors, Fields(json.loads(json.dumps(scalars)), "state"))
    for number in range(3, 6):
        step(model, optimizer, number)
        step(other, restored, number)
    for mine, wanted in zip(other.parameters(), model.parameters(), strict=True):
        assert th.equal(mine, wanted)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--agent.learning_rate_schedule", "cosine"), "falls to zero"),
        (("--agent.learning_rate_warmup", "0.1"), "agent.learning_rate_warmup"),
        (("--agent.clip_range_schedule", "linear"), "agent.clip_range_schedule"),
    ],
)
def test_another_end_is_another_schedule(words: tuple[str, ...], said: str, folder: Path) -> None:
    assert train("run", *words, "--total-timesteps", "64").code == 0
    more = ("train", "--resume", "run", "--import", "own_parts", "--total-timesteps", "128", "--quiet")
    assert said in refused(*more)
    succeed(*more, "--accept-changes")


# -- trust ------------------------------------------------------------------------------------------------------------

PLAYED = {
    "evaluate": ("evaluate", "run", "--episodes", "2", "--quiet", "--no-random"),
    "inspect": ("inspect", "run", "--episodes", "2", "--quiet"),
    "watch": ("watch", "run", "--episodes", "1", "--quiet"),
    "export": ("export", "run", "export"),
}
TRAINED = {
    "resume": ("train", "--resume", "run", "--total-timesteps", "192", "--quiet"),
    "repeat": ("train", "run/config.yaml", "--run-dir", "new", "--quiet"),
    "sweep": ("sweep", "run/config.yaml", "--run-dir", "new", "--quiet"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that asks for nothing of all this."""
    run = tmp_path_factory.mktemp("plain") / "run"
    words = ("--env.id", "CartPole-v1", *SMALL_PPO, "--core.hidden_size", "8", "--total-timesteps", "128")
    succeed("train", "recall/lstm", *words, "--agent.learning_rate_schedule", "constant", "--run-dir", run)
    return run


@pytest.fixture
def hostile(folder: Path, plain: Path) -> Path:
    """A run whose configuration somebody is about to change, beside a module that leaves a mark where it runs."""
    shutil.copytree(plain, folder / "run")
    (folder / "hostile.py").write_text(HOSTILE.format(str(folder / "ran")))
    return folder


@pytest.mark.parametrize("verb", [*PLAYED, *TRAINED])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("callback: []", "callback: [{hostile.Callback: {}}]"),
        ("optimizer_class: null", "optimizer_class: hostile.Optimiser"),
        ("features_extractor_class: null", "features_extractor_class: hostile.Extractor"),
        ("activation_fn: null", "activation_fn: hostile.Activation"),
        ("env_wrapper: []", "env_wrapper: [{hostile.Wrapper: {}}]"),
    ],
)
def test_a_run_imports_no_class_by_itself(verb: str, old: str, new: str, hostile: Path) -> None:
    rewrite("run", old, new)
    if verb in PLAYED and "wrapper" not in new:
        if verb != "watch":  # it would only take long
            succeed(*PLAYED[verb])
    else:
        assert "--import hostile" in refused(*{**PLAYED, **TRAINED}[verb])
    assert not (hostile / "ran").exists()
    assert not (hostile / "new").exists()


@pytest.mark.parametrize("verb", ["evaluate", "inspect", "repeat"])
@pytest.mark.parametrize(
    "wrapper",
    [
        "gymnasium.wrappers.RecordVideo: {video_folder: films}",
        "stable_baselines3.common.monitor.Monitor: {filename: films}",
        "os.system: {}",
    ],
)
def test_a_run_uses_no_wrapper_that_writes_files(verb: str, wrapper: str, hostile: Path) -> None:
    rewrite("run", "env_wrapper: []", f"env_wrapper: [{{{wrapper}}}]")
    said = refused(*{**PLAYED, **TRAINED}[verb])
    assert "--import" in said or "no Wrapper" in said
    assert not list(hostile.glob("films*"))


def test_a_run_needs_nobody_to_name_what_is_harmless(folder: Path) -> None:
    (folder / "own.yaml").write_text(FILE.replace("imports: [own_parts]", ""))
    words = (
        *("--env.env_wrapper", "gymnasium.wrappers.TimeAwareObservation", "--total-timesteps", "64"),
        *("--train.callback", '{"stable_baselines3.common.callbacks.StopTrainingOnMaxEpisodes": {"max_episodes": 99}}'),
    )
    answer = train("run", *words)
    assert answer.code == 0
    assert "--import" not in answer.out
    succeed(*PLAYED["evaluate"])
    succeed(*TRAINED["resume"])


def test_a_study_names_no_class_by_itself(hostile: Path) -> None:
    for number, (over, overrides) in enumerate(
        [({"train.callback": ["hostile.Callback"]}, {}), ({}, {"env.env_wrapper": '["hostile.Wrapper"]'})]
    ):
        study = hostile / str(number)
        study.mkdir()
        asked = {"config": "recall/lstm", "seeds": [0], "over": over, "overrides": overrides}
        (study / "sweep.yaml").write_text(yaml.safe_dump(asked))
        assert "--import hostile" in refused("sweep", study, "--plan")
    task = {"cores": {"lstm": "recall/lstm"}, "sources": ["recall"], "targets": ["recall"], "seeds": [0]}
    content = task | {"source_timesteps": 64, "target_timesteps": 64, "overrides": {"train.callback": "hostile.X"}}
    (hostile / "transfer.yaml").write_text(yaml.safe_dump(content))
    assert "--import hostile" in refused("transfer", "transfer.yaml", "--run-dir", hostile, "--plan")
    assert not (hostile / "ran").exists()


def test_cells_of_a_sweep_have_the_callback(folder: Path) -> None:
    words = ("--train.callback", json.dumps({"own_parts.Noting": {"file": str(folder / "ended")}}))
    succeed("sweep", "own.yaml", "--seeds", "0", "--run-dir", "study", "--quiet", "--total-timesteps", "128", *words)
    ended = sum(1 for _ in next(folder.glob("study/**/monitor.csv")).open()) - 2
    assert int((folder / "ended").read_text()) == ended > 0


def test_an_agent_with_classes_of_its_own_asks_for_trust(folder: Path) -> None:
    words = ("--agent.optimizer_class", "own_parts.Slow", "--total-timesteps", "64")
    assert train("run", *words).code == 0
    import_modules(["own_parts"])
    with pytest.raises(UsageError, match="trust"):
        rimrl.load("run")
    assert type(rimrl.load("run", trust=True).policy.optimizer).__name__ == "Slow"


def test_numbers_of_callbacks_go_on_and_nothing_else_does() -> None:
    def begun() -> EveryNTimesteps:
        return EveryNTimesteps(8, CheckpointCallback(1, "place"))

    kept, fresh = begun(), begun()
    kept.last_time_trigger, kept.callback.n_calls = 16, 3  # type: ignore[union-attr]
    found = json.loads(json.dumps(counters_of([kept])))
    restore_counters([fresh], [found[0] | {"callback": 3, "n_steps": "x"}, found[1] | {"save_path": "elsewhere"}])
    assert counters_of([fresh]) == counters_of([kept])
    assert type(fresh.last_time_trigger) is int
    assert isinstance(fresh.callback, CheckpointCallback)
    assert fresh.callback.save_path == "place"
    restore_counters([fresh], found[:1])
    assert counters_of([fresh]) == counters_of([kept])


# -- early ends -------------------------------------------------------------------------------------------------------

EVALUATED = ("--train.eval_freq", "128", "--train.eval_episodes", "2")


def test_a_training_ends_at_a_reward_and_can_go_on_without(folder: Path) -> None:
    assert train("run", *EVALUATED, "--train.stop_reward", "1").code == 0
    facts = read_json(folder / "run/environment.json")
    assert (facts["status"], facts["num_timesteps"]) == ("finished", 2 * UPDATE)
    assert "train.stop_reward 1" in facts["ended_early"]
    again = ("train", "--resume", "run", "--quiet", "--import", "own_parts")
    assert "train.stop_reward" in refused(*again)
    config = yaml.safe_load((folder / "run/config.yaml").read_text())
    assert config["train"]["stop_reward"] == 1.0
    succeed(*again, "--train.stop_reward", "null")
    facts = read_json(folder / "run/environment.json")
    assert (facts["num_timesteps"], "ended_early" in facts) == (384, False)
    assert train("whole", *EVALUATED).code == 0
    assert_same_run(folder / "whole", folder / "run")


def test_a_training_ends_without_improvement_also_when_it_was_stopped_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpaid = ("--env.env_wrapper", '{"own_parts.Paid": {"a": 0.0}}', "--train.resume_freq", "64")
    words = (*unpaid, "--train.eval_freq", "64", "--train.stop_after_evals", "1", "--train.stop_min_evals", "2")
    for run, at in (("whole", 10**9), ("run", 3 * UPDATE - 8)):
        stop_at(at, monkeypatch)
        train(run, *words)
    stop_at(10**9, monkeypatch)
    succeed("train", "--resume", "run", "--quiet", "--import", "own_parts")
    # The first is the best; the second comes before stop_min_evals is over; the third and the fourth count.
    for run in ("whole", "run"):
        facts = read_json(folder / run / "environment.json")
        assert (facts["status"], facts["num_timesteps"]) == ("finished", 4 * UPDATE)
        assert "train.stop_after_evals" in facts["ended_early"]
    assert_same_run(folder / "whole", folder / "run")


def test_a_callback_of_ones_own_ends_a_training(folder: Path) -> None:
    assert train("run", "--train.callback", '{"own_parts.Ending": {"after": 100}}').code == 0
    facts = read_json(folder / "run/environment.json")
    assert (facts["status"], facts["num_timesteps"], facts["ended_early"]) == (
        "finished",
        100,
        "a callback asked for it",
    )
    assert Run.open(folder / "run").status == "finished"
