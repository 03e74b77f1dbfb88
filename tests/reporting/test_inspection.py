"""Pictures of an inspection show what its files say, checked on what was drawn rather than on pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rimrl.errors import UsageError
from rimrl.reporting.inspection import (
    PICTURES,
    communication,
    format_evenness,
    format_mutual_information,
    frequency,
    input_attention,
    percent,
    raster,
    read_inspection,
    save_pictures,
)

ACTIONS = ["left", "right", "pickup"]


def write(
    folder: Path,
    lengths: tuple[int, ...] = (30, 50, 60),
    units: int = 4,
    elements: int = 1,
    actions: list[str] | None = ACTIONS,
    null: bool = True,
    attention: bool = True,
    rewarded: bool = True,
    measured: bool = True,
) -> dict[str, NDArray[Any]]:
    """Write an inspection with random content and return its arrays."""
    rng = np.random.default_rng(0)
    S = sum(lengths)
    active = np.ones((S, 1), dtype=bool) if units == 1 else rng.random((S, units)).argsort(axis=1) < units // 2
    if units > 1:
        active[:, -1] = False  # one unit never works
    arrays: dict[str, NDArray[Any]] = {
        "episode": np.repeat(np.arange(len(lengths)), lengths),
        "step": np.concatenate([np.arange(length) for length in lengths]),
        "action": rng.integers(3, size=S) if actions else rng.normal(size=(S, 2)),
        "reward": (rng.random(S) < 0.1) * rng.normal(size=S) * rewarded,
        "active": active,
    }
    if attention:
        arrays["input_attention"] = rng.dirichlet(np.ones(1 + elements), size=(S, units))
        arrays["input_attention"][..., 0] *= null
        arrays["communication_attention"] = rng.dirichlet(np.ones(units), size=(S, units))
    listens = [
        arrays["communication_attention"][active[:, n], n].mean(axis=0).tolist() if active[:, n].any() else None
        for n in range(units if attention else 0)
    ]
    later = arrays["step"] > 0
    occasions = [("all", "all steps", later | True), ("first", "first step of an episode", ~later)]
    occasions += [("later", "all later steps", later)]
    occasions += [("action", name, later & (arrays["action"] == i)) for i, name in enumerate(actions or ())]
    occasions += [("action", "never taken", later & False)]
    facts = {
        **{"suite": "distractors", "split": "train", "core": "rim", "num_timesteps": 1234},
        **{"steps": S, "units": units, "action_names": [*actions, "never taken"] if actions else None},
        "episodes": [
            {"length": length, "return": 1.5, "success": success, "out_of_time": False, "task": "pick up the ball"}
            for length, success in zip(lengths, [True, False, None] * len(lengths), strict=False)
        ],
        "active_frequency": [
            {
                "kind": kind,
                "when": when,
                "steps": int(mask.sum()),
                "units": active[mask].mean(axis=0).tolist() if mask.any() else None,
            }
            for kind, when, mask in occasions
        ],
        "input_attention_mean": arrays["input_attention"].mean(axis=0).tolist() if attention else None,
        "communication_attention_mean": listens if attention else None,
    }
    if measured:  # inspections of older versions have no such figures
        bits = {"action": 0.25, "reward": 0.0, "first_step": 0.5} if units > 1 else None
        facts |= {"collapse": 0.333, "worst_share": 1.0} if units > 1 else {"collapse": None, "worst_share": None}
        facts["mutual_information"] = bits
    np.savez(folder / "recording.npz", **arrays)  # type: ignore[arg-type]
    (folder / "inspection.json").write_text(json.dumps(facts))
    return arrays


def titled(figure: Figure, title: str) -> Axes:
    (axes,) = [
        axes
        for axes in figure.axes
        if axes.get_title(loc="left").startswith(title) or axes.get_title().startswith(title)
    ]
    return axes


def image(axes: Axes) -> NDArray[Any]:
    (drawn,) = axes.images
    shown = drawn.get_array()
    assert shown is not None
    return shown


def labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_raster_is_the_active_set(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    figure = raster(read_inspection(tmp_path))
    units = titled(figure, "Units")
    shown = 80  # the first two episodes; the third would be too much for one page
    np.testing.assert_array_equal(image(units), arrays["active"][:shown].T)
    np.testing.assert_array_equal(image(titled(figure, "Action"))[:3], arrays["action"][:shown] == [[0], [1], [2]])
    assert not image(titled(figure, "Action"))[3].any()
    assert labels(titled(figure, "Action")) == [*ACTIONS, "never taken"]
    bars = titled(figure, "Reward").containers[0]
    assert [bar.get_height() for bar in bars] == arrays["reward"][:shown].tolist()
    # Black is active: the colours that a reader sees.
    (drawn,) = units.images
    assert np.array(drawn.cmap(drawn.norm(np.array([False, True])))).tolist() == [[1, 1, 1, 1], [0, 0, 0, 1]]
    for n, label in enumerate(labels(units)):
        assert label == f"unit {n}:  {100 * arrays['active'][:, n].mean():.0f} % of all steps"


def test_episodes_are_marked_where_they_begin_and_say_how_they_ended(tmp_path: Path) -> None:
    write(tmp_path)
    figure = raster(read_inspection(tmp_path))
    band = figure.axes[0]
    assert words(band) == ["pick up the ball\n✓ success", "pick up the ball\n✗ failed"]
    assert [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in band.patches] == [  # type: ignore[attr-defined]
        (-0.5, 29.5),
        (29.5, 79.5),
    ]
    for lane in figure.axes[1:]:
        upright = [line.get_xdata()[0] for line in lane.lines if line.get_xdata()[0] == line.get_xdata()[1]]  # type: ignore[index]
        assert upright == [-0.5, 29.5]
        assert lane.get_xlim() == (-0.5, 79.5)
    assert "rim on distractors (train) after 1,234 training steps, episodes 1 to 2 of 3" in figure.get_suptitle()


def test_a_long_first_episode_is_cut_and_says_so(tmp_path: Path) -> None:
    arrays = write(tmp_path, lengths=(500, 3))
    figure = raster(read_inspection(tmp_path))
    np.testing.assert_array_equal(image(titled(figure, "Units")), arrays["active"][:120].T)
    assert "first 120 of 500 steps of episode 1 of 2" in figure.get_suptitle()


def test_narrow_episodes_keep_a_sign(tmp_path: Path) -> None:
    write(tmp_path, lengths=(2, 2, 100))
    assert words(raster(read_inspection(tmp_path)).axes[0])[:2] == ["✓", "✗"]


def test_attention_to_the_input(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    figure = input_attention(read_inspection(tmp_path))
    assert figure is not None
    lane = titled(figure, "Share of a unit's attention")
    np.testing.assert_allclose(image(lane), 1 - arrays["input_attention"][:80, :, 0].T)
    dots = next(line for line in lane.lines if line.get_marker() == "o")
    steps, units = np.nonzero(arrays["active"][:80])
    np.testing.assert_array_equal(dots.get_xdata(), steps)
    np.testing.assert_array_equal(dots.get_ydata(), units)
    assert lane.images[0].get_clim() == (0, 1)


def test_several_input_elements_get_a_matrix(tmp_path: Path) -> None:
    arrays = write(tmp_path, elements=5)
    figure = input_attention(read_inspection(tmp_path))
    assert figure is not None
    matrix = titled(figure, "Average over all steps")
    np.testing.assert_allclose(image(matrix), arrays["input_attention"].mean(axis=0))
    assert [label.get_text() for label in matrix.get_xticklabels()] == ["nothing", "0", "1", "2", "3", "4"]


def test_units_that_share_the_input_have_no_nothing(tmp_path: Path) -> None:
    arrays = write(tmp_path, elements=2, null=False)
    figure = input_attention(read_inspection(tmp_path))
    assert figure is not None
    lane = titled(figure, "Share of the input that each unit takes")
    np.testing.assert_allclose(image(lane), arrays["input_attention"][:80, :, 1:].mean(axis=-1).T)


def test_idle_units_do_not_listen(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    attention, active = arrays["communication_attention"], arrays["active"]
    figure = communication(read_inspection(tmp_path))
    assert figure is not None
    lane = image(titled(figure, "How much each unit is listened to"))
    for t in range(80):
        np.testing.assert_allclose(lane[:, t], attention[t, active[t]].mean(axis=0))
    matrix = np.ma.filled(image(titled(figure, "Average while the listener is active")), np.nan)
    for n in range(3):
        np.testing.assert_allclose(matrix[n], attention[active[:, n], n].mean(axis=0))
    assert np.isnan(matrix[3]).all()  # it never worked
    assert len(words(titled(figure, "Average while the listener is active"))) == 3 * 4


def test_frequencies_are_drawn_as_written(tmp_path: Path) -> None:
    arrays = write(tmp_path)
    figure = frequency(read_inspection(tmp_path))
    assert figure is not None
    bars, grid = figure.axes
    np.testing.assert_allclose([bar.get_width() for bar in bars.containers[0]], arrays["active"].mean(axis=0))
    later = arrays["step"] > 0
    masks = [~later, later, *(later & (arrays["action"] == i) for i in range(3))]  # an action never taken has no column
    table = np.array([arrays["active"][mask].mean(axis=0) for mask in masks]).T
    assert words(grid) == [f"{100 * share:.0f} %" for share in table.flat]
    np.testing.assert_allclose(image(grid), table - table[:, [1]])
    headings = [label.get_text().replace("\n", " ") for label in grid.get_xticklabels()]
    assert headings[2] == f"later, action left ({int(masks[2].sum())} steps)"
    assert "3 episodes" in figure.get_suptitle()
    assert bars.get_xlabel() == "collapse 0.33, worst share 1.00"


def test_an_inspection_of_an_older_version_is_drawn_without_the_measures(tmp_path: Path) -> None:
    write(tmp_path, measured=False)
    inspection = read_inspection(tmp_path)
    assert (format_evenness(inspection.facts), format_mutual_information(inspection.facts)) == ("", "")
    assert save_pictures(tmp_path) == list(PICTURES)
    figure = frequency(inspection)
    assert figure is not None
    assert figure.axes[0].get_xlabel() == ""


def test_a_core_without_units_shows_actions_and_rewards(tmp_path: Path) -> None:
    arrays = write(tmp_path, units=1, attention=False, rewarded=False)
    assert save_pictures(tmp_path) == ["raster.png"]
    figure = raster(read_inspection(tmp_path))
    np.testing.assert_array_equal(image(titled(figure, "Action"))[1], arrays["action"][:80] == 1)
    assert titled(figure, "Reward: none in these steps")
    assert len(figure.axes) == 3


def test_a_core_without_attention_shows_its_units(tmp_path: Path) -> None:
    write(tmp_path, attention=False)
    assert save_pictures(tmp_path) == ["raster.png", "frequency.png"]


@pytest.mark.parametrize("options", [{"actions": None, "elements": 30}, {"lengths": (1,)}])
def test_pictures_are_saved(tmp_path: Path, options: dict[str, Any]) -> None:
    write(tmp_path, **options)
    assert save_pictures(tmp_path) == list(PICTURES)
    for name in PICTURES:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n")


def test_only_never_and_always_are_0_and_100() -> None:
    shares = {0.0: "0 %", 0.001: "<1 %", 0.006: "1 %", 0.5: "50 %", 0.994: "99 %", 0.999: ">99 %", 1.0: "100 %"}
    assert {share: percent(share) for share in shares} == shares


@pytest.mark.parametrize("name", ["recording.npz", "inspection.json"])
def test_missing_or_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    content = (tmp_path / name).read_bytes()
    for damaged in (content[: len(content) // 2], b""):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UsageError, match="damaged") as caught:
            read_inspection(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / name).unlink()
    with pytest.raises(UsageError, match="rimrl inspect") as caught:
        read_inspection(tmp_path)
    assert (caught.value.kind, caught.value.key) == ("missing", name)


def test_files_of_two_inspections_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path, lengths=(7,))
    other = tmp_path / "other"
    other.mkdir()
    write(other, lengths=(8,))
    (other / "inspection.json").replace(tmp_path / "inspection.json")
    with pytest.raises(UsageError, match="belong together"):
        read_inspection(tmp_path)


@pytest.mark.parametrize("name", ["state_h", "critic_state_c", "observation", "observation.image", "value"])
def test_what_was_recorded_on_request_has_a_row_for_each_step(name: str, tmp_path: Path) -> None:
    arrays = write(tmp_path)
    for rows, fits in ((np.zeros((140, 2)), True), (np.zeros((139, 2)), False), (np.array(["x"] * 140), False)):
        np.savez(tmp_path / "recording.npz", **arrays, **{name: rows})  # type: ignore[arg-type]
        if fits:
            assert read_inspection(tmp_path).arrays[name].shape == rows.shape
        else:
            with pytest.raises(UsageError, match=f"damaged .*{name}"):
                read_inspection(tmp_path)
