"""What a run of a sequence task is made of, as typed plain data.

A configuration has four groups. ``model`` and ``train`` are the dataclasses below; ``task`` and ``core`` hold a name
and the options of that task or core, whose names, types and defaults are those of its constructor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from rimrl.cores.registry import LEGACY_OPTION_VALUES
from rimrl.runs.config import Configuration, TrainConfig
from rimrl.runs.kinds import SEQUENCE

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
class SequenceTrainConfig(TrainConfig):
    """How a model learns, how long, and what is kept.

    Attributes:
        num_updates: Updates, each on a batch of new sequences.
        batch_size: Sequences of an update.
        learning_rate: Adam's step size, at the start.
        learning_rate_schedule: ``"constant"``, or ``"linear"`` to fall to zero at the last update.
        max_grad_norm: Gradients are scaled down to this global norm.
        log_freq: Updates between rows of ``progress.csv``, which hold means over them.
        eval_freq: Updates between small evaluations on every split, for the log alone; 0 for none.
        eval_sequences: Sequences of each.
        test_sequences: Sequences of each split in ``evaluation.json``, or all there are if there are fewer.
    """

    num_updates: int = 10_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    max_grad_norm: float = 1.0
    log_freq: int = 50
    eval_sequences: int = 128
    test_sequences: int = 1000


@dataclass(frozen=True)
class SequenceConfig(Configuration):
    """A complete, re-runnable training on a sequence task.

    Attributes:
        name: Such as ``sequence/copying_cpu/rim``: the preset, then the core and what was taken from it.
        task: What is learned.
        core: The recurrent core.
        model: What stands before it.
        train: How long.
        imports: Modules that are imported first, such as those that register cores. A run that has some is only opened
            by who names them (`rimrl.imports`).
    """

    name: str
    task: Named
    core: Named
    model: ModelConfig
    train: SequenceTrainConfig
    imports: tuple[str, ...] = ()

    kind = SEQUENCE
    # None is what runs from before these keys were trained with, and those still go on.
    added: ClassVar[Mapping[str, object]] = {
        **dict.fromkeys(("task.min_blanks", "task.blanks_power", "task.min_length")),
        **{f"core.{option}": value for option, value in LEGACY_OPTION_VALUES.items()},
    }

    def groups(self) -> dict[str, dict[str, Any]]:
        """Every value by group and key."""
        return {
            "task": {"name": self.task.name, **self.task.options},
            "core": {"name": self.core.name, **self.core.options},
            "model": asdict(self.model),
            "train": asdict(self.train),
        }
