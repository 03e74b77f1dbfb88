"""What a diagnostic run is made of, as typed plain data.

A configuration has four groups. ``model`` and ``train`` are the dataclasses below; ``task`` and ``core`` hold a name
and the options of that task or core, whose names, types and defaults are those of its constructor.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import yaml

MOST_SEQUENCES = 1_000_000
"""Of one batch, or of one test."""


@dataclass(frozen=True)
class Named:
    """A task or a core, with its options.

    Attributes:
        name: As it is registered.
        options: Arguments of its constructor.
    """

    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class ModelConfig:
    """What stands around the core.

    Attributes:
        embedding_size: Width of what the core reads: of a learned vector for each symbol, or of an encoder's output.
            Null for inputs as they are, where the task allows that.
        dropout: Probability to drop, in training, an entry of what the core reads, and of what the decoder reads.
    """

    embedding_size: int | None = 100
    dropout: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """How a model learns, how long, and what is kept.

    Attributes:
        num_updates: Updates, each on a batch of new sequences.
        batch_size: Sequences of an update.
        learning_rate: Adam's step size, at the start.
        learning_rate_schedule: ``"constant"``, or ``"linear"`` to fall to zero at the last update.
        max_grad_norm: Gradients are scaled down to this global norm.
        seed: Seed of weights and of training sequences.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        num_threads: Threads that torch uses on the CPU; results are repeatable bit for bit at the same number.
        log_freq: Updates between rows of ``progress.csv``, which hold means over them.
        eval_freq: Updates between small evaluations on every split, for the log alone; 0 for none.
        eval_sequences: Sequences of each.
        test_sequences: Sequences of each split in ``evaluation.json``, or all there are if there are fewer.
        resume_freq: Updates between checkpoints, which ``--resume`` goes on from and of which the last two are kept; 0
            for none but at the end and at a signal or failure.
    """

    num_updates: int = 10_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    max_grad_norm: float = 1.0
    seed: int = 0
    device: str = "auto"
    num_threads: int = 1
    log_freq: int = 50
    eval_freq: int = 500
    eval_sequences: int = 128
    test_sequences: int = 1000
    resume_freq: int = 500


@dataclass(frozen=True)
class SequenceConfig:
    """A complete, re-runnable diagnostic.

    Attributes:
        name: Such as ``sequence/copying_cpu/rim``: the preset, then the core and what was taken from it.
        task: What is learned.
        core: The recurrent core.
        model: What stands before it.
        train: How long.
    """

    name: str
    task: Named
    core: Named
    model: ModelConfig
    train: TrainConfig

    def to_yaml(self) -> str:
        """The configuration as a file that `rimrl.sequence.config_files.load_sequence` reads back to an equal one."""
        return yaml.safe_dump({"name": self.name, **self.groups()}, sort_keys=False)

    def groups(self) -> dict[str, dict[str, Any]]:
        """Every value by group and key."""
        return {
            "task": {"name": self.task.name, **self.task.options},
            "core": {"name": self.core.name, **self.core.options},
            "model": asdict(self.model),
            "train": asdict(self.train),
        }

    def flat(self) -> dict[str, Any]:
        """Every value by its dotted key."""
        return {f"{group}.{key}": value for group, values in self.groups().items() for key, value in values.items()}
