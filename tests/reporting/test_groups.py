"""Which runs belong together, and what they are called."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rimrl.errors import UsageError
from rimrl.reporting.comparability import remarks
from rimrl.reporting.groups import METRICS, Group, common_metric, common_splits, find_group, group_runs
from rimrl.reporting.results import RunResults, find_runs, read_runs
from tests.reporting.results import split, write_run

RIM = {"name": "rim", "num_units": 6, "num_active": 4}


def run(
    path: Path, seed: int, config: str = "distractors/rim", splits: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """A run whose configuration is a RIM's with dotted changes."""
    settings: dict[str, Any] = {"name": config, "env": {"id": "distractors", "kwargs": {}}, "core": dict(RIM)}
    settings["agent"] = {"algorithm": "ppo"}
    settings["train"] = {"seed": seed, "total_timesteps": 1000, "device": "auto"}
    for key, value in changes.items():
        group, name = key.split("__")
        settings.setdefault(group, {})[name] = value
    return write_run(path, splits or {"train": split()}, config, settings=settings)


def groups(*paths: Path) -> list[Group]:
    return group_runs(read_runs(paths))


def labels(*paths: Path) -> list[str]:
    return [group.label for group in groups(*paths)]


def test_seeds_of_a_configuration_are_a_group(tmp_path: Path) -> None:
    rim = [run(tmp_path / f"rim{seed}", seed) for seed in (3, 1, 2)]
    lstm = [run(tmp_path / f"lstm{seed}", seed, "distractors/lstm", core__name="lstm") for seed in (1, 2)]
    found = groups(lstm[1], rim[0], lstm[0], rim[1], rim[2])
    assert [(group.label, [member.seed for member in group.runs]) for group in found] == [
        ("lstm", [1, 2]),
        ("rim", [1, 2, 3]),
    ]


@pytest.mark.parametrize(
    "change",
    [
        ("train__device", "cuda"),
        ("train__num_threads", 2),
        ("train__eval_freq", 0),
        ("env__efference_copies", False),  # which a run of an older version does not mention
        ("agent__target_kl", None),
        ("task__test_blanks", [50, 200]),
        ("task__test_lengths", [50]),
        ("task__test_resolutions", [14]),
        ("task__test_balls", ["4"]),
    ],
)
def test_what_changes_no_result_changes_no_group(change: tuple[str, Any], tmp_path: Path) -> None:
    assert labels(run(tmp_path / "a", 1), run(tmp_path / "b", 2, **dict([change]))) == ["rim"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"core__num_active": 3}, ["rim (core.num_active=4)", "rim (core.num_active=3)"]),
        ({"train__total_timesteps": 500}, ["rim (train.total_timesteps=1000)", "rim (train.total_timesteps=500)"]),
        ({"env__kwargs": {"tiles": "rgb"}}, ["rim (env.kwargs.tiles=-)", "rim (env.kwargs.tiles=rgb)"]),
        # A core's own options say less than its name, which both have.
        ({"core__name": "lstm", "core__bias": True}, ["rim (core.name=rim)", "rim (core.name=lstm)"]),
        ({"core__dense": True}, ["rim (core.dense=-)", "rim (core.dense=true)"]),
    ],
)
def test_equal_names_are_told_apart_by_what_differs(changes: Any, named: list[str], tmp_path: Path) -> None:
    paths = [run(tmp_path / "a", 1), run(tmp_path / "b", 1, **changes), run(tmp_path / "c", 2)]
    assert labels(*paths) == named


def test_as_many_keys_as_it_takes(tmp_path: Path) -> None:
    paths = [
        run(tmp_path / f"{units}{active}", 1, core__num_units=units, core__num_active=active)
        for units in (6, 8)
        for active in (2, 4)
    ]
    assert labels(*paths)[0] == "rim (core.num_units=6, core.num_active=2)"
    assert len(set(labels(*paths))) == 4


def test_names_that_differ_in_their_folder_alone(tmp_path: Path) -> None:
    assert labels(run(tmp_path / "a", 1, "memory/rim"), run(tmp_path / "b", 1, "mine/rim")) == [
        "rim (name=memory/rim)",
        "rim (name=mine/rim)",
    ]


def test_runs_without_a_configuration_stay_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"seed1": "a/rim", "seed2": "a/rim", "other": "a/lstm"}
    paths = [write_run(Path("runs") / name, {"train": split()}, config) for name, config in names.items()]
    assert labels(*paths) == ["rim (runs/seed1)", "rim (runs/seed2)", "lstm"]
    assert labels(*paths[1:]) == ["rim", "lstm"]


def test_evaluations_of_the_best_model_depend_on_how_it_was_chosen(tmp_path: Path) -> None:
    paths = [
        write_run(
            tmp_path / f"{freq}",
            {"train": split()},
            settings={"train": {"seed": freq, "eval_freq": freq}},
            model="best_model.zip",
        )
        for freq in (10, 20)
    ]
    assert labels(*paths) == ["rim (train.eval_freq=10)", "rim (train.eval_freq=20)"]


