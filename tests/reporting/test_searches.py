"""What a report says of searches: only of those that a group's configuration really comes from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from rimrl.errors import UsageError
from rimrl.reporting.groups import Group, group_runs
from rimrl.reporting.report import page
from rimrl.reporting.results import read_runs
from rimrl.reporting.searches import read_search, remarks, searched
from tests.commands import call, succeed
from tests.reporting.pages import comparison, parsed
from tests.reporting.results import split, write_run

SPACE = {"agent.learning_rate": "1e-4..1e-2,log", "agent.net_arch": "[],[16]"}
# The last one has the values of the best, and was pruned.
TRIALS = [
    ("complete", {"agent.learning_rate": 0.001, "agent.net_arch": "[]"}),
    ("complete", {"agent.learning_rate": 0.003, "agent.net_arch": "[16]"}),
    ("pruned", {"agent.learning_rate": 0.01, "agent.net_arch": "[]"}),
    ("diverged", {"agent.learning_rate": 0.003, "agent.net_arch": "[16]"}),
]


def config(core: str = "rim", rate: float = 0.003, arch: Sequence[int] = (16,), **agent: Any) -> dict[str, Any]:
    return {
        "name": f"distractors/{core}",
        "env": {"id": "distractors", "n_envs": 4},
        "core": {"name": core, "hidden_size": 12},
        "agent": {"algorithm": "ppo", "learning_rate": rate, "net_arch": list(arch), "gamma": 0.98, **agent},
        "train": {"seed": 0, "total_timesteps": 128},
    }


def write_search(
    folder: Path, core: str = "rim", steps: int = 3_000_000, trials: Sequence[Any] = TRIALS, best: int | None = 1
) -> Path:
    """The folder of a search as ``rimrl tune`` leaves it, with what a report reads."""
    folder.mkdir(parents=True)
    states = [state for state, _ in trials]
    counts = {state: states.count(state) for state in ("complete", "pruned", "diverged", "unfit")}
    result = {
        "config": f"distractors/{core}",
        "search": {"core": core, "trials": len(trials), **counts, "steps": steps, "seconds": 9.5},
        "best": None if best is None else {"number": best},
        "trials": [
            {"number": number, "path": f"trial_{number:03d}", "result": state, "values": values}
            for number, (state, values) in enumerate(trials)
        ]
        + [{"number": len(trials), "path": "trial_099", "state": "pending"}],
    }
    (folder / "tuning.json").write_text(json.dumps(result))
    (folder / "tuning.yaml").write_text(yaml.safe_dump({"space": SPACE, "experiment": config(core, 0.001, ())}))
    return folder


def write_runs(folder: Path, settings: dict[str, Any], seeds: int = 2) -> list[Path]:
    splits = {"train": split(), "novel_shapes": split(held_out=True)}
    return [
        write_run(
            folder / f"seed_{seed}",
            splits,
            settings["name"],
            settings={**settings, "train": {**settings["train"], "seed": seed}},
        )
        for seed in range(seeds)
    ]


def grouped(*paths: Path) -> list[Group]:
    return group_runs(read_runs(paths))


def test_a_search_is_read(tmp_path: Path) -> None:
    search = read_search(write_search(tmp_path / "tune"))
    assert (search.trials, search.steps, search.best) == (4, 3_000_000, 1)
    assert search.states == {"complete": 2, "pruned": 1, "diverged": 1, "unfit": 0}
    assert search.space == SPACE
    assert search.values.keys() == {0, 1}
    for part in ("4 trials", "2 complete", "1 pruned", "1 diverged", "3,000,000 steps"):
        assert part in search.effort
    assert "unfit" not in search.effort


@pytest.mark.parametrize(
    ("changes", "trial"),
    [
        ({}, 1),
        ({"rate": 0.001, "arch": ()}, 0),
        ({"rate": 0.01, "arch": ()}, None),  # was pruned
        ({"rate": 0.001}, None),  # of two trials
        ({"gamma": 0.99}, None),  # not searched
        ({"core": "gru"}, None),
        ({"use_masking": False, "target_kl": None}, 1),  # off is the same as not there
    ],
)
def test_a_group_comes_from_a_search_if_it_has_all_values_of_a_complete_trial(
    changes: dict[str, Any], trial: int | None, tmp_path: Path
) -> None:
    folder = write_search(tmp_path / "tune")
    groups = grouped(*write_runs(tmp_path / "runs", config(**changes)))
    if trial is None:
        with pytest.raises(UsageError) as refused:
            searched(groups, [folder])
        assert str(folder) in str(refused.value)
        return
    (found,) = searched(groups, [folder])
    assert found.search is not None
    assert (found.search.folder, found.trial) == (folder, trial)
    assert len(list(remarks([found]))) == (trial != 1)


def test_the_refusal_names_the_key_that_differs(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "tune")
    for changed, key in ((config(gamma=0.5), "agent.gamma"), (config(rate=0.5), "agent.learning_rate")):
        groups = grouped(*write_runs(tmp_path / key, changed))
        with pytest.raises(UsageError) as refused:
            searched(groups, [folder])
        assert key in str(refused.value)


def test_runs_in_a_search_and_in_a_sweep_of_its_best_name_it(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "tune")
    (inside,) = write_runs(folder / "trial_000", config(rate=0.001, arch=()), seeds=1)
    swept = write_runs(tmp_path / "sweep", config())
    (tmp_path / "sweep/sweep.yaml").write_text(yaml.safe_dump({"config": str(folder / "best.yaml")}))
    for paths, trial in (([inside], 0), (swept, 1)):
        (found,) = searched(grouped(*paths))
        assert found.search is not None
        assert found.search.folder.samefile(folder)
        assert found.trial == trial
        assert list(remarks([found])) == []
    shutil.rmtree(folder)
    assert searched(grouped(*swept)) == []


def test_a_sweep_that_names_something_else_has_no_search(tmp_path: Path) -> None:
    swept = write_runs(tmp_path / "sweep", config())
    for content in ("config: distractors/rim", "config: [1]", "- 1", "{", f"config: {tmp_path}/best.yaml"):
        (tmp_path / "sweep/sweep.yaml").write_text(content)
        assert searched(grouped(*swept)) == []


def test_unequal_effort_and_an_unknown_search_are_remarked(tmp_path: Path) -> None:
    runs = [*write_runs(tmp_path / "rim", config()), *write_runs(tmp_path / "gru", config("gru"))]
    rim, gru = write_search(tmp_path / "tune/rim"), write_search(tmp_path / "tune/gru", "gru")
    less = write_search(tmp_path / "tune/less", "gru", steps=1_000)
    assert searched(grouped(*runs)) == []
    assert list(remarks(searched(grouped(*runs), [rim, gru]))) == []
    (effort,) = remarks(searched(grouped(*runs), [rim, less]))
    assert "3,000,000" in effort
    assert "1,000" in effort
    (unknown,) = remarks(searched(grouped(*runs), [gru]))
    assert unknown.index("gru") < unknown.index("rim")


def test_the_page_shows_the_effort_of_each_group(tmp_path: Path) -> None:
    runs = [*write_runs(tmp_path / "rim", config()), *write_runs(tmp_path / "gru", config("gru"))]
    compared = comparison(runs)
    groups = [summary.group for summary in compared.summaries]
    folder = write_search(tmp_path / "tune")
    tree = parsed(page(compared, searched(groups, [folder])))
    head, *rows = tree.one(aria_label="Table of searches").all("tr")
    cells = [[cell.text for cell in row.children] for row in (head, *rows)]
    shown = dict(zip(cells[0], cells[1], strict=True))
    assert [cell[0] for cell in cells[1:]] == ["rim", "gru"]
    assert (shown["trials"], shown["complete"], shown["pruned"], shown["steps in all"]) == ("4", "2", "1", "3,000,000")
    assert all(f"{key}={text}" in shown["searched"] for key, text in SPACE.items())
    assert shown["folder"] == str(folder)
    assert len(cells[2]) == 2
    assert f"--search {folder}" in tree.one(id="commands").text
    assert not parsed(page(compared)).all(aria_label="Table of searches")


def test_the_command_prints_the_effort(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", config())
    folder = write_search(tmp_path / "tune")
    answer = succeed("report", tmp_path / "runs", "--search", folder, "--output", tmp_path / "report.html")
    (line,) = [line for line in answer.out.splitlines() if line.startswith("searched for")]
    assert "4 trials" in line
    assert "3,000,000 steps" in line
    assert all(key in line for key in SPACE)


def damage(folder: Path, name: str, change: dict[str, Any]) -> None:
    content = yaml.safe_load((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | change))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("tuning.json", {"search": 3}, "tuning.search"),
        ("tuning.json", {"search": {"trials": -1}}, "trials"),
        ("tuning.json", {"best": {"number": "x"}}, "number"),
        ("tuning.json", {"trials": [1]}, "trials"),
        ("tuning.yaml", {"space": {"agent.gamma": 3}}, "agent.gamma"),
        ("tuning.yaml", {"experiment": []}, "experiment"),
    ],
)
def test_a_damaged_search_is_one_line(name: str, change: dict[str, Any], said: str, tmp_path: Path) -> None:
    runs, folder = write_runs(tmp_path / "runs", config()), write_search(tmp_path / "tune")
    damage(folder, name, change)
    answer = call("report", *runs, "--search", folder, "--output", tmp_path / "report.html")
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert said in answer.err
    assert not (tmp_path / "report.html").exists()


def test_a_folder_without_a_search_is_refused(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", config())
    for folder in (tmp_path / "runs", tmp_path / "nowhere"):
        answer = call("report", *runs, "--search", folder, "--output", tmp_path / "report.html")
        assert (answer.code, answer.err.count("\n")) == (2, 1)
        assert str(folder) in answer.err
