"""The comparison of groups: its numbers, what it refuses, what it remarks, and how they are shown."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from rimrl.errors import UsageError
from rimrl.experiments.config_files import load_config
from rimrl.reporting import group_plots, plots
from rimrl.reporting.comparison import Comparison, compare
from rimrl.reporting.group_plots import learning_curves, save_groups
from rimrl.reporting.groups import METRICS, group_runs
from rimrl.reporting.plots import save_comparison
from rimrl.reporting.results import read_runs
from rimrl.reporting.statistics import Estimate, difference, interval
from rimrl.reporting.table import group_table
from rimrl.runs.added import ADDED_TO_AGENTS
from tests.commands import call, read_json
from tests.reporting.results import split, write_run

SPLITS = ("train", "new", "more")
RATES = np.array([[0.9, 0.7, 0.5], [1.0, 0.8, 0.5], [0.8, 0.7, 0.4], [0.95, 0.5, 0.45]])  # [R, M]


def write(folder: Path, name: str, rates: NDArray[Any], metric: str = "success_rate", **more: Any) -> list[Path]:
    """A group of runs, one for each row."""
    paths = []
    for seed, row in enumerate(rates):
        splits = {
            split_name: {**split(split_name != "train"), "success_rate": None, metric: float(score)}
            for split_name, score in zip(SPLITS, row, strict=False)
        }
        settings = {"name": name, "core": {"name": name}, "train": {"seed": seed}}
        paths.append(write_run(folder / f"{name}{seed}", splits, name, settings=settings, **more))
    return paths


def compared(*paths: Path, reference: str | None = None) -> Comparison:
    return compare(group_runs(read_runs(paths)), reference)


@pytest.fixture
def both(tmp_path: Path) -> list[Path]:
    return [*write(tmp_path, "rim", RATES), *write(tmp_path, "lstm", RATES[:3] - 0.25)]


def test_numbers_are_those_of_the_statistics(both: list[Path]) -> None:
    comparison = compared(*both)
    assert (comparison.trained, comparison.held_out) == (["train"], ["new", "more"])
    assert comparison.metric is METRICS["success_rate"]
    rim, lstm = comparison.summaries
    for column, name in enumerate(SPLITS):
        assert rim.splits[name] == interval(RATES[:, [column]]).within(0.0, 1.0)
    # Of eight scores the middle four; of four gaps the mean.
    assert rim.held_out is not None
    assert rim.held_out.value == pytest.approx(np.mean([0.5, 0.5, 0.5, 0.7]))
    assert rim.gap is not None
    assert rim.gap.value == pytest.approx(np.mean(RATES[:, 0] - RATES[:, 1:].mean(axis=1)))
    assert rim.optimality_gap is not None
    assert rim.optimality_gap.value == pytest.approx(1 - RATES[:, 1:].mean())
    assert rim.improvement is None
    pairs = [(y > x) + (y == x) / 2 for m in (1, 2) for x in RATES[:, m] for y in RATES[:3, m] - 0.25]
    assert lstm.improvement is not None
    assert lstm.improvement.value == pytest.approx(np.mean(pairs))
    assert (rim.differences, rim.difference) == ({}, None)
    assert lstm.differences == {
        name: difference(RATES[:3, [column]] - 0.25, RATES[:, [column]]) for column, name in enumerate(SPLITS)
    }
    assert lstm.difference is not None
    assert lstm.difference.value == pytest.approx(np.mean([0.45, 0.25, 0.25, 0.45]) - rim.held_out.value)
    assert comparison.remarks == []


def test_the_reference_is_chosen_by_name(both: list[Path]) -> None:
    there, back = compared(*both), compared(*both, reference="lstm")
    assert back.summaries[1].improvement is None
    assert there.summaries[1].improvement is not None
    assert back.summaries[0].improvement is not None
    assert back.summaries[0].improvement.value == pytest.approx(1 - there.summaries[1].improvement.value)
    with pytest.raises(UsageError, match=r"unknown group 'lsmt'.*'lstm'"):
        compared(*both, reference="lsmt")


def test_a_loss_is_better_when_it_is_lower(tmp_path: Path) -> None:
    losses = np.array([[0.1, 0.4, 0.6], [0.2, 0.5, 0.9], [0.1, 0.5, 0.7]])
    paths = [*write(tmp_path, "rim", losses, "cross_entropy"), *write(tmp_path, "lstm", losses + 1, "cross_entropy")]
    for path in paths:
        text = (path / "evaluation.json").read_text()
        (path / "evaluation.json").write_text(text.replace('"return_mean"', '"other"'))
    rim, lstm = compared(*paths).summaries
    assert rim.gap is not None
    assert rim.gap.value == pytest.approx(np.mean(losses[:, 1:].mean(axis=1) - losses[:, 0]))
    assert lstm.improvement is not None
    assert lstm.improvement.value == 0.0
    assert rim.optimality_gap is None


def test_intervals_stay_within_what_the_metric_can_be(tmp_path: Path) -> None:
    comparison = compared(*write(tmp_path, "rim", np.array([[1.0, 0.0], [0.7, 0.3], [1.0, 0.0]])))
    (rim,) = comparison.summaries
    assert all(0 <= each.low <= each.value <= each.high <= 1 for each in rim.splits.values())


def test_differences_stay_within_what_two_rates_can_be_apart(tmp_path: Path) -> None:
    """Two runs of each, which differ as much as they can: Student's and Welch's intervals reach far beyond."""
    extreme = write(tmp_path, "rim", np.array([[1.0, 0.0], [0.0, 1.0]]))
    other = write(tmp_path, "lstm", np.array([[0.0, 1.0], [0.0, 0.0]]))
    rim, lstm = compared(*extreme, *other, reference="rim").summaries
    for estimate in (rim.gap, lstm.gap, lstm.difference, *lstm.differences.values()):
        assert estimate is not None
        assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1


def rows(comparison: Comparison) -> dict[str, list[str]]:
    out = StringIO()
    Console(file=out, width=300).print(group_table(comparison))
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.getvalue().splitlines()]
    return {cells[0]: cells[1:] for cells in lines if cells}


def test_the_table_shows_the_numbers(both: list[Path]) -> None:
    comparison = compared(*both)
    shown = rows(comparison)
    rim, lstm = comparison.summaries

    def cell(estimate: Estimate | None) -> str:
        return "-" if estimate is None else f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"

    assert shown["split"] == ["rim", "lstm"]
    assert shown["train"] == [cell(rim.splits["train"]), cell(lstm.splits["train"])]
    assert shown["new (held out)"] == [cell(rim.splits["new"]), cell(lstm.splits["new"])]
    assert shown["held-out splits together"] == [cell(rim.held_out), cell(lstm.held_out)]
    assert shown["generalisation gap"] == [cell(rim.gap), cell(lstm.gap)]
    assert shown["difference"] == ["-", cell(lstm.difference)]
    assert shown["probability of improvement"] == ["-", cell(lstm.improvement)]
    assert shown["runs"] == ["4", "3"]


def test_chance_has_a_column_where_it_was_played(tmp_path: Path) -> None:
    paths = write(tmp_path, "rim", RATES)
    evaluation = read_json(paths[0] / "evaluation.json")
    evaluation["splits"]["new"]["random_success_rate"] = 0.125
    (paths[0] / "evaluation.json").write_text(json.dumps(evaluation))
    shown = rows(compared(*paths))
    assert shown["split"] == ["random", "rim"]
    assert shown["new (held out)"][0] == "0.12"
    assert shown["train"][0] == "-"


def test_one_run_beside_several_has_no_interval(tmp_path: Path) -> None:
    comparison = compared(*write(tmp_path, "rim", RATES), *write(tmp_path, "lstm", RATES[:1]))
    shown = rows(comparison)
    assert "[" in shown["train"][0]
    assert shown["train"][1] == "0.90"
    assert shown["probability of improvement"][1].count("[") == 0
    (remark,) = comparison.remarks
    assert remark.startswith("lstm has 1 run")


def test_the_file_holds_every_number(both: list[Path], tmp_path: Path) -> None:
    comparison = compared(*both)
    (tmp_path / "numbers.json").write_text(comparison.json_text())
    saved = read_json(tmp_path / "numbers.json")
    rim = saved["groups"]["rim"]
    assert [run["seed"] for run in rim["runs"]] == [0, 1, 2, 3]
    assert [list(run["scores"].values()) for run in rim["runs"]] == RATES.tolist()
    held_out = comparison.summaries[0].held_out
    assert held_out is not None
    assert rim["held_out_interquartile_mean"] == {
        "value": held_out.value,
        "low": held_out.low,
        "high": held_out.high,
    }
    assert rim["probability_of_improvement"] is None
    assert saved["reference"] == "rim"
    assert "NaN" not in (tmp_path / "numbers.json").read_text()


# -- what does not compare ---------------------------------------------------------------------------------------------


def test_sampled_and_likeliest_actions_do_not_compare(tmp_path: Path) -> None:
    paths = [*write(tmp_path, "a", RATES), *write(tmp_path, "b", RATES, deterministic=True)]
    with pytest.raises(UsageError, match=r"a0: sampled actions, .*b0: likeliest actions"):
        compared(*paths)


def with_arguments(paths: list[Path], **arguments: Any) -> list[Path]:
    for path in paths:
        evaluation = read_json(path / "evaluation.json")
        for result in evaluation["splits"].values():
            result["env_kwargs"] = arguments
        (path / "evaluation.json").write_text(json.dumps(evaluation))
    return paths


def test_presets_do_not_compare(tmp_path: Path) -> None:
    paths = with_arguments(write(tmp_path, "a", RATES), preset="machado")
    others = with_arguments(write(tmp_path, "b", RATES), preset="legacy")
    with pytest.raises(UsageError, match=r"'train'.*Atari.*machado.*legacy"):
        compared(*paths, *others)


def test_runs_without_a_split_in_common(tmp_path: Path) -> None:
    paths = write(tmp_path, "a", RATES)
    other = write_run(tmp_path / "b", {"else": split()}, "b")
    with pytest.raises(UsageError, match=r"evaluated.*share"):
        compared(*paths, other)


@pytest.mark.parametrize(
    ("more", "remark"),
    [
        ({"num_timesteps": 12345}, "(a: 1 000, b: 12 345)"),
        ({"seed": 8}, "(a: 7, b: 8)"),
        ({"model": "best_model.zip"}, "at their best"),
    ],
)
def test_what_differs_is_remarked(more: dict[str, Any], remark: str, tmp_path: Path) -> None:
    same: dict[str, Any] = {"num_timesteps": 1000, "seed": 7, "model": "model.zip"}
    paths = [*write(tmp_path, "a", RATES, **same), *write(tmp_path, "b", RATES, **(same | more))]
    (said,) = compared(*paths).remarks
    assert remark in said


def test_arguments_episodes_and_splits_that_differ_are_remarked(tmp_path: Path) -> None:
    paths = with_arguments(write(tmp_path, "a", RATES), tiles="one_hot", size=6)
    others = with_arguments(write(tmp_path, "b", RATES[:, :2]), tiles="rgb", size=6)
    evaluation = read_json(others[0] / "evaluation.json")
    evaluation["splits"]["train"]["episodes"] = 30
    (others[0] / "evaluation.json").write_text(json.dumps(evaluation))
    comparison = compared(*paths, *others)
    split, arguments, episodes = comparison.remarks
    assert " more:" in split
    assert "(tiles)" in arguments
    assert "(a: 20, b: 30/20)" in episodes
    assert comparison.splits == ["train", "new"]


def test_a_seed_that_counts_twice_is_remarked(tmp_path: Path) -> None:
    paths = [*write(tmp_path, "a", RATES), *write(tmp_path / "copy", "a", RATES[:1])]
    (said,) = compared(*paths).remarks
    assert "a0 and " in said
    assert "same seed 0" in said


def test_scores_without_spread_are_remarked(tmp_path: Path) -> None:
    (said,) = compared(*write(tmp_path, "a", np.ones((5, 3)))).remarks
    assert said.startswith("all runs of a scored the same")


# -- pictures ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(both: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    figures: list[Figure] = []

    class Kept(Figure):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[arg-type]
            figures.append(self)

    monkeypatch.setattr(group_plots, "Figure", Kept)
    save_groups(compared(*both), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG\r\n")
    return figures[0]


def test_bars_lines_and_profiles_are_the_numbers(drawn: Figure, both: list[Path]) -> None:
    comparison = compared(*both)
    curves, profile, bars = drawn.axes
    groups = {str(each.get_label()): each for each in bars.containers if each.get_label() in ("rim", "lstm")}
    for summary in comparison.summaries:
        heights = [bar.get_height() for bar in groups[summary.group.label]]
        assert summary.held_out is not None
        expected = [summary.splits[name].value for name in SPLITS] + [summary.held_out.value]
        assert heights == pytest.approx(expected)
    # All runs left the same curve, so that its interquartile mean is that curve and its band has no width.
    steps, heights = np.array(curves.get_lines()[0].get_xydata()).T
    assert (steps[0], steps[-1]) == (1024, 2048)
    np.testing.assert_allclose(heights, np.interp(steps, [1024, 2048], [0.5, 1.0]))
    thresholds, shares = np.array(profile.get_lines()[0].get_xydata()).T
    np.testing.assert_allclose(shares, [(RATES[:, 1:] > threshold).mean() for threshold in thresholds])
    assert profile.get_xlim() == (0.0, 1.0)


def test_curves_on_held_out_splits_stand_in_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between training and bars, one panel for each held-out split that was evaluated in training."""
    figures: list[Figure] = []

    class Kept(Figure):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[arg-type]
            figures.append(self)

    monkeypatch.setattr(group_plots, "Figure", Kept)
    monkeypatch.setattr(plots, "Figure", Kept)
    paths = write(tmp_path, "rim", RATES[:2])
    for path in paths:
        rows = "time/total_timesteps,eval/success_rate_new,eval/success_rate_train\n100,0.25,0.5\n200,0.75,1.0\n"
        (path / "progress.csv").write_text(rows)
    save_groups(compared(*paths), tmp_path / "groups.png")
    save_comparison(read_runs(paths[:1]), tmp_path / "single.png")
    for figure in figures:
        (panel,) = [axes for axes in figure.axes if axes.get_title(loc="left") == "new"]
        steps, heights = np.array(panel.get_lines()[0].get_xydata()).T
        np.testing.assert_allclose(heights, np.interp(steps, [100, 200], [0.25, 0.75]))
        assert not [axes for axes in figure.axes if axes.get_title(loc="left") in ("train", "more")]
    assert [len(figure.axes) for figure in figures] == [4, 3]