def test_scores_are_a_row_for_each_run(tmp_path: Path) -> None:
    chance = random.Random(0)
    figures = {seed: {name: chance.random() for name in ("train", "new", "more")} for seed in (1, 2, 3)}
    paths = [
        run(
            tmp_path / f"{seed}", seed, splits={name: split(name != "train", success_rate=x) for name, x in row.items()}
        )
        for seed, row in figures.items()
    ]
    (group,) = groups(*paths)
    scores = group.scores(["more", "train"], METRICS["success_rate"])
    np.testing.assert_array_equal(scores, [[row["more"], row["train"]] for row in figures.values()])
    assert common_splits(group.runs) == (["train"], ["new", "more"])
    with pytest.raises(UsageError, match=r"1.*evaluated.*'old'"):
        group.scores(["old"], METRICS["success_rate"])
    with pytest.raises(UsageError, match=r"1.*mse.*'train'"):
        group.scores(["train"], METRICS["mse"])


def test_the_metric_is_what_all_report(tmp_path: Path) -> None:
    def of(*results: dict[str, Any]) -> str:
        runs = [RunResults("", Path(), {"splits": {"train": result}}, {}) for result in results]
        return common_metric(runs).name

    assert of(split(), split()) == "success_rate"
    assert of(split(), split(success_rate=None)) == "return_mean"
    loss = {"held_out": False, "episodes": 1, "cross_entropy": 0.5}
    assert of(loss, loss) == "cross_entropy"
    with pytest.raises(UsageError, match=r"figure.*common"):
        of(split(), loss)


def test_splits_that_some_runs_lack_are_not_common(tmp_path: Path) -> None:
    paths = [
        run(tmp_path / "a", 1, splits={"train": split(), "x": split(True), "y": split(True)}),
        run(tmp_path / "b", 2, splits={"y": split(True), "train": split()}),
    ]
    assert common_splits(read_runs(paths)) == (["train"], ["y"])


def test_a_split_is_held_out_if_every_run_holds_it_out(tmp_path: Path) -> None:
    paths = [
        run(tmp_path / "a", 1, splits={"train": split(), "x": split(True), "y": split(True)}),
        run(tmp_path / "b", 2, splits={"train": split(), "x": split(), "y": split(True)}),
    ]
    for order in (paths, paths[::-1]):
        assert common_splits(read_runs(order)) == (["train", "x"], ["y"])
    said = [*remarks(groups(*paths), ["train", "x", "y"], METRICS["success_rate"])]
    assert [each.split()[0] for each in said if "held out" in each] == ["x"]


def test_a_group_is_found_by_its_label(tmp_path: Path) -> None:
    found = groups(run(tmp_path / "a", 1), run(tmp_path / "b", 1, "distractors/lstm", core__name="lstm"))
    assert find_group(found, "lstm") is found[1]
    with pytest.raises(UsageError, match=r"'lsmt'.*'lstm'"):
        find_group(found, "lsmt")


def test_runs_are_found_at_any_depth_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sweep/rim/2", "sweep/rim/1", "sweep/lstm_1", "alone"):
        run(Path(name), 1)
    (run(Path("sweep/rim/3"), 3) / "evaluation.json").unlink()
    (Path("sweep/lstm_1") / "checkpoints" / "copy").mkdir(parents=True)
    (Path("sweep/lstm_1") / "checkpoints" / "copy" / "config.yaml").touch()
    found, waiting = find_runs([Path("alone"), Path("sweep/rim/2"), Path("sweep"), Path("./alone")])
    assert found == [Path("alone"), Path("sweep/rim/2"), Path("sweep/lstm_1"), Path("sweep/rim/1")]
    assert waiting == [Path("sweep/rim/3")]
    # Named itself it is not passed over: reading it says what is missing.
    assert find_runs([Path("sweep/rim"), Path("sweep/rim/3")])[0][-1] == Path("sweep/rim/3")
    with pytest.raises(UsageError, match=r"sweep/rim/3"):
        read_runs([Path("sweep/rim/3")])


def test_folders_without_runs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty.*folder.*none"):
        find_runs([tmp_path / "empty"])
    with pytest.raises(UsageError, match=r"no run folder .*nowhere"):
        find_runs([tmp_path / "nowhere"])


def test_evaluations_on_another_suite_are_read_from_their_own_file(tmp_path: Path) -> None:
    path = run(tmp_path / "a", 1)
    own = (path / "evaluation.json").read_text()
    (path / "evaluation-ALE-Pong-v5.json").write_text(own.replace('"suite": "distractors"', '"suite": "ALE/Pong-v5"'))
    for suite, expected in ((None, "distractors"), ("distractors", "distractors"), ("ALE/Pong-v5", "ALE/Pong-v5")):
        assert read_runs([path], suite)[0].evaluation["suite"] == expected
        assert find_runs([tmp_path], suite) == ([path], [])
    assert find_runs([tmp_path], "multiroom") == ([], [path])
    with pytest.raises(UsageError, match=r"evaluated.*multiroom.*--suite"):
        read_runs([path], "multiroom")


@pytest.mark.parametrize("content", ["[", "- a", "3", "1: a"])
def test_a_damaged_configuration(content: str, tmp_path: Path) -> None:
    path = run(tmp_path / "a", 1)
    (path / "config.yaml").write_text(content)
    with pytest.raises(UsageError, match=r"config\.yaml is damaged"):
        read_runs([path])


def test_runs_of_a_transfer_differ_in_the_seed_of_their_source(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / f"{source}_{seed}", seed, agent__init_from=f"out/sources/{source}/seed_{seed}")
        for source in ("a", "b")
        for seed in (0, 1)
    ]
    groups = group_runs(read_runs(runs))
    assert [[member.seed for member in group.runs] for group in groups] == [[0, 1], [0, 1]]
