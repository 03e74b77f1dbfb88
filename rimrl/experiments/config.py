"""What an experiment is made of, as typed plain data.

A configuration has four groups. ``env`` and ``train`` are the dataclasses below; ``agent`` is that of the algorithm,
which stands beside it (`rimrl.agents.registry`); ``core`` holds the name of a recurrent core and that core's own
options, whose names, types and defaults are those of its constructor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import yaml

from rimrl.agents.config import AgentConfig
from rimrl.cores.registry import LATER_OPTIONS
from rimrl.imports import module_in
from rimrl.runs.config import Configuration, TrainConfig
from rimrl.runs.kinds import AGENT


@dataclass(frozen=True)
class EnvConfig:
    """What the agent plays.

    Attributes:
        id: A suite (``rimrl list suites``), whose training split is played, or a gymnasium id.
        n_envs: Environments played side by side.
        backend: ``"dummy"`` steps them in this process, ``"subproc"`` in one process each; ``"native"`` (``ALE/*-v5``
            games) and ``"envpool"`` (MiniGrid and BabyAI ids; needs EnvPool) step all of them at once in C++.
            Evaluations play the original even so.
        efference_copies: Show the agent its previous action and reward, too (RIM paper, App. C.3).
        kwargs: Arguments for every environment, such as ``tiles: rgb`` for MiniGrid tasks or ``preset: legacy`` for
            Atari.
    """

    id: str
    n_envs: int = 16
    backend: Literal["dummy", "subproc", "native", "envpool"] = "dummy"
    efference_copies: bool = False
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CoreConfig:
    """Which recurrent core, with which options.

    Attributes:
        name: A core (``rimrl list cores``).
        options: Arguments of its constructor.
    """

    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class AgentTrainConfig(TrainConfig):
    """How long an agent learns, and what is kept.

    Attributes:
        total_timesteps: Environment steps, over all environments together.
        eval_freq: Steps between evaluations on the training split, which choose ``best_model.zip``; 0 for none.
        eval_episodes: Episodes of each.
        checkpoint_freq: Steps between agents that are kept in ``checkpoints/``, to look at later; 0 for none.
    """

    total_timesteps: int = 1_000_000
    eval_freq: int = 50_000
    eval_episodes: int = 32
    checkpoint_freq: int = 0
    resume_freq: int = 50_000


@dataclass(frozen=True)
class ExperimentConfig(Configuration):
    """A complete, re-runnable experiment.

    Attributes:
        name: Shipped name such as ``distractors/rim``, or the file's stem.
        env: What is played.
        core: The policy's memory.
        agent: How it learns.
        train: How long.
        imports: Modules that are imported first, such as those that register environments. A run that has some is only
            opened by who names them (`rimrl.imports`).
    """

    name: str
    env: EnvConfig
    core: CoreConfig
    agent: AgentConfig
    train: AgentTrainConfig
    imports: tuple[str, ...] = ()

    kind = AGENT
    added: ClassVar[Mapping[str, object]] = {
        "agent.normalize_observations": False,
        "agent.critic_gradient": 1.0,
        "agent.use_masking": False,
        **{f"core.{option}": value for option, value in LATER_OPTIONS.items()},
    }
    opened: ClassVar[frozenset[str]] = frozenset({"env.kwargs"})

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module that is imported for it: `imports`, and those in names such as ``module:Env-v0``."""
        return tuple(dict.fromkeys([*self.imports, *module_in(self.env.id), *module_in(self.core.name)]))

    def to_yaml(self) -> str:
        """The whole of it, as a file that repeats the run."""
        return yaml.safe_dump({"name": self.name, **self.above(), **self.groups()}, sort_keys=False)

    def above(self) -> dict[str, Any]:
        """What stands above the groups in a file, besides the name."""
        return {"imports": list(self.imports)} if self.imports else {}

    def groups(self) -> dict[str, dict[str, Any]]:
        """Every value by group and key."""
        return {
            "env": asdict(self.env),
            "core": {"name": self.core.name, **self.core.options},
            "agent": asdict(self.agent),
            "train": asdict(self.train),
        }
