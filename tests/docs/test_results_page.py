"""The tables of docs/results/generalisation.md say what the files beside them say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rimrl.agents.ppo import PPOConfig
from rimrl.envs.suites import get_suite
from rimrl.experiments.config_files import load_config
from rimrl.reporting.statistics import difference

PAGE = Path(__file__).resolve().parents[2] / "docs/results/generalisation.md"
TEXT = PAGE.read_text(encoding="utf-8")
SUITES = (
    "recall",
    "recall_controls",
    "recall_controls_riglstm",
    "recall_brims",
    "recall_shorter",
    "tmaze",
    "memory",
    "multiroom",
    "multiroom_a2c",
    "distractors",
)
FEWEST_RUNS = 3
Table = dict[str, list[str]]


def results(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PAGE.parent / f"generalisation/{name}.json").read_text(encoding="utf-8"))
    return found


def tables(name: str) -> list[Table]:
    """The tables of the section that links to a file: cells by the name in the first column."""
    section = TEXT.partition(f"[{name}.json]")[2].partition("\n## ")[0]
    found: list[Table] = []
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| core |"):
            found.append({"core": cells[1:]})
        elif line.startswith("| `") and found:
            found[-1][cells[0].strip("`")] = cells[1:]
    return found


def printed(estimate: dict[str, float] | None, sign: str = "") -> str:
    if estimate is None:
        return "-"
    return f"{estimate['value']:{sign}.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


@pytest.mark.parametrize("name", SUITES)
def test_scores_are_those_of_the_file(name: str) -> None:
    table, file = tables(name)[0], results(name)
    splits = [*file["trained"], *file["held_out"]]
    assert table.pop("core")[: len(splits)] == [split.replace("_", " ") for split in splits]
    assert table.keys() == file["groups"].keys()
    for core, cells in table.items():
        group = file["groups"][core]
        expected = [group["splits"][split] for split in splits]
        expected += [group["held_out_interquartile_mean"], group["generalisation_gap"]]
        expected.append(group.get("probability_of_improvement"))
        assert cells == [printed(each) for each in expected], core


@pytest.mark.parametrize("name", ["recall"])
def test_differences_are_those_of_the_file(name: str) -> None:
    table, file = tables(name)[1], results(name)
    splits = [split.replace(" ", "_") for split in table.pop("core")]
    assert table.keys() == {core for core, group in file["groups"].items() if group["differences"]}
    for core, cells in table.items():
        assert cells == [printed(file["groups"][core]["differences"][split], "+") for split in splits], core


def test_leads_over_the_controls_are_those_of_the_files() -> None:
    ours, theirs, table = results("recall"), results("recall_controls"), tables("recall_controls")[1]
    heads = [head.split(", ") for head in table.pop("core")]
    assert {control.strip("`") for control, _ in heads} == theirs["groups"].keys()
    for core, cells in table.items():
        for (control, split), cell in zip(heads, cells, strict=True):
            one, other = (
                [[run["scores"][split]] for run in file["groups"][group]["runs"]]
                for file, group in ((ours, core), (theirs, control.strip("`")))
            )
            lead = difference(one, other)
            assert cell == printed({"value": lead.value, "low": lead.low, "high": lead.high}, "+"), (core, control)


def test_leads_of_riglstm_at_its_own_time_are_those_of_the_files() -> None:
    riglstms, lstms = results("recall")["groups"]["riglstm"], results("recall_controls_riglstm")["groups"]["lstm"]
    leads = []
    for split in ("d160", "d320"):
        one, other = ([[run["scores"][split]] for run in group["runs"]] for group in (riglstms, lstms))
        lead = difference(one, other)
        leads.append(printed({"value": lead.value, "low": lead.low, "high": lead.high}, "+"))
    assert f"lead these LSTMs by {leads[0]} at 8 times and by {leads[1]} at 16 times" in TEXT


@pytest.mark.parametrize(("name", "steps"), [("recall_controls", 2_940_928), ("recall_controls_riglstm", 4_280_320)])
def test_the_control_at_equal_time_trained_for_longer(name: str, steps: int) -> None:
    runs = results(name)["groups"]["lstm"]["runs"]
    assert {run["num_timesteps"] for run in runs} == {steps}


@pytest.mark.parametrize("name", SUITES)
def test_runs_have_seeds_of_their_own(name: str) -> None:
    """None of them is among those of the study and the search, which begin at 100."""
    for core, group in results(name)["groups"].items():
        seeds = [run["seed"] for run in group["runs"]]
        assert seeds == list(range(len(seeds))), core
        assert len(seeds) >= FEWEST_RUNS


def search_scores(name: str, label: str) -> list[float]:
    """Scores on the trained split of the two seeds of a setting."""
    runs = results(name)["groups"][label]["runs"]
    assert [run["seed"] for run in runs] == [100, 101]
    return [run["scores"]["train"] for run in runs]


def shown(scores: list[float]) -> str:
    return ", ".join(f"{score:.2f}" for score in scores)


def best_of(settings: dict[Any, list[float]]) -> Any:
    """Of the settings within 0.01 of the best mean, the first in their order."""
    means = {setting: sum(scores) / len(scores) for setting, scores in settings.items()}
    return min(setting for setting, mean in means.items() if mean >= max(means.values()) - 0.01)


def test_the_first_search_chose_by_the_trained_split() -> None:
    """Of equally good settings the one nearest to torch's biases, then the lowest rate."""
    table = tables("recall_search")[0]
    settings = [(float(head.split(",")[0]), "chrono" in head) for head in table.pop("core")[:-1]]
    assert table.keys() == {"rim", "riglstm", "lstm", "gru"}
    for core, (*cells, chosen) in table.items():
        found = {}
        for (rate, chrono), cell in zip(settings, cells, strict=True):
            label = f"{core} (core.chrono={'24' if chrono else 'null'}, agent.learning_rate={rate})"
            found[chrono, rate] = search_scores("recall_search", label)
            assert cell == shown(found[chrono, rate])
        best = best_of(found)
        assert chosen == f"{best[1]:.0e}".replace("e-0", "e-") + (", chrono" if best[0] else "")


