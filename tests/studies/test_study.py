"""A study: what begins when, what a failure keeps from being run, and who is kept out of the folder."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rimrl.errors import RunFailedError, UsageError
from rimrl.studies.record import Record
from rimrl.studies.workers import LocalWorkers
from tests.commands import files, read_json
from tests.studies.toys import Does, Toy, Toys, begun

# d needs both b and c, which need a; e needs nothing.
NEEDS = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ()}


def toys(folder: Path, **does: Does) -> Toys:
    return Toys(folder, [Toy(name, needs, does.get(name, "finish")) for name, needs in NEEDS.items()])


def states(study: Toys) -> dict[str, str]:
    """As the file in the folder says."""
    return {name: far["state"] for name, far in read_json(study.folder / "toybox.json").items()}


def run(study: Toys, jobs: int = 2, retries: int = 0) -> bool:
    return study.run(LocalWorkers(study.folder, jobs), retries, progress_bar=False)


def test_trials_in_a_circle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a needs b"):
        Toys(tmp_path, [Toy("a", ("b",)), Toy("b", ("a",))])


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_trial_begins_once_behind_those_that_it_needs(jobs: int, tmp_path: Path) -> None:
    study = toys(tmp_path / "box")
    assert run(study, jobs)
    order = begun(study.folder)
    assert sorted(order) == list(NEEDS)
    assert all(order.index(need) < order.index(name) for name, needs in NEEDS.items() for need in needs)
    assert states(study) == dict.fromkeys(NEEDS, "finished")
    before = files(study.folder)
    assert run(toys(study.folder))
    assert files(study.folder) == before


def test_what_needs_a_failed_trial_is_not_run_and_the_others_are(tmp_path: Path) -> None:
    study = toys(tmp_path / "box", b="break")
    with pytest.raises(RunFailedError, match=r"1.*5.*/b: ZeroDivisionError"):
        run(study)
    assert sorted(begun(study.folder)) == ["a", "b", "c", "e"]
    assert (list(study.failures), study.left_out) == (["b"], {"d": "b"})
    expected = {"a": "finished", "b": "failed", "c": "finished", "d": "blocked", "e": "finished"}
    assert states(study) == expected
    (study.folder / "mended").touch()
    again = toys(study.folder, b="break")
    assert run(again)
    assert begun(study.folder)[4:] == ["b", "d"]
    assert states(again) == dict.fromkeys(NEEDS, "finished")


def test_a_failure_leaves_out_what_needs_it_at_any_distance(tmp_path: Path) -> None:
    study = toys(tmp_path / "box", a="refuse")
    with pytest.raises(RunFailedError):
        run(study)
    assert sorted(begun(study.folder)) == ["a", "e"]
    assert study.left_out == {"b": "a", "c": "a", "d": "b"}
    assert list(states(study).values()) == ["failed", "blocked", "blocked", "blocked", "finished"]


@pytest.mark.parametrize(("does", "attempts"), [("break", 3), ("die", 3), ("refuse", 1)])
def test_what_breaks_or_dies_is_tried_again_and_bad_input_is_not(does: Does, attempts: int, tmp_path: Path) -> None:
    study = Toys(tmp_path / "box", [Toy("only", does=does)])
    with pytest.raises(RunFailedError) as error:
        run(study, retries=2)
    assert begun(study.folder) == ["only"] * attempts
    noted = Record(study.folder, "only").attempts
    said = {"break": "the simulator broke", "die": "killed by SIGKILL", "refuse": "the loss is NaN"}[does]
    assert [each["state"] for each in noted] == ["failed"] * attempts
    assert all(said in each["message"] for each in noted)
    assert said in str(error.value)


def test_another_command_is_kept_out_and_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    assert run(Toys(folder, [Toy("a")]))
    lock = f"locked(Path({str(folder / 'logs/.lock')!r}), 'no')"
    code = f"from pathlib import Path; from rimrl.files import locked\nwith {lock}: print('held', flush=True); input()"
    pipe = subprocess.PIPE
    before = files(folder)
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for work in (run, lambda study: study.run_one(1)):
            with pytest.raises(UsageError, match=r"another process"):
                work(Toys(folder, [Toy("a"), Toy("b")]))
        other.kill()
    assert files(folder) == before


def test_one_trial_of_a_job_array_brings_what_it_needs(tmp_path: Path) -> None:
    study = toys(tmp_path / "box")
    assert study.run_one(3, progress_bar=False).end == "finished"
    assert begun(study.folder) == ["a", "b", "c", "d"]
    assert study.run_one(1, progress_bar=False).end == "finished"
    assert begun(study.folder) == ["a", "b", "c", "d"]
    assert states(study) == {**dict.fromkeys("abcd", "finished"), "e": "pending"}


def test_one_trial_of_a_job_array_whose_need_fails_is_not_run(tmp_path: Path) -> None:
    study = toys(tmp_path / "box", a="break")
    outcome = study.run_one(1, progress_bar=False)
    assert (outcome.end, begun(study.folder)) == ("failed", ["a"])
    assert "because a failed" in str(outcome.message)
    assert [states(study)[name] for name in "ab"] == ["failed", "blocked"]


def test_one_trial_of_a_job_array_waits_for_what_another_task_is_at(tmp_path: Path) -> None:
    study = toys(tmp_path / "box")
    log = Record(study.folder, "a").log
    log.parent.mkdir(parents=True)
    code = f"from pathlib import Path; from rimrl.files import locked\nwith locked(Path({str(log)!r}), 'no'):"
    code += f" print('held', flush=True); input(); Path({str(study.folder / 'a')!r}).mkdir()"
    code += f"; Path({str(study.folder / 'a' / 'done')!r}).touch()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        task = threading.Thread(target=study.run_one, args=(1, False))
        task.start()
        task.join(0.5)
        assert task.is_alive()
        assert begun(study.folder) == []
        other.communicate("\n")
    task.join(60)
    assert begun(study.folder) == ["b"]


def test_a_trial_that_stops_is_not_finished(tmp_path: Path) -> None:
    study = toys(tmp_path / "box", a="stop")
    assert study.run_one(0, progress_bar=False).end == "interrupted"
    assert states(study)["a"] == "interrupted"
