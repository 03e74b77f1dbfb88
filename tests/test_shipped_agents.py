"""The trained agents that come with rimrl: small, plain data, and as good as their cards say."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from math import comb
from pathlib import Path

import pytest

from benchmarks import pretrained
from rimrl.agents.saved.shipped import ROOT, shipped_agents
from rimrl.experiments.config_files import shipped_configs
from tests.commands import read_json, succeed

SHIPPED = shipped_agents()
EPISODES = 64
GAMES = 8  # of Pong, which is long
SEED = 7_000_000  # levels that neither training nor the evaluation in the card has met
SURPRISE = 1e-5
DEVIATIONS = 5  # of a mean, which are as improbable

# Runs in a process of its own, since an audit hook stays. Once to import what torch imports late, then watched.
WATCHED = """
import json, sys, rimrl
names = sys.argv[1:]
before = set(sys.modules)
for name in names:
    rimrl.pretrained(name, device="cpu")
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith(("pickle", "import")) else None)
for name in names:
    rimrl.pretrained(name, device="cpu")
print(json.dumps(seen))
"""


def at_most(successes: int, episodes: int, rate: float) -> float:
    """Probability of no more successes than that."""
    return sum(comb(episodes, k) * rate**k * (1 - rate) ** (episodes - k) for k in range(successes + 1))


def surprises(successes: int, episodes: int, low: float, high: float) -> bool:
    """Whether every rate in an interval makes so few, or so many, successes improbable."""
    return at_most(successes, episodes, low) < SURPRISE or at_most(episodes - successes, episodes, 1 - high) < SURPRISE


def test_what_surprises() -> None:
    assert not surprises(64, 64, 0.992, 1.0)
    assert not surprises(60, 64, 0.97, 1.0)
    assert not surprises(32, 64, 0.46, 0.54)
    assert surprises(50, 64, 0.97, 1.0)  # an agent whose weights came to harm
    assert surprises(4, 64, 0.46, 0.54)  # what answers by chance reach on recall, 1 in 16
    assert surprises(64, 64, 0.5, 0.6)


def test_the_page_shows_what_is_shipped() -> None:
    text = pretrained.PAGE.read_text()
    (shown,) = re.findall(r"<!-- agents -->\n(.*?)<!-- end of agents -->", text, flags=re.DOTALL)
    assert shown == pretrained.table()
    assert re.findall(r"^\| `([^`]+)`", shown, flags=re.MULTILINE) == [n for n in pretrained.AGENTS if n in SHIPPED]
    assert SHIPPED.keys() <= set(pretrained.AGENTS) <= shipped_configs().keys()


def test_each_is_listed_with_what_it_reaches() -> None:
    lines = [line.split() for line in succeed("list", "pretrained").out.splitlines()]
    shown = {words[0]: words[1:] for words in lines if words}
    for name, folder in SHIPPED.items():
        said = read_json(folder / "card.json")["evaluation"]["splits"]["train"]
        success = "-" if said["success_rate"] is None else f"{said['success_rate']:.2f}"
        assert shown[f"pretrained:{name}"][1:3] == [success, f"{said['return_mean']:.2f}"]


def test_they_are_small() -> None:
    sizes = {name: sum(file.stat().st_size for file in folder.iterdir()) for name, folder in SHIPPED.items()}
    assert all(size < 1_000_000 for size in sizes.values()), sizes
    assert sum(file.stat().st_size for file in ROOT.rglob("*") if file.is_file()) < 5_000_000


def test_loading_them_unpickles_and_imports_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED, *SHIPPED], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
    for folder in SHIPPED.values():
        assert {file.name for file in folder.iterdir()} == {"card.json", "model.safetensors", "README.md"}
        assert "imports" not in read_json(folder / "card.json")["config"]


@pytest.mark.parametrize("name", SHIPPED)
def test_it_does_what_its_card_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    card = read_json(SHIPPED[name] / "card.json")
    assert card["name"] == name
    said = card["evaluation"]["splits"]["train"]
    number = EPISODES if "success_interval" in said else GAMES
    words = ("--split", "train", "--episodes", str(number), "--seed", str(SEED), "--no-random", "--quiet")
    succeed("evaluate", f"pretrained:{name}", *words)
    found = read_json(Path("runs/pretrained") / name / "evaluation.json")["splits"]["train"]
    assert found["episodes"] == number
    if "success_interval" in said:
        low, high = said["success_interval"]
        assert low > said["random_success_rate"]
        successes = sum(found["episode_successes"])
        assert not surprises(successes, number, low, high), (successes, low, high)
    else:
        assert said["return_mean"] > said["random_return_mean"] + DEVIATIONS * said["return_std"]
        spread = max(said["return_std"], 1.0) * math.sqrt(1 / number + 1 / said["episodes"])
        assert abs(found["return_mean"] - said["return_mean"]) < DEVIATIONS * spread
