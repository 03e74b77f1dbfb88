"""Figures for papers: which there are, what is drawn in them, and that their text is text."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rimrl.errors import UsageError
from rimrl.reporting.columns import arranged
from rimrl.reporting.comparison import Comparison, compare
from rimrl.reporting.figures import figure_names, save_figures
from rimrl.reporting.groups import group_runs
from rimrl.reporting.results import read_runs
from tests.commands import read_json
from tests.reporting.test_comparison import RATES, SPLITS, compared, write
from tests.reporting.test_plots import is_whole_png

LABELS = ("RIM $k_A$ & <ours>", "LSTM: 50 %")


def named(tmp_path: Path) -> Comparison:
    """An LSTM, then a RIM, under names that XML and formulas could stumble over."""
    paths = [*write(tmp_path, "rim", RATES), *write(tmp_path, "lstm", RATES[:3] - 0.25)]
    groups = arranged(group_runs(read_runs(paths)), [f"rim={LABELS[0]}", f"lstm={LABELS[1]}"], "lstm")
    return compare(groups)


def texts(file: Path) -> list[str]:
    """Every piece of text in an SVG, from the first to the last."""
    root = ET.parse(file).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return ["".join(each.itertext()).strip() for each in root.iter("{http://www.w3.org/2000/svg}text")]


def test_svg_holds_labels_as_text_in_the_chosen_order(tmp_path: Path) -> None:
    saved = save_figures(named(tmp_path), tmp_path, "svg")
    assert saved == ["learning_curves.svg", "final_scores.svg", "performance_profile.svg"]
    for name in saved:
        found = texts(tmp_path / name)
        assert [text for text in found if text in LABELS] == [LABELS[1], LABELS[0]]
    assert {"train", "(seen)", "new", "more", "success rate"} <= set(texts(tmp_path / "final_scores.svg"))
    assert "environment steps" in texts(tmp_path / "learning_curves.svg")


def test_the_same_comparison_gives_the_same_bytes(tmp_path: Path) -> None:
    comparison = named(tmp_path)
    for picture_format in ("svg", "pdf"):
        contents = []
        for folder in (tmp_path / "one", tmp_path / "two"):
            folder.mkdir(exist_ok=True)
            contents.append([(folder / name).read_bytes() for name in save_figures(comparison, folder, picture_format)])
        assert contents[0] == contents[1]


def test_formats(tmp_path: Path) -> None:
    comparison = named(tmp_path)
    for name in save_figures(comparison, tmp_path, "png"):
        assert is_whole_png((tmp_path / name).read_bytes())
    for name in save_figures(comparison, tmp_path, "pdf"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"%PDF")
        assert content.rstrip().endswith(b"%%EOF")
        assert b"/Type3" not in content.replace(b" ", b"")  # which venues refuse
        assert b"/TrueType" in content or b"/CIDFontType2" in content


def line(axes: Axes, label: str) -> list[list[float]]:
    (found,) = [each for each in axes.get_lines() if each.get_label() == label]
    points: list[list[float]] = np.array(found.get_xydata()).tolist()
    return points


def test_figures_show_the_numbers(drawn: list[Figure], tmp_path: Path) -> None:
    comparison = named(tmp_path)
    save_figures(comparison, tmp_path, "svg")
    (curves,), (bars,), (profile,) = (figure.axes for figure in drawn)
    for summary in comparison.summaries:
        group = next(each for each in bars.containers if each.get_label() == summary.group.label)
        assert summary.held_out is not None
        expected = [summary.splits[name].value for name in SPLITS] + [summary.held_out.value]
        assert [bar.get_height() for bar in group] == pytest.approx(expected)
        scores = summary.group.scores(comparison.held_out, comparison.metric)
        for threshold, share in line(profile, summary.group.label):
            assert share == pytest.approx((scores > threshold).mean())
        first, last = (line(curves, summary.group.label)[i] for i in (0, -1))
        assert (first, last) == ([1024, 0.5], [2048, 1.0])  # of the file that every run has
    left_to_right = sorted(
        (each for each in bars.containers if hasattr(each, "patches")), key=lambda each: each[0].get_x()
    )
    assert [str(each.get_label()) for each in left_to_right] == [LABELS[1], LABELS[0]]
    assert [axes.get_title(loc="left") for axes in (curves, bars, profile)] == ["", "", ""]


def with_evaluations(paths: list[Path], columns: dict[str, list[float | None]]) -> None:
    """Give runs a ``progress.csv`` of evaluations in training."""
    header = ",".join(["time/total_timesteps", "rollout/success_rate", *columns])
    rows = [
        ",".join([str(1000 * (i + 1)), "0.5", *("" if each[i] is None else str(each[i]) for each in columns.values())])
        for i in range(3)
    ]
    for path in paths:
        (path / "progress.csv").write_text("\n".join([header, *rows]) + "\n")


def test_curves_on_held_out_splits_where_runs_hold_them(drawn: list[Figure], tmp_path: Path) -> None:
    rim, lstm = write(tmp_path, "rim", RATES), write(tmp_path, "lstm", RATES[:3] - 0.25)
    columns: dict[str, list[float | None]] = {
        "eval/success_rate_new": [0.1, None, 0.3],
        "eval/success_rate_train": [0.8, 0.9, 1.0],
        "eval/success_rate_more": [None, None, None],
        "eval/return_mean_more": [0.1, 0.1, 0.1],
    }
    with_evaluations(rim, columns)
    assert "held_out_curves.svg" in save_figures(compared(*rim, *lstm), tmp_path, "svg")
    panel = drawn[1].axes[0]  # of the one held-out split that was evaluated
    assert len(drawn[1].axes) == 1
    assert panel.get_title(loc="left") == "new"
    assert [each.get_label() for each in panel.get_lines()] == ["rim"]
    steps, values = np.array(line(panel, "rim")).T
    np.testing.assert_allclose(values, np.interp(steps, [1000, 3000], [0.1, 0.3]))
    assert {"new", "rim"} <= set(texts(tmp_path / "held_out_curves.svg"))


def test_a_group_of_which_not_every_run_was_evaluated_has_no_curve(tmp_path: Path) -> None:
    rim = write(tmp_path, "rim", RATES)
    with_evaluations(rim[1:], {"eval/success_rate_new": [0.1, 0.2, 0.3]})
    assert "held_out_curves.svg" not in save_figures(compared(*rim), tmp_path, "svg")


def test_without_progress_there_are_no_curves(tmp_path: Path) -> None:
    paths = write(tmp_path, "rim", RATES)
    for path in paths:
        (path / "progress.csv").unlink()
    assert save_figures(compared(*paths), tmp_path, "svg") == ["final_scores.svg", "performance_profile.svg"]


def test_single_runs_have_intervals_over_episodes(drawn: list[Figure], tmp_path: Path) -> None:
    comparison = compared(*write(tmp_path, "rim", RATES[:1]), *write(tmp_path, "lstm", RATES[:1]))
    assert len(save_figures(comparison, tmp_path, "svg")) == 3
    bars = drawn[1].axes[0]
    assert [each.get_label() for each in bars.containers if hasattr(each, "patches")] == ["rim", "lstm"]
    assert len(bars.collections) == 2  # error bars
    assert {"rim", "lstm"} <= set(texts(tmp_path / "final_scores.svg"))


def test_losses_and_many_groups(tmp_path: Path) -> None:
    paths = []
    for k in range(8):
        more = write(tmp_path / str(k), f"core_{k}", 1 + np.arange(6).reshape(2, 3) / (k + 1), "cross_entropy")
        for path in more:
            evaluation = read_json(path / "evaluation.json")
            for result in evaluation["splits"].values():
                del result["return_mean"]
            (path / "evaluation.json").write_text(json.dumps(evaluation))
        paths += more
    save_figures(compared(*paths), tmp_path, "svg")
    for name in ("final_scores.svg", "performance_profile.svg"):
        assert [text for text in texts(tmp_path / name) if text.startswith("core_")] == [f"core_{k}" for k in range(8)]


def test_names_are_all_that_may_be_written() -> None:
    assert figure_names("pdf") == [
        "learning_curves.pdf",
        "held_out_curves.pdf",
        "final_scores.pdf",
        "performance_profile.pdf",
    ]


@pytest.mark.parametrize("config", ["a\x01b", "a\nb", "a\ud800b"])
def test_configurations_of_others_break_no_file(config: str, tmp_path: Path) -> None:
    paths = write(tmp_path, "rim", RATES)
    for path in paths:
        evaluation = read_json(path / "evaluation.json")
        (path / "evaluation.json").write_text(json.dumps(evaluation | {"config": config}))
    for name in save_figures(compared(*paths), tmp_path, "svg"):
        assert "a b" in texts(tmp_path / name)


def test_splits_without_a_name_that_can_be_shown_are_damaged(tmp_path: Path) -> None:
    (path,) = write(tmp_path, "rim", RATES[:1])
    evaluation = read_json(path / "evaluation.json")
    evaluation["splits"]["a\x01b"] = evaluation["splits"]["new"]
    (path / "evaluation.json").write_text(json.dumps(evaluation))
    with pytest.raises(UsageError, match="damaged"):
        read_runs([path])
