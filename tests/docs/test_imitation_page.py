"""The table of docs/results/imitation.md says what the file beside it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.commands import succeed

PAGE = Path(__file__).resolve().parents[2] / "docs/results/imitation.md"
TEXT = PAGE.read_text(encoding="utf-8")
RESULT: dict[str, Any] = json.loads((PAGE.parent / "imitation/half_cheetah.json").read_text(encoding="utf-8"))
SPLITS = ("train", "noise_0.1", "noise_0.2", "noise_0.5")


def printed(value: dict[str, float], sign: int = 1) -> str:
    low, high = sorted(sign * value[end] for end in ("low", "high"))
    return f"{sign * value['value']:.0f} [{low:.0f}, {high:.0f}]"


@pytest.mark.parametrize("core", RESULT["groups"])
def test_a_row_has_every_split(core: str) -> None:
    group = RESULT["groups"][core]
    assert [run["seed"] for run in group["runs"]] == [0, 1, 2]
    cells = [printed(group["splits"][split]) for split in SPLITS]
    assert f"| `{core}` | {' | '.join(cells)} |" in TEXT


def test_differences_to_the_lstm() -> None:
    assert RESULT["reference"] == "lstm"
    differences = RESULT["groups"]["rim"]["differences"]
    text = " ".join(TEXT.split())
    assert f"difference to the LSTM is {printed(differences['train'])}" in text
    behind = re.search(r"is behind the LSTM by (.+?) at 0\.1 and by (.+?) at 0\.2", text)
    assert behind
    assert list(behind.groups()) == [printed(differences[split], -1) for split in ("noise_0.1", "noise_0.2")]


@pytest.mark.parametrize("core", RESULT["groups"])
def test_what_a_configuration_expects_is_what_was_found(core: str) -> None:
    runs = RESULT["groups"][core]["runs"]
    text = " ".join(head_of(core).replace("#", " ").split())
    for split, condition in (("train", "without noise"), ("noise_0.2", "with noise_0.2")):
        scores = sorted(run["scores"][split] for run in runs)
        assert f"{scores[0]:.0f} to {scores[-1]:.0f} {condition}" in text


def head_of(core: str) -> str:
    return (PAGE.parents[2] / f"rimrl/configs/imitation/{core}.yaml").read_text(encoding="utf-8")


def test_the_commands_not_run_are_taken() -> None:
    guide = (PAGE.parents[1] / "imitation.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^rimrl sweep (imitation/rim .+) --seeds .+$", guide, re.MULTILINE)
    for line in lines[-2:]:
        succeed("train", *line.split(), "--print-config")
