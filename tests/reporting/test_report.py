"""The page says what the files say, and needs nothing but itself."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from rimrl.cli import parser
from rimrl.errors import UsageError
from rimrl.reporting.charts import Axis, axis, in_thousands
from rimrl.reporting.groups import group_runs
from rimrl.reporting.report import page, save_report
from rimrl.reporting.report_charts import gap_chart, learning_curves, profile_chart, split_charts
from rimrl.reporting.results import read_runs
from rimrl.reporting.verdict import ComparisonSummary
from tests.commands import files
from tests.reporting.pages import HOSTILE, SPLITS, Element, comparison, make_runs, parsed
from tests.reporting.test_inspection import write as write_inspection

SECTIONS = ("verdict", "scores", "curves", "gap", "profile", "units", "configuration", "environment", "commands")


def middle_mean(values: list[float]) -> float:
    """Mean without the lowest and highest quarter."""
    cut = len(values) // 4
    return float(np.mean(sorted(values)[cut : len(values) - cut]))


def table(section: Element, label: str) -> list[list[str]]:
    region = section.one(aria_label=label)
    return [[cell.text for cell in row.children if cell.tag in ("th", "td")] for row in region.all("tr")]


def test_every_figure_of_every_run_is_that_of_its_evaluation(tmp_path: Path) -> None:
    paths = make_runs(tmp_path, seeds=4)
    rows = parsed(page(comparison(paths))).one(aria_label="Scores of every run").all("tr")[1:]
    assert [Path(row.attributes["data-run"]) for row in rows] == paths
    for row, path in zip(rows, paths, strict=True):
        splits = json.loads((path / "evaluation.json").read_text())["splits"]
        shown = {cell.attributes["data-split"]: cell for cell in row.children if "data-split" in cell.attributes}
        assert shown.keys() == splits.keys()
        for name, cell in shown.items():
            assert float(cell.attributes["data-score"]) == splits[name]["success_rate"]
            assert cell.text == f"{splits[name]['success_rate']:.2f}"


def test_the_table_and_bars_are_interquartile_means_beside_chance(tmp_path: Path) -> None:
    paths = make_runs(tmp_path, seeds=5)
    compared = comparison(paths)
    scores = {
        (path.name, name): json.loads((path / "evaluation.json").read_text())["splits"][name]["success_rate"]
        for path in paths
        for name in SPLITS
    }
    rows = table(parsed(page(compared)), "Table of scores")
    assert rows[0][1:] == ["random", "rim 5 runs", "lstm 5 runs"]
    charts = split_charts(ComparisonSummary(compared))
    for k, (name, row, (kind, chart)) in enumerate(zip(SPLITS, rows[1:], charts, strict=False)):
        assert row[0] == f"{name} {'held out' if k else 'trained on'}"
        assert kind == ("held out" if k else "trained on")
        assert row[1] == f"{0.1 + k / 10:.2f}"
        assert chart.chance == pytest.approx(100 * (0.1 + k / 10))
        for group in range(2):
            runs = [scores[str(5 * group + seed), name] for seed in range(5)]
            assert row[2 + group].startswith(f"{middle_mean(runs):.2f} [")
            bar = chart.bars[group]
            assert bar.start == 0
            assert bar.width == pytest.approx(100 * middle_mean(runs), abs=0.006)
            assert bar.dots == pytest.approx([100 * score for score in runs])
            assert bar.interval is not None
            assert bar.interval[0] <= bar.width <= bar.interval[1]
    held_out = [[scores[str(5 * group + seed), name] for seed in range(5) for name in SPLITS[1:]] for group in range(2)]
    assert rows[4][0] == "all 2 held-out splits"
    for cell, runs in zip(rows[4][2:], held_out, strict=True):
        assert cell.startswith(f"{middle_mean(runs):.2f} [")
    assert rows[5][0] == "generalisation gap"
    gap = gap_chart(compared)
    assert gap is not None
    for group, (cell, bar) in enumerate(zip(rows[5][2:], gap.bars, strict=True)):
        gaps = [
            scores[str(5 * group + seed), "train"] - np.mean([scores[str(5 * group + seed), n] for n in SPLITS[1:]])
            for seed in range(5)
        ]
        assert cell.startswith(f"{np.mean(gaps):.2f} [")
        assert [gap.x.low + dot / 100 * (gap.x.high - gap.x.low) for dot in bar.dots] == pytest.approx(gaps, abs=1e-3)


def points(path: str, x: Axis, y: Axis) -> NDArray[np.float64]:
    """The values behind an SVG path."""
    pairs = np.array([[float(part) for part in pair.split(",")] for pair in path.strip("MZ").split()]) / 1000
    return np.stack([x.low + pairs[:, 0] * (x.high - x.low), y.high - pairs[:, 1] * (y.high - y.low)], axis=1)


def test_curves_are_those_of_the_progress_files(tmp_path: Path) -> None:
    """At steps between two rows of a file, what lies between them."""
    paths = make_runs(tmp_path, seeds=5, updates=30)
    (paths[0] / "progress.csv").write_text(progress([512, 15_360, 20_000], [0.0, 0.5, 1.0]))
    groups = group_runs(read_runs(paths))
    chart = learning_curves(groups)
    assert chart is not None
    drawn = {path.attributes["d"] for path in parsed(page(comparison(paths))).one(id="curves").all("path")}
    for group, line in zip(groups, chart.lines, strict=True):
        shown = []
        for run, thread in zip(group.runs, line.threads, strict=True):
            steps, rates = (run.progress[name] for name in ("time/total_timesteps", "rollout/success_rate"))
            at, values = points(thread, chart.x, chart.y).T
            assert at[0] == pytest.approx(512, abs=chart.x.high / 1000)
            assert at[-1] == pytest.approx(512 * 30, abs=chart.x.high / 1000)
            for step, value in zip(np.linspace(512, 512 * 30, len(at)), values, strict=True):
                assert value == pytest.approx(between(step, steps, rates), abs=6e-4)
            shown.append(values)
        means = [middle_mean(column.tolist()) for column in np.array(shown).T]
        np.testing.assert_allclose(points(line.path, chart.x, chart.y)[:, 1], means, atol=1.1e-3)
        band = points(line.band, chart.x, chart.y)[:, 1]
        upper, lower = band[: len(means)], band[: len(means) - 1 : -1]
        assert (upper >= np.array(means) - 2e-3).all()
        assert (lower <= np.array(means) + 2e-3).all()
        assert {line.path, line.band, *line.threads} <= drawn


def progress(steps: list[float], rates: list[float]) -> str:
    rows = "\n".join(f"{step},{rate}" for step, rate in zip(steps, rates, strict=True))
    return f"time/total_timesteps,rollout/success_rate\n{rows}\n"


def between(step: float, steps: Sequence[float | None], rates: Sequence[float | None]) -> float:
    for k in range(1, len(steps)):
        low, high, before, after = steps[k - 1], steps[k], rates[k - 1], rates[k]
        assert low is not None and high is not None and before is not None and after is not None  # noqa: PT018
        if low <= step <= high:
            return before + (after - before) * (step - low) / (high - low)
    raise AssertionError(step)


def test_runs_with_other_steps_share_a_curve_where_all_have_been(tmp_path: Path) -> None:
    paths = make_runs(tmp_path, names=("rim",), seeds=2)
    (paths[0] / "progress.csv").write_text(progress([100, 300, 500], [0.0, 0.2, 0.4]))
    (paths[1] / "progress.csv").write_text(progress([200, 400], [1.0, 0.0]))
    chart = learning_curves(group_runs(read_runs(paths)))
    assert chart is not None
    drawn = points(chart.lines[0].path, chart.x, chart.y)
    np.testing.assert_allclose(drawn[[0, -1]], [[200, (0.1 + 1.0) / 2], [400, (0.3 + 0.0) / 2]], atol=1)
    np.testing.assert_allclose(drawn[[0, -1], 1], [0.55, 0.15], atol=1e-3)


def test_the_profile_is_the_share_above(tmp_path: Path) -> None:
    paths = make_runs(tmp_path, seeds=5)
    compared = comparison(paths)
    chart = profile_chart(ComparisonSummary(compared))
    assert chart is not None
    for k, line in enumerate(chart.lines):
        scores = [
            json.loads((path / "evaluation.json").read_text())["splits"][name]["success_rate"]
            for path in paths[5 * k : 5 * k + 5]
            for name in SPLITS[1:]
        ]
        for threshold, share in points(line.path, chart.x, chart.y):
            assert share == pytest.approx(np.mean([score > threshold + 1e-9 for score in scores]), abs=1e-3)


# -- units -------------------------------------------------------------------------------------------------------------


def pixels(element: Element) -> NDArray[np.uint8]:
    head, _, content = element.attributes["src"].partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(content))).convert("RGBA"))


def test_strips_are_the_recorded_activity(tmp_path: Path) -> None:
    paths = make_runs(tmp_path, seeds=1, units=4)
    recorded = {}
    for split in ("train", "all_novel"):
        folder = paths[0] / "inspection" / split
        folder.mkdir(parents=True)
        recorded[split] = write_inspection(folder, units=4)["active"]
    (paths[1] / "inspection" / "train").mkdir(parents=True)
    write_inspection(paths[1] / "inspection" / "train", units=1, attention=False)  # an LSTM has nothing to show
    units = parsed(page(comparison(paths))).one(id="units")
    trained, *inspected = units.all("img")
    run = read_runs(paths[:1])[0]
    shares = np.array([run.progress[f"units/active_{n}"][1:] for n in range(4)], dtype=float)
    np.testing.assert_allclose(pixels(trained)[..., 3] / 255, shares, atol=0.5 / 255 + 1e-9)
    assert len(inspected) == 2
    for image, active in zip(inspected, (recorded["all_novel"], recorded["train"]), strict=True):
        shown = pixels(image)[..., 3] == 255
        np.testing.assert_array_equal(shown, active[: shown.shape[1]].T)  # as many whole episodes as fit
        assert set(np.unique(pixels(image)[..., 3])) <= {0, 255}
    for n in range(4):
        assert f"unit {n} {100 * recorded['train'][:, n].mean():.0f} %" in inspected[1].attributes["alt"]
    assert ": lstm" in units.text


def test_the_page_says_how_evenly_units_were_used(tmp_path: Path) -> None:
    paths = make_runs(tmp_path, seeds=1)
    (paths[0] / "inspection" / "train").mkdir(parents=True)
    write_inspection(paths[0] / "inspection" / "train")
    units = parsed(page(comparison(paths))).one(id="units")
    assert [line.text for line in units.all("p", class_="measures")] == [
        "Collapse 0.10, worst share 0.10.",
        "Collapse 0.33, worst share 1.00.",
        "Mutual information with action 0.250 bits, sign of the reward 0.000 bits, first step 0.500 bits.",
    ]
    assert sum("0 where all units are used alike" in line.text for line in units.all("p")) == 1


def test_runs_from_before_the_measures_have_none_on_the_page(tmp_path: Path) -> None:
    paths = make_runs(tmp_path, seeds=1, measured=False)
    (paths[0] / "inspection" / "train").mkdir(parents=True)
    write_inspection(paths[0] / "inspection" / "train", measured=False)
    units = parsed(page(comparison(paths))).one(id="units")
    assert len(units.all("img")) == 2
    assert not units.all("p", class_="measures")
    assert not any("Collapse" in line.text for line in units.all("p"))


def test_without_an_inspection_the_page_tells_how_to_get_one(tmp_path: Path) -> None:
    paths = make_runs(tmp_path, seeds=2)
    assert parsed(page(comparison(paths))).one(id="units").one("pre").text == f"rimrl inspect {paths[0]}"
    none = page(comparison(make_runs(tmp_path / "other", names=("lstm",))))
    assert "None of these cores" in parsed(none).one(id="units").text


def test_a_damaged_inspection_is_left_out(tmp_path: Path) -> None:
    paths = make_runs(tmp_path, seeds=1)
    (paths[0] / "inspection" / "train").mkdir(parents=True)
    (paths[0] / "inspection" / "train" / "inspection.json").write_text("{")
    assert "No run has" in parsed(page(comparison(paths))).one(id="units").text


# -- what was done -----------------------------------------------------------------------------------------------------


def test_commands_are_commands_and_repeat_the_runs(tmp_path: Path) -> None:
    paths = make_runs(tmp_path / "with space", seeds=2)
    lines = [
        line.strip()
        for line in "".join(parsed(page(comparison(paths))).one(id="commands").one("pre").words).splitlines()
    ]
    options = []
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "rimrl"
        parsed_options, rest = parser().parse_known_args(words)
        if parsed_options.name == "train":  # which takes its configuration from among the overrides
            (parsed_options.config,) = rest
        else:
            assert rest == []
        options.append(parsed_options)
    train, (evaluate, compare, report) = options[:4], options[4:]
    assert [option.name for option in options] == ["train"] * 4 + ["evaluate", "compare", "report"]
    folders = [str(option.run_dir) for option in train]
    assert len(set(folders)) == 4
    for option, path in zip(train, paths, strict=True):
        assert Path(option.config) == path / "config.yaml"
        assert int(option.seed) == yaml.safe_load((path / "config.yaml").read_text())["train"]["seed"]
    assert (evaluate.runs, evaluate.episodes, evaluate.seed, evaluate.n_envs) == (folders, 40, 1_000_000, 16)
    assert (evaluate.deterministic, evaluate.best, evaluate.no_random) == (False, False, False)
    assert compare.runs == report.runs == folders


def test_runs_that_were_evaluated_otherwise_are_so_again(tmp_path: Path) -> None:
    paths = make_runs(tmp_path, seeds=1)
    for path in paths:
        facts = json.loads((path / "evaluation.json").read_text())
        facts |= {"deterministic": True, "model": "best_model.zip", "seed": 7 if path == paths[0] else 8}
        for result in facts["splits"].values():
            del result["random_return_mean"], result["random_success_rate"]
        (path / "evaluation.json").write_text(json.dumps(facts))
    text = parsed(page(comparison(paths))).one(id="commands").text
    assert text.count("rimrl evaluate") == 2
    for seed in (7, 8):
        assert f"--seed {seed} --n-envs 16 --deterministic --best --no-random" in text


def test_configurations_are_whole_and_what_differs_comes_first(tmp_path: Path) -> None:
    paths = make_runs(tmp_path, seeds=2)
    section = parsed(page(comparison(paths))).one(id="configuration")
    assert table(section, "Table of differences") == [["key", "rim", "lstm"], ["core.name", "rim", "lstm"]]
    assert table(section, "Table of further differences")[1:] == [["core.num_units", "4", "–"]]
    for block, path in zip(section.all("pre"), (paths[0], paths[2]), strict=True):
        assert yaml.safe_load("".join(block.words)) == yaml.safe_load((path / "config.yaml").read_text())


def test_machines_that_differ_are_told_apart(tmp_path: Path) -> None:
    paths = make_runs(tmp_path, seeds=2, facts={"versions": {"torch": "2.13"}, "cpu_count": 2})
    (paths[3] / "environment.json").write_text(json.dumps({"python": "3.12", "versions": {"torch": "2.13"}}))
    rows = dict(table(parsed(page(comparison(paths))).one(id="environment"), "Table of versions"))
    assert rows["torch"] == "2.13"
    assert rows["python"] == "3.11 (3 runs); 3.12 (1 run)"
    assert rows["cpu count"] == "2 (3 runs); not recorded (1 run)"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"versions": 3}'])
def test_a_damaged_environment_is_not_recorded(damage: str, tmp_path: Path) -> None:
    (path,) = make_runs(tmp_path, names=("rim",), seeds=1)
    (path / "environment.json").write_text(damage)
    assert "No run" in parsed(page(comparison([path]))).one(id="environment").text


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("rim",), ("rim", "lstm"), ("rim", "lstm", "gru", "entnet", "rmc", "brims", "riglstm")]
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_page_is_whole(names: tuple[str, ...], seeds: int, tmp_path: Path) -> None:
    tree = parsed(page(comparison(make_runs(tmp_path, names, seeds))))
    assert [element.attributes["id"] for element in tree.all("section")] == list(SECTIONS)
    targets = {element.attributes["id"] for element in tree.all() if "id" in element.attributes}
    assert {link.attributes["href"] for link in tree.all("a")} <= {f"#{target}" for target in targets}
    for name in names:
        assert name in tree.one("head").one("title").text
    for picture in [*tree.all("svg", role="img"), *tree.all("img")]:
        assert len(picture.attributes.get("aria-label", picture.attributes.get("alt", ""))) > 20
    for cells in tree.all("th"):
        assert cells.attributes["scope"] in ("row", "col")
    numbers = [number for svg in tree.all("svg") for element in svg.all() for number in _numbers(element)]
    assert all(np.isfinite(numbers))


def _numbers(element: Element) -> list[float]:
    values = [element.attributes.get(name, "0") for name in ("x", "y", "x1", "x2", "y1", "y2", "width", "height", "cx")]
    return [float(value.rstrip("%")) for value in values]


def needs_nothing_but_itself(tree: Element) -> None:
    """No address outside the page, no script, and a policy that forbids both."""
    for element in tree.all():
        assert element.tag not in ("script", "iframe", "object", "embed", "form", "base")
        for name, value in element.attributes.items():
            assert not name.startswith("on"), (element.tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                assert value.startswith(("#", "data:")), (element.tag, name, value)
    style = tree.one("style").text
    assert "url(" not in style
    assert "@import" not in style
    policy = tree.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_a_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    needs_nothing_but_itself(parsed(page(comparison(make_runs(tmp_path)))))


def hostile_runs(folder: Path) -> list[Path]:
    """Runs whose every text is an attack."""
    names = (f"a{HOSTILE}", f"b{HOSTILE}")
    splits = ("train", f"new{HOSTILE}")
    paths = make_runs(
        folder / HOSTILE.replace("/", "-"), names, 2, splits=splits, facts={"commit": HOSTILE, HOSTILE: HOSTILE}
    )
    for path in paths:
        settings = yaml.safe_load((path / "config.yaml").read_text())
        settings["core"][HOSTILE] = f"{path.name}{HOSTILE}" if path == paths[0] else HOSTILE
        (path / "config.yaml").write_text(yaml.safe_dump(settings))
        facts = json.loads((path / "evaluation.json").read_text())
        (path / "evaluation.json").write_text(json.dumps(facts | {"suite": HOSTILE}))
    return paths


def test_hostile_texts_are_texts(tmp_path: Path) -> None:
    paths = hostile_runs(tmp_path)
    tree = parsed(page(comparison(paths)))
    needs_nothing_but_itself(tree)
    for place in (
        tree.one("head").one("title"),
        tree.one("h1"),
        tree.one(id="configuration"),
        tree.one(id="environment"),
    ):
        assert HOSTILE in place.text
    shown = tree.one(aria_label="Scores of every run")
    assert str(paths[0]) in [row.attributes.get("data-run") for row in shown.all("tr")]
    assert HOSTILE in tree.one(id="verdict").text


def test_thirty_runs_weigh_little(tmp_path: Path) -> None:
    names = ("rim", "lstm", "gru", "entnet", "rmc", "brims")
    paths = make_runs(tmp_path, names, seeds=5, updates=600, units=6, splits=tuple("abcdef"))
    for path in paths[:5]:
        (path / "inspection" / "train").mkdir(parents=True)
        write_inspection(path / "inspection" / "train", units=6)
    assert len(page(comparison(paths)).encode()) < 750_000


def test_a_page_is_repeatable_and_takes_its_place_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = comparison(make_runs(tmp_path / "runs"))
    output = tmp_path / "out"
    save_report(compared, output / "report.html")
    first = files(output)
    assert list(first) == ["report.html"]
    assert page(compared) == (output / "report.html").read_text()

    def fail(*_: object) -> str:
        raise UsageError("half way")

    monkeypatch.setattr("rimrl.reporting.report.page", fail)
    for file in (output / "report.html", output / "new" / "report.html"):
        with pytest.raises(UsageError, match="half way"):
            save_report(compared, file)
    assert files(output) == first


# -- scales ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [False, True])
def test_scales_hold_their_values_and_mark_them_exactly(zero: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        values = (
            rng.normal(size=3) * 10.0 ** rng.integers(-3, 5) + rng.normal() * 10.0 ** rng.integers(-3, 4)
        ).tolist()
        scale = axis(values, "x", zero=zero)
        assert scale.low <= min(values) + 1e-9
        assert scale.high >= max(values) - 1e-9
        assert not zero or scale.low <= 0 <= scale.high
        assert 2 <= len(scale.ticks) <= 8
        assert len({text for _, text in scale.ticks}) == len(scale.ticks)
        for value, text in scale.ticks:
            assert float(text) == pytest.approx(value, abs=1e-6 * (scale.high - scale.low))
            assert 0 <= scale.place(value) <= 100
            assert scale.height(value) == pytest.approx(100 - scale.place(value))


@pytest.mark.parametrize("values", [[], [float("nan")], [0.0], [3.0], [3.0, 3.0], [0.0, 0.0]])
def test_scales_of_hardly_anything(values: list[float]) -> None:
    for zero in (False, True):
        scale = axis(values, "x", zero=zero)
        assert scale.low < scale.high
        assert len(scale.ticks) > 1


def test_steps_are_written_shortly() -> None:
    assert [in_thousands(steps) for steps in (0, 50_000, 2_500, 1e6, 1.5e6)] == ["0", "50k", "2.5k", "1M", "1.5M"]


@pytest.mark.parametrize("tight", [1, 5, 12])
def test_labels_do_not_lie_on_each_other(tight: int, tmp_path: Path) -> None:
    names = [f"core{k}" for k in range(6)]
    paths = make_runs(tmp_path, names, seeds=1, updates=tight)
    chart = learning_curves(group_runs(read_runs(paths)))
    assert chart is not None
    heights = sorted(line.label_height for line in chart.lines)
    assert min(np.diff(heights)) > 6


def test_returns_are_shown_where_there_is_no_success(tmp_path: Path) -> None:
    paths = make_runs(tmp_path)
    rng = np.random.default_rng(1)
    for path in paths:
        facts: dict[str, Any] = json.loads((path / "evaluation.json").read_text())
        for result in facts["splits"].values():
            result |= {"success_rate": None, "random_success_rate": None, "return_mean": -100 * float(rng.random())}
            result |= {"random_return_mean": -200.0}
        (path / "evaluation.json").write_text(json.dumps(facts))
        text = (path / "progress.csv").read_text()
        (path / "progress.csv").write_text(re.sub("rollout/success_rate", "other", text))
    tree = parsed(page(comparison(paths)))
    assert "mean return in training" in tree.one(id="curves").text
    _, chart = split_charts(ComparisonSummary(comparison(paths)))[0]
    assert chart.x.low <= -200
    assert chart.chance == chart.x.place(-200)
    for bar in chart.bars:
        assert bar.start + bar.width == pytest.approx(chart.x.place(0))  # from the value up to zero
