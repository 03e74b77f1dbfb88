"""A sweep: what is asked for, the trials it makes, and what happens to them when something breaks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from rimrl.errors import RunFailedError, UsageError
from rimrl.experiments.config_files import load_config
from rimrl.experiments.evaluate import DEFAULT_SEED
from rimrl.experiments.sweep import Sweep, episodes_before
from rimrl.experiments.sweep_config import ask, parse_seeds, split_values
from rimrl.experiments.sweep_grid import SweepTrial, make_trials
from rimrl.files import locked
from rimrl.studies.record import Record
from rimrl.studies.trial import Outcome, Trial
from rimrl.studies.worker import work_on
from rimrl.studies.workers import LocalWorkers
from tests.commands import call, command, files, read_json, same_weights, spawn, succeed

STEPS = 512
TINY = (
    *("--env.n_envs", "4", "--agent.n_steps", "16", "--agent.batch_size", "32", "--train.eval_freq", "0"),
    *("--agent.learning_rate_schedule", "constant", "--train.resume_freq", "64", "--core.hidden_size", "12"),
    *("--total-timesteps", str(STEPS), "--quiet"),
)
GRID = ("distractors/rim", "--seeds", "0..1", "--over", "core=rim,lstm", *TINY)
NAMES = ["core=rim/seed_0", "core=lstm/seed_0", "core=rim/seed_1", "core=lstm/seed_1"]

HELD_OUT = ("novel_shapes", "novel_colors", "more_objects", "all_novel")


class Workers(LocalWorkers):
    """Work in this process, ending as a script says."""

    def __init__(self, folder: Path, ends: dict[str, list[str]]) -> None:
        super().__init__(folder, jobs=1)
        self._ends = ends
        self._now: list[str] = []
        self.started: list[str] = []

    @property
    def busy(self) -> bool:
        return bool(self._now)

    @property
    def free(self) -> bool:
        return not self._now

    def start(self, trial: Trial) -> None:
        self.started.append(trial.name)
        self._now.append(trial.name)

    def ended(self, timeout: float) -> list[tuple[str, Outcome]]:
        name = self._now.pop()
        end: Any = self._ends.get(name, ["finished"]).pop(0)
        if end == "finished":
            (self._folder / name).mkdir(parents=True)
            (self._folder / name / "environment.json").write_text('{"status": "finished"}')
        return [(name, Outcome(end, None if end == "finished" else f"it {end}"))]


def grid(config: str = "distractors/rim", *over: str, seeds: str = "0", **overrides: str) -> list[SweepTrial]:
    return make_trials(ask(config, seeds, over, overrides.items()))


@pytest.mark.parametrize(
    ("text", "seeds"), [("0..4", [0, 1, 2, 3, 4]), ("0,1,5", [0, 1, 5]), ("3", [3]), ("7, 1..2", [7, 1, 2])]
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "4..0", "a", "-1", "1..", "0;1", "1,,2", "0,0..2", "4294967296", "0..99999", "٣"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--seeds"):
        parse_seeds(text)


def test_commas_within_brackets_and_quotes_part_nothing() -> None:
    assert split_values("[],[64],[64,64]") == ["[]", "[64]", "[64,64]"]
    assert split_values("'a,b', {c: [1,2], d: 3}") == ["'a,b'", "{c: [1,2], d: 3}"]


def test_a_core_comes_with_its_own_configuration_of_the_task() -> None:
    trials = grid("distractors/rim", "core=rim,lstm,lstm_equal_parameters", "env=distractors,memory", seeds="0,3")
    assert [trial.name for trial in trials[:3]] == [
        "core=rim/env=distractors/seed_0",
        "core=rim/env=memory/seed_0",
        "core=lstm/env=distractors/seed_0",
    ]
    assert [trial.number for trial in trials] == list(range(12))
    assert [trial.seed for trial in trials] == [0] * 6 + [3] * 6
    shipped = load_config("distractors/lstm", ["--env.id=memory", "--train.seed=3"])
    assert next(trial.config for trial in trials if trial.name == "core=lstm/env=memory/seed_3") == shipped
    equal = load_config("distractors/lstm_equal_parameters")
    assert next(trial.config for trial in trials if trial.name.startswith("core=lstm_equal")) == equal


@pytest.mark.parametrize(
    ("config", "core", "shipped"),
    [
        ("multiroom/a2c_rim", "lstm", "multiroom/a2c_lstm"),
        ("multiroom/a2c_rim", "rim", "multiroom/a2c_rim"),
        ("atari/breakout/rim", "lstm", "atari/breakout/lstm"),
    ],
)
def test_the_configuration_of_a_core_is_that_of_the_same_family(config: str, core: str, shipped: str) -> None:
    (trial,) = grid(config, f"core={core}")
    assert trial.config == load_config(shipped)


def test_a_core_without_a_configuration_of_its_own_is_put_into_the_one_given() -> None:
    (trial,) = grid("multiroom/a2c_rim", "core=gru")
    assert trial.config.flat() == load_config("multiroom/a2c_rim", ["--core.name=gru"]).flat()
    assert trial.config.name.rpartition("/")[2] == "gru"


def test_a_file_of_ones_own_keeps_its_options_for_its_own_core(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("env: {id: distractors}\ncore: {name: rim, num_units: 3, num_active: 2, hidden_size: 12}\n")
    rim, lstm = (trial.config for trial in grid(str(file), "core=rim,lstm"))
    assert rim.core.options["num_units"] == 3
    assert (lstm.core.name, lstm.core.options["hidden_size"]) == ("lstm", 12)
    assert [rim.name, lstm.name] == ["mine/rim", "mine/lstm"]


def test_every_other_key_is_swept_as_it_is() -> None:
    trials = grid("distractors/rim", "agent.net_arch=[],[64,32]", "core.num_active=2,3")
    settings = [(trial.config.agent.net_arch, trial.config.core.options["num_active"]) for trial in trials]
    assert settings == [([], 2), ([], 3), ([64, 32], 2), ([64, 32], 3)]
    assert trials[2].name == "agent.net_arch=64,32/core.num_active=2/seed_0"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--over", "cor=rim"), r"'cor'.*--over.*'core'\?"),
        (("--over", "learning_rate=1"), r"'agent\.learning_rate'\?"),
        (("--over", "agent.learnin_rate=1"), r"'agent\.learning_rate'\?.*agent\.learnin_rate=1\)"),
        (("--over", "core=rim,lsmt"), r"'lsmt'.*--over.*'lstm'\?"),
        (("--over", "env=multirom"), r"'multiroom'\?.*env=multirom\)"),
        (("--over", "core="), "without empty values"),
        (("--over", "core"), "without empty values"),
        (("--over", "core=rim,,lstm"), "without empty values"),
        (("--over", "core=rim,rim"), "--over.*'rim' twice"),
        (("--over", "core=rim", "--over", "core=lstm"), "--over gives 'core' twice"),
        (("--over", "core=rim", "--over", "core.name=lstm"), r"'core'.*'core\.name'"),
        (("--over", "env=memory", "--over", "env.id=multiroom"), "--over gives 'env' twice"),
        (("--over", "agent.gamma=0.9,0.90"), r"agent\.gamma=0\.9.*agent\.gamma=0\.90"),
        (
            ("--over", "agent.gamma=0.9", "--agent.gamma", "0.8"),
            r"--agent\.gamma .*--over agent\.gamma",
        ),
        (("--over", "core=rim", "--core.name", "lstm"), r"--core\.name .*--over core"),
        (("--agent.gamma", "0.9", "--agent.gamma", "0.8"), r"--agent\.gamma is given twice"),
        (("--over", "train.seed=1,2"), r"'train\.seed'.*--seeds"),
        (("--seed", "1"), "'seed'.*--seeds"),
        (("--over", "agent.n_steps=16,x"), r"agent\.n_steps.*integer.*'x'"),
        (("--over", "agent.n_steps=16,33"), "multiple.*33"),
        (("--over", "core.num_active=4,9"), r"\(with core\.num_active=9\)"),
        (("--seeds", "4..0"), r"'4\.\.0'.*seed.*range"),
        (("--jobs", "0"), "--jobs.*1, got 0"),
        (("--retries", "-1"), "--retries.*0.*-1"),
        (("--episodes", "5"), "--episodes needs --evaluate"),
        (("--gpus", "1"), "--gpus needs --ray"),
        (("--trial", "0", "--jobs", "2"), "--trial.*--ray and --jobs"),
        (("--trial", "7"), "--trial.*from 0 to 0, got 7"),
        (("--cell", "7"), "--trial.*from 0 to 0, got 7"),  # old name
        (("--ray", "nonsense"), "'nonsense'"),
        (("--ray", "127.0.0.1:1"), r"reach Ray.*'127\.0\.0\.1:1'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    if "--ray" in words:
        pytest.importorskip("ray", reason="Ray is not installed")
    answer = call("sweep", "distractors/rim", *words, "--run-dir", tmp_path / "sweep")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("rimrl: ")
    assert answer.err.count("\n") == 1
    assert re.search(said, answer.err)
    if not {"--trial", "--cell"} & {*words}:  # old name, too
        assert not any(tmp_path.iterdir())


def test_without_ray_the_command_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    answer = call("sweep", *GRID, "--ray", "auto", "--run-dir", tmp_path / "sweep")
    assert (answer.code, answer.err) == (
        2,
        "rimrl: --ray needs Ray, which is not installed; run: pip install 'rimrl[ray]'\n",
    )
    assert not any(tmp_path.iterdir())


def test_the_plan_writes_nothing(tmp_path: Path) -> None:
    lines = succeed("sweep", *GRID, "--plan", "--run-dir", tmp_path / "sweep").out.splitlines()
    assert [line.split() for line in lines] == [
        [str(number), "pending", str(STEPS), "steps", str(tmp_path / "sweep" / name)]
        for number, name in enumerate(NAMES)
    ]
    assert not any(tmp_path.iterdir())


def test_an_evaluation_of_more_episodes_is_enough_and_a_folder_remembers_them(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    sweep = sweep_in(folder)
    assert sweep.run(Workers(folder, {}), progress_bar=False)
    assert episodes_before(folder) is None
    for trial in sweep.trials:
        result = {"held_out": False, "episodes": 20, "return_mean": 0.0}
        facts = {"suite": "distractors", "config": "distractors/rim", "model": "model.zip", "deterministic": False}
        facts |= {"seed": DEFAULT_SEED, "splits": dict.fromkeys(("train", *HELD_OUT), result)}
        (folder / trial.name / "evaluation.json").write_text(json.dumps(facts))
    for episodes, left in ((10, 0), (20, 0), (21, 2)):
        again = Sweep(ask(str(folder)), folder, episodes, check=False)
        assert len(again.waiting) == left
        again.save()
        assert episodes_before(folder) == episodes


def sweep_in(folder: Path, seeds: str = "0", over: str = "core=rim,lstm", **overrides: str) -> Sweep:
    return Sweep(ask("distractors/rim", seeds, [over], overrides.items()), folder, check=False)


def test_cells_that_die_or_break_are_tried_again_and_bad_input_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    ends = {NAMES[0]: ["died", "failed", "finished"], NAMES[1]: ["died"] * 3, NAMES[2]: ["refused"]}
    sweep, workers = sweep_in(folder, "0..1"), Workers(folder, ends)
    with pytest.raises(RunFailedError, match=r"2.*4.*core=lstm/seed_0.*seed_0.log"):
        sweep.run(workers, retries=2, progress_bar=False)
    assert [workers.started.count(name) for name in NAMES] == [3, 3, 1, 1]
    states = {trial["path"]: trial["state"] for trial in read_json(folder / "sweep.json")["trials"]}
    assert [states[NAMES[0]], states[NAMES[3]]] == ["finished", "finished"]
    again = Workers(folder, {})
    assert sweep_in(folder, "0..1").run(again, progress_bar=False)
    assert again.started == [NAMES[1], NAMES[2]]


@pytest.mark.parametrize(("refused", "others_done"), [(4, False), (3, True)])
def test_others_are_called_done_only_where_some_are(refused: int, others_done: bool, tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path / "sweep", "0..1")
    ends = {name: ["refused"] for name in NAMES[:refused]}
    with pytest.raises(RunFailedError, match=f"{refused} of 4") as error:
        sweep.run(Workers(tmp_path / "sweep", ends), progress_bar=False)
    assert ("the others are done" in str(error.value)) == others_done


def test_two_sweeps_do_not_work_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    assert sweep_in(folder).run(Workers(folder, {}), progress_bar=False)
    lock = f"locked(Path({str(folder / 'logs/.lock')!r}), 'no')"
    code = f"from pathlib import Path; from rimrl.files import locked\nwith {lock}: print('held', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        workers = Workers(folder, {})
        with pytest.raises(UsageError, match=r"another process"):
            sweep_in(folder, "0..1").run(workers, progress_bar=False)
        with pytest.raises(UsageError, match=r"another process"):
            sweep_in(folder).run_one(0, progress_bar=False)
        assert workers.started == []
        other.kill()
    assert sweep_in(folder, "0..1").run(workers, progress_bar=False)


def test_a_lock_may_be_shared_and_ends_with_its_holder(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with locked(file, "busy", shared=True), locked(file, "busy", shared=True):  # noqa: SIM117
        with pytest.raises(UsageError, match="busy"), locked(file, "busy"):
            pass
    with locked(file, "busy"), pytest.raises(UsageError, match="busy"):  # noqa: SIM117
        with locked(file, "busy", shared=True, patience=0.2):
            pass


def test_seeds_and_values_are_added_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    assert sweep_in(folder).run(Workers(folder, {}), progress_bar=False)
    before = files(folder)
    refused = {
        ("core=rim", ("agent.gamma", "0.5")): "a sweep with --agent.gamma nothing, and now it is '0.5'",
        ("env=memory", None): "a sweep over core, and 'env' is another key",
    }
    for (over, override), said in refused.items():
        with pytest.raises(UsageError, match=said):
            sweep_in(folder, "0", over, **dict([override] if override else []))
    with pytest.raises(UsageError, match=r"CONFIG 'distractors/rim'.*'distractors/lstm'"):
        Sweep(ask("distractors/lstm", "0", ["core=rim"]), folder, check=False)
    assert files(folder) == before
    added = Workers(folder, {})
    assert sweep_in(folder, "1", "core=gru").run(added, progress_bar=False)
    cores = ["rim", "lstm", "gru"]
    names = [f"core={core}/seed_{seed}" for seed in (0, 1) for core in cores]
    assert added.started == names[2:]
    assert [trial["path"] for trial in read_json(folder / "sweep.json")["trials"]] == names
    assert [trial.name for trial in Sweep(ask(str(folder)), folder, check=False).trials] == names


def test_a_file_that_changed_since_is_noticed(tmp_path: Path) -> None:
    file, folder = tmp_path / "mine.yaml", tmp_path / "sweep"
    file.write_text("env: {id: distractors}\n")
    assert Sweep(ask(str(file), "0"), folder, check=False).run(Workers(folder, {}), progress_bar=False)
    file.write_text("env: {id: distractors, n_envs: 8}\n")
    with pytest.raises(UsageError, match=r"env.n_envs 16.*8"):
        Sweep(ask(str(file), "0..1"), folder, check=False)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    answer = call("sweep", *GRID, "--run-dir", tmp_path)
    assert (answer.code, answer.err) == (
        2,
        f"rimrl: {tmp_path} holds something else than a sweep; choose another --run-dir\n",
    )
    assert list(files(tmp_path)) == ["notes.txt"]


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    outcome = work_on(tmp_path / "elsewhere", grid()[0])
    assert outcome.end == "refused"
    assert "all nodes" in str(outcome.message)
    assert not any(tmp_path.iterdir())


# -- trainings ----------------------------------------------------------------------------------------------------


def _wait_for(condition: Any, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


@contextmanager
def sweeping(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    line = command("sweep", *GRID, *words, "--run-dir", folder)
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def half_way(folder: Path, name: str) -> int:
    """The process that trains a trial, once it has written two checkpoints."""

    def found() -> int | None:
        attempts = Record(folder, name).attempts
        if not attempts or attempts[-1]["state"] != "running" or not (folder / name / "resume").is_dir():
            return None
        written = [path for path in (folder / name / "resume").iterdir() if path.name.isdecimal()]
        return int(attempts[-1]["pid"]) if len(written) >= 2 else None

    return int(_wait_for(found))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trial that is killed elsewhere, trained by ``rimrl train`` without a break."""
    run = tmp_path_factory.mktemp("sweep") / "alone"
    succeed("train", "distractors/lstm", *TINY, "--run-dir", run)
    return run


