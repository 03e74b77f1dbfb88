"""Transfer scores against areas computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rimrl.errors import UsageError
from rimrl.reporting.statistics import Estimate, interval
from rimrl.reporting.transfer import Area, counts, learning_curve, score_folder, scores, transfer_score
from rimrl.reporting.transfer_plots import save_matrix


def write_monitor(folder: Path, episodes: list[tuple[float, int]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{r},{length},{k}\n" for k, (r, length) in enumerate(episodes))
    file = folder / "monitor.csv"
    file.write_text('#{"t_start": 0.0, "env_id": "x"}\nr,l,t\n' + rows)
    return file


def test_a_curve_is_the_mean_return_of_the_episodes_that_end_in_each_bin(tmp_path: Path) -> None:
    # Four bins of 10 steps. Ends at 4, 9 | 10, 19 | none | 30 and, past the end, 41: the last bin.
    file = write_monitor(tmp_path, [(1, 4), (3, 5), (4, 1), (8, 9), (20, 11), (40, 11)])
    assert learning_curve(file, total_timesteps=40, bins=4) == (2.0, 6.0, 18.0, 30.0)


def test_a_curve_is_held_where_no_episode_ends(tmp_path: Path) -> None:
    file = write_monitor(tmp_path, [(5, 12)])
    assert learning_curve(file, total_timesteps=40, bins=4) == (5.0, 5.0, 5.0, 5.0)


def test_a_monitor_without_episodes_or_damaged(tmp_path: Path) -> None:
    assert learning_curve(write_monitor(tmp_path, []), 40) == ()
    (tmp_path / "monitor.csv").write_text("#{}\nr,l,t\nx,1,2\n")
    with pytest.raises(UsageError, match="damaged") as caught:
        learning_curve(tmp_path / "monitor.csv", 40)
    assert (caught.value.kind, caught.value.key) == ("damaged", str(tmp_path / "monitor.csv"))


def area(method: str, source: str | None, seed: int, value: float, target: str = "b") -> Area:
    return Area("rim", method, source, target, seed, (value - 1.0, value + 1.0))


AREAS = [
    *(area("scratch", None, seed, value) for seed, value in enumerate((1.0, 2.0, 3.0))),
    *(area("frozen", "a", seed, value) for seed, value in enumerate((2.0, 3.0, 7.0))),
    *(area("frozen", "c", seed, value) for seed, value in enumerate((0.0, 1.0, 2.0))),
]


def test_scores_are_ratios_of_mean_areas_with_and_without_offset() -> None:
    found = {(score.source, score.over_sources): score for score in scores(AREAS, {"b": -1.0})}
    a, c, both = found["a", False], found["c", False], found[None, True]
    assert a.raw is not None
    assert c.raw is not None
    assert both.raw is not None
    assert (a.raw.value, c.raw.value, both.raw.value) == pytest.approx((4 / 2, 1 / 2, 2.5 / 2))
    assert a.offset is not None
    assert c.offset is not None
    assert both.offset is not None
    assert (a.offset.value, c.offset.value, both.offset.value) == pytest.approx((5 / 3, 2 / 3, 3.5 / 3))
    assert a.seeds == (0, 1, 2)


def test_only_seeds_that_both_have_are_compared() -> None:
    (score, _) = scores([*AREAS[1:3], *AREAS[3:6]], {})
    assert score.seeds == (1, 2)
    assert score.raw is not None
    assert score.raw.value == pytest.approx(5 / 2.5)
    assert score.offset is None


def test_the_interval_is_that_of_paired_seeds() -> None:
    ours, scratch = np.array([2.0, 3.0, 7.0, 4.0]), np.array([1.0, 2.0, 3.0, 1.5])
    found = transfer_score(ours, scratch)
    assert found is not None
    # Where scratch is the same for all seeds, the ratio is a mean, whose interval is known.
    even = transfer_score(ours, np.full(4, 2.0))
    assert even is not None
    of_mean = interval(ours[:, None] / 2.0, lambda runs: runs.mean(axis=(-2, -1)))
    assert (even.low, even.high) == pytest.approx((of_mean.low, of_mean.high))
    # Twice the returns of both: the same score, the same interval. Proportional areas: no doubt at all.
    doubled = transfer_score(2 * ours, 2 * scratch)
    assert doubled is not None
    assert (doubled.value, doubled.low, doubled.high) == pytest.approx((found.value, found.low, found.high))
    sure = transfer_score(3 * scratch, scratch)
    assert sure is not None
    assert (sure.low, sure.high) == pytest.approx((3.0, 3.0))


def test_there_is_no_score_without_a_positive_area_of_scratch() -> None:
    assert transfer_score(np.array([1.0, 2.0]), np.array([-1.0, 0.5])) is None
    assert transfer_score(np.array([]), np.array([])) is None
    unsure = transfer_score(np.array([1.0, 2.0]), np.array([-1.0, 3.0]))
    assert unsure == Estimate(1.5) or (unsure is not None and not unsure.has_interval and unsure.value == 1.5)
    alone = transfer_score(np.array([1.0]), np.array([2.0]))
    assert alone is not None
    assert alone.value == 0.5
    assert not alone.has_interval


def test_counts_of_targets_and_of_pairs() -> None:
    more = [
        *AREAS,
        *(area("scratch", None, seed, value, "d") for seed, value in enumerate((1.0, 1.1, 0.9))),
        *(area("frozen", "a", seed, 5.0, "d") for seed in range(3)),
        *(area("frozen", "c", seed, 0.2, "d") for seed in range(3)),
        *(area("scratch", None, seed, -1.0, "e") for seed in range(3)),
        *(area("frozen", source, seed, 5.0, "e") for source in ("a", "c") for seed in range(3)),
    ]
    found = {(count.over, count.kind): count for count in counts(scores(more, {"b": -1.0, "d": 0.0}))}
    targets, pairs = found["targets", "raw"], found["pairs", "raw"]
    assert (targets.positive, targets.negative, targets.without_score) == (2, 0, 1)
    assert (pairs.positive, pairs.negative, pairs.without_score) == (2, 2, 2)
    assert (targets.surely_positive, pairs.surely_positive, pairs.surely_negative) == (1, 1, 1)
    assert found["targets", "offset"].without_score == 1


def write_folder(folder: Path) -> None:
    runs = []
    for method, source, seed, value, status in (
        ("scratch", None, 0, 1.0, "finished"),
        ("scratch", None, 1, 3.0, "finished"),
        ("finetune", "a", 0, 4.0, "finished"),
        ("finetune", "a", 1, 6.0, "finished"),
        ("frozen", "a", 0, 4.0, "running"),
    ):
        path = f"targets/{method}/seed_{seed}"
        write_monitor(folder / path, [(value, 10), (value, 10)])
        runs.append(
            {"core": "rim", "method": method, "source": source, "target": "b", "seed": seed, "path": path}
            | {"status": status, "total_timesteps": 20}
        )
    (folder / "transfer.json").write_text(json.dumps({"runs": runs, "random": {"b": {"return_mean": 1.0}}}))


def test_a_folder_is_scored_as_far_as_it_has_come(tmp_path: Path) -> None:
    write_folder(tmp_path)
    result = score_folder(tmp_path)
    (one, over) = result["scores"]
    assert one["raw"]["value"] == over["raw"]["value"] == pytest.approx(5 / 2)
    assert one["offset"]["value"] == pytest.approx(4 / 1)
    assert [run.get("area") for run in result["runs"]] == [1.0, 3.0, 4.0, 6.0, None]
    json.dumps(result, allow_nan=False)


def test_the_matrix_is_drawn_for_a_part_as_well(tmp_path: Path) -> None:
    write_folder(tmp_path)
    result = score_folder(tmp_path)
    save_matrix(result, tmp_path / "matrix.svg")
    text = (tmp_path / "matrix.svg").read_text()
    assert text.count("<!-- 4.00 -->") == 1  # with offset
    assert "<!-- rim: finetune -->" in text
    assert "<!-- rim: frozen -->" in text


def test_a_damaged_plan(tmp_path: Path) -> None:
    for content in ("{", "[]", '{"runs": [{}]}', '{"runs": [], "random": []}'):
        (tmp_path / "transfer.json").write_text(content)
        with pytest.raises(UsageError, match=r"transfer\.json.*damaged"):
            score_folder(tmp_path)
