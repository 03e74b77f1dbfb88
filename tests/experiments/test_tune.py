"""A search: what Optuna is asked and told, how trials end, and what is left when something breaks."""

from __future__ import annotations

import csv
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium
import pytest
import yaml

from rimrl.envs.suites import get_suite
from rimrl.errors import UsageError
from rimrl.experiments import tune_trial
from rimrl.experiments.config_files import load_config
from rimrl.experiments.evaluate import evaluate
from rimrl.experiments.search import JOURNAL, Search, Strategy, import_optuna
from rimrl.experiments.tune import Tune
from rimrl.experiments.tune_config import ask
from rimrl.experiments.tune_space import Choice, Range
from rimrl.experiments.tune_trial import OBJECTIVE_SEED, STATES, Curve, read_result
from rimrl.files import locked
from rimrl.reporting.searches import read_search
from rimrl.studies.record import Record
from rimrl.studies.trial import Outcome, Trial
from rimrl.studies.worker import work_on
from rimrl.studies.workers import LocalWorkers
from tests.commands import call, command, files, read_json, same_weights, succeed

pytest.importorskip("optuna", reason="Optuna is not installed")

STEPS = 128
TINY = {
    **{"env.n_envs": "4", "agent.n_steps": "8", "agent.batch_size": "32", "train.eval_freq": "0"},
    **{"train.resume_freq": "32", "core.hidden_size": "12", "train.total_timesteps": str(STEPS)},
}
SPACE = ("agent.learning_rate=1e-4..1e-2,log", "core.num_active=2..5", "agent.n_epochs=1,2")
WORDS = [word for key, value in TINY.items() for word in (f"--{key}", value)]
WORDS += [word for each in SPACE for word in ("--space", each)] + ["--episodes", "4", "--quiet"]
STRATEGY = Strategy({"rate": Range(1e-4, 1e-1, log=True, whole=False), "kind": Choice(("a", "b"))}, {"rate": 0.05})