def test_curves_are_put_on_common_steps(tmp_path: Path) -> None:
    paths = write(tmp_path, "a", RATES[:2])
    (paths[0] / "progress.csv").write_text("time/total_timesteps,x\n0,0\n100,1\n200,1\n")
    (paths[1] / "progress.csv").write_text("time/total_timesteps,x\n50,3\n150,5\n")
    (group,) = group_runs(read_runs(paths))
    steps, values = learning_curves(group, "x", points=5)
    assert steps.tolist() == [50, 75, 100, 125, 150]
    np.testing.assert_allclose(values, [[0.5, 0.75, 1, 1, 1], [3, 3.5, 4, 4.5, 5]])
    assert learning_curves(group, "y")[1].shape == (2, 0)


def test_runs_older_than_where_learning_starts_are_remarked(tmp_path: Path) -> None:
    """They compare with runs that started as they did, under one name, and the table says so."""
    splits = {"train": split(False)}
    core = {"name": "rim", "hidden_size": 96, "learn_initial_state": False}
    old: dict[str, Any] = {"name": "rim", "core": core, "agent": {"gamma": 0.9}}
    new = {**old, "core": {**core, "initialization": "xavier"}, "agent": {"gamma": 0.9, "critic_gradient": 1.0}}
    other = {**new, "core": {**core, "initialization": "small_scores"}}
    runs = read_runs(
        [
            write_run(tmp_path / name, splits, "rim", settings={**settings, "train": {"seed": seed}})
            for seed, (name, settings) in enumerate({"old": old, "new": new, "other": other}.items())
        ]
    )
    assert [run.older for run in runs] == [True, False, False]
    groups = group_runs(runs)
    assert [len(group.runs) for group in groups] == [2, 1]
    labels = [group.label for group in groups]
    assert labels == ["rim (core.initialization=xavier)", "rim (core.initialization=small_scores)"]
    (said,) = [remark for remark in compare(groups).remarks if "core.initialization:" in remark]
    assert labels[0] in said
    assert labels[1] not in said


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_runs_older_than_a_key_compare_with_those_that_leave_it_alone(algorithm: str, tmp_path: Path) -> None:
    new = yaml.safe_load(load_config("distractors/lstm", ["--agent.algorithm", algorithm]).to_yaml())
    older = {group: dict(keys) if isinstance(keys, dict) else keys for group, keys in new.items()}
    for group, key in (key.split(".") for key in ADDED_TO_AGENTS):
        older[group].pop(key, None)
    other = {**new, "env": {**new["env"], "frame_stack": 4}}
    paths = []
    for seed, (name, settings) in enumerate({"older": older, "new": new, "other": other}.items()):
        seeded = {**settings, "train": {**settings["train"], "seed": seed}}
        paths.append(write_run(tmp_path / name, {"train": split(False)}, "lstm", settings=seeded))
    groups = group_runs(read_runs(paths))
    assert [[run.path.name for run in group.runs] for group in groups] == [["older", "new"], ["other"]]
    assert [group.label for group in groups] == ["lstm (env.frame_stack=1)", "lstm (env.frame_stack=4)"]


@pytest.mark.parametrize("name", ["numbers.csv", "numbers", "numbers.json.txt"])
def test_numbers_go_to_json_and_to_nothing_else(name: str, both: list[Path], tmp_path: Path) -> None:
    answer = call("compare", *both, "--json", tmp_path / name)
    assert answer.code == 2
    assert not (tmp_path / name).exists()
