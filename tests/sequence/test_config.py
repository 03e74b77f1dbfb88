"""Presets are complete and fit every core; overrides, ablations and what is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from rimrl.cores.registry import CORES, LEGACY_OPTION_VALUES
from rimrl.errors import UsageError
from rimrl.runs.config import digest
from rimrl.sequence.ablations import ABLATIONS, find_ablation
from rimrl.sequence.config_files import PRESETS, load_sequence, shipped_presets
from rimrl.sequence.registry import TASKS
from rimrl.sequence.run import make_model, make_run_task
from rimrl.sequence.train import train
from tests.sequence.small import make_mnist, make_text

every_preset = pytest.mark.parametrize("preset", PRESETS)
every_name = pytest.mark.parametrize("task", TASKS)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIMRL_MNIST", str(make_mnist(tmp_path / "mnist", monkeypatch)))
    monkeypatch.setenv("RIMRL_TEXT", str(make_text(tmp_path / "text.txt")))


def test_every_task_has_both_presets() -> None:
    assert set(shipped_presets()) == {f"sequence/{task}_{preset}" for task in TASKS for preset in PRESETS}


@every_name
@every_preset
def test_a_preset_opens_with_its_command(task: str, preset: str) -> None:
    lines = shipped_presets()[f"sequence/{task}_{preset}"].read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# rimrl sequence {task} --core rim --preset {preset}"


@every_name
@every_preset
@pytest.mark.parametrize("core", CORES)
def test_a_preset_fits_every_core(task: str, preset: str, core: str) -> None:
    config = load_sequence(task, core, preset)
    model = make_model(config, make_run_task(config))
    # The state of these is a memory of many steps or slots; they are as wide as they put out.
    wide = model.core.output_size if core in ("gtrxl", "ntm", "dnc") else model.core.hidden_size * model.core.num_layers
    assert wide == pytest.approx(NARROWER.get((task, preset, core), width_of_lstm(task, preset)), rel=0.07)


NARROWER = {("copying", "cpu", "gtrxl"): 128}
"""Presets of cores that cost too much at the width of the others."""


@cache
def width_of_lstm(task: str, preset: str) -> int:
    width: int = load_sequence(task, "lstm", preset).core.options["hidden_size"]
    return width


@every_name
@pytest.mark.parametrize("core", ["rim", "lstm"])
def test_paper_presets_train(task: str, core: str, tmp_path: Path) -> None:
    short = ["--train.num_updates=2", "--train.batch_size=2", "--train.eval_freq=0", "--train.log_freq=1"]
    run, finished = train(load_sequence(task, core, "paper", None, short), tmp_path / "run", progress_bar=False)
    assert finished
    assert len((run.path / "progress.csv").read_text().splitlines()) == 3


@every_name
def test_the_paper_presets_are_the_papers(task: str) -> None:
    rim, lstm = load_sequence(task, "rim", "paper"), load_sequence(task, "lstm", "paper")
    assert (rim.core.options["num_units"], rim.core.options["num_active"]) == (6, 4)
    assert rim.core.options["hidden_size"] == (300 if task == "adding" else 600)
    assert lstm.core.options["hidden_size"] == rim.core.options["hidden_size"]
    assert (rim.core.options["input_heads"], rim.core.options["communication_heads"]) == (1, 4)
    assert rim.train.batch_size == 64
    assert rim.train.learning_rate == {"mnist": 1e-4, "balls": 7e-4}.get(task, 1e-3)


def test_a_configuration_reads_back_to_an_equal_one(tmp_path: Path) -> None:
    config = load_sequence("copying", "riglstm", "cpu", "no_soft_update", ["--task.test_blanks", "[5, 50]"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_sequence(str(tmp_path / "config.yaml")) == config
    assert config.name == "sequence/copying_cpu/riglstm_no_soft_update"


def test_another_core_for_a_run_s_configuration_keeps_the_width_alone(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        load_sequence("copying", "rim", None, None, ["--core.num_active=2"]).to_yaml()
    )
    config = load_sequence(str(tmp_path / "config.yaml"), "riglstm")
    assert config.core.options["hidden_size"] == 600
    assert config.core.options["num_active"] is None
    assert config.name == "sequence/copying_cpu/riglstm"


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_takes_one_mechanism_away_and_leaves_the_rest(name: str) -> None:
    for core in ABLATIONS[name].cores:
        whole = load_sequence("copying", core)
        without = load_sequence("copying", core, None, name)
        assert without.name == f"{whole.name}_{name}"
        changed = {key for key in whole.core.options if whole.core.options[key] != without.core.options[key]}
        assert changed == set(ABLATIONS[name].options) | set(ABLATIONS[name].without)
        make_model(without, make_run_task(without))


@pytest.mark.parametrize("core", CORES)
def test_an_ablation_of_what_a_core_does_not_have_is_refused(core: str) -> None:
    for name, ablation in ABLATIONS.items():
        if core not in ablation.cores:
            with pytest.raises(UsageError, match=f"core '{core}' has no ablation '{name}'"):
                find_ablation(name, core)


def test_sizes_are_as_documented_for_active_units() -> None:
    """Table 4 varies the numbers of units and of active ones."""
    for units, active in ((6, 2), (5, 3), (9, 8), (16, 4), (24, 22)):
        words = [f"--core.num_units={units}", f"--core.num_active={active}", f"--core.hidden_size={units * 10}"]
        config = load_sequence("copying", "rim", "paper", None, words)
        assert make_model(config, make_run_task(config)).core.num_units == units


@pytest.mark.parametrize(
    ("task", "key"), [("copying", "min_blanks"), ("copying", "blanks_power"), ("adding", "min_length")]
)
def test_a_run_from_before_a_key_may_go_on(task: str, key: str) -> None:
    start = [f"--core.initialization={LEGACY_OPTION_VALUES['initialization']}"]
    config = load_sequence(task, "rim", "paper", None, start)
    added = config.kind.free | {"task.min_blanks", "task.blanks_power", "task.min_length"}
    added |= {f"core.{option}" for option in LEGACY_OPTION_VALUES}
    before = {name: value for name, value in config.flat().items() if name not in added}
    assert f"task.{key}" in config.flat().keys() - before.keys()
    assert config.identity() == digest(before)
    varied = load_sequence(task, "rim", "paper", None, [*start, f"--task.{key}", "2"])
    assert varied.identity() != config.identity()