def assert_complete(folder: Path, killed: str, alone: Path) -> None:
    """Nothing is lost and nothing ran twice."""
    summary = read_json(folder / "sweep.json")
    assert summary["states"] == {"finished": 4}
    assert [trial["path"] for trial in summary["trials"]] == NAMES
    assert {trial["path"]: trial["attempts"] for trial in summary["trials"]} == {
        name: 1 + (name == killed) for name in NAMES
    }
    for name in NAMES:
        facts = read_json(folder / name / "environment.json")
        assert (facts["status"], facts["num_timesteps"]) == ("finished", STEPS)
        rows = (folder / name / "progress.csv").read_text().splitlines()
        column = rows[0].split(",").index("time/total_timesteps")
        assert [int(row.split(",")[column]) for row in rows[1:]] == list(range(64, STEPS + 1, 64))
    (resumed,) = read_json(folder / killed / "environment.json")["resumed"]
    assert resumed["exact"]
    assert resumed["num_timesteps"] >= 64
    assert same_weights(folder / killed, alone)
    ours, theirs = ((run / "monitor.csv").read_text().splitlines()[1:] for run in (folder / killed, alone))
    assert [row.split(",")[:2] for row in ours] == [row.split(",")[:2] for row in theirs]


@pytest.mark.slow
def test_local_processes_one_of_them_killed_half_way(tmp_path: Path, alone: Path) -> None:
    folder, killed = tmp_path / "sweep", NAMES[1]
    with sweeping(folder, "--jobs", "2", "--evaluate", "--episodes", "4") as process:
        os.kill(half_way(folder, killed), signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "finished 4 of 4 trials" in out
    assert_complete(folder, killed, alone)
    first, second = Record(folder, killed).attempts
    assert (first["state"], first["message"]) == ("failed", "the process was killed by SIGKILL")
    assert second["state"] == "finished"
    before = files(folder)
    answer = succeed("sweep", folder, "--evaluate", "--episodes", "4", "--quiet")  # nothing is left to do
    assert "finished 4 of 4 trials" in answer.out
    after = files(folder)
    del before["sweep.json"], after["sweep.json"]
    assert before == after
    table = succeed("compare", folder).out
    assert "rim" in table
    assert "lstm" in table
    succeed("report", folder, "--output", tmp_path / "report.html")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_stopped_leaves_nothing_running_and_goes_on(
    number: signal.Signals, tmp_path: Path, alone: Path
) -> None:
    folder = tmp_path / "sweep"
    with sweeping(folder, "--jobs", "2") as process:
        worker = half_way(folder, NAMES[1])
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    if number == signal.SIGINT:
        assert process.returncode == 130, err
        assert "trials are left" in err
        assert read_json(folder / "sweep.json")["states"].keys() <= {"finished", "interrupted", "pending"}
    _wait_for(lambda: not _runs(worker))
    assert Record(folder, NAMES[1]).attempts[-1]["state"] == "interrupted"
    answer = spawn("sweep", *GRID, "--run-dir", folder)
    assert answer.code == 0, answer.err
    assert_complete_without_counts(folder, alone)


def assert_complete_without_counts(folder: Path, alone: Path) -> None:
    assert read_json(folder / "sweep.json")["states"] == {"finished": 4}
    assert same_weights(folder / NAMES[1], alone)


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_job_array_trains_cells_side_by_side(tmp_path: Path, alone: Path) -> None:
    folder = tmp_path / "sweep"
    lines = [command("sweep", *GRID, "--run-dir", folder, "--trial", str(number)) for number in range(4)]
    pairs = ((0, 1, 1), (2, 3))  # one of them is started twice by mistake
    for together in pairs:
        tasks = [subprocess.Popen(lines[number], stderr=subprocess.PIPE, text=True) for number in together]
        errors = [task.communicate(timeout=240)[1] for task in tasks]
        assert [task.returncode for task in tasks] == [0] * len(tasks), errors
    summary = read_json(folder / "sweep.json")
    assert summary["states"] == {"finished": 4}
    assert [trial["attempts"] for trial in summary["trials"]] == [1] * 4
    assert same_weights(folder / NAMES[1], alone)
    experiments = yaml.safe_load((folder / "sweep.yaml").read_text())["experiments"]
    assert list(experiments) == ["core=rim", "core=lstm"]


@pytest.mark.slow
def test_a_ray_of_two_nodes_one_worker_killed_half_way(cluster: str, tmp_path: Path, alone: Path) -> None:
    folder, killed = tmp_path / "sweep", NAMES[1]
    with sweeping(folder, "--ray", cluster) as process:
        os.kill(half_way(folder, killed), signal.SIGKILL)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_complete(folder, killed, alone)
    first, _ = Record(folder, killed).attempts
    assert "Ray worker died" in first["message"]
    assert json.loads((folder / "sweep.json").read_text())["states"] == {"finished": 4}


@pytest.mark.slow
def test_a_sweep_on_ray_that_is_stopped_goes_on_here(cluster: str, tmp_path: Path, alone: Path) -> None:
    folder = tmp_path / "sweep"
    with sweeping(folder, "--ray", cluster) as process:
        half_way(folder, NAMES[1])
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert spawn("sweep", *GRID, "--run-dir", folder).code == 0
    assert_complete_without_counts(folder, alone)