class Here(LocalWorkers):
    """Work in this process, one trial after the other."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, jobs=1)
        self.started: list[str] = []
        self._now: list[tuple[str, Outcome]] = []

    @property
    def busy(self) -> bool:
        return bool(self._now)

    @property
    def free(self) -> bool:
        return not self._now

    def start(self, trial: Trial) -> None:
        self.started.append(trial.name)
        self._now.append((trial.name, work_on(self._folder, trial)))

    def ended(self, timeout: float) -> list[tuple[str, Outcome]]:
        now, self._now = self._now, []
        return now


def tune_in(folder: Path, trials: int = 3, space: tuple[str, ...] = SPACE, **options: Any) -> Tune:
    asked = ask("distractors/rim", space, TINY.items(), trials=trials, episodes=4, **options)
    return Tune(asked, folder, check=False)


def tuned(folder: Path, trials: int = 3, **options: Any) -> Tune:
    tune = tune_in(folder, trials, **options)
    assert tune.run(Here(folder), progress_bar=False)
    return tune


# -- what Optuna is asked and told ----------------------------------------------------------------------------------


def played(folder: Path, strategy: Strategy, trials: int) -> list[dict[str, Any]]:
    """Values of trials whose score is highest at a rate of 0.01."""
    (folder / "logs").mkdir(parents=True)
    drawn = []
    for number in range(trials):
        search = Search(folder, strategy, number)
        drawn.append(search.values)
        search.finish({}, -abs(search.values["rate"] - 0.01))
    return drawn


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_seed_decides_what_is_tried(sampler: str, tmp_path: Path) -> None:
    strategy = replace(STRATEGY, sampler=sampler)
    ours, again = (played(tmp_path / name, strategy, 14) for name in ("ours", "again"))
    other = played(tmp_path / "other", replace(strategy, seed=1), 14)
    assert ours == again
    assert ours[0]["rate"] == other[0]["rate"] == 0.05  # where the configuration itself lies
    assert all(one["rate"] != two["rate"] for one, two in zip(ours[1:], other[1:], strict=True))
    assert len({each["rate"] for each in ours}) == 14
    assert all(1e-4 <= each["rate"] <= 1e-1 and each["kind"] in "ab" for each in ours)


def test_tpe_learns_from_scores_and_random_does_not(tmp_path: Path) -> None:
    def distance(sampler: str) -> float:
        drawn = played(tmp_path / sampler, replace(STRATEGY, sampler=sampler), 35)
        return median(abs(math.log(each["rate"] / 0.01)) for each in drawn[15:])

    assert distance("tpe") < 0.6 * distance("random")


def test_a_trial_that_is_asked_for_again_has_the_same_values_and_learning_curve(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    second = Search(tmp_path, STRATEGY, 1)  # of a job array, whose tasks come in any order
    first = Search(tmp_path, STRATEGY, 0)
    assert first.values["rate"] == 0.05
    assert not second.is_hopeless(1, 0.5)
    with (tmp_path / JOURNAL).open("ab") as stream:
        stream.write(b'{"op_code": 4, "worker_id": "x", "tri')  # killed while it wrote
    again = Search(tmp_path, STRATEGY, 1)
    assert again.values == second.values
    assert again.result is None
    assert not again.is_hopeless(1, 0.7)  # noted before
    again.finish({"state": "complete"}, 0.5)
    assert Search(tmp_path, STRATEGY, 1).result == {"state": "complete"}
    assert Search(tmp_path, STRATEGY, 0).result is None


@pytest.mark.parametrize("content", [b"no json\n{}\n", b"[]\n[]\n", b'{"op_code": 77}\n{"op_code": 77}\n'])
def test_a_damaged_file_of_optunas_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / JOURNAL).write_bytes(content)
    with pytest.raises(UsageError, match=r"optuna.log is damaged"):
        Search(tmp_path, STRATEGY, 0)


def test_worse_than_the_median_is_hopeless_once_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()

    def hopeless(number: int, value: float, strategy: Strategy = STRATEGY) -> list[int]:
        search = Search(tmp_path, strategy, number)
        found = [point for point in range(1, 8) if search.is_hopeless(point, value)]
        search.finish({}, None if found else value)
        return found

    assert [hopeless(number, value) for number, value in enumerate((0.1, 0.2, 0.3, 0.4, 0.5))] == [[]] * 5
    assert hopeless(5, 0.35) == []
    assert hopeless(6, 0.25, replace(STRATEGY, pruning=False)) == []
    # Medians of 0.1 … 0.5, 0.35, 0.25; none within the first fifth of 20 points.
    assert hopeless(7, 0.29) == [4, 5, 6, 7]


# -- trials ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of three trials that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("tune") / "whole"
    tuned(folder)
    return folder


def test_what_a_search_leaves(whole: Path) -> None:
    summary = read_json(whole / "tuning.json")
    trials = summary["trials"]
    assert [each["path"] for each in trials] == ["trial_000", "trial_001", "trial_002"]
    assert all((each["state"], each["result"], each["attempts"]) == ("finished", "complete", 1) for each in trials)
    assert summary["search"] | {"seconds": 0} == {
        **{"core": "rim", "trials": 3, "complete": 3, "pruned": 0, "diverged": 0, "unfit": 0},
        **{"steps": 3 * STEPS, "seconds": 0},
    }
    for each in trials:
        run = whole / each["path"] / "seed_0"
        flat = load_config(str(run / "config.yaml")).flat()
        assert {key: flat[key] for key in ("agent.learning_rate", "core.num_active")} == {
            key: each["values"][key] for key in ("agent.learning_rate", "core.num_active")
        }
        assert flat["agent.n_epochs"] == int(each["values"]["agent.n_epochs"])
        evaluation = read_json(run / "evaluation.json")
        assert (list(evaluation["splits"]), evaluation["seed"]) == (["train"], OBJECTIVE_SEED)
        assert each["score"] == evaluation["splits"]["train"]["success_rate"]
    with (whole / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["agent.learning_rate"]) for row in rows] == [
        each["values"]["agent.learning_rate"] for each in trials
    ]
    assert [(row["trial"], row["state"], row["steps"]) for row in rows] == [
        (str(number), "complete", str(STEPS)) for number in range(3)
    ]
    best = max(trials, key=lambda each: each["score"])
    assert summary["best"]["number"] == best["number"]


def test_a_report_reads_what_a_search_wrote(whole: Path) -> None:
    tune = tune_in(whole)
    search, effort = read_search(whole), tune.effort()
    assert search.states == {state: effort[state] for state in STATES}
    assert (search.trials, search.steps) == (effort["trials"], effort["steps"]) == (3, 3 * STEPS)
    assert search.space == dict(word.split("=", 1) for word in SPACE)
    best = tune.best_config()
    assert best is not None
    assert tune.best is not None
    assert search.trial_of(yaml.safe_load(best.to_yaml())) == search.best == tune.best[0]


def test_the_first_trial_is_the_configuration_as_it_stands(whole: Path) -> None:
    alone = load_config("distractors/rim", [f"--{key}={value}" for key, value in TINY.items()]).flat()
    first = load_config(str(whole / "trial_000" / "seed_0" / "config.yaml")).flat()
    assert {key for key in alone if alone[key] != first[key]} == {"agent.n_epochs"}  # 4, where there are 1 and 2


def test_the_best_configuration_repeats_the_trial(whole: Path, tmp_path: Path) -> None:
    text = (whole / "best.yaml").read_text()
    assert text.startswith(f"# rimrl train {whole / 'best.yaml'}\n")
    best = read_json(whole / "tuning.json")["best"]
    succeed("train", whole / "best.yaml", "--run-dir", tmp_path / "again", "--quiet")
    trial = whole / f"trial_{best['number']:03d}" / "seed_0"
    assert same_weights(tmp_path / "again", trial)
    words = ("--episodes", "4", "--split", "train", "--seed", str(OBJECTIVE_SEED), "--no-random", "--quiet")
    succeed("evaluate", tmp_path / "again", *words)
    ours, theirs = (read_json(run / "evaluation.json")["splits"]["train"] for run in (tmp_path / "again", trial))
    assert ours == theirs
    assert yaml.safe_load(text)["name"] == "distractors/rim_tuned"


def test_held_out_splits_are_never_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, Mapping[str, Any]]] = []
    real = gymnasium.make

    def spy(env_id: Any, **kwargs: Any) -> Any:
        made.append((str(getattr(env_id, "id", env_id)), kwargs))
        return real(env_id, **kwargs)

    monkeypatch.setattr(gymnasium, "make", spy)
    asked = ask("distractors/rim", SPACE, (TINY | {"train.eval_freq": "64"}).items(), trials=1, episodes=4)
    assert Tune(asked, tmp_path / "tune").run(Here(tmp_path / "tune"), progress_bar=False)
    splits = get_suite("distractors").splits
    ids = {split.name: split.env_id for split in splits}
    assert len(set(ids.values())) == len(ids)  # an id tells the split
    assert {env_id for env_id, _ in made} == {ids["train"]}


@pytest.mark.slow
def test_several_seeds_are_one_trial_and_the_score_is_their_mean(tmp_path: Path) -> None:
    folder = tmp_path / "tune"
    tune = tuned(folder, 1, seeds="3..4")
    (result,) = tune.results.values()
    rates = [read_json(folder / f"trial_000/seed_{seed}/evaluation.json")["splits"]["train"] for seed in (3, 4)]
    assert result.score == sum(each["success_rate"] for each in rates) / 2
    assert [(each.seed, each.steps) for each in result.seeds] == [(3, STEPS), (4, STEPS)]
    assert not same_weights(folder / "trial_000/seed_3", folder / "trial_000/seed_4")
    assert yaml.safe_load((folder / "best.yaml").read_text())["train"]["seed"] == 3


def test_a_pruned_trial_is_marked_as_such_and_ends_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "is_hopeless", lambda self, step, value: self._number == 1 and step >= 10)
    folder = tmp_path / "tune"
    tuned(folder, 2)
    first, second = read_json(folder / "tuning.json")["trials"]
    assert (first["result"], first["steps"]) == ("complete", STEPS)
    assert (second["state"], second["result"], second["score"]) == ("finished", "pruned", None)
    assert STEPS / 2 <= second["steps"] < STEPS
    run = folder / "trial_001" / "seed_0"
    assert read_json(run / "environment.json")["status"] == "interrupted"
    assert not (run / "evaluation.json").exists()
    assert read_json(folder / "tuning.json")["best"]["number"] == 0
    monkeypatch.undo()
    optuna = import_optuna()
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    states = [trial.state.name for trial in optuna.load_study(study_name="rimrl", storage=storage).trials]
    assert states == ["COMPLETE", "PRUNED"]
    again = Here(folder)
    assert tune_in(folder, 2).run(again, progress_bar=False)
    assert again.started == []
    assert succeed("train", "--resume", run, "--quiet").code == 0  # a run like any other that was stopped
    assert read_json(run / "environment.json")["num_timesteps"] == STEPS


@pytest.mark.slow
def test_the_learning_curve_is_that_of_the_progress_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: dict[int, float] = {}

    def note(search: Search, step: int, value: float) -> bool:
        noted[step] = value
        return False

    monkeypatch.setattr(Search, "is_hopeless", note)
    longer = {"train.total_timesteps": "1280"}  # 40 updates, two a point
    asked = ask("distractors/rim", SPACE, (TINY | longer).items(), trials=1, episodes=4)
    assert Tune(asked, tmp_path / "tune", check=False).run(Here(tmp_path / "tune"), progress_bar=False)
    with (tmp_path / "tune/trial_000/seed_0/progress.csv").open() as stream:
        rows = {int(row["time/total_timesteps"]): row["rollout/success_rate"] for row in csv.DictReader(stream)}
    known = {step // 64: float(rate) for step, rate in rows.items() if step % 64 == 0 and rate}
    assert noted.keys() >= set(range(10, 21))
    assert noted == {point: known[point] for point in noted}


def test_training_that_diverges_ends_a_trial_and_not_the_search(tmp_path: Path) -> None:
    folder = tmp_path / "tune"
    tune = tuned(folder, 4, space=("agent.learning_rate=1e-3,1e25",))
    results = tune.results.values()
    for result in results:
        bad = result.values["agent.learning_rate"] == "1e25"
        assert result.state == ("diverged" if bad else "complete")
        assert (result.score is None) == bad
    assert {result.state for result in results} == {"diverged", "complete"}
    assert read_json(folder / "tuning.json")["best"]["values"] == {"agent.learning_rate": "1e-3"}


def test_values_that_do_not_fit_together_end_a_trial_without_training(tmp_path: Path) -> None:
    tune = tune_in(tmp_path, 1, ("core.num_units=3,6", "core.num_active=2,4"))
    (trial,) = tune.trials
    start = {"core.num_units": "3", "core.num_active": "4"}
    unlucky = replace(trial, strategy=replace(trial.strategy, start=start))
    (tmp_path / "logs").mkdir()
    assert work_on(tmp_path, unlucky) == Outcome("finished")
    result = read_result(tmp_path / "trial_000")
    assert result is not None
    assert (result.state, result.steps, result.values) == ("unfit", 0, start)
    assert "num_active" in str(result.message)
    assert not (tmp_path / "trial_000" / "seed_0").exists()


# -- what breaks -----------------------------------------------------------------------------------------------------


def ends(folder: Path, trials: int = 3) -> dict[int, Any]:
    """How as many trials of a search ended, in which others may have followed."""
    results = tune_in(folder, trials).results
    return {number: (each.state, each.values, each.seeds) for number, each in results.items() if number < trials}


def test_stopped_at_any_place_a_search_goes_on(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a kill, nothing is written after the moment at which it breaks off."""
    folder, moments = tmp_path / "tune", []

    def break_off(place: str) -> None:
        moments.append(place)
        raise KeyboardInterrupt

    def at_once(curve: Curve) -> None:
        if curve.num_timesteps == 96 and moments.count("training") == 0:
            break_off("training")
        real_point(curve)

    def unscored(*words: Any, **options: Any) -> Any:
        return break_off("evaluation") if moments.count("evaluation") == 0 else real_evaluate(*words, **options)

    def untold(search: Search, *words: Any) -> None:
        if moments.count("telling") == 0:
            break_off("telling")
        real_finish(search, *words)
        if moments.count("told") == 0:
            break_off("told")

    real_point, real_evaluate, real_finish = Curve._on_rollout_end, evaluate, Search.finish
    monkeypatch.setattr(Curve, "_on_rollout_end", at_once)
    monkeypatch.setattr(tune_trial, "evaluate", unscored)
    monkeypatch.setattr(Search, "finish", untold)
    asked = tune_in(folder, 2)
    trial = asked.trials[0]
    (folder / "logs").mkdir(parents=True)
    outcomes = [work_on(folder, trial).end for _ in range(5)]
    assert outcomes == ["interrupted"] * 4 + ["finished"]
    assert moments == ["training", "evaluation", "telling", "told"]
    (folder / "tuning.yaml").write_text(asked.description())
    later = Here(folder)
    assert tune_in(folder, 2).run(later, progress_bar=False)
    assert later.started == ["trial_001"]
    assert ends(folder, 2) == ends(whole, 2)
    assert all(same_weights(folder / name, whole / name) for name in ("trial_000/seed_0", "trial_001/seed_0"))


