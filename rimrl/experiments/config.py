"""What an experiment is made of, as typed plain data.

A configuration has four groups. ``env`` and ``train`` are the dataclasses below; ``agent`` is that of the algorithm,
which stands beside it (`rimrl.agents.registry`); ``core`` holds the name of a recurrent core and that core's own
options, whose names, types and defaults are those of its constructor.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import yaml

from rimrl.agents.config import AgentConfig


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
class TrainConfig:
    """How long, and what is kept.

    Attributes:
        total_timesteps: Environment steps, over all environments together.
        seed: Seed of weights, actions and environments.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        num_threads: Threads that torch uses on the CPU; results are repeatable bit for bit at the same number.
        eval_freq: Steps between evaluations on the training split, which choose ``best_model.zip``; 0 for none.
        eval_episodes: Episodes of each.
        checkpoint_freq: Steps between agents that are kept in ``checkpoints/``, to look at later; 0 for none.
        resume_freq: Steps between checkpoints in ``resume/``, which ``--resume`` goes on from and of which the last two
            are kept; 0 for none but at the end and at a signal or failure.
    """

    total_timesteps: int = 1_000_000
    seed: int = 0
    device: str = "auto"
    num_threads: int = 1
    eval_freq: int = 50_000
    eval_episodes: int = 32
    checkpoint_freq: int = 0
    resume_freq: int = 50_000


@dataclass(frozen=True)
class ExperimentConfig:
    """A complete, re-runnable experiment.

    Attributes:
        name: Shipped name such as ``distractors/rim``, or the file's stem.
        env: What is played.
        core: The policy's memory.
        agent: How it learns.
        train: How long.
    """

    name: str
    env: EnvConfig
    core: CoreConfig
    agent: AgentConfig
    train: TrainConfig

    def to_yaml(self) -> str:
        """The configuration as a file that `load_config` reads back to an equal one."""
        groups = {
            "env": asdict(self.env),
            "core": {"name": self.core.name, **self.core.options},
            "agent": asdict(self.agent),
            "train": asdict(self.train),
        }
        return yaml.safe_dump({"name": self.name, **groups}, sort_keys=False)
