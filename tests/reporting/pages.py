"""Runs of several configurations over seeds, made by hand, and their pages taken apart."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from rimrl.reporting.comparison import Comparison, compare
from rimrl.reporting.groups import group_runs
from rimrl.reporting.results import read_runs
from tests.reporting.results import write_run

SPLITS = ("train", "novel_shapes", "more_objects")
HOSTILE = "<script>window.harmed=1</script>\"'><img src=http://harm.example/x onerror=harm()>&amp;{{ 7*7 }}"
VOID = {"meta", "link", "img", "br", "hr", "input", "line", "rect", "circle", "path"}


def make_runs(
    folder: Path,
    names: Sequence[str] = ("rim", "lstm"),
    seeds: int = 3,
    updates: int = 20,
    units: int = 4,
    splits: Sequence[str] = SPLITS,
    scores: dict[str, Sequence[float]] | None = None,
    facts: dict[str, object] | None = None,
    measured: bool = True,
) -> list[Path]:
    """Write runs whose scores are random, or one given score a seed on every split."""
    rng = np.random.default_rng(0)
    paths: list[Path] = []
    for name in names:
        for seed in range(seeds):
            figures = {}
            for k, split in enumerate(splits):
                score = float(rng.integers(0, 41)) / 40 if scores is None else scores[name][seed]
                figures[split] = {"held_out": k > 0, "episodes": 40, "return_mean": score - 0.1, "success_rate": score}
                figures[split] |= {"random_return_mean": 0.05, "random_success_rate": 0.1 + k / 10}
            settings = {
                "name": f"suite/{name}",
                "env": {"id": "distractors", "n_envs": 8},
                "core": {"name": name, **({"num_units": units} if name == "rim" else {})},
                "train": {"seed": seed, "total_timesteps": 1000},
            }
            path = write_run(
                folder / f"{len(paths)}",
                figures,
                f"suite/{name}",
                settings=settings,
                model="model.zip",
                num_timesteps=1000,
                deterministic=False,
                seed=1_000_000,
                n_envs=16,
            )
            _write_progress(path, rng, updates, units if name == "rim" else 1, measured)
            (path / "environment.json").write_text(json.dumps({"python": "3.11", "commit": "abc", **(facts or {})}))
            paths.append(path)
    return paths


def _write_progress(path: Path, rng: np.random.Generator, updates: int, units: int, measured: bool) -> None:
    with (path / "progress.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        columns = [f"units/active_{n}" for n in range(units)]
        measures = ["units/collapse", "units/worst_share"] if measured and units > 1 else []
        writer.writerow(["time/total_timesteps", "rollout/ep_rew_mean", "rollout/success_rate", *columns, *measures])
        for update in range(1, updates + 1):
            success = round(float(rng.random() * update / updates), 3)
            active = rng.random(units).round(3).tolist() if update > 1 else [""] * units
            even = [update / updates / 10 if update > 1 else "" for _ in measures]
            writer.writerow([512 * update, success - 0.1, success, *active, *even])


def comparison(paths: Sequence[Path]) -> Comparison:
    return compare(group_runs(read_runs(paths)))


@dataclass
class Element:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def all(self, tag: str | None = None, **attributes: str) -> list[Element]:
        """This and everything below it that fits; ``_`` in a name stands for ``-``, and ``class_`` for ``class``."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        fits = (tag is None or self.tag == tag) and all(self.attributes.get(k) == v for k, v in wanted.items())
        return ([self] if fits else []) + [e for child in self.children for e in child.all(tag, **attributes)]

    def one(self, tag: str | None = None, **attributes: str) -> Element:
        (found,) = self.all(tag, **attributes)
        return found

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID or tag in ("line", "path"):
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.words.append(data)


def parsed(page: str) -> Element:
    """A page as a tree; fails where an element is not closed."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert [element.tag for element in reader.open] == ["document"]
    return reader.open[0]
