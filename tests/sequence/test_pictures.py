"""What inspecting a sequence task and dropping its units records and draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch as th
from PIL import Image

from rimrl.reporting.inspection import frequency, read_inspection
from rimrl.reporting.rollouts import chosen_frames
from rimrl.sequence.balls import nats_a_frame
from rimrl.sequence.run import SequenceRun, make_run_task
from rimrl.usage import mutual_information
from tests.commands import call, files, read_json, succeed
from tests.sequence.small import BALLS, COPYING


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pictures") / "copying"
    succeed("sequence", *COPYING, "--num-updates", "2", "--train.eval_freq", "0", "--run-dir", run)
    return run


@pytest.fixture(scope="module")
def bounced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("balls")
    for core, options in (("rim", ("--core.num_units", "4", "--core.num_active", "3")), ("lstm", ())):
        succeed("sequence", *BALLS, "--core", core, *options, "--run-dir", folder / core)
    return {core: folder / core for core in ("rim", "lstm")}


def test_an_inspection_tells_what_the_units_did_in_each_phase(copied: Path) -> None:
    answer = succeed("inspect", copied, "--episodes", "6", "--split", "9_blanks", "--quiet")
    folder = copied / "inspection/9_blanks"
    assert f"inspected {copied} on 9_blanks: 6 sequences" in answer.out
    inspection = read_inspection(folder)
    run = SequenceRun.open(copied)
    task = make_run_task(run.config)
    model = run.load_model(task)
    batch = task.evaluation_batch(task.split("9_blanks"), 1_000_000, 0, 6)
    with th.no_grad():
        hidden, _, trace = model(batch.inputs, return_trace=True)
        right = model.decode(hidden[-3:]).argmax(-1) == batch.targets
    length = 3 + 9 + 1 + 3
    for row in range(6):
        steps = slice(row * length, (row + 1) * length)
        assert (inspection.arrays["active"][steps] == trace.active[:, row].numpy()).all()
        assert (inspection.arrays["action"][steps] == batch.inputs[:, row].numpy()).all()
        assert inspection.arrays["reward"][steps].tolist() == [0] * 13 + [1 if r else -1 for r in right[:, row]]
    blanks = trace.active[3:12].float().mean((0, 1)).tolist()
    (said,) = [row for row in inspection.facts["active_frequency"] if row["when"] == "blank stretch"]
    assert said["steps"] == 6 * 9
    assert said["units"] == pytest.approx(blanks)
    outcomes = {row["when"]: row["steps"] for row in inspection.facts["active_frequency"] if row["kind"] == "reward"}
    assert outcomes == {"answer right": int(right.sum()), "answer wrong": int((~right).sum())}
    bits = inspection.facts["mutual_information"]
    assert list(bits) == ["action", "reward", "first_step", "phase"]
    phases = np.repeat([0, 1, 2], [3, 9, 4])
    assert bits["phase"] == pytest.approx(mutual_information(inspection.arrays["active"], np.tile(phases, 6)))
    told = f"symbol shown {bits['action']:.3f} bits, digit given back {bits['reward']:.3f} bits, first step"
    assert f": {told}" in answer.out
    figure = frequency(inspection)
    assert figure is not None
    assert figure.get_suptitle().endswith("rim on sequence/copying (9_blanks) after 2 training updates, 6 sequences")


def test_pictures_of_an_inspection_are_drawn_and_it_joins_the_report(copied: Path, tmp_path: Path) -> None:
    succeed("inspect", copied, "--episodes", "2", "--quiet")
    folder = copied / "inspection/4_blanks"
    assert {"raster.png", "frequency.png", "recording.npz", "inspection.json"} <= set(files(folder))
    succeed("report", copied, "--output", tmp_path / "page.html")
    assert "4_blanks" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_rollouts_are_recorded_beside_the_truth(bounced: dict[str, Path]) -> None:
    run = bounced["rim"]
    succeed("inspect", run, "--episodes", "5", "--quiet")
    folder = run / "inspection/4_balls"
    with np.load(folder / "rollouts.npz") as archive:
        arrays = dict(archive)
    opened = SequenceRun.open(run)
    task = make_run_task(opened.config)
    batch = task.evaluation_batch(task.splits[0], 1_000_000, 0, 5)
    assert (arrays["shown"] == 255 * batch.inputs[:3, :4].numpy()).all()
    assert (arrays["truth"] == 255 * batch.targets[2:, :4].numpy()).all()
    with th.no_grad():
        logits = task.roll_out(opened.load_model(task), batch).logits  # type: ignore[attr-defined]
    assert np.abs(arrays["predicted"] - 255 * logits[:, :4].sigmoid().numpy()).max() <= 0.51
    np.testing.assert_allclose(arrays["cross_entropy"], nats_a_frame(logits, batch.targets[2:]).mean(1), rtol=1e-5)
    with Image.open(folder / "rollouts.png") as picture:
        assert picture.width > 500


def test_frames_that_stand_for_all_have_both_ends() -> None:
    assert chosen_frames(35)[::11] == [0, 34]
    assert chosen_frames(4) == [0, 1, 2, 3]


def test_dropping_compares_units_with_blocks_as_large(bounced: dict[str, Path], tmp_path: Path) -> None:
    picture = tmp_path / "dropped.png"
    runs = bounced["rim"], bounced["lstm"]
    answer = succeed("sequence", "lesion", "--runs", *runs, "--blocks", "4", "--output", picture)
    rim, lstm = (read_json(bounced[core] / "dropping.json") for core in ("rim", "lstm"))
    assert (rim["parts"], lstm["parts"]) == ("units", "blocks")
    assert len(rim["units"]) == len(lstm["units"]) == 4
    for facts in (rim, lstm):
        assert facts["mean_increase"] == pytest.approx(
            sum(unit["cross_entropy"] for unit in facts["units"]) / 4 - facts["cross_entropy"]
        )
        assert f"{facts['mean_increase']:+.1f}" in answer.out
    assert all(unit["activity_changed"] is None for unit in lstm["units"])
    assert all(0 <= unit["activity_changed"] <= 1 for unit in rim["units"])
    with np.load(bounced["rim"] / "dropping.npz") as archive:
        change = archive["change"]
    assert np.diag(change) == pytest.approx(np.ones(4))  # all of what is dropped is gone
    others = [change[unit][[other for other in range(4) if other != unit]].mean() for unit in range(4)]
    assert [unit["change_of_others"] for unit in rim["units"]] == pytest.approx(others)
    with Image.open(picture) as drawn:
        assert drawn.height > 300


def test_lesion_is_taken_under_its_old_name() -> None:
    assert call("sequence", "dropping").err == call("sequence", "lesion").err  # old name


def test_dropping_takes_runs_of_balls_whose_state_divides(bounced: dict[str, Path], copied: Path) -> None:
    for words, said in (
        ((), "--runs RUN"),
        (("--runs", copied), "'balls'"),
        (("--runs", bounced["lstm"], "--blocks", "5"), "5 blocks"),
        (("--runs", copied.parent / "none"), "no run folder"),
        (("--runs", bounced["rim"], "--core.num_units", "3"), "unexpected argument '--core.num_units'"),
    ):
        answer = call("sequence", "lesion", *words)
        assert answer.code == 2
        assert said in answer.err
        assert answer.err.count("\n") == 1
