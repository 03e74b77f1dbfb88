"""The kinds of runs there are, and what differs between them in files and in words.

A run knows its kind from its configuration, an evaluation from its own field. Nobody else asks which of them it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rimrl.errors import UsageError
from rimrl.runs.validated import DamagedError, Fields
from rimrl.runs.yaml_files import read_yaml


@dataclass(frozen=True)
class Kind:
    """What is particular to the runs of one kind.

    Attributes:
        name: As evaluations note it.
        verb: What trains it, ``rimrl VERB``.
        group: The group that configurations of this kind have and no others.
        suites: How the names of its suites begin.
        step: What a training counts.
        reached: Key of how many steps a run has had, in ``environment.json`` and ``evaluation.json``.
        column: The same in ``progress.csv``.
        total: Key of the number of steps in the configuration.
        learning_rate: Key of the learning rate; its schedule is the same with ``_schedule`` behind it.
        shaping: Groups that may decide the shapes of weights.
        free: Keys that may change when a run goes on: they decide how long, how often and where from, not what is
            learned.
        trial: What is scored after training.
        trials: Key of how many of them, in each split of ``evaluation.json``, and of each in ``inspection.json``.
        asked: Key of what makes a split, in ``evaluation.json``.
        world: What that is given to.
        steps: What a learning curve is drawn over.
        guess: Who reaches the chance level, in words.
    """

    name: str
    verb: str
    group: str
    suites: str
    step: str
    reached: str
    column: str
    total: str
    learning_rate: str
    shaping: tuple[str, ...]
    free: frozenset[str]
    trial: str
    trials: str
    asked: str
    world: str
    steps: str
    guess: str

    @property
    def flag(self) -> str:
        """The option that names the total."""
        return "--" + self.total.rpartition(".")[2].replace("_", "-")

    def command(self, processes: int = 1) -> str:
        """What trains, or goes on, with so many processes."""
        if processes > 1:
            return f"torchrun --standalone --nproc-per-node {processes} -m rimrl {self.verb}"
        return f"rimrl {self.verb}"


AGENT = Kind(
    name="agent",
    verb="train",
    group="env",
    suites="",
    step="step",
    reached="num_timesteps",
    column="time/total_timesteps",
    total="train.total_timesteps",
    learning_rate="agent.learning_rate",
    shaping=("env", "suite", "core", "agent"),
    free=frozenset(
        {
            *("train.total_timesteps", "train.resume_freq", "train.checkpoint_freq", "train.eval_splits"),
            *("train.stop_reward", "train.stop_after_evals", "train.stop_min_evals"),
        }
    ),
    trial="episode",
    trials="episodes",
    asked="env_kwargs",
    world="environment",
    steps="environment steps",
    guess="random actions reach",
)
SEQUENCE = Kind(
    name="sequence",
    verb="sequence",
    group="task",
    suites="sequence/",
    step="update",
    reached="num_updates",
    column="time/updates",
    total="train.num_updates",
    learning_rate="train.learning_rate",
    shaping=("task", "core", "model"),
    free=frozenset({"train.num_updates", "train.resume_freq", "train.test_sequences", "task.data"}),
    trial="sequence",
    trials="sequences",
    asked="settings",
    world="task",
    steps="updates",
    guess="a guess reaches",
)
_MEANT_NOTHING = ("deterministic", "n_envs", "env_id", "episode_noun", "timestep_noun")
_LONGEST_NAME = 1000
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (SEQUENCE, AGENT)}


def kind_of(config: Mapping[str, Any]) -> Kind:
    """The kind of run that a configuration, as read from YAML, is of; that of agents unless it says otherwise."""
    return next((kind for kind in KINDS.values() if kind.group in config), AGENT)


def kind_of_run(run: Path) -> Kind:
    """The kind of the run in a folder; one that cannot be read is taken for an agent's, whose readers say why."""
    file = run / "config.yaml"
    try:
        content = read_yaml(file, follow=False) if file.is_file() else None
    except UsageError:
        return AGENT
    return kind_of(content) if isinstance(content, dict) else AGENT


def kind_of_facts(facts: Mapping[str, Any]) -> Kind:
    """The kind of run that an evaluation or an inspection is of.

    Args:
        facts: Content of its file, whose ``kind`` and ``suite`` are texts. Earlier versions did not note the kind.

    Raises:
        KeyError: If there is no such kind.
    """
    if "kind" in facts:
        return KINDS[facts["kind"]]
    return next(kind for kind in KINDS.values() if facts["suite"].startswith(kind.suites))


def upgraded_facts(content: Any, where: str) -> tuple[dict[str, Any], Kind]:
    """Facts of an evaluation or an inspection under the keys of today, with their kind.

    Earlier versions wrote those of a sequence model under an agent's keys, with some that meant nothing.

    Args:
        content: What their file holds, which may be anything.
        where: Its name in messages.

    Raises:
        DamagedError: If it does not say of which kind it is.
    """
    fields = Fields(content, where)
    fields.text("suite", _LONGEST_NAME)
    if fields.has("kind") and fields.text("kind") not in KINDS:
        raise DamagedError(f"{where}.kind is none of {', '.join(KINDS)}")
    facts: dict[str, Any] = content
    kind = kind_of_facts(facts)
    if "kind" in facts or kind is AGENT:
        return {**facts, "kind": kind.name}, kind
    today = {"kind": kind.name, **_renamed(facts, kind)}
    splits = facts.get("splits")
    if isinstance(splits, dict):
        today["splits"] = {
            name: _renamed(split, kind) if isinstance(split, dict) else split for name, split in splits.items()
        }
    return today, kind


def _renamed(facts: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    names = {AGENT.reached: kind.reached, AGENT.trials: kind.trials, AGENT.asked: kind.asked}
    each = f"{AGENT.trial}_"
    return {
        names.get(name, name.replace(each, f"{kind.trial}_", 1) if name.startswith(each) else name): value
        for name, value in facts.items()
        if name not in _MEANT_NOTHING
    }


def upgrade_header(header: list[str], kind: Kind) -> list[str]:
    """Names of columns of ``progress.csv``; earlier versions counted updates under the name of an agent's steps."""
    return [kind.column if name == AGENT.column else name for name in header]
