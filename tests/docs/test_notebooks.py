"""The notebooks run from a fresh namespace, what they store is what they print, and they show what they say."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot

from rimrl.cores.registry import CORES

FOLDER = Path(__file__).parents[2] / "docs/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 60_000


def code_cells(name: str) -> list[dict[str, Any]]:
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def stored_text(cell: dict[str, Any]) -> str:
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


def without_numbers(text: str) -> list[str]:
    """Learning differs slightly between processors, and numbers with it."""
    return re.sub(r"[\d.]+%?", "#", text).split()


@pytest.fixture
def forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder of the test's own without a screen, and forget cores and figures afterwards."""
    monkeypatch.chdir(tmp_path)
    before = set(CORES)
    with mpl.rc_context():
        pyplot.switch_backend("agg")
        yield
        pyplot.close("all")
    for name in CORES.keys() - before:
        del CORES[name]


def run(name: str) -> dict[str, Any]:
    """What the cells leave in their namespace; each prints and draws what is stored for it, but for the numbers."""
    namespace: dict[str, Any] = {"__name__": name}
    for cell in code_cells(name):
        printed, figures = io.StringIO(), len(pyplot.get_fignums())
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), f"{name}.ipynb {cell['id']}", "exec"), namespace)
        assert without_numbers(printed.getvalue()) == without_numbers(stored_text(cell)), cell["id"]
        drawn = [output for output in cell["outputs"] if "image/png" in output.get("data", {})]
        assert len(pyplot.get_fignums()) - figures == len(drawn), cell["id"]
    return namespace


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stored_in_order_and_are_small(path: Path) -> None:
    cells = code_cells(path.stem)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {output["output_type"] for cell in cells for output in cell["outputs"]} == {"stream", "display_data"}
    assert {output.get("name", "stdout") for cell in cells for output in cell["outputs"]} == {"stdout"}  # no warnings
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_pages_link_to_each(path: Path) -> None:
    assert f"(notebooks/{path.name})" in (FOLDER.parent / "how-do-i.md").read_text()
    assert f"(notebooks/{path.name})" in (FOLDER.parent / "get-started.md").read_text()


def test_the_first_agent_remembers_and_its_units_divide_the_work(forgotten: None) -> None:
    made = run("first_agent")
    assert made["success"]["0 to 4 steps"] > 0.75  # seven standard errors above a guess
    active, seen = made["active"], np.array(made["seen"])
    assert (active.sum(axis=1) == 2).all()
    assert active[seen == "blank"].all(axis=0).tolist() == [True, True, False, False]  # a tie: the first two
    assert active[np.char.startswith(seen, "cue")].all(axis=0).tolist() == [True, True, False, False]
    assert made["difference"].shape == (6, 4)
    assert (made["difference"][0, 2:] == 0).all()  # units that were idle at the cue cannot know it
    assert (made["difference"][0, :2] > 0).all()
    before, after = made["model"].policy.state_dict(), made["again"].policy.state_dict()
    assert all(np.array_equal(before[name].numpy(), after[name].numpy()) for name in before)


def test_the_own_core_keeps_the_contract_and_learns(forgotten: None) -> None:
    made = run("own_core")
    assert "'deterministic'" in made["broken"]
    since_start = np.r_[np.arange(13), np.arange(11)]
    assert (made["trace"].active[:, 0].numpy() == (since_start[:, None] % [1, 2, 4, 8] == 0)).all()
    assert isinstance(made["model"].policy.core, made["Clockwork"])
    assert made["success"] > 0.75
    one_gate = 64 * 1 + 64 * 64  # from one number, and from 64
    counted = {name: made["parameters"][name] for name in ("clockwork", "gru", "lstm")}
    assert counted == {"clockwork": one_gate + 64, "gru": 3 * (one_gate + 128), "lstm": 4 * (one_gate + 128)}
    attention = [p.numel() for name, p in made["made"].named_parameters() if not name.startswith("dynamics")]
    assert sum(attention) > made["parameters"]["rim"] / 2