def test_more_trials_are_added_and_none_is_repeated(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tune"
    tuned(folder, 1)
    before = files(folder / "trial_000")
    workers = Here(folder)
    assert Tune(ask(str(folder), trials=2), folder).run(workers, progress_bar=False)
    assert workers.started == ["trial_001"]
    assert files(folder / "trial_000") == before
    assert ends(folder, 2) == ends(whole, 2)


def test_a_search_whose_file_is_gone_does_not_begin_anew(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "tune")
    (tmp_path / "tune" / JOURNAL).unlink()
    with pytest.raises(UsageError, match=r"no .*optuna\.log"):
        tune_in(tmp_path / "tune", 4)


def test_a_second_command_on_the_folder_is_refused(whole: Path) -> None:
    with locked(whole / "logs/.lock", "busy"):
        answer = call("tune", whole, "--quiet")
    assert (answer.code, answer.out) == (2, "")
    assert f"another process works on the tuning {whole};" in answer.err
    with locked(whole / "logs/.lock", "busy"):
        pass


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--space", "agent.learnin_rate=1e-4..1e-2"), r"'agent\.learning_rate'\?"),
        (("--space", "agent.gamma=0.9..1.5"), r"agent\.gamma must be between 0 and 1, got 1\.5"),
        (("--space", "core.num_active=4,9"), r"\(with --space core\.num_active=9"),
        (("--sampler", "tpee"), r"'tpee'.*--sampler.*'tpe'\?"),
        (("--trials", "0"), "--trials must be from 1 to 10000, got 0"),
        (("--episodes", "0"), "--episodes must be from 1 to 100000, got 0"),
        (("--sampler-seed", "-1"), "--sampler-seed must be from 0"),
        (("--train.seed", "1"), "search.*--seeds"),
        (("--seeds", "4..0"), r"'4\.\.0'.*seed.*range"),
        (("--jobs", "0"), "--jobs.*1, got 0"),
        (("--core.num_activ", "3"), r"'core\.num_active'\?"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    answer = call("tune", "distractors/rim", "--env.n_envs", "8", *words, "--run-dir", tmp_path / "tune")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("rimrl: ")
    assert answer.err.count("\n") == 1
    assert re.search(said, answer.err)
    assert not any(tmp_path.iterdir())


def test_without_optuna_the_command_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    answer = call("tune", "distractors/rim", "--run-dir", tmp_path / "tune")
    assert (answer.code, answer.err) == (
        2,
        "rimrl: rimrl tune needs Optuna, which is not installed; run: pip install 'rimrl[tune]'\n",
    )
    assert not any(tmp_path.iterdir())


def test_reports_read_the_folder(whole: Path, tmp_path: Path) -> None:
    assert "train" in succeed("compare", whole).out
    succeed("report", whole, "--output", tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 1000


@pytest.mark.slow
def test_killed_twice_and_run_again(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tune"
    line = command("tune", "distractors/rim", *WORDS, "--trials", "3", "--jobs", "1", "--run-dir", folder)

    def runs(name: str) -> bool:
        return (folder / name / "seed_0" / "resume").is_dir() and not (folder / name / "trial.json").exists()

    for name in ("trial_000", "trial_001"):
        with subprocess.Popen(line) as process:
            deadline = time.monotonic() + 200
            while not runs(name) and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.kill()
        pid = Record(folder, name).attempts[-1]["pid"]
        if name == "trial_001":
            with suppress(ProcessLookupError):  # it has seen its parent go
                os.kill(pid, signal.SIGKILL)
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert ends(folder) == ends(whole)
    assert len(Record(folder, "trial_002").attempts) == 1
    assert all(same_weights(folder / each, whole / each) for each in (f"trial_00{i}/seed_0" for i in range(3)))