def test_the_second_search_chose_what_the_shipped_configurations_have() -> None:
    """Of equally good settings the one with the fewest active units, or the longest chrono."""
    active, gates, _ = tables("recall_search_2")  # the last one is of the third search
    numbers = [int(head.removesuffix(" active")) for head in active.pop("core")[:-1]]
    assert active.keys() == {"rim", "riglstm"}
    for core, (*cells, chosen) in active.items():
        labels = [f"{core} (core.num_active={number})" for number in numbers]
        scores = {n: search_scores("recall_search_2", label) for n, label in zip(numbers, labels, strict=True)}
        assert cells == [shown(each) for each in scores.values()]
        assert int(chosen) == best_of(scores) == load_config(f"recall/{core}").core.options["num_active"]
    gates.pop("core")
    assert gates.keys() == {"lstm", "gru"}
    for core, (*cells, _) in gates.items():
        found = {}
        for cell in cells:
            setting, _, values = cell.partition(": ")
            rate, _, chrono = setting.partition(", chrono ")
            label = f"{core} (core.chrono={chrono or 'null'}, agent.learning_rate={float(rate)})"
            found[-int(chrono or 0), float(rate)] = search_scores("recall_search_2", label)
            assert values == shown(found[-int(chrono or 0), float(rate)])
        chrono, rate = best_of(found)
        config = load_config(f"recall/{core}")
        assert (config.core.options["chrono"] or 0, config.agent.learning_rate) == (-chrono, rate)


def test_the_third_search_kept_the_entropy_bonus() -> None:
    (table,) = tables("recall_search_3")
    heads = table.pop("core")[:-1]
    *cells, chosen = table.pop("rim")
    runs = {head: results("recall_search_3")["groups"][f"rim (agent.ent_coef={head})"]["runs"] for head in heads}
    scores = {head: [run["scores"]["train"] for run in each] for head, each in runs.items()}
    assert all([run["seed"] for run in each] == [100, 101, 102, 103] for each in runs.values())
    assert cells == [shown(each) for each in scores.values()]
    assert chosen == max(scores, key=lambda head: sum(scores[head]))
    assert float(chosen) == load_config("recall/rim").agent.ent_coef


def test_the_rollouts_of_object_picking_are_those_that_were_chosen() -> None:
    section = TEXT.partition("[distractors_search.json]")[2].partition("\n## ")[0]
    settings = iter(results("distractors_search")["settings"].values())
    seeds, _, *lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    for line, found in zip(lines, settings, strict=True):
        cells = {seed: float(cell) for seed, cell in zip(seeds[1:], line[1:], strict=True) if cell[0].isdigit()}
        assert cells == found
    agent = load_config("distractors/riglstm").agent
    assert isinstance(agent, PPOConfig)
    assert lines[-1][0] == f"`n_steps` {agent.n_steps}, `batch_size` {agent.batch_size}"


@pytest.mark.parametrize("name", ["recall", "multiroom", "distractors", "tmaze"])
def test_runs_are_as_long_as_the_shipped_configurations(name: str) -> None:
    for core, group in results(name)["groups"].items():
        config = load_config(f"{name}/{core}")
        rollout = config.agent.n_steps * config.env.n_envs
        for run in group["runs"]:
            assert 0 <= run["num_timesteps"] - config.train.total_timesteps < rollout, core


@pytest.mark.parametrize(("name", "memoryless"), [("distractors", 0.96), ("multiroom", 1.0), ("memory", None)])
def test_suites_that_hardly_ask_for_memory_say_so(name: str, memoryless: float | None) -> None:
    assert get_suite(name).memoryless == memoryless
    assert memoryless is None or f"{memoryless:.2f}" in TEXT
