"""Environments, suites and cores of a folder outside the package, in configurations and in every verb."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml

import rimrl
from rimrl.cores.registry import CORES
from rimrl.envs import suites
from rimrl.errors import UsageError
from rimrl.imports import asked_for, import_modules, require_imported
from tests.commands import Answer, call, read_json, same_weights, succeed

HERE = Path(__file__).parent / "own"
SMALL = ("--env.n_envs", "4", "--agent.n_steps", "16", "--agent.batch_size", "32", "--train.eval_freq", "0", "--quiet")
TRAIN = ("train", "recall/lstm", *SMALL, "--core.hidden_size", "8", "--train.total_timesteps", "128")
MARKING = "from pathlib import Path\nPath({!r}).touch()\n"
# Ends the command that imported it: what the command would do next is tested elsewhere.
HOSTILE = f"{MARKING}raise ImportError('hostile')\n"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, outside the package, with a run of `own_env` that names its module."""
    folder = tmp_path_factory.mktemp("outside")
    for file in HERE.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    (folder / "own.yaml").write_text(
        "imports: [own_env]\n"
        "env: {id: Own/Cue-v0, n_envs: 2, backend: subproc}\n"
        "core: {name: lstm, hidden_size: 8}\n"
        "agent: {n_steps: 16, batch_size: 32}\n"
        "train: {total_timesteps: 128, eval_freq: 0}\n"
    )
    within(folder, "train", "own.yaml", "--run-dir", "run", "--quiet")
    return folder


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What a test imports is not there for the next one."""
    with forgetting():
        yield


@contextmanager
def forgetting() -> Iterator[None]:
    """Forget the modules that are imported meanwhile, and what they register, as a new process would."""
    modules, ids, cores, path = set(sys.modules), set(gymnasium.registry), set(CORES), sys.path[:]
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name not in modules and name.startswith(("own_", "hostile"))]:
            del sys.modules[name]
        for name in [name for name in gymnasium.registry if name not in ids and name.startswith("Own/")]:
            del gymnasium.registry[name]
        suites._OWN.clear()
        for name in CORES.keys() - cores:
            del CORES[name]
        sys.path[:] = path


def within(folder: Path, *words: str | Path) -> Answer:
    """Run a command in a folder as a process that begins there would; it must succeed."""
    with forgetting(), chdir(folder):
        return succeed(*words)


def refused(folder: Path, *words: str | Path) -> str:
    """Run a command likewise that must be refused in one line."""
    with forgetting(), chdir(folder):
        answer = call(*words)
    assert (answer.code, answer.err.count("\n")) == (2, 1), answer.err
    return answer.err


# -- imports ----------------------------------------------------------------------------------------------------------


def test_a_configuration_imports_and_the_run_says_so(outside: Path) -> None:
    assert yaml.safe_load((outside / "run/config.yaml").read_text())["imports"] == ["own_env"]


def test_an_id_may_name_its_module(outside: Path, tmp_path: Path) -> None:
    answer = within(outside, *TRAIN, "--env.id", "own_env:Own/Cue-v0", "--run-dir", tmp_path / "run")
    (following,) = [line.removeprefix("next: rimrl ") for line in answer.out.splitlines() if line.startswith("next: ")]
    within(outside, *shlex.split(following), "--episodes", "2", "--quiet")
    assert read_json(tmp_path / "run/evaluation.json")["splits"]["train"]["env_id"] == "Own/Cue-v0"


def test_the_option_is_stored_and_goes_on(outside: Path, tmp_path: Path) -> None:
    constant = ("--agent.learning_rate_schedule", "constant")
    common = (*TRAIN[:-2], *constant, "--env.id", "Own/Cue-v0", "--import", "own_env")
    within(outside, *common, "--total-timesteps", "64", "--run-dir", tmp_path / "half")
    assert yaml.safe_load((tmp_path / "half/config.yaml").read_text())["imports"] == ["own_env"]
    on = ("train", "--resume", tmp_path / "half", "--total-timesteps", "128", "--quiet")
    assert "--import own_env" in refused(outside, *on)
    within(outside, *on, "--import", "own_env")
    within(outside, *common, "--total-timesteps", "128", "--run-dir", tmp_path / "whole")
    assert same_weights(tmp_path / "half", tmp_path / "whole")


@pytest.mark.parametrize("place", ["imports", "env", "core"])
@pytest.mark.parametrize(
    "verb",
    [
        ("evaluate", "RUN"),
        ("inspect", "RUN"),
        ("watch", "RUN"),
        ("export", "RUN", "EXPORT"),
        ("train", "--resume", "RUN"),
        ("train", "RUN/config.yaml", "--run-dir", "NEW"),
        ("sweep", "RUN/config.yaml", "--run-dir", "NEW"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_run_imports_nothing_by_itself(
    verb: tuple[str, ...], place: str, outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    run = shutil.copytree(outside / "run", tmp_path / "RUN")
    (tmp_path / "hostile.py").write_text(HOSTILE.format(str(tmp_path / "ran")))
    (run / "environment.json").unlink()
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["imports"] = ["hostile"] if place == "imports" else []
    content["env"]["id"] = "hostile:Own/Cue-v0" if place == "env" else "CartPole-v1"
    content["core"]["name"] = "hostile:Core" if place == "core" else "lstm"
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    answer = call(*verb)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "'hostile'" in answer.err
    assert "--import hostile" in answer.err
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "NEW").exists()
    assert call(*verb, "--import", "hostile").code == 2
    assert (tmp_path / "ran").exists()


def test_reports_import_nothing(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    run = shutil.copytree(outside / "run", tmp_path / "run")
    within(outside, "evaluate", run, "--import", "own_env", "--episodes", "1", "--no-random", "--quiet")
    (tmp_path / "own_env.py").write_text(HOSTILE.format(str(tmp_path / "ran")))
    monkeypatch.chdir(tmp_path)
    for verb in ("compare", "report"):
        assert call(verb, "run").code == 0
        assert not (tmp_path / "ran").exists()


def test_a_study_imports_nothing_by_itself(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE.format(str(tmp_path / "ran")))
    (tmp_path / "evil.yaml").write_text("imports: [hostile]\nenv: {id: CartPole-v1}\n")
    monkeypatch.chdir(tmp_path)
    for number, (config, over, overrides) in enumerate(
        [
            (str(tmp_path / "evil.yaml"), {}, {}),
            ("recall/lstm", {"env": ["hostile:Own/Cue-v0"]}, {}),
            ("recall/lstm", {"core": ["lstm", "hostile:Core"]}, {}),
            ("recall/lstm", {}, {"env.id": "hostile:Own/Cue-v0"}),
        ]
    ):
        study = tmp_path / str(number)
        study.mkdir()
        asked = {"config": config, "seeds": [0], "over": over, "overrides": overrides}
        (study / "sweep.yaml").write_text(yaml.safe_dump(asked))
        answer = call("sweep", study, "--plan")
        assert answer.code == 2
        assert "--import hostile" in answer.err
        assert not (tmp_path / "ran").exists()
    task = {"cores": {"lstm": str(tmp_path / "evil.yaml")}, "sources": ["recall"], "targets": ["recall"], "seeds": [0]}
    for change in ({}, {"cores": {"lstm": "recall/lstm"}, "targets": ["hostile:Own/Cue-v0"]}, {"imports": ["hostile"]}):
        content = task | {"source_timesteps": 64, "target_timesteps": 64} | change
        (tmp_path / "transfer.yaml").write_text(yaml.safe_dump(content))
        answer = call("transfer", "transfer.yaml", "--run-dir", tmp_path, "--plan")
        assert answer.code == 2
        assert "--import hostile" in answer.err
        assert not (tmp_path / "ran").exists()


def test_an_export_imports_nothing_by_itself(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    within(outside, "export", "run", tmp_path / "export", "--import", "own_env")
    (tmp_path / "own_env.py").write_text(HOSTILE.format(str(tmp_path / "ran")))
    monkeypatch.chdir(tmp_path)
    answer = call("evaluate", "export")
    assert answer.code == 2
    assert "--import own_env" in answer.err
    assert not (tmp_path / "ran").exists()
    assert rimrl.load("export").num_timesteps == 128  # acting needs no environment
    with pytest.raises(UsageError, match="hostile"):
        rimrl.load("export", imports=["own_env"])
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        ("raise OSError('no\\nlicence')", ("--import", "own_broken"), "OSError: no licence"),
        ("import sys; sys.exit(0)", ("--import", "own_broken"), "SystemExit"),
        ("def (", ("--import", "own_broken"), "SyntaxError"),
        ("", ("--import", "own_missing"), "'own_missing'"),
        ("", ("--import", "own broken"), "module.*name"),
        ("", ("--env.id", "own_broken:Own/Nothing-v0"), "Own/Nothing-v0"),
    ],
)
def test_what_cannot_be_imported_is_said_in_one_line(
    code: str, words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    (tmp_path / "own_broken.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    answer = call(*TRAIN, *words, "--run-dir", "run")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert re.search(said, answer.err)
    assert not (tmp_path / "run").exists()


def test_a_sequence_task_stores_the_option_and_imports_nothing_by_itself(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    words = ("sequence", "copying", "--core", "leaky", "--core.width", "6", "--import", "own_core", "--quiet")
    few = ("--train.batch_size", "2", "--train.eval_freq", "0", "--train.test_sequences", "2")
    short = ("--task.blanks", "3", "--task.test_blanks", "[3]")
    common = (*words, *few, *short, "--train.learning_rate_schedule", "constant")
    run = tmp_path / "run"
    within(outside, *common, "--num-updates", "1", "--run-dir", run)
    assert yaml.safe_load((run / "config.yaml").read_text())["imports"] == ["own_core"]
    (tmp_path / "own_core.py").write_text(HOSTILE.format(str(tmp_path / "ran")))
    monkeypatch.chdir(tmp_path)
    for verb in (
        ("evaluate", "run"),
        ("inspect", "run"),
        ("sequence", "--resume", "run"),
        ("sequence", "run/config.yaml", "--run-dir", "other"),
    ):
        answer = call(*verb)
        assert (answer.code, answer.err.count("\n")) == (2, 1)
        assert "--import own_core" in answer.err
        assert not (tmp_path / "ran").exists()
    within(outside, "sequence", "--resume", run, "--num-updates", "2", "--quiet", "--import", "own_core")
    within(outside, *common, "--num-updates", "2", "--run-dir", tmp_path / "whole")
    ours, theirs = (read_json(folder / "evaluation.json")["splits"] for folder in (run, tmp_path / "whole"))
    assert ours == theirs


@pytest.mark.parametrize("imports", ["own_env", [3], ["own env"], {"own_env": 1}])
def test_imports_are_a_list_of_names(imports: object, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"imports": imports, "env": {"id": "CartPole-v1"}}))
    answer = call("train", tmp_path / "own.yaml", "--run-dir", tmp_path / "run")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "imports" in answer.err


def test_a_module_that_is_there_is_not_asked_for(
    outside: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    monkeypatch.chdir(outside)
    with pytest.raises(UsageError, match="own_env"):
        require_imported(["own_env"], "a file")
    with asked_for(["own_env"]):
        require_imported(["own_env"], "a file")
    import_modules(["own_env"])
    assert rimrl.make_env("own_env:Own/Cue-v0").spec.id == "Own/Cue-v0"  # type: ignore[union-attr]


# -- cores ------------------------------------------------------------------------------------------------------------


def test_a_core_is_named_by_its_module_or_by_what_it_registers(outside: Path, tmp_path: Path) -> None:
    common = ("--env.id", "CartPole-v1", *SMALL, "--train.total_timesteps", "64", "--core.width", "6")
    ways = {"path": ("--core.name", "own_core:Leaky"), "name": ("--import", "own_core", "--core.name", "leaky")}
    for way, words in ways.items():
        run = tmp_path / way
        within(outside, "train", "recall/rim", *words, *common, "--run-dir", run)
        assert "own_core" in refused(outside, "evaluate", run)
        within(outside, "evaluate", run, "--import", "own_core", "--episodes", "2", "--no-random", "--quiet")
        within(outside, "export", run, tmp_path / f"{way}-export", "--import", "own_core")
        with forgetting(), chdir(outside), pytest.raises(UsageError, match="leaky" if way == "name" else "own_core"):
            rimrl.load(tmp_path / f"{way}-export")
        with forgetting(), chdir(outside):
            agent = rimrl.load(tmp_path / f"{way}-export", imports=["own_core"])
            assert agent.policy.core.hidden_size == 6
    scores = [read_json(tmp_path / way / "evaluation.json")["splits"] for way in ways]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("core", "said"),
    [
        ("own_core:Leakier", "Leakier"),
        ("own_core:nn", "RecurrentCore"),
        ("own_core:", "own_core"),
        ("leaky", "leaky"),
    ],
)
def test_a_core_that_is_none_is_refused(core: str, said: str, outside: Path, tmp_path: Path) -> None:
    words = ("train", "recall/rim", "--core.name", core, "--run-dir", tmp_path / "run")
    assert said in refused(outside, *words)
    assert not (tmp_path / "run").exists()


# -- suites -----------------------------------------------------------------------------------------------------------

POLE = {"id": "CartPole-v1"}


@pytest.mark.parametrize(
    ("name", "splits", "said"),
    [
        ("recall", {"train": POLE}, "taken"),
        ("modes", {"train": POLE}, "taken"),
        ("../own", {"train": POLE}, "name"),
        ("own", {}, "splits"),
        ("own", {"train": POLE | {"held_out": True}}, "exactly one"),
        ("own", {"other": POLE}, "exactly one"),
        ("own", {"train": POLE, "other": POLE | {"held_out": False}}, "train, other"),
        ("own", {"other": POLE | {"held_out": False}}, "'train'"),
        ("own", {"train": POLE | {"ids": 1}}, "'ids'"),
        ("own", {"train": {}}, "id of"),
        ("own", {"train": POLE | {"kwargs": 1}}, "kwargs of"),
        ("own", {"train": POLE | {"held_out": "no"}}, "held_out of"),
    ],
)
def test_a_suite_that_is_none_is_refused(name: str, splits: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        rimrl.register_suite(name, splits)
    assert not suites.is_own(name)


def test_splits_that_differ_are_refused_before_training(tmp_path: Path, forgotten: None) -> None:
    other = {"id": "Acrobot-v1"}
    rimrl.register_suite("own", {"train": POLE, "other": other})
    answer = call(*TRAIN, "--env.id", "own", "--run-dir", tmp_path / "run")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "'other'" in answer.err
    assert not (tmp_path / "run").exists()


# -- all of it --------------------------------------------------------------------------------------------------------


def test_from_training_to_the_report(outside: Path, tmp_path: Path) -> None:
    (outside / "all.yaml").write_text(
        "imports: [own_env, own_core]\n"
        "env: {id: own-cue, n_envs: 4}\n"
        "core: {name: leaky, width: 6}\n"
        "agent: {n_steps: 16, batch_size: 32}\n"
        "train: {total_timesteps: 64, eval_freq: 0}\n"
    )
    sweep, trust = tmp_path / "sweep", ("--import", "own_env", "--import", "own_core")
    words = ("--over", "core=leaky,lstm", "--seeds", "0", "--jobs", "2", "--evaluate", "--episodes", "2", "--quiet")
    within(outside, "sweep", "all.yaml", *words, "--run-dir", sweep)
    assert "--import own_env --import own_core" in refused(outside, "sweep", sweep)
    within(outside, "sweep", sweep, *trust, "--quiet")
    within(outside, "compare", sweep)
    run = sweep / "core=leaky/seed_0"
    within(outside, "inspect", run, *trust, "--episodes", "2", "--quiet")
    within(outside, "report", sweep, "--output", tmp_path / "report.html")
    within(outside, "watch", run, *trust, "--episodes", "1", "--quiet")
    splits = read_json(run / "evaluation.json")["splits"]
    assert {name: split["held_out"] for name, split in splits.items()} == {"train": False, "longer": True}
    page = (tmp_path / "report.html").read_text()
    assert "longer" in page
    assert "--import own_env --import own_core" in page
