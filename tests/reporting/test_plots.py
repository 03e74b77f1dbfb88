"""The picture, and the interval it draws."""

from __future__ import annotations

import math
import struct
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rimrl.reporting import plots
from rimrl.reporting.plots import save_comparison
from rimrl.reporting.results import RunResults, read_runs
from rimrl.runs.evaluations import wilson_interval
from tests.reporting.results import results, split


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 1998, Table I,
        # method 3 (score without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_is_the_published_one(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes / trials, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("trials", [1, 7, 50, 200])
def test_wilson_interval_holds_the_rates_that_a_score_test_keeps(trials: int) -> None:
    """Wilson's definition: its bounds p solve ``|rate - p| = z sqrt(p (1 - p) / trials)``."""
    z = 1.959964
    for successes in range(trials + 1):
        rate = successes / trials
        low, high = wilson_interval(rate, trials)
        assert 0.0 <= low <= rate <= high <= 1.0
        for bound in (low, high):
            assert abs(rate - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / trials), abs=1e-6)
        mirrored = wilson_interval(1 - rate, trials)
        assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("trials", [20, 50, 200])
def test_wilson_interval_covers_the_truth_95_times_in_100(trials: int) -> None:
    """The exact coverage, summed over every outcome, is 95 % on average over the true rates and never far below."""
    intervals = [wilson_interval(successes / trials, trials) for successes in range(trials + 1)]

    def coverage(truth: float) -> float:
        return sum(
            math.comb(trials, k) * truth**k * (1 - truth) ** (trials - k)
            for k, (low, high) in enumerate(intervals)
            if low <= truth <= high
        )

    covered = [coverage(truth) for truth in np.linspace(0.005, 0.995, 199)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.83


def test_more_trials_narrow_the_interval() -> None:
    widths = [high - low for low, high in (wilson_interval(0.3, trials) for trials in (10, 40, 160, 640))]
    assert all(2.2 > wide / narrow > 1.6 for wide, narrow in pairwise(widths))


def is_whole_png(content: bytes) -> bool:
    """Whether every chunk of a PNG file is there with its right checksum."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return False
    place, kind = 8, b""
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        body = content[place + 4 : place + 8 + length]
        (checksum,) = struct.unpack_from(">I", content, place + 8 + length)
        if zlib.crc32(body) != checksum:
            return False
        place += 12 + length
    return kind == b"IEND"


def test_the_picture_is_whole_and_shows_something(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    save_comparison(read_runs([trained]), file)
    assert is_whole_png(file.read_bytes())
    pixels = matplotlib.image.imread(file)[..., :3]
    height, width, _ = pixels.shape
    assert width > 2 * height > 800
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    blue = np.array([0x00, 0x72, 0xB2]) / 255  # the first run's colour
    of_the_run = np.abs(pixels - blue).max(axis=2) < 0.01
    assert of_the_run[:, : width // 2].any(), "no learning curve"
    assert of_the_run.any()


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_formats(suffix: str, tmp_path: Path) -> None:
    run = results(tmp_path / "run", {"train": split()})
    save_comparison([run], tmp_path / f"picture{suffix}")
    start = (tmp_path / f"picture{suffix}").read_bytes()[:200]
    assert {".png": b"PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix] in start


def drawn(runs: list[RunResults], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    """The figure that is saved for some runs."""
    figures: list[Figure] = []

    class Kept(Figure):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[arg-type]
            figures.append(self)

    monkeypatch.setattr(plots, "Figure", Kept)
    save_comparison(runs, tmp_path / "picture.png")
    return figures[0]


def test_curves_and_bars_are_the_figures_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random: dict[str, Any] = {"random_return_mean": 0.06, "random_success_rate": 0.1}
    rim = results(tmp_path / "rim", {"train": split(**random), "new": split(True, success_rate=1.0)})
    lstm = results(tmp_path / "lstm", {"train": split(success_rate=0.75)}, "distractors/lstm")
    curves, bars = drawn([rim, lstm], tmp_path, monkeypatch).axes
    assert curves.get_ylabel() == bars.get_ylabel() == "success rate"
    for line in curves.get_lines():
        assert line.get_xydata().tolist() == [[1024, 0.5], [2048, 1.0]]  # type: ignore[union-attr]
    heights = {label: [bar.get_height() for bar in group] for group, label in zip(*bar_groups(bars), strict=True)}
    assert heights == {"random": [0.1], "rim": [0.25, 1.0], "lstm": [0.75]}
    assert [label.get_text() for label in bars.get_xticklabels()] == ["train\n(seen)", "new"]


def bar_groups(axes: Axes) -> tuple[list[Any], list[str]]:
    containers = [group for group in axes.containers if type(group).__name__ == "BarContainer"]
    return containers, [str(group.get_label()) for group in containers]


def test_returns_are_drawn_where_there_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = results(tmp_path / "run", {"train": split(success_rate=None, return_mean=-7.0)})
    del run.progress["rollout/success_rate"]
    curves, bars = drawn([run], tmp_path, monkeypatch).axes
    assert curves.get_ylabel() == bars.get_ylabel() == "mean return"
    (group,), _ = bar_groups(bars)
    assert [bar.get_height() for bar in group] == [-7.0]
    low, high = bars.get_ylim()
    assert low <= -7.0 < high


def test_more_runs_than_colours(tmp_path: Path) -> None:
    runs = [results(tmp_path / f"{k}", {"train": split()}, f"a/{k}") for k in range(9)]
    save_comparison(runs, tmp_path / "picture.png")
    assert is_whole_png((tmp_path / "picture.png").read_bytes())
