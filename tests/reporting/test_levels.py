"""Learning curves of Atari games: over frames, beside what random actions and a human score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rimrl.reporting.curves import split_curves, training_curve
from rimrl.reporting.figures import save_figures
from rimrl.reporting.group_plots import save_groups
from rimrl.reporting.groups import METRICS, group_runs
from rimrl.reporting.level_lines import draw_levels
from rimrl.reporting.levels import LEAST_SHARE, Level, beyond, scale_of
from rimrl.reporting.plots import save_comparison
from rimrl.reporting.report import page
from rimrl.reporting.report_charts import learning_curves
from rimrl.reporting.results import RunResults, read_runs
from tests.reporting.atari import write_game
from tests.reporting.pages import comparison, make_runs, parsed

RETURNS = (-21.0, -10.0, 0.0, 12.0)
RANDOM, HUMAN = -20.7, 14.6  # published of Pong


def runs_of(*paths: Path) -> list[RunResults]:
    return read_runs(paths)


# -- what curves are drawn over, and against ---------------------------------------------------------------------------


def test_a_measured_score_of_random_actions_comes_before_the_published_one(tmp_path: Path) -> None:
    one, two = (write_game(tmp_path / f"{k}", RETURNS, random=-20.0 - k, seed=k) for k in range(2))
    bare = write_game(tmp_path / "bare", RETURNS, name="lstm")
    assert training_curve(runs_of(one, two)).levels == (Level("random", -20.5, measured=True), Level("human", HUMAN))
    assert training_curve(runs_of(bare)).levels == (Level("random", RANDOM), Level("human", HUMAN))
    # Measured on the training split, and on no other.
    run = runs_of(write_game(tmp_path / "held_out", RETURNS, random=-20.0, held_out=RETURNS))
    (curve,) = split_curves(run, ["sticky"], METRICS["return_mean"])
    assert curve.levels == (Level("random", RANDOM), Level("human", HUMAN))
    assert curve.in_frames


def test_a_game_without_published_scores_has_the_level_that_was_measured(tmp_path: Path) -> None:
    measured = write_game(tmp_path / "a", [0.0, 1.0], game="Adventure", random=-0.5)
    assert training_curve(runs_of(measured)).levels == (Level("random", -0.5, measured=True),)
    (flavoured,) = runs_of(write_game(tmp_path / "b", RETURNS, asked={"mode": 1}))
    shown = training_curve([flavoured])
    assert (shown.levels, shown.in_frames) == ((), True)


def test_other_environments_stay_with_steps(tmp_path: Path) -> None:
    shown = training_curve(read_runs(make_runs(tmp_path, seeds=1)))
    assert (shown.steps, shown.in_frames, shown.levels) == ("environment steps", False, ())


def test_unknown_or_several_frameskips(tmp_path: Path) -> None:
    four = write_game(tmp_path / "a", RETURNS)
    three = write_game(tmp_path / "b", RETURNS, name="lstm", kwargs={"frameskip": 3})
    odd = write_game(tmp_path / "c", RETURNS, name="gru", kwargs={"frameskip": "x"})
    shown = training_curve(runs_of(four, three))
    assert [shown.per_step(run) for run in runs_of(four, three)] == [4, 3]
    unknown = training_curve(runs_of(four, odd))
    assert unknown.steps == "environment steps"
    assert [unknown.per_step(run) for run in runs_of(four, odd)] == [1, 1]


# -- the range of a picture --------------------------------------------------------------------------------------------


def test_curves_keep_their_share_of_the_height() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        low, high = sorted(rng.normal(size=2) * 10)
        values = (rng.standard_cauchy(size=2) * 20).tolist()
        bottom, top = scale_of(low, high, [Level("random", values[0]), Level("human", values[1])])
        margin = (top - bottom) * 0.05 / 1.1
        least, most = bottom + margin, top - margin
        assert most - least <= max(high - low, 1.0) / LEAST_SHARE + 1e-9
        for end, other in ((least, low), (most, high)):
            assert min(abs(end - value) for value in (other, *values)) < 1e-9
        assert least - 1e-9 <= low <= high <= most + 1e-9
        nearest = min(values, key=lambda value: max(low - value, value - high, 0.0))
        alone = max(high, nearest) - min(low, nearest) <= max(high - low, 1.0) / LEAST_SHARE
        assert (bottom <= nearest <= top) or not alone


def test_a_flat_curve_has_a_scale() -> None:
    assert scale_of(3.0, 3.0, []) == pytest.approx((2.95, 3.05))
    assert scale_of(0.0, 0.0, [Level("human", 2.4), Level("random", 2.6)]) == pytest.approx((-0.12, 2.52))


def test_arrows_point_out_of_the_range() -> None:
    assert [beyond(value, 0.0, 1.0) for value in (-0.1, 0.0, 0.5, 1.0, 1.1)] == ["↓", "", "", "", "↑"]


# -- the report --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_report_draws_levels_at_their_height_over_frames(seeds: int, tmp_path: Path) -> None:
    paths = [write_game(tmp_path / f"{k}", RETURNS, seed=k, random=-20.0) for k in range(seeds)]
    chart = learning_curves(group_runs(read_runs(paths)))
    assert chart is not None
    assert chart.x.high == 4 * 1000 * len(RETURNS)
    first, *_, last = (tuple(map(float, pair.split(","))) for pair in chart.lines[0].path.strip("M").split())
    assert first == pytest.approx((10 * chart.x.place(4000), 10 * chart.y.height(-21.0)), abs=0.6)
    assert last == pytest.approx((1000, 10 * chart.y.height(12.0)), abs=0.6)
    random, human = chart.levels
    assert (random.height, human.height) == (chart.y.height(-20.0), chart.y.height(HUMAN))
    assert (random.beyond, human.beyond) == ("", "")
    drawn = parsed(page(comparison(paths))).one(id="curves").all("line", class_="level")
    assert [line.attributes["y1"] for line in drawn] == [f"{random.height}%", f"{human.height}%"]


def test_a_human_far_above_leaves_the_scale_alone(tmp_path: Path) -> None:
    path = write_game(tmp_path / "run", [0.0, 10.0, 20.0], game="MontezumaRevenge")
    chart = learning_curves(group_runs(read_runs([path])))
    assert chart is not None
    assert (chart.y.low, chart.y.high) == pytest.approx((-1.0, 21.0))
    random, human = chart.levels
    assert (random.beyond, random.height) == ("", chart.y.height(0.0))
    assert (human.beyond, human.height) == ("↑", 0.0)
    curves = parsed(page(comparison([path]))).one(id="curves")
    assert len(curves.all("line", class_="level")) == 1
    assert "human 4753 ↑" in curves.text


def test_labels_of_levels_give_way_to_those_of_groups(tmp_path: Path) -> None:
    """Two curves end where random actions do."""
    paths = [write_game(tmp_path / name, [-20.7, -20.7], name=name) for name in ("rim", "lstm")]
    chart = learning_curves(group_runs(read_runs(paths)))
    assert chart is not None
    heights = sorted([line.label_height for line in chart.lines] + [level.label_height for level in chart.levels])
    assert min(np.diff(heights)) > 6


def test_labels_of_levels_give_way_to_each_other(tmp_path: Path) -> None:
    """Curves from -20 to 20 leave a twentieth of the height between random actions, -18.6, and the human, -16.4."""
    path = write_game(tmp_path / "run", [-20.0, 20.0], game="DoubleDunk")
    chart = learning_curves(group_runs(read_runs([path])))
    assert chart is not None
    random, human = chart.levels
    assert random.height - human.height < 6
    assert random.inner_height - human.inner_height > 6


# -- pictures ----------------------------------------------------------------------------------------------------------


def flat_lines(axes: Axes) -> list[float]:
    """Where lines without a label of the legend lie."""
    lines = [np.asarray(line.get_ydata()) for line in axes.get_lines() if str(line.get_label()).startswith("_")]
    return [float(y[0]) for y in lines]


def test_every_picture_has_frames_and_levels(drawn: list[Figure], tmp_path: Path) -> None:
    paths = [write_game(tmp_path / f"{k}", RETURNS, seed=k, random=-20.0, held_out=RETURNS) for k in range(2)]
    save_figures(comparison(paths), tmp_path, "svg")
    save_groups(comparison(paths), tmp_path / "groups.png")
    save_comparison(read_runs(paths[:1]), tmp_path / "single.png")
    training = [drawn[0].axes[0], drawn[4].axes[0], drawn[5].axes[0]]
    held_out = [drawn[1].axes[0], drawn[4].axes[2], drawn[5].axes[2]]
    for panels, random in ((training, -20.0), (held_out, RANDOM)):
        for axes in panels:
            assert sorted(flat_lines(axes)) == [random, HUMAN]
            steps, values = np.array(axes.get_lines()[0].get_xydata()).T
            assert (steps[0], steps[-1]) == (4000, 16_000)
            np.testing.assert_allclose(values, np.interp(steps, [4000, 8000, 12_000, 16_000], RETURNS))
            assert "frames" in axes.get_xlabel()


@pytest.mark.parametrize(("returns", "inside"), [([[0.0, 20.0]], 1), ([[0.0, 20.0], [0.0, 3000.0]], 2)])
def test_panels_share_what_lies_inside(returns: Sequence[Sequence[float]], inside: int, tmp_path: Path) -> None:
    """A human that one panel comes near to is drawn in all of them, since they have one scale."""
    panels = Figure().subplots(1, len(returns), sharey=True, squeeze=False).ravel().tolist()
    (run,) = read_runs([write_game(tmp_path / "run", [0.0, 20.0], game="MontezumaRevenge")])
    for axes, values in zip(panels, returns, strict=True):
        axes.plot([0, 1], values)
    draw_levels(panels, [training_curve([run])] * len(panels))
    for axes in panels:
        assert flat_lines(axes)[1:] == [0.0, 4753.3][:inside]
        low, high = axes.get_ylim()
        assert (low <= 4753.3 <= high) == (inside == 2)
        assert [text.get_text().endswith("↑") for text in axes.texts] == [False, inside == 1]


def test_without_curves_nothing_is_drawn(tmp_path: Path) -> None:
    axes = Figure().subplots()
    draw_levels([axes], [training_curve(runs_of(write_game(tmp_path / "run", RETURNS)))])
    assert not axes.get_lines()
    assert not axes.texts
