"""Bad input: exit code 2, one line that names the culprit and what would be valid, and the disk as it was."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch as th

from tests.commands import SMALL, call, files, rewrite, spawn

TRAIN = ("train", "distractors/rim", *SMALL, "--total-timesteps", "64", "--run-dir", "new")
OWN = ("--total-timesteps", "64", *SMALL, "--run-dir", "new")
EVALUATE = ("--episodes", "1", "--no-random", "--quiet")


def refuse(words: tuple[str, ...], *named: str) -> str:
    """Run a command that must be refused, in the working directory."""
    before = files(Path())
    answer = call(*words)
    assert answer.code == 2, answer
    assert answer.err.startswith("rimrl: "), answer.err
    assert answer.err.count("\n") == 1, answer.err
    assert answer.err.endswith("\n")
    assert len(answer.err) < 600
    for name in named:
        assert name in answer.err, answer.err
    after = files(Path())
    assert after.keys() == before.keys()
    assert after == before
    return answer.err


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), ["VERB", "--help"]),
        (("tarin",), ["'tarin'", "'train'"]),
        (("train",), ["CONFIG", "rimrl train --help"]),
        (("evaluate",), ["RUN"]),
        (("compare",), ["RUN"]),
        (("list",), ["what"]),
        (("list", "core"), ["'core'", "'cores'"]),
        (("list", "cores", "configs"), ["'configs'"]),
        (("train", "distractors/rim", "--run-dir"), ["--run-dir"]),
        (("train", "distractors/rim", "--seed"), ["--seed"]),
        (("train", "distractors/rim", "more", "--run-dir", "new"), ["'more'", "--core.num_active 3"]),
        (("evaluate", "run", "--episode", "--foo"), ["--episode"]),
        (("evaluate", "run", "--foo"), ["'--foo'", "rimrl evaluate --help"]),
        (("evaluate", "run", "--episodes", "many"), ["--episodes", "'many'"]),
        (("compare", "run", "--foo"), ["'--foo'", "rimrl compare --help"]),
    ],
)
def test_malformed_command_lines(words: tuple[str, ...], named: list[str]) -> None:
    refuse(words, *named)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        # Names that do not exist
        ("--core.name lsmt", ["unknown core 'lsmt'", "--core.name", "'lstm'"]),
        ("--core.name transformer", ["unknown core", "feedforward", "riglstm, rim"]),
        ("--env.id distractor", ["unknown environment 'distractor'", "'distractors'"]),
        ("--env.id CartPole-v9", ["unknown environment", "'CartPole-v1'"]),
        ("--env.id RepeatPrevious-v0", ["unknown environment", "'rimrl/RepeatPrevious-v0'"]),
        ("--env.id popgym/RepeatPrevius", ["unknown environment 'RepeatPrevius'", "'RepeatPrevious'?"]),
        ("--env.id q", ["unknown environment 'q'", "suites: distractors, ", "rimrl list envs"]),
        ("--core.num_activ 2", ["unknown key 'core.num_activ'", "command line", "'core.num_active'"]),
        ("--agent.nsteps 2", ["unknown key 'agent.nsteps'", "'agent.n_steps'"]),
        ("--train.sed 2", ["unknown key 'train.sed'", "'train.seed'"]),
        ("--n_envs 2", ["unknown key 'n_envs'", "'env.n_envs'"]),
        ("--zzz.q 2", ["unknown key 'zzz.q'", "nearest of"]),
        ("--agent.algorithm pppo", ["unknown algorithm 'pppo'", "'ppo'"]),
        ("--agent.algorithm a2c --agent.clip_range 0.1", ["unknown key 'agent.", "command line"]),
        ("--core.name lstm --core.num_active 2", ["unknown key 'core.num_", "command line"]),
        ("--env.kwargs.tyles rgb", ["unknown argument 'tyles'", "rimrl/Distractors-v0", "'tiles'"]),
        ("--env.kwargs.tiles blue", ["unknown tiles 'blue'", "colors, one_hot, rgb"]),
        ("--env.kwargs.target_types [cat]", ["'cat'", "ball, box, key"]),
        ("--train.device banana", ["unknown device 'banana'", "auto, cpu, cuda"]),
        ("--train.device meta", ["train.device 'meta'", "'cpu'"]),
        # Wrong types
        ("--core.num_active two", ["core.num_active", "integer", "null", "'two'", "command line"]),
        ("--core.num_active 2.5", ["core.num_active", "integer", "'2.5'"]),
        ("--core.num_active true", ["core.num_active", "integer", "'true'"]),
        ("--core.num_active [2]", ["core.num_active", "integer", "'[2]'"]),
        ("--core.num_active", ["--core.num_active needs a value"]),
        ("--nothing", ["unknown option --nothing"]),
        ("--core.input_attention perhaps", ["core.input_attention", "true", "false", "'perhaps'"]),
        ("--core.input_dropout lots", ["core.input_dropout", "number", "'lots'"]),
        ("--core.dynamics gruu", ["core.dynamics", "'gru'", "'gruu'"]),
        ("--agent.learning_rate fast", ["agent.learning_rate", "number", "'fast'"]),
        ("--agent.learning_rate nan", ["agent.learning_rate", "number", "'nan'"]),
        ("--agent.net_arch 64", ["agent.net_arch", "list", "'64'"]),
        ("--agent.net_arch [wide]", ["agent.net_arch", "an integer", "'wide'"]),
        ("--agent.normalize_advantage 3", ["agent.normalize_advantage", "true", "false", "'3'"]),
        ("--agent.core_sharing both", ["agent.core_sharing", "'separate'", "'both'"]),
        ("--env.backend threads", ["env.backend", "'subproc'", "'envpool'", "'threads'"]),
        ("--env.backend native", ["'native'", "ALE/*-v5", "'rimrl/Distractors-v0'", "'dummy' or 'subproc'"]),
        ("--env.backend envpool", ["'envpool'", "MiniGrid or BabyAI", "'rimrl/Distractors-v0'", "'dummy'"]),
        ("--env.id ALE/Pong-v5 --env.kwargs.clip_reward true", ["'clip_reward'"]),
        ("--env.efference_copies maybe", ["env.efference_copies", "true", "false", "'maybe'"]),
        ("--env.kwargs.efference_copies true", ["env.kwargs.efference_copies", "env.efference_copies"]),
        ("--env.n_envs 1.5", ["env.n_envs", "integer", "'1.5'"]),
        ("--env.kwargs 3", ["env.kwargs", "mapping", "'3'"]),
        ("--env.kwargs.size big", ["size", "integer", "'big'"]),
        ("--env.id CartPole-v1 --env.kwargs.max_episode_steps a", ["CartPole-v1", "max_episode_steps"]),
        ("--seed x", ["train.seed", "integer", "'x'"]),
        ("--seed 1.5", ["train.seed", "integer", "'1.5'"]),
        ("--total-timesteps many", ["train.total_timesteps", "integer", "'many'"]),
        # Numbers that do not fit together
        ("--core.num_active 4", ["num_active", "1 to num_units 3", "got 4"]),
        ("--core.hidden_size 13", ["hidden_size 13", "num_units 3", "12 or 15"]),
        ("--core.unit_size 5", ["hidden_size", "num_units 3 * unit_size 5", "got 12"]),
        ("--core.input_heads 5", ["input_value_size 16", "input_heads 5"]),
        ("--core.num_inputs 3", ["num_inputs", "got 3"]),
        ("--env.id CartPole-v1 --agent.spatial true", ["agent.spatial needs an image"]),
        ("--env.id CartPole-v1 --agent.spatial true --env.efference_copies true", ["agent.spatial needs an image"]),
        ("--agent.spatial true --agent.features_dim 64", ["agent.features_dim", "agent.spatial"]),
        ("--agent.batch_size 24", ["batch_size 24", "multiple", "16", "batch_size=32"]),
        ("--agent.sequence_length 5", ["sequence_length 5 does not divide n_steps 16"]),
        # Numbers out of range
        ("--core.num_active 0", ["num_active", "positive integer", "0"]),
        ("--core.num_active -1", ["num_active", "positive integer", "-1"]),
        ("--core.num_units 0", ["num_units", "positive integer"]),
        ("--core.hidden_size 0", ["hidden_size", "positive integer"]),
        ("--core.input_dropout 1.5", ["input_dropout", "number", "0", "1"]),
        ("--env.n_envs 0", ["env.n_envs must be positive", "0"]),
        ("--env.n_envs=-2", ["env.n_envs must be positive", "-2"]),
        ("--agent.n_steps 0", ["agent.n_steps must be positive"]),
        ("--agent.sequence_length 0", ["agent.sequence_length must be positive"]),
        ("--agent.batch_size 0", ["agent.batch_size must be positive"]),
        ("--agent.n_epochs 0", ["agent.n_epochs must be positive"]),
        ("--agent.learning_rate 0", ["agent.learning_rate must be positive"]),
        ("--agent.net_arch [8,-3]", ["agent.net_arch must be positive", "[8, -3]"]),
        ("--agent.features_dim 0", ["agent.features_dim must be positive"]),
        ("--agent.gamma 1.5", ["agent.gamma must be between 0 and 1", "1.5"]),
        ("--agent.gae_lambda=-0.1", ["agent.gae_lambda must be between 0 and 1"]),
        ("--agent.clip_range=-0.2", ["agent.clip_range must be positive"]),
        ("--agent.clip_range_vf 0", ["agent.clip_range_vf must be positive"]),
        ("--agent.max_grad_norm=-1", ["agent.max_grad_norm must be positive"]),
        ("--agent.target_kl 0", ["agent.target_kl must be positive"]),
        ("--total-timesteps 0", ["train.total_timesteps must be positive"]),
        ("--total-timesteps=-5", ["train.total_timesteps must be positive"]),
        ("--seed=-1", ["train.seed must be between 0 and"]),
        ("--seed 99999999999", ["train.seed must be between 0 and"]),
        ("--train.num_threads 0", ["train.num_threads must be from 1 to 1024"]),
        ("--train.eval_freq=-1", ["train.eval_freq", "0"]),
        ("--train.eval_episodes 0", ["train.eval_episodes must be positive"]),
        ("--train.checkpoint_freq=-1", ["train.checkpoint_freq", "0"]),
        # Environments that cannot be what is asked for
        ("--env.kwargs.size 2", ["size", "integer", "3"]),
        ("--env.kwargs.num_distractors 1000", ["num_distractors 1000", "size 6"]),
        ("--env.kwargs.max_steps 0", ["max_steps", "integer", "1"]),
        ("--env.kwargs.split novel_shapes", ["env.kwargs.split"]),
        ("--env.kwargs.seed 1", ["env.kwargs.seed", "train.seed"]),
        ("--env.kwargs.n_envs 1", ["env.kwargs.n_envs", "env.n_envs"]),
        ("--env.id MiniGrid-Empty-5x5-v0 --env.kwargs.size 1", ["MiniGrid-Empty-5x5-v0", "'size': 1"]),
        ("--env.id memory --env.kwargs.size 8", ["size", "odd", "8"]),
        ("--env.id memory --env.kwargs.agent_view_size 1", ["agent_view_size", "integer", "3"]),
        ("--env.id memory --env.kwargs.tiles colors", ["tiles='colors'", "one_hot"]),
        ("--env.id memory --env.backend envpool", ["'envpool'", "MiniGrid or BabyAI", "'rimrl/Memory-v0'"]),
        ("--env.id recall --env.kwargs.num_cues 0", ["num_cues", "integer", "1"]),
        ("--env.id recall --env.kwargs.max_delay=-1", ["max_delay", "integer", "0"]),
        ("--env.id recall --env.kwargs.shown_distractors [8]", ["shown_distractors", "below num_distractors 8"]),
        ("--env.id recall --env.kwargs.distractor_probability 2", ["distractor_probability", "from 0 to 1"]),
        ("--env.id tmaze --env.kwargs.min_length 0", ["min_length", "integer", "1"]),
        ("--env.id tmaze --env.kwargs.lenght 3", ["unknown argument 'lenght'", "rimrl/TMaze-v0", "length'"]),
        ("--env.id Blackjack-v1", ["Blackjack-v1", "observation space"]),
    ],
)
def test_overrides(override: str, named: list[str]) -> None:
    refuse((*TRAIN, *override.split()), *named)


@pytest.mark.skipif(th.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    refuse((*TRAIN, "--train.device", "cuda"), "train.device 'cuda'", "'cpu'")


@pytest.mark.parametrize("env_id", ["popgym/RepeatPrevious", "popgym-CountRecallHard-v0"])
def test_an_extra_that_is_not_installed(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "popgym", None)
    refuse((*TRAIN, "--env.id", env_id), "needs popgym", "pip install 'rimrl[popgym]'")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("distractors/rimm", ["unknown configuration 'distractors/rimm'", "'distractors/rim'"]),
        ("rim", ["unknown configuration 'rim'", "/rim"]),
        ("nothing.yaml", ["no configuration file nothing.yaml", "distractors/rim", "list configs"]),
        ("folder.yaml", ["no configuration file folder.yaml"]),
        ("", ["unknown configuration ''", "/rim"]),
    ],
)
def test_configurations_that_do_not_exist(config: str, named: list[str]) -> None:
    Path("folder.yaml").mkdir()
    refuse(("train", config, *OWN), *named)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("env: [", ["own.yaml is not valid YAML", "line 1"]),
        ("env: !!python/name:os.system {id: distractors}", ["own.yaml is not valid YAML", "python/name"]),
        ("", ["own.yaml holds no configuration", "core, agent"]),
        ("hello", ["own.yaml holds no configuration", "core, agent"]),
        ("[env, core]", ["own.yaml holds no configuration"]),
        ("envs: {id: distractors}", ["'envs'", "own.yaml", "'env'"]),
        ("1: {id: distractors}", ["'1'", "own.yaml", "agent, core"]),
        ("env: 3", ["group 'env' in own.yaml", "3"]),
        ("{env: {id: distractors}, core: null}", ["group 'core' in own.yaml", "None"]),
        ("core: {name: rim}", ["own.yaml", "env.id"]),
        ("env: {id: null}", ["env.id", "own.yaml", "null"]),
        ("env: {id: [distractors]}", ["env.id must be text", "own.yaml"]),
        ("env: {id: distractors, n_env: 3}", ["'env.n_env'", "own.yaml", "'env.n_envs'"]),
        ("env: {id: distractors, 1: 3}", ["'env.1'", "own.yaml"]),
        ("env: {id: distractors, kwargs: null}", ["env.kwargs", "own.yaml", "null"]),
        ("env: {id: distractors, kwargs: [1]}", ["env.kwargs", "mapping", "own.yaml"]),
        ("env: {id: distractors, kwargs: {n_envs: 2}}", ["env.kwargs.n_envs"]),
        ("{env: {id: distractors}, core: {name: rimm}}", ["'rimm'", "own.yaml (core.name)", "'rim'"]),
        ("{env: {id: distractors}, core: {name: 3}}", ["'3'", "own.yaml", "feedforward"]),
        ("{env: {id: distractors}, core: {num_units: 3.5}}", ["core.num_units", "integer", "own.yaml"]),
        ("{env: {id: distractors}, core: {competition: null}}", ["competition", "'null', 'units'"]),
        ("{env: {id: distractors}, core: {num_units: null}}", ["num_units", "positive integer", "None"]),
        ("{env: {id: distractors}, core: {name: gru, hidden_size: null}}", ["hidden_size", "positive integer"]),
        ("{env: {id: distractors}, agent: {algorithm: dqn}}", ["'dqn'", "own.yaml", "a2c, bc, ppo"]),
        ("{env: {id: distractors}, agent: {gamma: high}}", ["agent.gamma", "number", "'high'", "own.yaml"]),
        ("{env: {id: distractors}, agent: {net_arch: {pi: [3]}}}", ["agent.net_arch", "list", "own.yaml"]),
        ("{env: {id: distractors}, agent: {clip_range: null}}", ["agent.clip_range", "own.yaml", "null"]),
        ("{env: {id: distractors}, train: {device: null}}", ["train.device", "own.yaml", "null"]),
        ("{env: {id: distractors}, train: {seed: true}}", ["train.seed", "integer", "own.yaml"]),
        ("{env: {id: distractors}, train: {seed: -1}}", ["train.seed must be between 0 and", "-1"]),
        ("{env: {id: distractors}, name: [a]}", ["name in own.yaml must be text"]),
    ],
)
def test_files_of_ones_own(content: str, named: list[str]) -> None:
    Path("own.yaml").write_text(content)
    refuse(("train", "own.yaml", "--run-dir", "new", "--quiet"), *named)


def test_a_file_that_is_not_text() -> None:
    Path("own.yaml").write_bytes(b"\xff\xfe\x00")
    refuse(("train", "own.yaml", *OWN), "cannot read own.yaml")


@pytest.mark.parametrize("status", ["finished", "interrupted", "failed", "running"])
def test_a_folder_that_holds_a_run(status: str, run: Path) -> None:
    facts = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(facts | {"status": status}))
    refuse((*TRAIN, "--run-dir", "run"), "already holds", status, "--run-dir")


def test_a_folder_that_holds_something_else() -> None:
    Path("papers").mkdir()
    Path("papers/rim.pdf").touch()
    refuse((*TRAIN, "--run-dir", "papers"), "papers already", "--run-dir")


@pytest.mark.parametrize("folder", ["file", "file/run", "file/deep/run"])
def test_a_folder_that_cannot_be_made(folder: str) -> None:
    Path("file").write_text("precious")
    refuse((*TRAIN, "--run-dir", folder), folder)


@pytest.mark.parametrize("folder", ["new", "deep/down/new", "empty", "empty/new"])
def test_what_fails_while_it_is_prepared_leaves_no_folder(folder: str) -> None:
    Path("empty").mkdir()
    refuse((*TRAIN, "--run-dir", folder, "--agent.batch_size", "24"), "batch_size")


def truncated(model: Path) -> None:
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])


def garbage(model: Path) -> None:
    model.write_bytes(bytes(range(256)) * 40)


def emptied(model: Path) -> None:
    model.write_bytes(b"")


def flipped(model: Path) -> None:
    content = bytearray(model.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(byte ^ 0xFF for byte in content[middle : middle + 40])
    model.write_bytes(content)


def another_archive(model: Path) -> None:
    with zipfile.ZipFile(model, "w") as archive:
        archive.writestr("readme.txt", "not an agent")


def without_weights(model: Path) -> None:
    with zipfile.ZipFile(model) as archive:
        data = archive.read("data")
    with zipfile.ZipFile(model, "w") as archive:
        archive.writestr("data", data)


def removed(model: Path) -> None:
    model.unlink()


@pytest.mark.parametrize(
    "damage",
    [truncated, garbage, emptied, flipped, another_archive, without_weights, removed],
    ids=lambda d: d.__name__,
)
def test_models_that_are_missing_or_damaged(damage: object, run: Path) -> None:
    assert callable(damage)
    damage(run / "model.zip")
    refuse(("evaluate", "run", *EVALUATE), "run/model.zip")


def test_a_best_model_that_was_never_saved(run: Path) -> None:
    (run / "best_model.zip").unlink()
    refuse(("evaluate", "run", "--best", *EVALUATE), "run/best_model.zip", "--best")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("evaluate run --split trian", ["unknown split 'trian'", "'distractors'", "'train'"]),
        ("evaluate run --split zzz", ["unknown split 'zzz'", "novel_shapes"]),
        ("evaluate run --episodes 0", ["episodes", "0"]),
        ("evaluate run --episodes=-3", ["episodes", "-3"]),
        ("evaluate run --n-envs 0", ["n_envs", "0"]),
        ("evaluate run --suite distractor", ["unknown environment 'distractor'", "'distractors'"]),
        ("evaluate run --suite CartPole-v1", ["'CartPole-v1'", "observations", "'distractors'"]),
        ("evaluate run --suite distractors --split trian", ["unknown split 'trian'", "'train'"]),
        ("evaluate run --suite CartPole-v1 --split novel", ["CartPole-v1", "'train'"]),
        ("evaluate run --seed=-1", ["seed", "0"]),
        ("evaluate run --seed 99999999999", ["seed", "0"]),
        ("evaluate nowhere", ["run folder nowhere"]),
        ("evaluate run nowhere", ["run folder nowhere"]),
        ("evaluate .", ["run folder", "config.yaml"]),
        ("evaluate run/model.zip", ["no run folder run/model.zip"]),
        ("compare nowhere", ["run folder nowhere"]),
        ("compare run nowhere", ["run folder nowhere"]),
        ("compare run --suite multiroom", ["evaluated", "multiroom", "rimrl evaluate run --suite"]),
        ("compare . --suite multiroom", ["no run below .", "on multiroom", "rimrl evaluate"]),
        ("compare run/checkpoints", ["run/checkpoints", "folder", "none below"]),
        ("compare run --reference lstm", ["unknown group 'lstm'", "rim"]),
        ("compare run --json run/model.zip/a.json --plot a.png", ["run/model.zip is a file"]),
        ("compare run --json run/model.zip/a.json", ["run/model.zip/a.json"]),
        ("compare run --json run", ["cannot write run"]),
        ("compare run --plot run/config.yaml/a.png", ["run/config.yaml/a.png"]),
        ("compare run --plot a.docx", ["a.docx", "png"]),
        ("compare run --plot a", ["picture a", ".png"]),
        ("compare run --plot run", ["write run", "folder"]),
        ("compare run --plot run/model.zip", ["run/model.zip", "png"]),
    ],
)
def test_evaluate_and_compare(words: str, named: list[str], run: Path) -> None:
    refuse(tuple(words.split()), *named)


def test_a_split_of_a_single_environment(run: Path) -> None:
    rewrite(run, "id: distractors", "id: rimrl/Distractors-v0")
    refuse(("evaluate", "run", "--split", "novel_shapes", *EVALUATE), "rimrl/Distractors-v0", "'train'")


@pytest.mark.parametrize(("content", "named"), [(None, "no config.yaml"), ("env: [", "not valid YAML")])
def test_a_run_without_a_readable_configuration(content: str | None, named: str, run: Path) -> None:
    (run / "config.yaml").unlink()
    if content is not None:
        (run / "config.yaml").write_text(content)
    refuse(("evaluate", "run", *EVALUATE), named)


def test_an_evaluation_that_cannot_be_written(run: Path) -> None:
    (run / "evaluation.json").unlink()
    (run / "evaluation.json").mkdir()
    refuse(("evaluate", "run", *EVALUATE), "cannot write run/evaluation.json")


def test_compare_before_evaluate(run: Path) -> None:
    (run / "evaluation.json").unlink()
    refuse(("compare", "run"), "run", "evaluated", "rimrl evaluate run")


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "3", "{}"),
        '{"suite": "distractors", "config": "rim"}',
        '{"suite": "distractors", "config": "rim", "splits": {}}',
        '{"suite": "distractors", "config": "rim", "splits": [1]}',
        '{"suite": "distractors", "config": "rim", "splits": {"train": {}}}',
        '{"suite": "distractors", "config": "rim", "splits": {"train": 3}}',
        '{"suite": ["a"], "config": "rim", "splits": {"train": {"held_out": false, "episodes": 1, "return_mean": 0.0, '
        '"success_rate": null}}}',
    ],
)
def test_a_damaged_evaluation(content: str, run: Path) -> None:
    (run / "evaluation.json").write_text(content)
    refuse(("compare", "run", "--plot", "a.png"), "run/evaluation.json", "rimrl evaluate run")


def test_runs_of_different_suites(run: Path) -> None:
    shutil.copytree("run", "other")
    text = Path("other/evaluation.json").read_text()
    Path("other/evaluation.json").write_text(text.replace('"suite": "distractors"', '"suite": "CartPole-v1"'))
    refuse(("compare", "run", "other"), "run: distractors", "other: CartPole-v1")


def second_seed(folder: str, **changes: object) -> None:
    """A copy of the run that passes for another seed, with changes to what its evaluation says."""
    shutil.copytree("run", folder)
    rewrite(folder, "seed: 3", "seed: 4")
    evaluation = json.loads(Path(folder, "evaluation.json").read_text())
    Path(folder, "evaluation.json").write_text(json.dumps(evaluation | changes))


def test_groups_that_do_not_compare(run: Path) -> None:
    second_seed("other", deterministic=True)
    refuse(("compare", "run", "other"), "run: sampled actions", "other: likeliest actions", "evaluate them again")


@pytest.mark.parametrize("file", ["run/model.zip/a.png", "a.docx", "a", "run"])
def test_pictures_of_groups_that_cannot_be_written(file: str, run: Path) -> None:
    second_seed("other")
    refuse(("compare", "run", "other", "--json", "a.json", "--plot", file), file)


def test_folders_of_results_are_made(run: Path) -> None:
    assert call("compare", "run", "--json", "new/a.json", "--plot", "other/a.png").code == 0
    assert json.loads(Path("new/a.json").read_text())["suite"] == "distractors"
    assert Path("other/a.png").stat().st_size > 1000


def test_runs_that_were_not_evaluated_are_left_out_of_a_folder_and_missed_by_name(run: Path) -> None:
    second_seed("sweep/a")
    second_seed("sweep/b")
    Path("sweep/b/evaluation.json").unlink()
    before = files(Path())
    answer = call("compare", "sweep")
    assert answer.code == 0
    assert answer.err.split()[-1] == "sweep/b"
    assert answer.err.count("\n") == 1
    assert files(Path()) == before
    refuse(("compare", "sweep/a", "sweep/b"), "sweep/b", "evaluated", "rimrl evaluate sweep/b")


def test_a_damaged_learning_curve(run: Path) -> None:
    (run / "progress.csv").write_text("time/total_timesteps,rollout/ep_rew_mean\n256,much\n")
    refuse(("compare", "run", "--plot", "a.png"), "run/progress.csv is damaged")


def test_in_a_process_of_its_own() -> None:
    before = files(Path())
    answer = spawn(*TRAIN, "--core.num_active", "4")
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err == "rimrl: core 'rim': num_active must be from 1 to num_units 3, got 4\n"
    assert files(Path()) == before
