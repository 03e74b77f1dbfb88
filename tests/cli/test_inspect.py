"""``rimrl inspect`` and what ``rimrl list cores`` says of the cores."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rimrl.cores.registry import CORES, CoreEntry, make_core
from rimrl.reporting.inspection import PICTURES, percent
from rimrl.runs.recording import RECORDING_FILES
from tests.commands import SMALL_PPO, call, files, read_json, succeed

QUICK = ("--episodes", "2", "--quiet")


def test_inspect_leaves_recording_and_pictures(run: Path) -> None:
    before = files(run)
    answer = succeed("inspect", run, *QUICK)
    assert answer.err == ""
    folder = run / "inspection" / "train"
    assert sorted(files(folder)) == sorted([*RECORDING_FILES, *PICTURES])
    facts = read_json(folder / "inspection.json")
    assert f"2 episodes, {facts['steps']} steps" in answer.out
    for n, share in enumerate(facts["active_frequency"][0]["units"]):
        assert f"unit {n} {percent(share)}" in answer.out
    assert f"used: collapse {facts['collapse']:.2f}, worst share {facts['worst_share']:.2f} (0: all" in answer.out
    bits = [facts["mutual_information"][name] for name in ("action", "reward", "first_step")]
    told = "action {:.3f} bits, sign of the reward {:.3f} bits, first step {:.3f} bits".format(*bits)
    assert f": {told}\n" in answer.out
    for picture in PICTURES:
        assert str(folder / picture) in answer.out
    assert {name: content for name, content in files(run).items() if not name.startswith("inspection")} == before


def test_a_split_has_a_folder_of_its_own(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "pictures"
    words = ("--split", "all_novel", "--seed", "5", "--deterministic", "--best", "--output", output)
    succeed("inspect", run, *QUICK, *words)
    assert [path.name for path in output.iterdir()] == ["all_novel"]
    facts = read_json(output / "all_novel" / "inspection.json")
    assert (facts["split"], facts["seed"], facts["deterministic"]) == ("all_novel", 5, True)
    assert facts["model"] == "best_model.zip"
    assert not (run / "inspection").exists()


def test_what_is_recorded_on_request_is_in_the_file(run: Path, tmp_path: Path) -> None:
    plain = succeed("inspect", run, *QUICK)
    with np.load(run / "inspection" / "train" / "recording.npz") as saved:
        before = dict(saved)
    answer = succeed("inspect", run, *QUICK, "--record", "values", "states")
    assert answer.out == plain.out
    with np.load(run / "inspection" / "train" / "recording.npz") as saved:
        assert set(saved) - set(before) == {"state_h", "state_c", "value"}
        for name, array in before.items():
            np.testing.assert_array_equal(saved[name], array)


def test_a_recording_that_grows_too_large_leaves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rimrl.experiments.probing._LARGEST", 2**14)
    before = files(Path())
    answer = call("inspect", run, *QUICK, "--record", "observations")
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 1)
    assert files(Path()) == before


def test_an_inspection_of_another_core_leaves_no_old_picture(tmp_path: Path) -> None:
    run, output = tmp_path / "lstm", tmp_path / "out" / "train"
    words = ("--core.hidden_size", "8", "--total-timesteps", "64", "--run-dir", str(run))
    succeed("train", "distractors/lstm", *SMALL_PPO, *words)
    output.mkdir(parents=True)
    (output / "communication.png").write_bytes(b"of a core that had units")
    answer = succeed("inspect", run, *QUICK, "--output", tmp_path / "out")
    assert "core 'lstm'" in answer.out
    assert "units" in answer.out
    assert "collapse" not in answer.out
    assert sorted(files(output)) == sorted([*RECORDING_FILES, "raster.png"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--split", "novel_shape"), "'novel_shapes'"),
        (("run", "--split", "../elsewhere"), "unknown split"),
        (("run", "--episodes", "0"), "at least 1"),
        (("run", "--episodes", "few"), "invalid int value"),
        (("run", "--best"), r"best_model\.zip"),
        (("run", "--output", "run/config.yaml"), r"folder run/config\.yaml/train"),
        (("nowhere",), "run folder nowhere"),
        ((".",), "run folder"),
        ((), "RUN"),
        (("run", "run"), "unexpected argument"),
        (("run", "--record", "state"), r"'states'\?"),
        (("run", "--record"), "expected.*argument"),
        (("--record", "values", "run"), "arguments are required: RUN"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(run: Path, words: tuple[str, ...], said: str) -> None:
    (run / "best_model.zip").unlink()
    before = files(Path())
    answer = call("inspect", *words)
    assert answer.code == 2
    assert answer.out == ""
    assert len(answer.err.splitlines()) == 1
    assert re.search(said, answer.err)
    assert files(Path()) == before


def test_a_damaged_model_leaves_no_folder(run: Path) -> None:
    (run / "model.zip").write_bytes((run / "model.zip").read_bytes()[:1000])
    answer = call("inspect", run, *QUICK)
    assert (answer.code, len(answer.err.splitlines())) == (2, 1)
    assert not (run / "inspection").exists()


# -- list cores --------------------------------------------------------------------------------------------------------


def test_list_cores_says_paper_parameters_and_reconstruction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CORES, "rebuilt", CoreEntry(CORES["lstm"].path, "made up", "Nobody, 1900", reconstruction=True))
    lines = succeed("list", "cores").out.splitlines()
    for name, entry in CORES.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        core = make_core(name, 128, hidden_size=96)
        assert line.split()[1] == f"{sum(parameter.numel() for parameter in core.parameters()):,}"
        assert line.split()[2].split("/")[0] == core.backend
        assert line.split()[3] == ("yes" if entry.reconstruction else "no")
        assert entry.paper.split()[0] in line
    assert any("input 128 and hidden 96" in line for line in lines)


def test_list_cores_says_what_cannot_run_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = CoreEntry("tests.cli.refusing:Refusing", "made up", "-", backends="tests.cli.refusing:BACKENDS")
    monkeypatch.setitem(CORES, "refusing", refusing)
    lines = succeed("list", "cores").out.splitlines()
    (line,) = [line for line in lines if line.split()[:1] == ["refusing"]]
    assert line.split()[2] == "torch/step"
    assert any("native" in line and "the moon is full" in line and "(refusing)" in line for line in lines)


def test_parameters_of_an_lstm_by_hand() -> None:
    (line,) = [line for line in succeed("list", "cores").out.splitlines() if line.split()[:1] == ["lstm"]]
    assert line.split()[1] == f"{4 * 96 * (128 + 96 + 2):,}"
